package markdown

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/exporttest"
)

var update = flag.Bool("update", false, "rewrite memory-bank/crm.example.md from the code")

var moscow = time.FixedZone("MSK", 3*60*60)

// delivery makes a delivery with every value set.
func delivery(id int64) export.Delivery {
	return export.Delivery{
		Event: call.Event{
			ID:             1000 + id,
			AgentID:        "agent_7101ru",
			ConversationID: fmt.Sprintf("conv_%d", id),
			DedupKey:       fmt.Sprintf("call:post_call_transcription:conv_%d:1795000110", id),
			ReceivedAt:     time.Unix(1795000112, 0),
		},
		Conversation: call.Conversation{
			ID:             fmt.Sprintf("conv_%d", id),
			AgentID:        "agent_7101ru",
			AgentName:      "Менеджер «Минск Мир»",
			StartedAt:      time.Unix(1795000000, 0),
			ExternalNumber: "+79990000002",
		},
		Analysis: call.Analysis{
			ID:       id,
			EventID:  1000 + id,
			Analyzer: "openai",
			Model:    "gpt-5-mini",
			Result: call.Result{
				Topic:       new("Подбор двухкомнатной квартиры"),
				Intent:      new("Посмотреть квартиру до 95 000 евро у метро"),
				Quality:     new(5),
				Outcome:     new("Просмотр в субботу в 12:00 в доме «Манила»"),
				OutcomeCode: call.OutcomeMeeting,
				Sentiment:   new(call.SentimentPositive),
				SummaryRU:   "Ольга ищет квартиру 55–58 м². Агент предложил дом «Манила»; договорились о просмотре.",
				Recommendations: call.Recommendations{
					"Подтвердить просмотр в пятницу вечером",
					"Подготовить расчёт рассрочки на 24 месяца",
				},
				ClientName: new("Ольга"),
				Phone:      new("+79990000002"),
			},
		},
	}
}

func setup(tb testing.TB) *Exporter {
	tb.Helper()
	return New(filepath.Join(tb.TempDir(), "memory-bank", "crm.md"), moscow)
}

func export1(tb testing.TB, e *Exporter, d export.Delivery) export.Receipt {
	tb.Helper()
	receipt, err := e.Export(tb.Context(), d)
	if err != nil {
		tb.Fatalf("export analysis %d: %v", d.Analysis.ID, err)
	}
	return receipt
}

func read(tb testing.TB, path string) string {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func wantUnavailable(t *testing.T, err error, says string) {
	t.Helper()
	var e *call.Error
	if !errors.As(err, &e) || e.Code != call.Unavailable || !strings.Contains(e.Message, says) {
		t.Fatalf("error is %v, want an unavailable one that says %q", err, says)
	}
}

func TestExportWrites(t *testing.T) {
	t.Parallel()
	e := setup(t)
	if e.Target() != call.TargetMarkdown {
		t.Errorf("target is %s", e.Target())
	}
	want := header
	for id := int64(1); id <= 3; id++ {
		d := delivery(id)
		entry := render(d, moscow)
		receipt := export1(t, e, d)
		var at place
		if err := json.Unmarshal(receipt.Payload, &at); err != nil {
			t.Fatal(err)
		}
		if wantAt := (place{e.path, int64(len(want)), int64(len(entry))}); at != wantAt || receipt.Response != answerWritten {
			t.Errorf("receipt is %+v, want written at %+v", receipt, wantAt)
		}
		want += entry
	}
	if got := read(t, e.path); got != want {
		t.Errorf("file is\n%s\nwant\n%s", got, want)
	}
	for path, mode := range map[string]os.FileMode{e.path: fileMode, e.path + ".lock": fileMode, filepath.Dir(e.path): folderMode} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got&^mode != 0 {
			t.Errorf("%s has mode %o, more than %o", path, got, mode)
		}
	}
	if left := read(t, e.path+".lock"); left != "" {
		t.Errorf("the lock file still holds %q", left)
	}
}

