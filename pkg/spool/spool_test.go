package spool

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"postcall/pkg/call"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(act(role))
	}
	goleak.VerifyTestMain(m)
}

func open(tb testing.TB, o Options) *Spool {
	tb.Helper()
	o.Path = cmp.Or(o.Path, filepath.Join(tb.TempDir(), "logs", "events.jsonl"))
	s, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeSpool(tb, s) })
	return s
}

func closeSpool(tb testing.TB, s *Spool) {
	tb.Helper()
	if err := s.Close(context.Background()); err != nil {
		tb.Error(err)
	}
}

func entry(id string) Entry {
	return Entry{ReceivedAt: time.Unix(1_800_000_000, 0).UTC(), RequestID: id, Address: "192.0.2.1", Secret: 1, Body: []byte(`{"id":"` + id + `"}`)}
}

func appendAll(tb testing.TB, s *Spool, ids ...string) {
	tb.Helper()
	for _, id := range ids {
		if err := s.Append(context.Background(), entry(id)); err != nil {
			tb.Fatal(err)
		}
	}
}

// receiver takes entries and keeps what it was given.
type receiver struct {
	mu    sync.Mutex
	ids   []string
	fails func(e Entry) error // nil for never
}

func (r *receiver) take(_ context.Context, e Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails != nil {
		if err := r.fails(e); err != nil {
			return err
		}
	}
	if e.File == "" && string(e.Body) != string(entry(e.RequestID).Body) {
		return fmt.Errorf("the body of %s is %q", e.RequestID, e.Body)
	}
	r.ids = append(r.ids, e.RequestID)
	return nil
}

func drainAll(tb testing.TB, s *Spool, want ...string) {
	tb.Helper()
	r := new(receiver)
	n, err := s.Drain(tb.Context(), r.take)
	slices.Sort(r.ids)
	slices.Sort(want)
	if err != nil || n != len(want) || !slices.Equal(r.ids, want) {
		tb.Fatalf("drained %d: %v, %v; want %v", n, r.ids, err, want)
	}
	if st := s.Stats(); st.Bytes != 0 || st.Entries != 0 || !st.OldestAt.IsZero() {
		tb.Errorf("after draining there is still something: %+v", st)
	}
}

// names are the files in the spool's directory.
func names(tb testing.TB, s *Spool) []string {
	tb.Helper()
	files, err := os.ReadDir(filepath.Dir(s.options.Path))
	if err != nil {
		tb.Fatal(err)
	}
	list := []string{}
	for _, f := range files {
		list = append(list, f.Name())
	}
	return list
}

func wantNames(tb testing.TB, s *Spool, want ...string) {
	tb.Helper()
	if got := names(tb, s); !slices.Equal(got, want) {
		tb.Errorf("there are %v, want %v", got, want)
	}
}

func count(prefix string, n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("%s%04d", prefix, i))
	}
	return ids
}

func TestOrder(t *testing.T) {
	t.Parallel()
	s := open(t, Options{SegmentBytes: 1000, Concurrency: 1})
	ids := count("o", 600)
	appendAll(t, s, ids...)
	st := s.Stats()
	if st.Entries != 600 || s.Depth() != 600 || st.Appended != 600 || st.Bytes < 600*100 || !st.OldestAt.Equal(entry("").ReceivedAt) || st.OldestAge <= 0 && time.Now().After(st.OldestAt) {
		t.Errorf("%+v", st)
	}
	r := new(receiver)
	if n, err := s.Drain(t.Context(), r.take); n != 600 || err != nil {
		t.Fatal(n, err)
	}
	if !slices.Equal(r.ids, ids) {
		t.Error("not in order")
	}
	if st := s.Stats(); st.Drained != 600 || st.Bytes != 0 || st.Entries != 0 {
		t.Errorf("%+v", st)
	}
	wantNames(t, s, "events.jsonl.lock")
}

