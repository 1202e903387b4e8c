package work_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/call"
	"postcall/pkg/pgtest"
	"postcall/pkg/queue"
	"postcall/pkg/telemetry"
	"postcall/pkg/throttle"
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

// refusing is an analyser whose server never takes the key. It answers once it
// may.
type refusing struct {
	server
	asked atomic.Int64
	may   chan struct{}
}

func (r *refusing) Analyze(context.Context, *call.Conversation) (*call.Analysis, error) {
	r.asked.Add(1)
	<-r.may
	return nil, call.Errorf(call.Credentials, "wrong key")
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// enqueue keeps an event, of id 1, with its job.
func enqueue(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `insert into webhook_events (event_type, event_timestamp, conversation_id, payload, dedup_key, analysis_state)
		values ('post_call_transcription', 1, 'c', '{"data": {"transcript": [{"role": "user", "message": "hello"}]}}', 'k', 'queued')`)
	client, err := queue.NewInserter(pool, telemetry.Slog(zap.NewNop()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Insert(t.Context(), queue.Analyze{EventID: 1, Trigger: call.TriggerAuto}, nil); err != nil {
		t.Fatal(err)
	}
}

// worker works the analyses one by one until the test ends, when the context
// does too.
func worker(t *testing.T, w *work.Analyze, pool *pgxpool.Pool) (context.Context, *queue.Client) {
	t.Helper()
	w.Pool, w.Metrics, w.Log, w.Limit = pool, work.NewMetrics(prometheus.NewRegistry()), zap.NewNop(), time.Minute
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	client, err := queue.NewWorker(pool, queue.Options{
		Logger: telemetry.Slog(zap.NewNop()), Workers: workers, Analyses: 1, Timeout: 2 * time.Minute, SoftStop: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.Throttle.Run(ctx) })
	if err := client.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-client.Stopped()
		wg.Wait()
	})
	return ctx, client
}

// A place that is lost before the model is asked, since the database hangs, uses
// up no attempt either.
func TestPlaceLostEarly(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	enqueue(t, pool)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `select from webhook_events for update`); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.ErrorLevel)
	analyzer := &refusing{may: make(chan struct{})}
	worker(t, &work.Analyze{
		Analyzer: analyzer, Breaker: &work.Breaker{Pool: pool, Analyzer: analyzer, Log: zap.NewNop()},
		Throttle: throttle.New(throttle.Options{Pool: pool, Name: "test", Places: 1, Lease: 2 * time.Second, Log: zap.New(core)}),
	}, pool)
	defer close(analyzer.may)
	eventually(t, "no place taken", func() bool {
		var n int
		err := tx.QueryRow(t.Context(), `select count(*) from (select from throttle_places for update) p`).Scan(&n)
		return err == nil && n == 1
	})
	eventually(t, "no place lost", func() bool { return logs.FilterMessageSnippet("a place was lost").Len() == 1 })
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	var failed int
	eventually(t, "the attempt did not end", func() bool {
		var snoozes int
		err := pool.QueryRow(t.Context(), `
			select cardinality(coalesce(errors, '{}')), coalesce((metadata ->> 'snoozes')::int, 0)
			from river_job where kind = 'analyze'`).Scan(&failed, &snoozes)
		return err == nil && failed+snoozes > 0
	})
	if failed != 0 {
		t.Errorf("%d attempts failed", failed)
	}
}

// A refused worker tries again once somebody has resumed the queue by hand, and
// pauses it again, with a line, where it is still refused: nothing circulates
// unseen. One whose queue another worker's probe has resumed stays out.
func TestBreakerAfterAHand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		byHand  bool // the queue was paused by hand when the worker was refused
		probed  bool // it is another's probe that resumes it
		refused int64
	}{
		"resumed by hand":            {refused: 2},
		"paused and resumed by hand": {byHand: true, refused: 2},
		"resumed by a probe":         {probed: true, refused: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			core, logs := observer.New(zapcore.ErrorLevel)
			log := zap.New(core)
			analyzer := &refusing{may: make(chan struct{})}
			breaker := &work.Breaker{
				Pool: pool, Analyzer: analyzer, By: "one", Log: log,
				Probing: queue.Probing{First: 40 * time.Millisecond, Last: time.Hour},
			}
			enqueue(t, pool)
			var wg sync.WaitGroup
			t.Cleanup(wg.Wait)
			ctx, client := worker(t, &work.Analyze{
				Analyzer: analyzer, Breaker: breaker,
				Throttle: throttle.New(throttle.Options{Pool: pool, Name: "test", Places: 1, Patience: 20 * time.Millisecond, Log: zap.NewNop()}),
			}, pool)

			eventually(t, "not asked", func() bool { return analyzer.asked.Load() == 1 })
			if c.byHand {
				if err := client.QueuePause(t.Context(), queue.QueueAnalyze, nil); err != nil {
					t.Fatal(err)
				}
			}
			close(analyzer.may)
			snoozed := func() (n int) {
				t.Helper()
				// Its time has come, whenever that is: nobody waits for it here.
				exec(t, pool, `update river_job set scheduled_at = now(), state = 'available' where kind = 'analyze' and state = 'scheduled'`)
				if err := pool.QueryRow(t.Context(), `select coalesce((metadata ->> 'snoozes')::int, 0) from river_job where kind = 'analyze'`).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			eventually(t, "not snoozed", func() bool { return snoozed() == 1 && paused(t, pool) })
			wg.Go(func() { breaker.Run(ctx, client) })
			if c.probed {
				if resumed, err := queue.ResumeQueue(t.Context(), pool, client, queue.QueueAnalyze); err != nil || !resumed {
					t.Fatal(resumed, err)
				}
			} else if err := client.QueueResume(t.Context(), queue.QueueAnalyze, nil); err != nil {
				t.Fatal(err)
			}
			probed := analyzer.probed.Load()
			eventually(t, "not refused as often as it should be", func() bool {
				n := snoozed()
				if c.refused == 1 {
					return n >= 4 && analyzer.probed.Load() > probed
				}
				p, err := queue.PauseOf(t.Context(), pool, queue.QueueAnalyze)
				return err == nil && p != nil && analyzer.asked.Load() == c.refused
			})
			if n := analyzer.asked.Load(); n != c.refused {
				t.Errorf("asked %d times, want %d", n, c.refused)
			}
			lines := 2 - map[bool]int{true: 1}[c.byHand || c.probed]
			eventually(t, "paused without a line", func() bool { return logs.FilterMessageSnippet("are paused").Len() == lines })
		})
	}
}