func TestExportAgain(t *testing.T) {
	t.Parallel()
	e := setup(t)
	for id := range int64(5) {
		export1(t, e, delivery(id+1))
	}
	before := read(t, e.path)

	again := delivery(3)
	again.Again = true
	receipt := export1(t, e, again)
	if receipt.Response != answerThere {
		t.Errorf("response is %q, want %q", receipt.Response, answerThere)
	}
	var at place
	if err := json.Unmarshal(receipt.Payload, &at); err != nil {
		t.Fatal(err)
	}
	entry := strings.TrimSuffix(render(again, moscow), "\n")
	if got := before[at.Offset : at.Offset+at.Bytes]; got != entry {
		t.Errorf("the receipt points at %q, want %q", got, entry)
	}
	if got := read(t, e.path); got != before {
		t.Error("the file was changed")
	}

	// The same number in another database is another analysis.
	other := again
	other.Event.DedupKey = "call:post_call_transcription:conv_other:1"
	other.Event.ConversationID = "conv_other"
	if receipt := export1(t, e, other); receipt.Response != answerWritten {
		t.Errorf("response for another call's analysis is %q", receipt.Response)
	}

	// One that never arrived is written.
	fresh := delivery(6)
	fresh.Again = true
	if receipt := export1(t, e, fresh); receipt.Response != answerWritten {
		t.Errorf("response is %q, want %q", receipt.Response, answerWritten)
	}
}

func TestFindKeepsToCompleteEntries(t *testing.T) {
	t.Parallel()
	d := delivery(7)
	m := markerOf(d)
	entry := render(d, moscow)
	inside := strings.Replace(entry, "- **Тема:**", "- заметка менеджера\n- **Тема:**", 1)
	tests := map[string]struct {
		file string
		want bool
	}{
		"empty":                 {"", false},
		"complete":              {header + entry, true},
		"windows line ends":     {strings.ReplaceAll(header+entry, "\n", "\r\n"), true},
		"edited by a person":    {header + inside, true},
		"after a long line":     {strings.Repeat("я", 1<<17) + "\n" + entry, true},
		"without last newline":  {header + strings.TrimRight(entry, "\n"), true},
		"only begun":            {header + entry[:len(entry)/2], false},
		"begun, then another":   {header + entry[:len(entry)/2] + "\n" + render(delivery(8), moscow) + m.end() + "\n", false},
		"begun, then complete":  {header + entry[:len(entry)/2] + "\n" + entry, true},
		"only ended":            {header + m.end() + "\n", false},
		"not at a line's start": {header + "x " + strings.ReplaceAll(entry, "\n", " "), false},
		"with a hole":           {header + strings.Replace(entry, "Намерение", "\x00\x00\x00", 1), false},
		"another number":        {header + render(delivery(77), moscow), false},
		"at the end of a line longer than the buffer": {strings.Repeat("x", 64<<10) + m.begin() + "\n" + m.end() + "\n", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "crm.md")
			if err := os.WriteFile(path, []byte(test.file), fileMode); err != nil {
				t.Fatal(err)
			}
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if _, got, err := find(t.Context(), file, m); err != nil || got != test.want {
				t.Errorf("found is %v (%v), want %v", got, err, test.want)
			}
		})
	}
}

// TestTornEntry breaks a write off at many places, as a kill or a power cut
// does, and lets the next writer come.
func TestTornEntry(t *testing.T) {
	t.Parallel()
	first, torn, next := delivery(1), delivery(2), delivery(3)
	whole := header + render(first, moscow)
	text := render(torn, moscow)
	after := render(next, moscow)

	// tear leaves what a process leaves that died while it held the lock.
	tear := func(t *testing.T, e *Exporter, left string) {
		t.Helper()
		export1(t, e, first)
		guard, err := e.lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer guard.Close()
		in := intent{Offset: int64(len(whole)), Text: text}
		if err := in.announce(guard); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(e.path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteString(left); err != nil {
			t.Fatal(err)
		}
	}

	cuts := map[string]string{"nothing": "", "one byte": text[:1], "all but a byte": text[:len(text)-1]}
	for n := 50; n < len(text); n += len(text) / 7 {
		cuts[fmt.Sprintf("%d bytes", n)] = text[:n]
		cuts[fmt.Sprintf("%d bytes and unwritten blocks", n)] = text[:n] + strings.Repeat("\x00", len(text)-n)
	}
	for name, left := range cuts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := setup(t)
			tear(t, e, left)
			export1(t, e, next)
			if got := read(t, e.path); got != whole+after {
				t.Errorf("file is\n%s\nwant\n%s", got, whole+after)
			}
			retry := torn
			retry.Again = true
			if receipt := export1(t, e, retry); receipt.Response != answerWritten {
				t.Errorf("response is %q", receipt.Response)
			}
			if got := read(t, e.path); got != whole+after+text {
				t.Errorf("after the retry the file is\n%s", got)
			}
		})
	}

	stays := map[string]string{
		"complete":                      text,
		"complete with a person's note": text + "перезвонил, ждёт договор\n",
		"a part with a person's note":   text[:len(text)/2] + "\nперезвонил, ждёт договор\n",
		"a part continued by a person":  text[:len("<!-- postcall:analysis=2")] + " это что?",
		"a person's text alone":         "моя заметка\n\n",
	}
	for name, left := range stays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := setup(t)
			tear(t, e, left)
			export1(t, e, next)
			got := read(t, e.path)
			if !strings.HasPrefix(got, whole+left) || !strings.HasSuffix(got, "\n\n"+after) {
				t.Errorf("file is\n%s\nwant it to keep\n%s", got, whole+left)
			}
			retry := torn
			retry.Again = true
			export1(t, e, retry)
			if n := strings.Count(read(t, e.path), markerOf(torn).end()); n != 1 {
				t.Errorf("after the retry there are %d complete entries", n)
			}
		})
	}

	t.Run("header and first entry", func(t *testing.T) {
		t.Parallel()
		e := setup(t)
		e.write = func(f *os.File, b []byte) (int, error) { // killed in the middle
			_, _ = f.Write(b[:len(header)+40])
			runtime.Goexit()
			return 0, nil
		}
		var killed sync.WaitGroup
		killed.Go(func() { _, _ = e.Export(t.Context(), first) })
		killed.Wait()
		e.write = writeFile
		export1(t, e, first)
		if got := read(t, e.path); got != whole {
			t.Errorf("file is\n%s", got)
		}
	})

	t.Run("an intent that was cut off itself", func(t *testing.T) {
		t.Parallel()
		e := setup(t)
		export1(t, e, first)
		if err := os.WriteFile(e.path+".lock", []byte(`{"offset":0,"text":"# Зво`), fileMode); err != nil {
			t.Fatal(err)
		}
		export1(t, e, next)
		if got := read(t, e.path); got != whole+after {
			t.Errorf("file is\n%s", got)
		}
	})
}