// With many at a time an entry begins when at most the others of its batch that
// come before it are unfinished.
func TestConcurrentDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{Concurrency: 8})
		ids := count("c", 100)
		appendAll(t, s, ids...)
		var mu sync.Mutex
		var begun []string
		var running, most atomic.Int64
		n, err := s.Drain(t.Context(), func(_ context.Context, e Entry) error {
			most.Store(max(most.Load(), running.Add(1)))
			mu.Lock()
			begun = append(begun, e.RequestID)
			mu.Unlock()
			time.Sleep(time.Second) // virtual: all eight begin before one ends
			running.Add(-1)
			return nil
		})
		if n != 100 || err != nil || most.Load() != 8 {
			t.Fatal(n, err, most.Load())
		}
		for i := 0; i < len(begun); i += 8 {
			group := slices.Sorted(slices.Values(begun[i:min(i+8, len(begun))]))
			if !slices.Equal(group, ids[i:min(i+8, len(ids))]) {
				t.Fatalf("begun together: %v", group)
			}
		}
		closeSpool(t, s)
	})
}

// Appends that come while an fsync is under way share the next one.
func TestSharedSync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		s := open(t, Options{create: func(path string) (appendFile, error) {
			file, err := createFile(path)
			return &faulty{appendFile: file, sync: func() error { <-hold; return nil }}, err
		}})
		var wg sync.WaitGroup
		add := func(id string) {
			wg.Go(func() {
				if err := s.Append(t.Context(), entry(id)); err != nil {
					t.Error(err)
				}
			})
		}
		add("first")
		synctest.Wait()
		for _, id := range count("s", 64) {
			add(id)
		}
		synctest.Wait()
		if st := s.Stats(); st.Appended != 0 {
			t.Error("acknowledged before the fsync")
		}
		close(hold)
		wg.Wait()
		if st := s.Stats(); st.Syncs != 2 || st.Appended != 65 {
			t.Errorf("%d entries, %d fsyncs; want 65 and 2", st.Appended, st.Syncs)
		}
		closeSpool(t, s)
	})
}

