package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/access"
	"postcall/pkg/config"
	"postcall/pkg/demo"
	"postcall/pkg/pgtest"
	"postcall/pkg/receive"
	"postcall/pkg/sender"
	"postcall/pkg/standalone"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const secret = "wsec_test_0123456789abcdef"

// house is an installation with somebody of each role.
type house struct {
	t      *testing.T
	url    string
	pool   *pgxpool.Pool
	tokens map[access.Role]string
	post   *sender.Sender
	i      *standalone.Installation
}

// open starts an installation without any call.
func open(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, pool: pgtest.New(t), tokens: map[access.Role]string{}}
	var entries []string
	for _, role := range access.Roles() {
		token, err := access.NewToken("the-"+string(role), role)
		if err != nil {
			t.Fatal(err)
		}
		h.tokens[role] = token.Plain
		entries = append(entries, token.Entry())
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	i, err := standalone.Start(ctx, standalone.Options{
		Env: config.Map(map[string]string{
			"DATABASE_URL": h.pool.Config().ConnString(), "WEBHOOK_SECRET": secret, "BIND_ADDR": "127.0.0.1", "PORT": "0",
			"CRM_MD_PATH": filepath.Join(dir, "crm.md"), "SPOOL_PATH": filepath.Join(dir, "spool", "events.jsonl"), "AUDIO_URL": filepath.Join(dir, "audio"),
			"ADMIN_TOKENS": strings.Join(entries, ","), "ADMIN_RATE_RPS": "100000", "SHUTDOWN_TIMEOUT_MS": "5000",
		}, nil),
		Logger: func(config.Common, string) (*zap.Logger, error) { return zap.NewNop(), nil },
		Say:    func(string, ...any) {},
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := i.Wait(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	h.i, h.url = i, i.URL
	h.post = &sender.Sender{URL: i.URL + receive.Path, Secret: secret, Client: &http.Client{Timeout: 30 * time.Second}}
	return h
}

// fill posts the demo's samples and waits until they are analysed.
func (h *house) fill() {
	h.t.Helper()
	steps, err := demo.Run(h.t.Context(), h.i, func(int, int) {})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, s := range steps {
		if p := s.Problem(); p != "" {
			h.t.Fatalf("%s: %s", s.Name, p)
		}
	}
}

// send posts a delivery and gives its event's id once it is analysed.
func (h *house) send(body []byte) int64 {
	h.t.Helper()
	a, err := h.post.Send(h.t.Context(), body)
	if err != nil || a.Status != http.StatusOK {
		h.t.Fatalf("%+v %v", a, err)
	}
	h.until("done", `select analysis_state from webhook_events where id = $1`, a.EventID)
	h.indexed()
	return a.EventID
}

// indexed waits until every call is found by what is known of it.
func (h *house) indexed() {
	h.t.Helper()
	h.until("0", `select count(*) from calls_due`)
}

// until polls a value of the database.
func (h *house) until(want, sql string, args ...any) {
	h.t.Helper()
	deadline, tick := time.Now().Add(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		var got string
		if err := h.pool.QueryRow(h.t.Context(), "select coalesce(("+sql+")::text, '')", args...).Scan(&got); err != nil {
			h.t.Fatal(err)
		}
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s is %q, want %q", sql, got, want)
		}
		<-tick.C
	}
}

func (h *house) exec(sql string, args ...any) {
	h.t.Helper()
	if _, err := h.pool.Exec(h.t.Context(), sql, args...); err != nil {
		h.t.Fatal(err)
	}
}

// kill makes an event a dead letter.
func (h *house) kill(id int64, fingerprint string) {
	h.exec(`update webhook_events set analysis_state = 'dead', processor_note = 'the model server answered 503 for an hour',
		failure_code = 'unavailable', failure_fingerprint = $2, failed_at = now() where id = $1`, id, fingerprint)
}

// body is a call in which a person says something.
func body(id, said string, more map[string]any) []byte {
	data := map[string]any{
		"agent_id": "agent_flats", "conversation_id": id, "status": "done",
		"transcript": []any{
			map[string]any{"role": "agent", "message": "Здравствуйте! Чем могу помочь?", "time_in_call_secs": 0},
			map[string]any{"role": "user", "message": said, "time_in_call_secs": 3},
		},
		"metadata": map[string]any{"call_duration_secs": 42},
	}
	for k, v := range more {
		data[k] = v
	}
	b, err := json.Marshal(map[string]any{"type": "post_call_transcription", "event_timestamp": time.Now().Unix(), "data": data})
	if err != nil {
		panic(err)
	}
	return b
}

// browser is a Chromium tab that notes what no page may do.
type browser struct {
	context.Context
	h *house

	mu     sync.Mutex
	wrongs []string
}

// browse opens a tab.
func (h *house) browse(width int) *browser {
	h.t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			h.t.Fatal("chromium is not installed: apt-get install chromium")
		}
		h.t.Skip("chromium is not installed: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.WindowSize(width, 900),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("lang", "en-US"), chromedp.Flag("accept-lang", "en-US"))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(alloc)
	h.t.Cleanup(func() { cancel(); stop() })
	b := &browser{Context: ctx, h: h}
	err = chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
				b.wrong("the console says %s", e.Args[0].Value)
			}
		case *runtime.EventExceptionThrown:
			b.wrong("a script failed: %s", e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError {
				b.wrong("the log says %s %s", e.Entry.Text, e.Entry.URL)
			}
		case *network.EventRequestWillBeSent:
			if u := e.Request.URL; !strings.HasPrefix(u, h.url+"/") && !strings.HasPrefix(u, "data:") && !strings.HasPrefix(u, "about:") && !strings.HasPrefix(u, "chrome") {
				b.wrong("a request to another host: %s", u)
			}
		}
	})
	if err != nil {
		h.t.Fatal(err)
	}
	b.try(call(ctx, network.Enable, network.EnableParams{}), call(ctx, log.Enable, cdp.Empty{}), call(ctx, runtime.Enable, cdp.Empty{}))
	return b
}

