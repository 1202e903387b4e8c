package app_test

import (
	"bufio"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/app"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
)

// mailbox is what a channel was told; it fails so many times first.
type mailbox struct {
	mu    sync.Mutex
	fails int
	took  []string
}

// refuse reports whether this time fails.
func (b *mailbox) refuse() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails--
	return b.fails >= 0
}

// fail makes so many of the next times fail.
func (b *mailbox) fail(times int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails = times
}

func (b *mailbox) take(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took = append(b.took, text)
}

func (b *mailbox) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.took...)
}

// told are the channels of an installation, and the environment that names them.
type told struct {
	boxes map[string]*mailbox
	env   map[string]string
}

const botToken = "4242:bot-token"

// channels stand ready: a Bot API, a webhook's receiver and a mail server.
func channels(t *testing.T, fails int) told {
	t.Helper()
	boxes := map[string]*mailbox{"mail": {fails: fails}, "telegram": {fails: fails}, "webhook": {fails: fails}}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		box, answer := boxes["webhook"], ""
		if r.URL.Path == "/bot"+botToken+"/sendMessage" {
			box, answer = boxes["telegram"], `{"ok": true, "result": {}}`
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || box.refuse() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		box.take(string(body))
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(web.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { takeMail(conn, boxes["mail"]) })
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return told{boxes, map[string]string{
		"ALERT_LANGUAGE": "en", "ALERT_ALLOW_HTTP": "true",
		"ALERT_TELEGRAM_URL": web.URL, "ALERT_TELEGRAM_TOKEN": botToken, "ALERT_TELEGRAM_CHAT": "-100500",
		"ALERT_WEBHOOK_URL": web.URL + "/hook", "ALERT_WEBHOOK_SECRET": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		"ALERT_SMTP_HOST": "127.0.0.1", "ALERT_SMTP_PORT": port, "ALERT_SMTP_SECURITY": "none",
		"ALERT_SMTP_FROM": "postcall@example.com", "ALERT_SMTP_TO": "anna@example.com",
	}}
}

// takeMail speaks SMTP with one client.
func takeMail(conn net.Conn, box *mailbox) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	say := func(s string) { _, _ = io.WriteString(conn, s+"\r\n") }
	refused := box.refuse()
	say("220 mail.example.com ESMTP")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
		case "EHLO", "HELO":
			say("250 mail.example.com")
		case "MAIL":
			if refused {
				say("451 4.3.0 try later")
				continue
			}
			say("250 ok")
		case "DATA":
			say("354 go on")
			var text strings.Builder
			for line, err = in.ReadString('\n'); err == nil && line != ".\r\n"; line, err = in.ReadString('\n') {
				text.WriteString(line)
			}
			letter, err := mail.ReadMessage(strings.NewReader(text.String()))
			if err != nil {
				return
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(letter.Header.Get("Subject"))
			body, bodyErr := io.ReadAll(letter.Body)
			if err != nil || bodyErr != nil {
				return
			}
			box.take(subject + "\n" + string(body))
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// Two workers with all channels, each of which fails at first: people are told
// once that something is wrong and once that it is over, and of nobody.
func TestAlertsOfWorkers(t *testing.T) {
	t.Parallel()
	to := channels(t, 2)
	to.env["ALERT_DEAD_LETTERS"] = "2"
	i := install(t, nil, to.env)
	for n := range 2 {
		if _, err := i.pool.Exec(t.Context(), `
			insert into webhook_events (event_type, event_timestamp, conversation_id, payload, dedup_key, analysis_state, processor_note, failed_at)
			values ('post_call_transcription', 1, $1, $2, $1, 'dead', 'the model said Ольга', now())`,
			fmt.Sprintf("conv_alert_%d", n), `{"phone": "`+olga.phone+`"}`); err != nil {
			t.Fatal(err)
		}
	}
	core, logs := observer.New(zapcore.DebugLevel)
	for range 2 {
		i.loggingWorker(zap.New(core))
	}
	inserter, err := queue.NewInserter(i.pool, telemetry.Slog(zap.NewNop()))
	if err != nil {
		t.Fatal(err)
	}
	// look has the rules looked at again, as a worker does each minute.
	look := func() {
		t.Helper()
		seen := i.text(`select checked_at from alerts where rule = 'dead'`)
		eventually(t, func() string {
			if _, err := inserter.Insert(t.Context(), queue.CheckAlerts{}, nil); err != nil {
				t.Fatal(err)
			}
			if i.text(`select checked_at from alerts where rule = 'dead'`) == seen {
				return "no worker looks at the rules"
			}
			return ""
		})
	}
	// expect waits until each channel was told so many times, bringing forward
	// what is to be tried again.
	expect := func(want ...string) {
		t.Helper()
		eventually(t, func() string {
			if _, err := i.pool.Exec(t.Context(), `update river_job set state = 'available', scheduled_at = now() where kind = 'send_alert' and state in ('retryable', 'scheduled')`); err != nil {
				t.Fatal(err)
			}
			if n := i.text(`select count(*) from river_job where kind = 'send_alert' and state <> 'completed'`); n != "0" {
				return n + " messages are not sent"
			}
			for name, box := range to.boxes {
				if n := len(box.all()); n < len(want) {
					return fmt.Sprintf("%s was told %d times", name, n)
				}
			}
			return ""
		})
		for name, box := range to.boxes {
			got := box.all()
			if len(got) != len(want) {
				t.Errorf("%s was told %q", name, got)
				continue
			}
			for n := range want {
				if !strings.Contains(got[n], want[n]) {
					t.Errorf("%s was told %q, want %q", name, got[n], want[n])
				}
			}
		}
	}
	const fired, over = "Postcall: dead letters wait", "Postcall, over: dead letters wait"
	expect(fired)
	look()
	expect(fired)
	if _, err := i.pool.Exec(t.Context(), `update webhook_events set analysis_state = 'skipped'`); err != nil {
		t.Fatal(err)
	}
	look()
	expect(fired) // it must be well for a while
	if _, err := i.pool.Exec(t.Context(), `update alerts set clear_since = clear_since - interval '11 minutes'`); err != nil {
		t.Fatal(err)
	}
	look()
	look()
	expect(fired, over)
	said := fmt.Sprint(to.boxes["mail"].all(), to.boxes["telegram"].all(), to.boxes["webhook"].all(), i.text(`select string_agg(args::text, ' ') from river_job where kind = 'send_alert'`))
	for _, personal := range []string{olga.phone, "conv_alert", "Ольга"} {
		if strings.Contains(said, personal) {
			t.Errorf("%q is in %s", personal, said)
		}
	}
	for _, line := range logs.All() {
		if text := fmt.Sprint(line.Message, line.ContextMap()); strings.Contains(text, botToken) {
			t.Errorf("the bot's token is in the log: %s", text)
		}
	}
}

// Whoever sets the channels up can see a message arrive on each, and is told
// which one does not work.
func TestTryingAlerts(t *testing.T) {
	t.Parallel()
	to := channels(t, 0)
	to.boxes["mail"].fail(1)
	settings := func(env map[string]string) config.Alerts {
		t.Helper()
		c, err := config.LoadAlerts(t.Context(), config.Map(env, nil))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	tried, err := app.TryAlerts(t.Context(), settings(to.env))
	if err != nil || len(tried) != 3 {
		t.Fatalf("%+v, %v", tried, err)
	}
	for _, one := range tried {
		if failed := one.Err != nil; failed != (one.Channel == "mail") {
			t.Errorf("%s: %v", one.Channel, one.Err)
		}
		if got := to.boxes[one.Channel].all(); one.Err == nil && (len(got) != 1 || !strings.Contains(got[0], "Postcall: a test")) {
			t.Errorf("%s was told %q", one.Channel, got)
		}
	}
	if _, err := app.TryAlerts(t.Context(), settings(nil)); call.CodeOf(err) != call.Invalid {
		t.Errorf("without a channel: %v", err)
	}
	delete(to.env, "ALERT_TELEGRAM_CHAT")
	if _, err := config.LoadAlerts(t.Context(), config.Map(to.env, nil)); err == nil || !strings.Contains(err.Error(), "ALERT_TELEGRAM_CHAT") {
		t.Errorf("a bot without a chat: %v", err)
	}
	to.env["ALERT_TELEGRAM_CHAT"], to.env["ALERT_TELEGRAM_TOKEN"] = "-1", botToken+strconv.Itoa(1)
	tried, err = app.TryAlerts(t.Context(), settings(to.env))
	if err != nil || tried[1].Channel != "telegram" || tried[1].Err == nil || strings.Contains(tried[1].Err.Error(), botToken) {
		t.Errorf("%+v, %v", tried, err)
	}
}