// Bodies of any kind come back as they were.
func TestBodies(t *testing.T) {
	t.Parallel()
	random := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(random)
	bodies := map[string][]byte{
		"empty": {}, "json": []byte(`{"a":"Добрый день \u0000 </script>"}`), "newlines": []byte("\n\r\n\u2028\n"),
		"controls": bytes.Repeat([]byte{1}, maxInline), "zeros": make([]byte, maxInline), "binary": random[:1000],
		"surrogate": []byte("\xed\xa0\x80"), "inline": random[:maxInline], "large": random[:maxInline+1], "larger": random,
		"largeText": bytes.Repeat([]byte("ы"), maxInline),
	}
	s := open(t, Options{})
	var other string                                               // on another file system, where there is one
	if dir, err := os.MkdirTemp("/dev/shm", "spool"); err == nil { //nolint:usetesting // the test's own is on the spool's file system
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		other = dir
	}
	want := map[string][]byte{}
	for name, b := range bodies {
		e := entry(name)
		e.Body = b
		e.ReceivedAt = time.Date(2026, 11, 18, 14, 6, 40, 123456789, time.FixedZone("", 3*3600))
		if err := s.Append(t.Context(), e); err != nil {
			t.Fatal(name, err)
		}
		want[name] = b
		for _, dir := range []string{t.TempDir(), other} {
			if dir == "" {
				continue
			}
			e.File = filepath.Join(dir, name)
			if err := os.WriteFile(e.File, b, 0o644); err != nil {
				t.Fatal(err)
			}
			e.RequestID, e.Body = name+" from "+dir, nil
			if err := s.Append(t.Context(), e); err != nil {
				t.Fatal(name, err)
			}
			want[e.RequestID] = b
			if _, err := os.Stat(e.File); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s was not taken over: %v", e.File, err)
			}
		}
	}
	for _, name := range names(t, s) {
		if info, err := os.Stat(filepath.Join(filepath.Dir(s.Path()), name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is open to others: %v, %v", name, info.Mode(), err)
		}
	}
	closeSpool(t, s)
	s = open(t, Options{Path: s.options.Path})
	var mu sync.Mutex
	_, err := s.Drain(t.Context(), func(_ context.Context, e Entry) error {
		got := e.Body
		if e.File != "" {
			var err error
			if got, err = os.ReadFile(e.File); err != nil {
				return call.Errorf(call.Unavailable, "%w", err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if b, ok := want[e.RequestID]; !ok || !bytes.Equal(got, b) || e.ReceivedAt.Nanosecond() != 123456789 || e.Secret != 1 || e.Address != "192.0.2.1" {
			t.Errorf("%s is not what it was", e.RequestID)
		}
		delete(want, e.RequestID)
		return nil
	})
	if err != nil || len(want) > 0 {
		t.Errorf("missing: %d, %v", len(want), err)
	}
	wantNames(t, s, "events.jsonl.lock")
	if st := s.Stats(); st.Bytes != 0 {
		t.Errorf("%+v", st)
	}
}

func TestMaxBytes(t *testing.T) {
	t.Parallel()
	s := open(t, Options{MaxBytes: 2 << 20})
	ids := count("m", 20)
	var kept []string
	for _, id := range ids {
		e := entry(id)
		e.Body = bytes.Repeat([]byte("x"), 200<<10)
		switch err := s.Append(t.Context(), e); {
		case err == nil:
			kept = append(kept, id)
		case call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "SPOOL_MAX_BYTES"):
			t.Fatal(err)
		}
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), Entry{File: large}); call.CodeOf(err) != call.Unavailable {
		t.Error(err)
	}
	if len(kept) != 10 || s.Stats().Bytes > 2<<20 {
		t.Errorf("%d kept, %+v", len(kept), s.Stats())
	}
	if n, err := s.Drain(t.Context(), func(context.Context, Entry) error { return nil }); n != 10 || err != nil {
		t.Error(n, err)
	}
	appendAll(t, s, "again")
	drainAll(t, s, "again")
}

// A receiver that fails at random gets each entry once, and in the end all.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	s := open(t, Options{SegmentBytes: 20_000})
	ids := count("u", 1000)
	appendAll(t, s, ids...)
	random := rand.New(rand.NewPCG(1, 2))
	r := &receiver{fails: func(Entry) error {
		switch random.IntN(100) {
		case 0:
			return call.Errorf(call.Unavailable, "away")
		case 1:
			return fmt.Errorf("slow: %w", context.DeadlineExceeded)
		}
		return nil
	}}
	total := 0
	for {
		n, err := s.Drain(t.Context(), r.take)
		total += n
		if err == nil {
			break
		}
		if call.CodeOf(err) != call.Unavailable {
			t.Fatal(err)
		}
	}
	slices.Sort(r.ids)
	if total != 1000 || !slices.Equal(r.ids, ids) {
		t.Errorf("%d taken", total)
	}
}

// What was drained before an orderly end is not delivered again.
func TestResume(t *testing.T) {
	t.Parallel()
	s := open(t, Options{Concurrency: 1})
	ids := count("r", 300)
	appendAll(t, s, ids...)
	r := &receiver{}
	r.fails = func(Entry) error {
		if len(r.ids) == 270 {
			return call.Errorf(call.Unavailable, "away")
		}
		return nil
	}
	if n, err := s.Drain(t.Context(), r.take); n != 270 || call.CodeOf(err) != call.Unavailable {
		t.Fatal(n, err)
	}
	closeSpool(t, s)
	s = open(t, Options{Path: s.Path()})
	if st := s.Stats(); st.Entries != 30 {
		t.Errorf("%+v", st)
	}
	drainAll(t, s, ids[270:]...)
}