func (b *browser) wrong(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrongs = append(b.wrongs, fmt.Sprintf(format, args...))
}

// clean fails the test if a page did what none may.
func (b *browser) clean() {
	b.h.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.wrongs {
		b.h.t.Error(w)
	}
	b.wrongs = nil
}

func call[P, R any](ctx context.Context, command cdp.Command[P, R], params P) error {
	_, err := chromedp.Call(ctx, command, params)
	return err
}

func (b *browser) try(errs ...error) {
	b.h.t.Helper()
	if err := errors.Join(errs...); err != nil {
		ctx, cancel := context.WithTimeout(b.Context, 5*time.Second)
		defer cancel()
		page, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
		b.h.t.Fatalf("%v at %.1500s", err, page)
	}
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.h.t.Helper()
	ctx, cancel := context.WithTimeout(b.Context, 30*time.Second)
	defer cancel()
	b.try(chromedp.Do(ctx, actions...))
}

func (b *browser) open(path string) {
	b.h.t.Helper()
	b.do(chromedp.Navigate(b.h.url+path), chromedp.WaitReady("main"))
}

// eval gives what an expression of the page is, or promises.
func eval[T any](b *browser, expression string) T {
	b.h.t.Helper()
	ctx, cancel := context.WithTimeout(b.Context, 30*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	b.try(err)
	return v
}

// awaits waits until an expression of the page is true, over navigations too.
func (b *browser) awaits(expression string) {
	b.h.t.Helper()
	ctx, cancel := context.WithTimeout(b.Context, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if err == nil && ok {
			return
		}
		select {
		case <-ctx.Done():
			b.try(fmt.Errorf("never true: %s (%w)", expression, err))
		case <-tick.C:
		}
	}
}

// signIn signs in by the page, as a person does.
func (b *browser) signIn(role access.Role) {
	b.h.t.Helper()
	b.open("/")
	b.do(chromedp.SendKeys("#token", b.h.tokens[role]+"\r"), chromedp.WaitVisible(".top nav"))
}
