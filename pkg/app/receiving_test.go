package app_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"postcall/pkg/access"
	"postcall/pkg/app"
	"postcall/pkg/config"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/localpg"
	"postcall/pkg/pgtest"
	"postcall/pkg/sender"
)

// private is an installation on a server of its own, which may be killed.
func private(t *testing.T, env map[string]string) (*installation, *localpg.Server) {
	t.Helper()
	server, url := pgtest.Private(t)
	i := install(t, nil, env)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	i.pool, i.env["DATABASE_URL"] = pool, url
	return i, server
}

// answer is what a delivery was answered, the spool's mark included.
type answer struct {
	status  int
	spooled bool
	event   *int64
}

func (i *installation) deliver(body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, i.post.URL, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set(elevenlabs.SignatureHeader, elevenlabs.Sign(secret, time.Now(), body))
	resp, err := i.post.Client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	var a struct {
		EventID *int64 `json:"event_id"`
		Spooled bool   `json:"spooled"`
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return answer{}, fmt.Errorf("%s: %w", text, err)
	}
	return answer{resp.StatusCode, a.Spooled, a.EventID}, nil
}

// get asks for a path; the test closes the answer.
func (i *installation) get(path string, header map[string]string) *http.Response {
	i.t.Helper()
	req, err := http.NewRequestWithContext(i.t.Context(), http.MethodGet, i.url+path, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	for name, value := range header {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := i.post.Client.Do(req)
	if err != nil {
		i.t.Fatal(err)
	}
	return resp
}

// jsonText is a text inside a JSON body.
func jsonText(t *testing.T, body []byte, path ...string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	for _, name := range path {
		o, _ := v.(map[string]any)
		v = o[name]
	}
	s, ok := v.(string)
	if !ok {
		t.Fatalf("there is no text at %v", path)
	}
	return s
}

// once checks that each of the calls was kept exactly once and has one job.
func (i *installation) once(prefix string, calls int) {
	i.t.Helper()
	i.wait(strconv.Itoa(calls), `select count(*) from webhook_events where conversation_id like $1`, prefix+"%")
	for sql, want := range map[string]int{
		`select count(distinct conversation_id) from webhook_events where conversation_id like $1`:                                  calls,
		`select count(distinct (args->>'event_id')) from river_job where kind = 'analyze' and metadata->>'conversation_id' like $1`: calls,
		`select count(*) from river_job where kind = 'analyze' and metadata->>'conversation_id' like $1`:                            calls,
	} {
		if got := i.text(sql, prefix+"%"); got != strconv.Itoa(want) {
			i.t.Errorf("%s: got %s, want %d", sql, got, want)
		}
	}
}

// Ingest starts and receives while the database is down; what it kept is
// drained by itself when the database is back.
func TestDatabaseDownAtStart(t *testing.T) {
	t.Parallel()
	i, server := private(t, nil)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	i.ingest()
	for n := range 20 {
		a, err := i.deliver(callBody("conv_down_" + strconv.Itoa(n)))
		if err != nil || a.status != http.StatusOK || !a.spooled || a.event != nil {
			t.Fatalf("answered %+v, %v", a, err)
		}
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.once("conv_down_", 20)
	if got := i.text(`select string_agg(distinct source, ',') from webhook_events`); got != "spool" {
		t.Errorf("sources %s", got)
	}
	// The same delivery, once the database is back, is a repeat.
	a := i.send(callBody("conv_down_0"))
	if !a.Duplicate {
		t.Error("a delivery that had been spooled was taken for new")
	}
}

// Without DATABASE_URL the spool is all there is; an ingest with a database
// drains it later.
func TestSpoolAlone(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	url := i.env["DATABASE_URL"]
	delete(i.env, "DATABASE_URL")
	cmd, out := i.start("ingest")
	a, err := i.deliver(callBody("conv_alone"))
	if err != nil || a.status != http.StatusOK || !a.spooled {
		t.Fatalf("answered %+v, %v: %s", a, err, out)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	i.env["DATABASE_URL"] = url
	i.ingest()
	i.once("conv_alone", 1)
}

// What an ingest without a database has left behind is drained by hand, once;
// what a running one holds is left to it.
func TestDrainByHand(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	url := i.env["DATABASE_URL"]
	delete(i.env, "DATABASE_URL")
	cmd, out := i.start("ingest")
	const calls = 5
	for n := range calls {
		if a, err := i.deliver(callBody("conv_hand_" + strconv.Itoa(n))); err != nil || !a.spooled {
			t.Fatalf("answered %+v, %v: %s", a, err, out)
		}
	}
	i.env["DATABASE_URL"] = url
	c, err := config.LoadDrain(t.Context(), config.Map(i.env, nil))
	if err != nil {
		t.Fatal(err)
	}
	held, err := app.Drain(t.Context(), c, zap.NewNop(), nil)
	if err != nil || held.Stored != 0 || held.Path == c.SpoolPath {
		t.Errorf("beside a running process: %+v, %v", held, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	var last int64
	d, err := app.Drain(t.Context(), c, zap.NewNop(), func(done, total int64) {
		if done > total || done != last+1 {
			t.Errorf("progress jumped from %d to %d of %d", last, done, total)
		}
		last = done
	})
	if err != nil || d != (app.Drained{Stored: calls, Path: c.SpoolPath}) || last != calls {
		t.Errorf("drained %+v, %v; told of %d", d, err, last)
	}
	i.once("conv_hand_", calls)
	if again, err := app.Drain(t.Context(), c, zap.NewNop(), nil); err != nil || again.Stored != 0 {
		t.Errorf("drained again: %+v, %v", again, err)
	}
}

// An event without its transcript says so and waits; the transcript that comes
// later, in whatever form, is analysed.
func TestTranscriptComesLater(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	i.worker()
	left := bytes.Replace(callBody("conv_later"), []byte(`"transcript":`), []byte(`"not_the_transcript":`), 1)
	unreadable := []byte(`{"type":"post_call_transcription_otel","event_timestamp":1795000111,
		"data":{"conversation_id":"conv_later","agent_id":"agent_1","otlp_traces":{"resourceSpans":[{"scopeSpans":"?"}]}}}`)
	const waits = "; waiting for the import of the call"
	for reason, body := range map[string][]byte{
		"the sender left the transcript out" + waits: left,
		"the traces hold no turns" + waits:           unreadable,
	} {
		i.wait("skipped: "+reason, `select analysis_state || ': ' || processor_note from webhook_events where id = $1`, i.send(body).EventID)
	}
	whole := bytes.Replace(callBody("conv_later"), []byte("1795000110"), []byte("1795000999"), 1)
	i.wait("done", `select analysis_state from webhook_events where id = $1`, i.send(whole).EventID)
}

// PostgreSQL is killed and restarted under load: what was answered 200 is
// there, once.
func TestDatabaseKilledUnderLoad(t *testing.T) {
	t.Parallel()
	i, server := private(t, nil)
	i.ingest()
	i.underLoad("conv_killed_", func(ctx context.Context) error {
		for range 3 {
			if err := server.Kill(); err != nil {
				return err
			}
			if err := server.Restart(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// A database that is restarted in order, as in a failover.
func TestDatabaseRestartedUnderLoad(t *testing.T) {
	t.Parallel()
	i, server := private(t, nil)
	i.ingest()
	i.underLoad("conv_restarted_", server.Restart)
}

// Connections are cut at any time.
func TestTerminatedBackends(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	i.underLoad("conv_terminated_", func(ctx context.Context) error {
		for range 30 {
			if _, err := i.pool.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and application_name = 'postcall ingest'`); err != nil {
				return err
			}
		}
		return nil
	})
}

// Something holds the table for longer than a delivery waits.
func TestLockedTable(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	tx, err := i.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `lock table webhook_events in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for n := range 20 {
		g.Go(func() error {
			a, err := i.deliver(callBody("conv_locked_" + strconv.Itoa(n)))
			if err == nil && (a.status != http.StatusOK || !a.spooled) {
				err = fmt.Errorf("answered %+v", a)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.once("conv_locked_", 20)
	if got := i.text(`select max(deliveries) from webhook_events`); got != "1" {
		t.Errorf("a delivery that was tried twice counts as %s", got)
	}
}

// A server in recovery refuses to write until it is promoted.
func TestDatabaseInRecovery(t *testing.T) {
	t.Parallel()
	i, server := private(t, nil)
	i.ingest()
	standby := filepath.Join(server.Dir(), "data", "standby.signal")
	if err := os.WriteFile(standby, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.pool.Reset()
	if got := i.text(`select pg_is_in_recovery()`); got != "true" {
		t.Fatal("the server is not in recovery")
	}
	for n := range 5 {
		a, err := i.deliver(callBody("conv_recovery_" + strconv.Itoa(n)))
		if err != nil || a.status != http.StatusOK || !a.spooled {
			t.Fatalf("answered %+v, %v", a, err)
		}
	}
	if got := i.text(`select pg_promote()`); got != "true" {
		t.Fatal("the server was not promoted")
	}
	i.once("conv_recovery_", 5)
}

// Others have taken every connection of the server.
func TestConnectionStorm(t *testing.T) {
	t.Parallel()
	i, server := private(t, nil)
	if err := server.Kill(); err != nil { // so that ingest holds no connection yet
		t.Fatal(err)
	}
	i.ingest()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := i.pool.Config()
	config.MaxConns = 200
	storm, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	var held []*pgxpool.Conn
	for {
		conn, err := storm.Acquire(t.Context())
		if err != nil {
			break // that was the last one
		}
		held = append(held, conn)
	}
	a, err := i.deliver(callBody("conv_storm_0"))
	if err != nil || a.status != http.StatusOK {
		t.Errorf("answered %+v, %v", a, err)
	}
	for _, conn := range held {
		conn.Release()
	}
	storm.Close()
	i.once("conv_storm_", 1)
}

// The database and the spool are both out: 503, so that a sender with retries
// tries again, and nothing is acknowledged.
func TestNowhereToKeep(t *testing.T) {
	t.Parallel()
	i, server := private(t, map[string]string{"SPOOL_MAX_BYTES": strconv.Itoa(1 << 20)})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	i.ingest()
	big := bytes.Replace(callBody("conv_full_XXX"), []byte("Добрый"), bytes.Repeat([]byte("ы"), 100_000), 1)
	acknowledged := 0
	for n := range 20 {
		a, err := i.deliver(bytes.ReplaceAll(big, []byte("XXX"), []byte(fmt.Sprintf("%03d", n))))
		if err != nil {
			t.Fatal(err)
		}
		switch a.status {
		case http.StatusOK:
			acknowledged++
		case http.StatusServiceUnavailable:
		default:
			t.Fatalf("answered %+v", a)
		}
	}
	if acknowledged == 0 || acknowledged == 20 {
		t.Errorf("%d of 20 acknowledged with room for a few", acknowledged)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.once("conv_full_", acknowledged)
	// With the backlog gone there is room again.
	i.send(callBody("conv_full_again"))
}

// underLoad delivers calls from eight senders while something happens to the
// database, until it has happened, and checks what was acknowledged.
func (i *installation) underLoad(prefix string, happens func(context.Context) error) {
	i.t.Helper()
	var (
		g            errgroup.Group
		next         atomic.Int64
		acknowledged atomic.Int64
		over         = make(chan struct{})
	)
	for range 8 {
		g.Go(func() error {
			for {
				select {
				case <-over:
					return nil
				default:
				}
				a, err := i.deliver(callBody(fmt.Sprintf("%s%06d", prefix, next.Add(1))))
				if err != nil {
					return err
				}
				if a.status != http.StatusOK {
					return fmt.Errorf("answered %+v", a)
				}
				acknowledged.Add(1)
			}
		})
	}
	err := happens(i.t.Context())
	close(over)
	if gerr := g.Wait(); err == nil {
		err = gerr
	}
	if err != nil {
		i.t.Fatal(err)
	}
	i.pool.Reset()
	if acknowledged.Load() == 0 {
		i.t.Fatal("nothing was delivered meanwhile")
	}
	i.once(prefix, int(acknowledged.Load()))
}

// SIGTERM while a hundred deliveries are under way loses none of them;
// readiness goes first.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	i := install(t, nil, map[string]string{"READINESS_DELAY_MS": "300"})
	cmd, out := i.start("ingest")
	var g errgroup.Group
	halfway := make(chan struct{})
	var begun atomic.Int64
	for n := range 100 {
		body := callBody("conv_stop_" + strconv.Itoa(n))
		pr, pw := io.Pipe()
		g.Go(func() error { // half of the body, then the rest when told so
			_, err := pw.Write(body[:len(body)/2])
			if begun.Add(1) == 100 {
				close(halfway)
			}
			<-halfway
			if err == nil {
				eventually(t, func() string {
					if status := i.status("/health/ready"); status == http.StatusOK {
						return "still ready"
					}
					return ""
				})
				_, err = pw.Write(body[len(body)/2:])
			}
			return pw.CloseWithError(err)
		})
		g.Go(func() error {
			req, err := http.NewRequest(http.MethodPost, i.post.URL, pr)
			if err != nil {
				return err
			}
			req.Header.Set(elevenlabs.SignatureHeader, elevenlabs.Sign(secret, time.Now(), body))
			resp, err := i.post.Client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("answered %d", resp.StatusCode)
			}
			return nil
		})
	}
	<-halfway
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ingest ended with %v: %s", err, out)
	}
	i.once("conv_stop_", 100)
}

// status is the HTTP status of a GET, 0 when there is no answer.
func (i *installation) status(path string) int {
	req, err := http.NewRequest(http.MethodGet, i.url+path, nil)
	if err != nil {
		return 0
	}
	resp, err := i.post.Client.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// Deliveries that arrive together share transactions.
func TestSharedTransactions(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	const calls = 600
	var g errgroup.Group
	g.SetLimit(64)
	for n := range calls {
		g.Go(func() error {
			a, err := i.deliver(callBody("conv_shared_" + strconv.Itoa(n)))
			if err == nil && a.status != http.StatusOK {
				err = fmt.Errorf("answered %+v", a)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	i.once("conv_shared_", calls)
	if n, _ := strconv.Atoi(i.text(`select count(distinct xmin::text) from webhook_events`)); n >= calls*3/4 {
		t.Errorf("%d transactions for %d deliveries from 64 senders", n, calls)
	}
}

// Any of several secrets verifies; which one is recorded by its position.
func TestSeveralSecrets(t *testing.T) {
	t.Parallel()
	i := install(t, nil, map[string]string{"WEBHOOK_SECRET": "wsec_old,wsec_new"})
	i.ingest()
	for position, s := range map[string]string{"1": "wsec_old", "2": "wsec_new"} {
		post := sender.Sender{URL: i.post.URL, Secret: s, Client: i.post.Client}
		a, err := post.Send(t.Context(), callBody("conv_secret_"+position))
		if err != nil || a.Status != http.StatusOK {
			t.Fatalf("%+v, %v", a, err)
		}
		if got := i.text(`select secret_position from webhook_events where id = $1`, a.EventID); got != position {
			t.Errorf("position %s, want %s", got, position)
		}
	}
}

// Who is not on the list is refused and recorded, by the address that a
// trusted proxy vouches for.
func TestAllowList(t *testing.T) {
	t.Parallel()
	i := install(t, nil, map[string]string{"WEBHOOK_ALLOWED_CIDRS": "elevenlabs", "TRUSTED_PROXIES": "127.0.0.1"})
	i.ingest()
	for address, want := range map[string]int{"34.67.146.145": 200, "203.0.113.9": 403, "34.67.146.145, 203.0.113.9": 403, "": 403} {
		body := callBody("conv_allowed")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, i.post.URL, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(elevenlabs.SignatureHeader, elevenlabs.Sign(secret, time.Now(), body))
		if address != "" {
			req.Header.Set("X-Forwarded-For", address)
		}
		resp, err := i.post.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("from %q: %d, want %d", address, resp.StatusCode, want)
		}
	}
	i.wait("true", `select count(*) > 0 from rejections where reason = 'not_allowed' and address = '203.0.113.9'`)
}

// The specification's own load test, with the limits on; then a flood of
// forged deliveries beside genuine ones, from the same address.
func TestLimits(t *testing.T) {
	t.Parallel()
	i := install(t, nil, map[string]string{"WEBHOOK_RATE_RPS": "200", "WEBHOOK_RATE_BURST": "1000"})
	i.ingest()
	for n := range 200 {
		i.send(callBody("conv_sequential_" + strconv.Itoa(n)))
	}
	i.once("conv_sequential_", 200)

	const forged, genuine = 10_000, 200
	var (
		g        errgroup.Group
		statuses [600]atomic.Int64
	)
	g.SetLimit(16)
	body := callBody("conv_forged")
	signature := elevenlabs.Sign("wsec_forger", time.Now(), body)
	for n := range forged {
		g.Go(func() error {
			a, err := i.post.SendSigned(t.Context(), body, signature)
			statuses[a.Status].Add(1)
			return err
		})
		if n%(forged/genuine) == 0 {
			g.Go(func() error {
				a, err := i.post.Send(t.Context(), callBody("conv_genuine_"+strconv.Itoa(n)))
				if err == nil && a.Status != http.StatusOK {
					err = fmt.Errorf("a genuine delivery was answered %d %s", a.Status, a.Detail)
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	i.once("conv_genuine_", genuine)
	if statuses[401].Load() == 0 || statuses[429].Load() < forged*9/10 || statuses[401].Load()+statuses[429].Load() != forged {
		t.Errorf("forged ones were answered 401 %d times and 429 %d times", statuses[401].Load(), statuses[429].Load())
	}
	if got := i.text(`select count(*) from webhook_events where conversation_id = 'conv_forged'`); got != "0" {
		t.Errorf("%s forged events", got)
	}
	i.wait("true", `select count(*) > 0 from rejections where reason = 'mismatch'`)
	if n, _ := strconv.Atoi(i.text(`select count(*) from rejections`)); n > 5000 {
		t.Errorf("a flood wrote %d rejections", n)
	}
}

// Audio goes to its store, decoded, and the payload keeps a reference.
func TestAudio(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	viewer, err := access.NewToken("anna", access.Viewer)
	if err != nil {
		t.Fatal(err)
	}
	i := install(t, nil, map[string]string{"AUDIO_URL": dir, "ADMIN_TOKENS": viewer.Entry()})
	i.ingest()
	body, err := os.ReadFile("../elevenlabs/testdata/made/26-made-audio-valid-mp3.json")
	if err != nil {
		t.Fatal(err)
	}
	a := i.send(body)
	if got := i.text(`select count(*) from call_audio where event_id = $1 and kind = 'full_audio' and content_type = 'audio/mpeg'`, a.EventID); got != "1" {
		t.Errorf("%s rows of audio", got)
	}
	if n := len(i.text(`select payload::text from webhook_events where id = $1`, a.EventID)); n > 2000 {
		t.Errorf("the payload still has %d bytes", n)
	}
	if again := i.send(body); !again.Duplicate {
		t.Error("the same audio again is no duplicate")
	}
	if got := i.text(`select count(*) from call_audio`); got != "1" {
		t.Errorf("%s rows of audio after a repeat", got)
	}
	// A player fetches it by range, by the event of the transcript too, and
	// nobody hears it without a token.
	conversation := i.text(`select conversation_id from webhook_events where id = $1`, a.EventID)
	spoken := callBody(conversation)
	spoken = bytes.Replace(spoken, []byte("agent_1"), []byte(i.text(`select agent_id from webhook_events where id = $1`, a.EventID)), 1)
	transcript := i.send(spoken)
	want, err := base64.StdEncoding.DecodeString(jsonText(t, body, "data", "full_audio"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{a.EventID, transcript.EventID} {
		for _, ask := range []struct {
			token, ranges string
			status        int
			body          []byte
		}{
			{"", "", http.StatusUnauthorized, nil},
			{"Bearer pcl_wrong", "", http.StatusUnauthorized, nil},
			{"Basic " + viewer.Plain, "", http.StatusUnauthorized, nil},
			{"Bearer " + viewer.Plain, "", http.StatusOK, want},
			{"Bearer " + viewer.Plain, "bytes=10-19", http.StatusPartialContent, want[10:20]},
			{"Bearer " + viewer.Plain, "bytes=-5", http.StatusPartialContent, want[len(want)-5:]},
			{"Bearer " + viewer.Plain, fmt.Sprintf("bytes=%d-", len(want)), http.StatusRequestedRangeNotSatisfiable, nil},
		} {
			resp := i.get(fmt.Sprintf("/api/events/%d/audio", id), map[string]string{"Authorization": ask.token, "Range": ask.ranges})
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != ask.status || ask.body != nil && !bytes.Equal(got, ask.body) {
				t.Errorf("%s, %s: %d, %d bytes, %v", ask.token, ask.ranges, resp.StatusCode, len(got), err)
			}
		}
	}
	if resp := i.get("/api/events/999999/audio", map[string]string{"Authorization": "Bearer " + viewer.Plain}); resp.StatusCode != http.StatusNotFound {
		t.Errorf("audio of no event: %d", resp.StatusCode)
	}
	// Broken audio is kept too, and says what is wrong.
	broken := strings.NewReplacer(`"full_audio": "`, `"full_audio": "%%%`, `"conversation_id": "`, `"conversation_id": "broken_`)
	b := i.send([]byte(broken.Replace(string(body))))
	if note := i.text(`select processor_note from webhook_events where id = $1`, b.EventID); !strings.Contains(note, "base64") {
		t.Errorf("note %q", note)
	}
}

// Who guesses tokens is slowed down; who has one from the same address is not.
func TestGuessing(t *testing.T) {
	t.Parallel()
	viewer, err := access.NewToken("anna", access.Viewer)
	if err != nil {
		t.Fatal(err)
	}
	i := install(t, nil, map[string]string{"ADMIN_TOKENS": viewer.Entry(), "ADMIN_RATE_RPS": "5"})
	i.ingest()
	const path = "/api/events/1/audio"
	statuses := map[int]int{}
	for range 40 {
		resp := i.get(path, map[string]string{"Authorization": "Bearer pcl_guess"})
		resp.Body.Close()
		statuses[resp.StatusCode]++
		if resp.StatusCode == http.StatusUnauthorized && resp.Header.Get("WWW-Authenticate") == "" {
			t.Error("401 does not say how to sign in")
		}
		if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
			t.Error("429 does not say for how long")
		}
	}
	if statuses[http.StatusUnauthorized] < 30 || statuses[http.StatusTooManyRequests] == 0 || len(statuses) != 2 {
		t.Errorf("guesses were answered %v", statuses)
	}
	resp := i.get(path, map[string]string{"Authorization": "Bearer " + viewer.Plain})
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("the token's holder was answered %d", resp.StatusCode)
	}
	for range 30 {
		resp := i.get(path, map[string]string{"Authorization": "Bearer " + viewer.Plain})
		resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("a token has no limit")
}

// A sender that hangs up before its answer takes nothing back, also when the
// database is away at that moment.
func TestSenderHangsUp(t *testing.T) {
	t.Parallel()
	i, server := private(t, nil)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	i.ingest()
	address := strings.TrimPrefix(i.url, "http://")
	const calls = 20
	for n := range calls {
		body := callBody("conv_hung_up_" + strconv.Itoa(n))
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "POST /webhook/elevenlabs HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nContent-Length: %d\r\n\r\n%s",
			address, elevenlabs.SignatureHeader, elevenlabs.Sign(secret, time.Now(), body), len(body), body); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.once("conv_hung_up_", calls)
}