// What is refused, even by a panic, stands aside and holds nothing up.
func TestRejected(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	appendAll(t, s, "a", "bad", "b", "panic", "c")
	large := entry("bad large")
	large.Body = bytes.Repeat([]byte("L"), maxInline+1)
	if err := s.Append(t.Context(), large); err != nil {
		t.Fatal(err)
	}
	r := &receiver{fails: func(e Entry) error {
		switch {
		case strings.HasPrefix(e.RequestID, "bad"):
			return call.Errorf(call.Refused, "never this")
		case e.RequestID == "panic":
			panic("at once")
		}
		return nil
	}}
	n, err := s.Drain(t.Context(), r.take)
	slices.Sort(r.ids)
	if n != 3 || err != nil || !slices.Equal(r.ids, []string{"a", "b", "c"}) {
		t.Fatal(n, err, r.ids)
	}
	if st := s.Stats(); st.Rejected != 3 || st.Drained != 3 || st.Bytes != 0 {
		t.Errorf("%+v", st)
	}
	rejected := s.Path() + rejectedSuffix
	if b, err := os.ReadFile(rejected); err != nil || bytes.Count(b, []byte("\n")) != 3 || !bytes.Contains(b, []byte(`"rejected":"never this"`)) {
		t.Errorf("%s, %v", b, err)
	}
	closeSpool(t, s)
	// By renaming they are tried again.
	if err := os.Rename(rejected, s.Path()+".0"); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Path: s.Path()})
	drainAll(t, s, "bad", "bad large", "panic")
	wantNames(t, s, "events.jsonl.lock")
}

