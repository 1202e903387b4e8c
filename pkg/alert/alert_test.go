package alert_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/zap"

	"postcall/pkg/alert"
	"postcall/pkg/pgtest"
	"postcall/pkg/privacy"
	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
	"postcall/pkg/work"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	token  = "123456:telegram-token"
)

var moscow = func() *time.Location {
	loc, err := time.LoadLocation("Europe/Moscow")
	if err != nil {
		panic(err)
	}
	return loc
}()

// inbox is what a fake was given and took, in order, and how many of its next
// requests fail.
type inbox struct {
	mu    sync.Mutex
	took  []string
	fails int
	tried int
}

// next counts a request and gives a number other than 0, which says how, if it
// is to fail.
func (b *inbox) next() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tried++
	if b.fails == 0 {
		return 0
	}
	b.fails--
	return b.fails + 1
}

func (b *inbox) take(title string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took = append(b.took, title)
}

func (b *inbox) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.took)
}

func (b *inbox) fail(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails = n
}

// fault fails an HTTP request in one of several ways.
func fault(w http.ResponseWriter, how int) {
	switch how % 3 {
	case 0:
		w.WriteHeader(http.StatusBadGateway)
	case 1:
		panic(http.ErrAbortHandler) // the connection is cut
	case 2:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 1","parameters":{"retry_after":1}}`)
	}
}

// webhook is a receiver that checks signatures.
func webhook(t *testing.T, b *inbox) alert.Channel {
	t.Helper()
	verify, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if how := b.next(); how > 0 {
			fault(w, how)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = verify.Verify(body, r.Header)
		}
		var m struct {
			Type string `json:"type"`
			Data struct {
				Rule string `json:"rule"`
			} `json:"data"`
		}
		if err == nil {
			err = json.Unmarshal(body, &m)
		}
		if err != nil {
			t.Errorf("the webhook was sent %s: %v", body, err)
		}
		b.take(strings.TrimPrefix(m.Type, "alert.") + " " + m.Data.Rule)
	}))
	t.Cleanup(server.Close)
	c, err := alert.NewWebhook(server.URL+"/hook", secret, true)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// titles are how the channels for people say what was told.
var titles = map[string]string{
	"Postcall: анализ не удаётся": "fired failures", "Postcall, прошло: анализ не удаётся": "recovered failures",
	"Postcall: звонки ждут разбора вручную": "fired dead", "Postcall, прошло: звонки ждут разбора вручную": "recovered dead",
	"Postcall: звонки не поступают": "fired silence", "Postcall, прошло: звонки не поступают": "recovered silence",
	"Postcall: анализ стоит больше, чем задумано": "fired cost", "Postcall, прошло: анализ стоит больше, чем задумано": "recovered cost",
	"Postcall, всё ещё: звонки ждут разбора вручную": "reminded dead",
}

func telegram(t *testing.T, b *inbox) alert.Channel {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/bot"+token+"/sendMessage" {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"ok":false,"error_code":404,"description":"Not Found"}`)
			return
		}
		if how := b.next(); how > 0 {
			fault(w, how)
			return
		}
		var m struct {
			Chat string `json:"chat_id"`
			Text string `json:"text"`
		}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || m.Chat != "-100500" {
			t.Errorf("Telegram was sent %+v: %v", m, err)
		}
		title, _, _ := strings.Cut(m.Text, "\n\n")
		b.take(titles[title])
		_, _ = io.WriteString(w, `{"ok":true,"result":{"message_id":1}}`)
	}))
	t.Cleanup(server.Close)
	c, err := alert.NewTelegram(server.URL, token, "-100500", true)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// smtp is a mail server behind TLS, or a plain one that offers no TLS.
