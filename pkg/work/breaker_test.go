package work_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/call"
	"postcall/pkg/pgtest"
	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
	"postcall/pkg/work"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// server is an analyser whose server takes the key or not.
type server struct {
	takes  atomic.Bool
	probed atomic.Int64
}

func (*server) Name() string { return "fake" }
func (*server) Analyze(context.Context, *call.Conversation) (*call.Analysis, error) {
	return nil, call.Errorf(call.Internal, "nobody asks here")
}
func (s *server) Probe(context.Context) error {
	s.probed.Add(1)
	if s.takes.Load() {
		return nil
	}
	return call.Errorf(call.Credentials, "wrong key")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func paused(t *testing.T, pool *pgxpool.Pool) (is bool) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `select paused_at is not null from river_queue where name = 'analyze'`).Scan(&is); err != nil {
		t.Fatal(err)
	}
	return is
}

// A pause of the workers ends with the first probe that succeeds; one made by
// hand stays.
func TestBreakerResumes(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	if _, err := pool.Exec(t.Context(), `insert into river_queue (name, created_at, updated_at) values ('analyze', now(), now())`); err != nil {
		t.Fatal(err)
	}
	client, err := queue.NewInserter(pool, telemetry.Slog(zap.NewNop()))
	if err != nil {
		t.Fatal(err)
	}
	probing := queue.Probing{First: 40 * time.Millisecond, Last: 80 * time.Millisecond}
	core, logs := observer.New(zapcore.InfoLevel)
	s := &server{}
	b := &work.Breaker{Pool: pool, Analyzer: s, By: "one", Probing: probing, Log: zap.New(core)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { b.Run(ctx, client) })
	defer wg.Wait()
	defer cancel()

	for n, want := range []bool{true, false} {
		got, err := queue.PauseQueue(t.Context(), pool, client, queue.QueueAnalyze, "one", call.Errorf(call.Credentials, "wrong key"), probing)
		if err != nil || got != want {
			t.Fatalf("pause %d: %v, %v", n, got, err)
		}
	}
	eventually(t, "not probed again and again", func() bool { return s.probed.Load() >= 3 })
	if p, err := queue.PauseOf(t.Context(), pool, queue.QueueAnalyze); err != nil || p == nil || p.Code != call.Credentials || p.By != "one" || p.Probes == 0 {
		t.Errorf("the pause in force: %+v, %v", p, err)
	}
	s.takes.Store(true)
	eventually(t, "not resumed", func() bool { return !paused(t, pool) })
	eventually(t, "resumed without a line", func() bool { return logs.FilterMessageSnippet("go on").Len() == 1 })
	if p, err := queue.PauseOf(t.Context(), pool, queue.QueueAnalyze); err != nil || p != nil {
		t.Errorf("a pause after it was over: %+v, %v", p, err)
	}

	if err := client.QueuePause(t.Context(), queue.QueueAnalyze, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := queue.PauseQueue(t.Context(), pool, client, queue.QueueAnalyze, "one", call.Errorf(call.Credentials, "x"), probing); err != nil || got {
		t.Errorf("paused over a pause made by hand: %v, %v", got, err)
	}
	if resumed, err := queue.ResumeQueue(t.Context(), pool, client, queue.QueueAnalyze); err != nil || resumed || !paused(t, pool) {
		t.Errorf("a pause made by hand was ended: %v, %v", resumed, err)
	}
	if p, err := queue.ClaimProbe(t.Context(), pool, queue.QueueAnalyze, probing, true); err != nil || p != nil {
		t.Errorf("a pause made by hand is probed: %+v, %v", p, err)
	}
}