func TestStartsOnANewLine(t *testing.T) {
	t.Parallel()
	for before, want := range map[string]string{
		"заметка":        "заметка\n\n",
		"заметка\n":      "заметка\n\n",
		"заметка\n\n":    "заметка\n\n",
		"\n":             "\n\n",
		"- список\n\n\n": "- список\n\n\n",
		"x":              "x\n\n",
	} {
		t.Run(fmt.Sprintf("%q", before), func(t *testing.T) {
			t.Parallel()
			e := New(filepath.Join(t.TempDir(), "crm.md"), moscow)
			if err := os.WriteFile(e.path, []byte(before), fileMode); err != nil {
				t.Fatal(err)
			}
			export1(t, e, delivery(1))
			if got := read(t, e.path); got != want+render(delivery(1), moscow) {
				t.Errorf("file is %q", got)
			}
		})
	}
}

func TestExportFails(t *testing.T) {
	t.Parallel()

	t.Run("no analysis id", func(t *testing.T) {
		t.Parallel()
		if _, err := setup(t).Export(t.Context(), delivery(0)); call.CodeOf(err) != call.Invalid {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("a folder at the path", func(t *testing.T) {
		t.Parallel()
		_, err := New(t.TempDir(), moscow).Export(t.Context(), delivery(1))
		wantUnavailable(t, err, "set CRM_MD_PATH to a file")
	})
	t.Run("a file in place of the folder", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, nil, fileMode); err != nil {
			t.Fatal(err)
		}
		_, err := New(filepath.Join(path, "crm.md"), moscow).Export(t.Context(), delivery(1))
		wantUnavailable(t, err, "set CRM_MD_PATH to a file")
	})
	t.Run("not allowed", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() == 0 {
			t.Skip("root may write everywhere")
		}
		folder := t.TempDir()
		if err := os.Chmod(folder, 0o500); err != nil {
			t.Fatal(err)
		}
		_, err := New(filepath.Join(folder, "crm.md"), moscow).Export(t.Context(), delivery(1))
		wantUnavailable(t, err, "let the worker's user write")
	})
	t.Run("disk full", func(t *testing.T) {
		t.Parallel()
		if _, err := os.Stat("/dev/full"); err != nil {
			t.Skip("this system has no /dev/full")
		}
		e := New(filepath.Join(t.TempDir(), "crm.md"), moscow)
		if err := os.Symlink("/dev/full", e.path); err != nil {
			t.Fatal(err)
		}
		_, err := e.Export(t.Context(), delivery(1))
		wantUnavailable(t, err, "make room")
	})
	t.Run("lock held", func(t *testing.T) {
		t.Parallel()
		e := setup(t)
		export1(t, e, delivery(1))
		guard, err := e.lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer guard.Close()
		e.patience = 20 * time.Millisecond
		_, err = e.Export(t.Context(), delivery(2))
		wantUnavailable(t, err, "which process hangs")

		e.patience = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err = e.Export(ctx, delivery(2))
		wantUnavailable(t, err, "which process hangs")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v does not tell that the time was over", err)
		}
	})
	t.Run("after the deadline", func(t *testing.T) {
		t.Parallel()
		e := setup(t)
		_, err := e.Export(lateTimer{t.Context()}, delivery(1))
		wantUnavailable(t, err, "no time left")
		if got := read(t, e.path); got != "" {
			t.Errorf("file is %q", got)
		}
	})
	t.Run("broken off by an error", func(t *testing.T) {
		t.Parallel()
		e := setup(t)
		export1(t, e, delivery(1))
		before := read(t, e.path)
		e.write = func(f *os.File, b []byte) (int, error) {
			n, _ := f.Write(b[:100])
			return n, errors.New("made fault")
		}
		_, err := e.Export(t.Context(), delivery(2))
		wantUnavailable(t, err, "cannot append an entry")
		if got := read(t, e.path); got != before {
			t.Errorf("file is\n%s", got)
		}
	})
	t.Run("replaced by an editor", func(t *testing.T) {
		t.Parallel()
		e := setup(t)
		export1(t, e, delivery(1))
		before := read(t, e.path)
		e.write = func(f *os.File, b []byte) (int, error) {
			saved := e.path + "~"
			if err := os.WriteFile(saved, []byte(before), fileMode); err != nil {
				return 0, err
			}
			if err := os.Rename(saved, e.path); err != nil {
				return 0, err
			}
			return f.Write(b)
		}
		d := delivery(2)
		_, err := e.Export(t.Context(), d)
		wantUnavailable(t, err, "an editor saved it")
		e.write = writeFile
		d.Again = true
		export1(t, e, d)
		if got := read(t, e.path); got != before+render(d, moscow) {
			t.Errorf("file is\n%s", got)
		}
	})
}