func smtp(t *testing.T, b *inbox, security string) *alert.Mail {
	t.Helper()
	certified := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(certified.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if security == "tls" {
		listener = tls.NewListener(listener, &tls.Config{Certificates: certified.TLS.Certificates})
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				converse(t, conn, b)
			})
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	roots := x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	m, err := alert.NewMail(alert.MailOptions{
		Host: "127.0.0.1", Port: port, From: "postcall@example.com", To: []string{"anna@example.com", "ivan@example.com"},
		Security: security, TLS: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// converse speaks SMTP (RFC 5321) with one client.
func converse(t *testing.T, conn net.Conn, b *inbox) {
	t.Helper()
	how := b.next()
	if how%3 == 1 {
		return // hangs up
	}
	in := bufio.NewReader(conn)
	say := func(s string) { _, _ = io.WriteString(conn, s+"\r\n") }
	say("220 mail.example.com ESMTP")
	recipients := 0
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
		switch verb {
		case "EHLO", "HELO":
			say("250-mail.example.com\r\n250 8BITMIME")
		case "MAIL":
			if how%3 == 2 {
				say("451 4.3.0 try later")
				continue
			}
			say("250 ok")
		case "RCPT":
			recipients++
			say("250 ok")
		case "DATA":
			if how > 0 {
				say("452 4.3.1 no room")
				continue
			}
			say("354 go on")
			letter, err := mail.ReadMessage(bufio.NewReader(&untilDot{in: in}))
			if err != nil || recipients != 2 {
				t.Errorf("a letter to %d: %v", recipients, err)
				return
			}
			_, _ = io.Copy(io.Discard, letter.Body)
			subject, err := new(mime.WordDecoder).DecodeHeader(letter.Header.Get("Subject"))
			if err != nil || letter.Header.Get("Message-ID") == "" {
				t.Errorf("header %v: %v", letter.Header, err)
			}
			b.take(titles[subject])
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// untilDot reads the lines of a letter up to the one that is a dot.
type untilDot struct {
	in   *bufio.Reader
	rest string
	done bool
}

func (u *untilDot) Read(p []byte) (int, error) {
	for u.rest == "" {
		if u.done {
			return 0, io.EOF
		}
		line, err := u.in.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if line == ".\r\n" {
			u.done = true
			continue
		}
		u.rest = line
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

// bench is a checker whose clock is the test's, with a client that sends.
type bench struct {
	t       *testing.T
	pool    *pgxpool.Pool
	client  *queue.Client
	checker *alert.Checker
	now     time.Time
}

// setup has a Wednesday afternoon in Moscow.
func setup(t *testing.T, limits alert.Limits, channels map[string]alert.Channel) *bench {
	t.Helper()
	b := &bench{t: t, pool: pgtest.New(t), now: time.Date(2026, 11, 18, 15, 0, 0, 0, moscow)}
	worktime, err := alert.ParseWorkTime("Mon-Fri 09:00-18:00", moscow)
	if err != nil {
		t.Fatal(err)
	}
	b.checker = &alert.Checker{Pool: b.pool, Limits: limits, Work: worktime, Now: func() time.Time { return b.now }}
	for name := range channels {
		b.checker.Channels = append(b.checker.Channels, name)
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &alert.SendWorker{Pool: b.pool, Channels: channels, Language: alert.Russian, Location: moscow, Log: zap.NewNop()})
	river.AddWorker(workers, &alert.CheckWorker{Checker: &alert.Checker{}, Log: zap.NewNop()})
	river.AddWorker(workers, &work.Reconcile{Pool: b.pool, Log: zap.NewNop()})
	river.AddWorker(workers, &privacy.RetentionWorker{Retention: &privacy.Retention{Pool: b.pool}})
	b.client, err = queue.NewWorker(b.pool, queue.Options{
		Logger: telemetry.Slog(zap.NewNop()), Workers: workers, Analyses: 1, Timeout: time.Minute, SoftStop: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.client.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { <-b.client.Stopped() })
	return b
}

func (b *bench) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.pool.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

// check lets several workers look at once, as much later.
func (b *bench) check(later time.Duration) {
	b.t.Helper()
	b.now = b.now.Add(later)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := b.checker.Check(b.t.Context(), b.client); err != nil {
				b.t.Error(err)
			}
		})
	}
	wg.Wait()
}

// delivered waits until nothing is left to be sent, bringing forward what waits
// for its next try.
func (b *bench) delivered() {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		b.exec(`update river_job set state = 'available', scheduled_at = now() where kind = 'send_alert' and state in ('retryable', 'scheduled')`)
		var left int
		if err := b.pool.QueryRow(b.t.Context(), `select count(*) from river_job where kind = 'send_alert' and state <> 'completed'`).Scan(&left); err != nil {
			b.t.Fatal(err)
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%d messages were not sent", left)
		}
		<-tick.C
	}
}

func (b *bench) event(id int, state string, at time.Time) {
	b.t.Helper()
	b.exec(`insert into webhook_events (id, event_type, event_timestamp, payload, dedup_key, analysis_state, failed_at, received_at)
		values ($1::bigint, 'post_call_transcription', 1, '{}', 'key' || $1::bigint, $2, $3, $3)`, id, state, at)
}

// Must show: each rule fires once and recovers once, over each channel, though
// each fails at times and four workers look at once.
func TestEachRuleOverEachChannel(t *testing.T) {
	t.Parallel()
	rules := map[string]struct {
		limits alert.Limits
		wrong  func(b *bench)
		right  func(b *bench)
	}{
		alert.RuleFailures: {alert.Limits{FailurePercent: 50}, func(b *bench) {
			for id := range 6 {
				b.event(id+1, "dead", b.now.Add(-time.Minute))
			}
		}, func(b *bench) { b.exec(`update webhook_events set analysis_state = 'done', failed_at = null`) }},
		alert.RuleDead: {alert.Limits{Dead: 3}, func(b *bench) {
			for id := range 3 {
				b.event(id+1, "dead", b.now.Add(-48*time.Hour))
			}
		}, func(b *bench) { b.exec(`update webhook_events set analysis_state = 'done' where id = 1`) }},
		alert.RuleSilence: {alert.Limits{SilenceHours: 4}, func(b *bench) {
			b.event(1, "done", b.now.Add(-5*time.Hour))
		}, func(b *bench) { b.event(2, "done", b.now) }},
		alert.RuleCost: {alert.Limits{CostUSD: 10}, func(b *bench) {
			b.event(1, "done", b.now.Add(-time.Hour))
			b.exec(`insert into analyses (event_id, cost_usd, created_at) values (1, 6, $1), (1, 5, $1)`, b.now.Add(-time.Hour))
		}, func(b *bench) { b.exec(`update analyses set created_at = created_at - interval '1 day'`) }},
	}
	for rule, test := range rules {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			boxes := map[string]*inbox{"webhook": {}, "telegram": {}, "mail": {}}
			channels := map[string]alert.Channel{
				"webhook": webhook(t, boxes["webhook"]), "telegram": telegram(t, boxes["telegram"]), "mail": smtp(t, boxes["mail"], "tls"),
			}
			b := setup(t, test.limits, channels)
			expect := func(want ...string) {
				t.Helper()
				b.delivered()
				for name, box := range boxes {
					if got := box.all(); !slices.Equal(got, want) {
						t.Errorf("%s: told %q, want %q", name, got, want)
					}
				}
			}
			b.check(0)
			expect() // all is well
			for _, box := range boxes {
				box.fail(3)
			}
			test.wrong(b)
			for range 5 {
				b.check(time.Minute)
			}
			fired := "fired " + rule
			expect(fired)
			for name, box := range boxes {
				if box.tried != 4 {
					t.Errorf("%s was tried %d times, want 3 failures and a success", name, box.tried)
				}
				box.fail(2)
			}
			test.right(b)
			b.check(time.Minute)
			b.check(5 * time.Minute)
			expect(fired) // it must be well for a while
			b.check(6 * time.Minute)
			b.check(time.Minute)
			expect(fired, "recovered "+rule)
		})
	}
}

// What goes up and down about its limit is told once, what stays is told again
// once a day, and what comes back is told anew.
func TestNoStorm(t *testing.T) {
	t.Parallel()
	box := &inbox{}
	b := setup(t, alert.Limits{Dead: 2}, map[string]alert.Channel{"telegram": telegram(t, box)})
	b.event(1, "dead", b.now)
	b.event(2, "dead", b.now)
	for n := range 60 {
		b.exec(`update webhook_events set analysis_state = case when $1 % 2 = 0 then 'dead' else 'done' end where id = 2`, n)
		b.check(time.Minute)
	}
	b.exec(`update webhook_events set analysis_state = 'dead'`)
	for range 49 {
		b.check(time.Hour)
	}
	b.delivered()
	if got, want := box.all(), []string{"fired dead", "reminded dead", "reminded dead"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	b.exec(`update webhook_events set analysis_state = 'done'`)
	b.check(time.Minute)
	b.check(11 * time.Minute)
	b.delivered() // a minute before the next check
	b.exec(`update webhook_events set analysis_state = 'dead'`)
	b.check(time.Minute)
	b.delivered()
	if got := box.all(); !slices.Equal(got[3:], []string{"recovered dead", "fired dead"}) {
		t.Errorf("told %q", got)
	}
}

// The message that it is over never overtakes the one that it had begun.
func TestOrder(t *testing.T) {
	t.Parallel()
	box := &inbox{fails: 1000}
	b := setup(t, alert.Limits{Dead: 1}, map[string]alert.Channel{"webhook": webhook(t, box)})
	b.event(1, "dead", b.now)
	b.check(time.Minute)
	b.exec(`delete from webhook_events`)
	b.check(time.Minute)
	b.check(11 * time.Minute)
	box.fail(1)
	b.delivered()
	if got := box.all(); !slices.Equal(got, []string{"fired dead", "recovered dead"}) {
		t.Errorf("told %q", got)
	}
}

// A message that it is over is not told once it has begun again: it would come
// late, and be the last that people hear.
func TestBegunAgain(t *testing.T) {
	t.Parallel()
	box := &inbox{}
	b := setup(t, alert.Limits{Dead: 1}, map[string]alert.Channel{"webhook": webhook(t, box)})
	b.event(1, "dead", b.now)
	b.check(time.Minute)
	b.delivered()
	box.fail(1000)
	b.exec(`delete from webhook_events`)
	b.check(time.Minute)
	b.check(11 * time.Minute)
	b.event(2, "dead", b.now)
	b.check(time.Minute)
	box.fail(1)
	b.delivered()
	if got := box.all(); !slices.Equal(got, []string{"fired dead", "fired dead"}) {
		t.Errorf("told %q", got)
	}
}

// A night, a weekend and an installation without a call yet are no silence.
func TestSilenceCountsWorkingTime(t *testing.T) {
	t.Parallel()
	friday := time.Date(2026, 11, 20, 17, 0, 0, 0, moscow)
	for name, test := range map[string]struct {
		last, now time.Time
		want      bool
	}{
		"no call ever":          {time.Time{}, friday, false},
		"an hour":               {friday.Add(-time.Hour), friday, false},
		"the afternoon":         {friday.Add(-4 * time.Hour), friday, true},
		"over the weekend":      {friday.Add(-time.Hour), friday.AddDate(0, 0, 3).Add(-7 * time.Hour), false}, // Monday 10:00
		"into Monday afternoon": {friday, friday.AddDate(0, 0, 3).Add(-3 * time.Hour), true},                  // 1 h + 5 h
		"Sunday":                {friday.AddDate(0, 0, -1), friday.AddDate(0, 0, 2), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, alert.Limits{SilenceHours: 4}, map[string]alert.Channel{"webhook": webhook(t, &inbox{})})
			if !test.last.IsZero() {
				b.event(1, "done", test.last)
			}
			b.now = test.now
			b.check(0)
			var firing bool
			if err := b.pool.QueryRow(t.Context(), `select firing from alerts where rule = 'silence'`).Scan(&firing); err != nil || firing != test.want {
				t.Errorf("firing %v, %v", firing, err)
			}
		})
	}
}

func TestWorkTime(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	w, err := alert.ParseWorkTime("Sun 00:00-06:00", berlin)
	if err != nil {
		t.Fatal(err)
	}
	// The clock goes from 3 back to 2, and half a year before from 2 to 3.
	for month, want := range map[time.Month]time.Duration{time.October: 7 * time.Hour, time.March: 5 * time.Hour} {
		day := map[time.Month]int{time.October: 25, time.March: 29}[month]
		from := time.Date(2026, month, day, 0, 0, 0, 0, berlin)
		if got := w.Between(from, from.AddDate(0, 0, 1)); got != want {
			t.Errorf("%v: %v, want %v", month, got, want)
		}
	}
	for _, wrong := range []string{"Mon", "Mon 9-18", "Mon 18:00-09:00", "Mon 09:00-25:00", "Mo-Fr 09:00-18:00", "Mon-Fri 09:00", "Mon 09:60-10:00"} {
		if _, err := alert.ParseWorkTime(wrong, moscow); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
	if w, err := alert.ParseWorkTime("Fri-Mon 10:00-24:00", moscow); err != nil || !w.At(time.Date(2026, 11, 22, 23, 59, 0, 0, moscow)) || w.At(time.Date(2026, 11, 25, 12, 0, 0, 0, moscow)) {
		t.Errorf("days over the end of the week: %v", err)
	}
}

// No error tells an address or a secret, and mail never goes without TLS unless
// it is said so.
func TestErrorsAndTLS(t *testing.T) {
	t.Parallel()
	m := alert.Message{ID: "x", Title: "t", Text: "u"}
	bot, err := alert.NewTelegram("http://127.0.0.1:1", token, "-100500", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := bot.Send(t.Context(), m); err == nil || strings.Contains(fmt.Sprint(err), token) {
		t.Errorf("an unreachable server gives %v", err)
	}
	if _, err := alert.NewTelegram("http://127.0.0.1:1", token, "-100500", false); err == nil {
		t.Error("http:// is taken without being allowed")
	}
	box := &inbox{}
	if err := smtp(t, box, "starttls").Send(t.Context(), m); err == nil || len(box.all()) > 0 {
		t.Errorf("a server without TLS was sent a letter: %v", err)
	}
	if err := smtp(t, box, "none").Send(t.Context(), m); err != nil {
		t.Error(err)
	}
}