// A power cut may leave any part of the last line.
func TestTorn(t *testing.T) {
	t.Parallel()
	whole := []string{"a", "b", "c"}
	last := line(t, "last")
	for cut := range last {
		path := filepath.Join(t.TempDir(), "events.jsonl")
		var b []byte
		for _, id := range whole {
			b = append(b, line(t, id)...)
		}
		if err := os.WriteFile(path, append(b, last[:cut]...), 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, Options{Path: path})
		appendAll(t, s, "new")
		want := append([]string{"new"}, whole...)
		if cut == len(last)-1 {
			want = append(want, "last") // nothing but its newline is missing
		}
		drainAll(t, s, want...)
		if torn, err := os.ReadFile(path + tornSuffix); cut > 0 && cut < len(last)-1 {
			if st := s.Stats(); !bytes.Equal(torn, last[:cut]) || st.Torn != 1 {
				t.Errorf("cut at %d: %q, %v, %+v", cut, torn, err, st)
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cut at %d: %q, %v", cut, torn, err)
		}
	}
}

func line(tb testing.TB, id string) []byte {
	tb.Helper()
	e := entry(id)
	r := record{ReceivedAt: e.ReceivedAt, RequestID: e.RequestID, Address: e.Address, Secret: e.Secret, Bytes: int64(len(e.Body))}
	r.setBody(e.Body)
	b, err := encode(r)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// A flipped bit costs one line, two if it is in a newline.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	var b []byte
	ids := count("f", 5)
	for _, id := range ids {
		b = append(b, line(t, id)...)
	}
	for at := range b {
		for bit := range 8 {
			flipped := bytes.Clone(b)
			flipped[at] ^= 1 << bit
			r := newReader(bytes.NewReader(flipped), 0)
			var got []string
			for {
				p, err := r.next()
				if err != nil {
					break
				}
				if p.record != nil {
					got = append(got, p.record.RequestID)
				}
			}
			lost := 1
			if b[at] == '\n' && at < len(b)-1 {
				lost = 2
			}
			if len(got) < 5-lost || len(got) == 5 && at < len(b)-1 {
				t.Fatalf("bit %d at %d: %d lines of 5", bit, at, len(got))
			}
			for _, id := range got {
				if !slices.Contains(ids, id) {
					t.Fatalf("bit %d at %d made %s", bit, at, id)
				}
			}
		}
	}
}

// Damaged lines are set aside as they are and hold nothing up.
func TestCorrupt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	bad := bytes.Replace(line(t, "bad"), []byte(`"secret":1`), []byte(`"secret":2`), 1)
	hole := append(make([]byte, 2*maxLine), '\n')
	if err := os.WriteFile(path, slices.Concat(line(t, "a"), bad, line(t, "b"), hole, line(t, "c")), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Path: path})
	drainAll(t, s, "a", "b", "c")
	if got, err := os.ReadFile(path + corruptSuffix); err != nil || !bytes.Equal(got, append(bad, hole...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if st := s.Stats(); st.Corrupt != 2 {
		t.Errorf("%+v", st)
	}
}

// A note that says what cannot be, or that belongs to another segment, is not
// believed.
func TestDamagedNote(t *testing.T) {
	t.Parallel()
	good := string(note(&segment{offset: int64(len(line(t, "a"))), entries: 1}))
	for name, text := range map[string]string{
		"empty": "", "torn": good[:20], "flipped": strings.Replace(good, "1", "2", 1), "nonsense": "nonsense",
		"beyond": string(note(&segment{offset: 1 << 40, entries: 1})),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "events.jsonl")
			write := func(suffix, text string) {
				if err := os.WriteFile(path+suffix, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(".000007", string(line(t, "a"))+string(line(t, "b")))
			write(".000007.done", text)
			write(".000008.done", good) // its segment is gone
			write("", string(line(t, "c")))
			s := open(t, Options{Path: path})
			if s.Depth() != 3 {
				t.Error(s.Depth())
			}
			drainAll(t, s, "a", "b", "c")
			wantNames(t, s, "events.jsonl.lock")
		})
	}
	path := filepath.Join(t.TempDir(), "events.jsonl")
	for suffix, text := range map[string]string{".000007": string(line(t, "a")) + string(line(t, "b")), ".000007.done": good} {
		if err := os.WriteFile(path+suffix, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	drainAll(t, open(t, Options{Path: path}), "b")
}

// Several processes at one path never share a file; what a dead one leaves is
// drained by another.
func TestProcesses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	a, b, c := open(t, Options{Path: path}), open(t, Options{Path: path}), open(t, Options{Path: path})
	for i, s := range []*Spool{a, b, c} {
		if want := filepath.Join(filepath.Dir(path), []string{"events.jsonl", "events-2.jsonl", "events-3.jsonl"}[i]); s.Path() != want {
			t.Errorf("%s, want %s", s.Path(), want)
		}
		large := entry("large" + s.Path())
		large.Body = make([]byte, maxInline+1)
		if err := s.Append(t.Context(), large); err != nil {
			t.Fatal(err)
		}
	}
	appendAll(t, a, "a")
	appendAll(t, b, "b1", "b2")
	appendAll(t, c, "c")
	drainAll(t, a, "a", "large"+a.Path())
	closeSpool(t, b)
	drainAll(t, a, "b1", "b2", "large"+b.Path())
	d := open(t, Options{Path: path})
	if d.Path() != b.Path() {
		t.Errorf("%s was not given free: %s", b.Path(), d.Path())
	}
	drainAll(t, c, "c", "large"+c.Path())
	closeSpool(t, d)
	closeSpool(t, c)
	wantNames(t, a, "events.jsonl.lock")
	// An unfinished journal that was taken over is given free with its holder.
	e := open(t, Options{Path: path})
	appendAll(t, e, "e")
	closeSpool(t, e)
	away := func(context.Context, Entry) error { return call.Errorf(call.Unavailable, "away") }
	if _, err := a.Drain(t.Context(), away); call.CodeOf(err) != call.Unavailable || a.Depth() != 1 {
		t.Error(err, a.Depth())
	}
	closeSpool(t, a)
	drainAll(t, open(t, Options{Path: path}), "e")
}

// Bodies that no line names go, unless a damaged line may have named them.
func TestStrayBodies(t *testing.T) {
	t.Parallel()
	for _, damaged := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "events.jsonl")
		s := open(t, Options{Path: path})
		large := entry("large")
		large.Body = make([]byte, maxInline+1)
		if err := s.Append(t.Context(), large); err != nil {
			t.Fatal(err)
		}
		closeSpool(t, s)
		stray := "events.jsonl.0123456789abcdef.body"
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), stray), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if damaged {
			file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteString(`{"torn`); err != nil {
				t.Fatal(err)
			}
			file.Close()
		}
		s = open(t, Options{Path: path})
		if _, err := s.Drain(t.Context(), func(context.Context, Entry) error { return call.Errorf(call.Unavailable, "away") }); err == nil {
			t.Error("drained")
		}
		if len(s.own.bodies) != 2 {
			t.Error("a body was removed too early")
		}
		drainAll(t, s, "large")
		if damaged {
			wantNames(t, s, stray+orphanSuffix, "events.jsonl.lock", "events.jsonl.torn")
		} else {
			wantNames(t, s, "events.jsonl.lock")
		}
	}
}

