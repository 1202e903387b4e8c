package receive_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"postcall/pkg/audio"
	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/gate"
	"postcall/pkg/pgtest"
	"postcall/pkg/problem"
	"postcall/pkg/queue"
	"postcall/pkg/receive"
	"postcall/pkg/spool"
	"postcall/pkg/telemetry"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type recorder struct{ reasons chan string }

func (r recorder) Record(reason, _, _, _ string, _ int64) { r.reasons <- reason }

// door is the handler behind real HTTP.
type door struct {
	handler *receive.Handler
	url     string
	pool    *pgxpool.Pool
	reasons chan string
}

func open(t *testing.T, change func(*receive.Handler)) *door {
	t.Helper()
	dir := t.TempDir()
	pool := pgtest.New(t)
	log := zap.NewNop()
	jobs, err := queue.NewInserter(pool, telemetry.Slog(log))
	if err != nil {
		t.Fatal(err)
	}
	sp, err := spool.Open(spool.Options{Path: filepath.Join(dir, "events.jsonl"), MaxBytes: 1 << 30, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	store, err := audio.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	metrics := receive.NewMetrics(prometheus.NewRegistry())
	committer := receive.NewCommitter(receive.CommitterOptions{
		Pool: pool, Queue: jobs, MaxAttempts: 8, Timeout: 5 * time.Second, Metrics: metrics, Log: log,
	})
	d := &door{pool: pool, reasons: make(chan string, 1000)}
	d.handler = &receive.Handler{
		Keeper: &receive.Keeper{
			Committer: committer, Audio: store, Spool: sp, Auto: true,
			Patience: 5 * time.Second, AudioPatience: 5 * time.Second, Large: make(chan struct{}, 1), Log: log,
		},
		Limits:     gate.NewLimits(gate.Rates{FailuresPerMinute: 1000, PerSecond: 1000, Burst: 1000}),
		Bodies:     gate.NewBodies(gate.DefaultCapacity),
		Pace:       gate.DefaultPace,
		Rejections: recorder{d.reasons},
		MaxBody:    256 << 20, TempDir: dir, Metrics: metrics, Log: log,
	}
	change(d.handler)
	e := echo.New()
	e.HTTPErrorHandler = problem.Handler(log)
	e.POST(receive.Path, d.handler.Deliver)
	server := httptest.NewServer(e)
	d.url = server.URL + receive.Path
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { committer.Run(ctx); close(done) }()
	t.Cleanup(func() {
		server.Close()
		cancel()
		<-done
		if err := sp.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Every signature vector through the HTTP door: what must be accepted is
// stored, what must not leaves nothing behind but its reason.
func TestVectors(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("../elevenlabs/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name, Secret, Header, Reason string
		Body                         string `json:"body_base64"`
		Now                          int64  `json:"now_unix"`
		Tolerance                    int64  `json:"tolerance_sec"`
		Accept                       bool
	}
	if err := json.Unmarshal(file, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			body, err := base64.StdEncoding.DecodeString(v.Body)
			if err != nil {
				t.Fatal(err)
			}
			d := open(t, func(h *receive.Handler) {
				h.Verifier = elevenlabs.NewVerifier([]string{v.Secret}, time.Duration(v.Tolerance)*time.Second)
				h.Verifier.Now = func() time.Time { return time.Unix(v.Now, 0) }
			})
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header[elevenlabs.SignatureHeader] = []string{v.Header}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			var events int
			if err := d.pool.QueryRow(t.Context(), `select count(*) from webhook_events`).Scan(&events); err != nil {
				t.Fatal(err)
			}
			if v.Accept {
				if resp.StatusCode != http.StatusOK || events != 1 {
					t.Errorf("answered %d %s, %d events", resp.StatusCode, text, events)
				}
				return
			}
			if resp.StatusCode != http.StatusUnauthorized || events != 0 {
				t.Errorf("answered %d %s, %d events", resp.StatusCode, text, events)
			}
			if reason := <-d.reasons; reason != v.Reason {
				t.Errorf("recorded as %s, want %s", reason, v.Reason)
			}
		})
	}
}

const secret = "wsec_receive"

func (d *door) deliver(ctx context.Context, body []byte) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set(elevenlabs.SignatureHeader, elevenlabs.Sign(secret, time.Now(), body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func verified(h *receive.Handler) { h.Verifier = elevenlabs.NewVerifier([]string{secret}, time.Hour) }

// What the database refuses does not take its neighbours with it, and is kept
// as raw bytes.
func TestRefusedByTheDatabase(t *testing.T) {
	t.Parallel()
	d := open(t, verified)
	// Stands for whatever a later PostgreSQL or a stricter column may refuse.
	if _, err := d.pool.Exec(t.Context(), `alter table webhook_events add constraint picky check (agent_id <> 'refused')`); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for n := range 60 {
		agent := "agent"
		if n%10 == 0 {
			agent = "refused"
		}
		g.Go(func() error {
			status, text, err := d.deliver(t.Context(), fmt.Appendf(nil,
				`{"type":"post_call_transcription","event_timestamp":1,"data":{"agent_id":%q,"conversation_id":"c%d"}}`, agent, n))
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("%d %s", status, text)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var events, raw int
	if err := d.pool.QueryRow(t.Context(), `select count(*), count(raw_body) filter (where event_type = 'unparseable') from webhook_events`).Scan(&events, &raw); err != nil {
		t.Fatal(err)
	}
	if events != 60 || raw != 6 {
		t.Errorf("%d events, %d of them raw; want 60 and 6", events, raw)
	}
}

// Bodies of every size around the bounds are stored as they came.
func TestSizes(t *testing.T) {
	t.Parallel()
	d := open(t, verified)
	for n, size := range []int{0, 1, 511, 512, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		prefix := `{"type":"post_call_transcription","event_timestamp":1,"data":{"conversation_id":"size` + strconv.Itoa(n) + `","x":"`
		body := prefix + strings.Repeat("z", max(0, size-len(prefix)-3)) + `"}}`
		if status, text, err := d.deliver(t.Context(), []byte(body)); err != nil || status != http.StatusOK {
			t.Fatalf("%d bytes: %d %s %v", size, status, text, err)
		}
		var same bool
		if err := d.pool.QueryRow(t.Context(), `select payload = $2::jsonb from webhook_events where conversation_id = $1`, "size"+strconv.Itoa(n), body).Scan(&same); err != nil || !same {
			t.Errorf("%d bytes are not what was sent: %v", size, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(d.handler.TempDir, "body-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
}

// A sender that stalls is cut off with 408, and nothing of it stays.
func TestStalledSender(t *testing.T) {
	t.Parallel()
	d := open(t, func(h *receive.Handler) {
		verified(h)
		h.Pace = gate.Pace{Stall: 100 * time.Millisecond, Grace: time.Second, Rate: 1, Total: 5 * time.Second, Answer: time.Second}
	})
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(d.url, "http://"), receive.Path))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n%s: %s\r\n\r\n{\"type\":", receive.Path,
		elevenlabs.SignatureHeader, elevenlabs.Sign(secret, time.Now(), nil))
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408") {
		t.Errorf("answered %.60q, %v", answer, err)
	}
}

// No fault of ours is ever answered with a 4xx.
func TestFaultsAreNeverTheSenders(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		context.DeadlineExceeded, io.ErrUnexpectedEOF, call.Errorf(call.Unavailable, "x"), call.Errorf(call.Internal, "x"),
		call.Errorf(call.Credentials, "x"), fmt.Errorf("wrapped: %w", os.ErrPermission),
	} {
		if status := problem.Status(err); status < 500 {
			t.Errorf("%v is answered %d", err, status)
		}
	}
}