// lateTimer is a context whose deadline is over but whose timer has not fired.
type lateTimer struct{ context.Context }

func (lateTimer) Deadline() (time.Time, bool) { return time.Unix(0, 0), true }

func TestExportConcurrently(t *testing.T) {
	t.Parallel()
	e := setup(t)
	const writers, each = 8, 10
	var all sync.WaitGroup
	for w := range int64(writers) {
		all.Go(func() {
			for i := range int64(each) {
				if _, err := e.Export(t.Context(), delivery(1+w*each+i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	checkFile(t, e.path, writers*each)
}

// checkFile checks that the file holds the header and each of the entries 1 to
// n exactly once, in any order, and nothing else.
func checkFile(t *testing.T, path string, n int64) {
	t.Helper()
	rest, ok := strings.CutPrefix(read(t, path), header)
	if !ok {
		t.Fatal("the file does not start with its header")
	}
	for id := int64(1); id <= n; id++ {
		entry := render(delivery(id), moscow)
		if got := strings.Count(rest, entry); got != 1 {
			t.Errorf("analysis %d has %d entries", id, got)
		}
		rest = strings.Replace(rest, entry, "", 1)
	}
	if rest != "" {
		t.Errorf("beside the entries the file holds %q", rest)
	}
}

// BenchmarkExport shows that the cost of a write does not depend on the file.
func BenchmarkExport(b *testing.B) {
	for name, size := range map[string]int{"1KB": 1 << 10, "100MB": 100 << 20} {
		b.Run(name, func(b *testing.B) {
			e := New(filepath.Join(b.TempDir(), "crm.md"), moscow)
			entry := render(delivery(1), moscow)
			if err := os.WriteFile(e.path, []byte(strings.Repeat(entry, size/len(entry)+1)), fileMode); err != nil {
				b.Fatal(err)
			}
			for id := int64(1); b.Loop(); id++ {
				export1(b, e, delivery(id))
			}
		})
	}
}

// BenchmarkExportAgain shows the price of looking first.
func BenchmarkExportAgain(b *testing.B) {
	e := New(filepath.Join(b.TempDir(), "crm.md"), moscow)
	entry := render(delivery(2), moscow)
	if err := os.WriteFile(e.path, []byte(strings.Repeat(entry, (100<<20)/len(entry))), fileMode); err != nil {
		b.Fatal(err)
	}
	d := delivery(1)
	d.Again = true
	export1(b, e, d) // at the end: all of the file is read
	for b.Loop() {
		export1(b, e, d)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	exporttest.Test(t, func(t *testing.T) exporttest.Bench {
		t.Helper()
		e := setup(t)
		return exporttest.Bench{Exporter: e, Records: func() []string {
			b, err := os.ReadFile(e.path)
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil {
				t.Error(err)
			}
			return strings.Split(string(b), markerStart)[1:]
		}}
	})
}