// A process that is killed while it rejects finds the body where it is.
func TestRejectedTwice(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	large := entry("large")
	large.Body = make([]byte, maxInline+1)
	if err := s.Append(t.Context(), large); err != nil {
		t.Fatal(err)
	}
	for name := range s.own.bodies {
		if err := os.Rename(s.own.beside(name), s.own.beside(name)+rejectedSuffix); err != nil {
			t.Fatal(err)
		}
	}
	drainAll(t, s, "large")
	wantNames(t, s, "events.jsonl.lock")
}

// Run drains at once what is appended, and leaves a receiver that is away alone
// for longer and longer.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{})
		began := time.Now()
		var mu sync.Mutex
		var tries []time.Duration
		away := true
		taken := make(chan string, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			s.Run(ctx, func(_ context.Context, e Entry) error {
				mu.Lock()
				defer mu.Unlock()
				if away {
					tries = append(tries, time.Since(began))
					return call.Errorf(call.Unavailable, "away")
				}
				taken <- e.RequestID
				return nil
			})
		})
		appendAll(t, s, "a")
		time.Sleep(time.Second)
		appendAll(t, s, "b") // does not shorten the pause
		time.Sleep(20 * time.Second)
		mu.Lock()
		away = false
		var want []time.Duration
		for at, pause := time.Duration(0), firstPause; len(want) < len(tries); at, pause = at+pause, min(2*pause, longestPause) {
			want = append(want, at)
		}
		if !slices.Equal(tries, want) || len(tries) < 8 {
			t.Errorf("tried at %v, want %v", tries, want)
		}
		mu.Unlock()
		first, second := <-taken, <-taken
		if first != "a" || second != "b" {
			t.Error(first, second)
		}
		time.Sleep(time.Second)
		at := time.Now()
		appendAll(t, s, "c")
		if id := <-taken; id != "c" || time.Since(at) != 0 {
			t.Errorf("%s after %v", id, time.Since(at))
		}
		cancel()
		wg.Wait()
		closeSpool(t, s)
	})
}

// What was begun is finished when draining is to end; the rest stays.
func TestEndWhileDraining(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"context", "close"} {
		s := open(t, Options{Concurrency: 1})
		appendAll(t, s, "a", "b", "c")
		ctx, cancel := context.WithCancelCause(t.Context())
		closed := make(chan error, 1)
		s.Run(ctx, func(f context.Context, _ Entry) error {
			if end == "context" {
				cancel(errors.New("the end"))
				closed <- nil
			} else {
				go func() { closed <- s.Close(f) }()
				<-s.closing
			}
			return f.Err()
		})
		if err := <-closed; err != nil {
			t.Error(err)
		}
		cancel(nil)
		closeSpool(t, s)
		if err := s.Append(t.Context(), entry("late")); call.CodeOf(err) != call.Unavailable {
			t.Error(err)
		}
		if _, err := s.Drain(t.Context(), new(receiver).take); err == nil {
			t.Error("drained a closed spool")
		}
		drainAll(t, open(t, Options{Path: s.Path()}), "b", "c")
	}
}

// An append whose context ends says so; Close does not wait for ever.
func TestContexts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		s := open(t, Options{create: func(path string) (appendFile, error) {
			file, err := createFile(path)
			return &faulty{appendFile: file, sync: func() error { <-hold; return nil }}, err
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Append(ctx, entry("a")); call.CodeOf(err) != call.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := s.Append(ctx, entry("b")); call.CodeOf(err) != call.Unavailable {
			t.Error(err)
		}
		short, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		if err := s.Close(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		close(hold)
		closeSpool(t, s)
	})
}
