package queue_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"postcall/pkg/pgtest"
	"postcall/pkg/queue"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// asked counts statements.
type asked struct{ n atomic.Int64 }

func (a *asked) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	a.n.Add(1)
	return ctx
}

func (*asked) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// fill makes queues of every state: 3 000 analyses that wait, the oldest for an
// hour, and a paused queue of a target.
func fill(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for _, sql := range []string{
		`insert into river_queue (name, paused_at, updated_at) values ('crm_bpmsoft', now(), now())`,
		`insert into river_job (kind, queue, args, max_attempts, state, priority, scheduled_at)
			select 'analyze', 'analyze', '{}', 8, 'available', 1 + n % 4, now() - n * interval '1 hour' / 3000 from generate_series(1, 3000) n`,
		`insert into river_job (kind, queue, args, max_attempts, state, scheduled_at)
			select 'analyze', 'analyze', '{}', 8, 'retryable', now() + interval '1 minute' from generate_series(1, 7)`,
		`insert into river_job (kind, queue, args, max_attempts, state, finalized_at)
			select 'crm_bpmsoft', 'crm_bpmsoft', '{}', 6, 'discarded', now() from generate_series(1, 3)`,
		`insert into river_job (kind, queue, args, max_attempts, state, finalized_at)
			select 'analyze', 'analyze', '{}', 8, 'completed', now() from generate_series(1, 60000)`,
		`insert into webhook_events (event_type, event_timestamp, payload, dedup_key, analysis_state)
			select 'post_call_transcription', 1, '{}', 'k' || n, case when n <= 2 then 'dead' else 'done' end from generate_series(1, 100) n`,
		`vacuum analyze river_job`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDepths(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	fill(t, pool)
	list, err := queue.Depths(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	analyze, crm := list[0], list[1]
	if analyze.Queue != "analyze" || analyze.Paused || analyze.Available != 3000 || analyze.Retryable != 7 || analyze.Discarded != 0 ||
		analyze.OldestSeconds < 3600 || analyze.OldestSeconds > 3700 {
		t.Errorf("analyze: %+v", analyze)
	}
	if crm.Queue != "crm_bpmsoft" || !crm.Paused || crm.Discarded != 3 || crm.OldestSeconds != 0 {
		t.Errorf("crm_bpmsoft: %+v", crm)
	}
	// However much lies there, only what is counted is read.
	plan, err := pool.Query(t.Context(), `explain select count(*) from (select from river_job where state = 'available' and queue = 'analyze' limit 100000) j`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(plan, pgx.RowTo[string])
	if err != nil || !strings.Contains(strings.Join(lines, "\n"), "Index Only Scan using river_job_prioritized_fetching_index") {
		t.Errorf("not by the index: %v\n%s", err, strings.Join(lines, "\n"))
	}
}

// A storm of scrapes costs the database one look, and one that is away is not
// asked by each of them.
func TestCollector(t *testing.T) {
	t.Parallel()
	config := pgtest.New(t).Config()
	var statements asked
	config.ConnConfig.Tracer = &statements
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	fill(t, pool)
	before := statements.n.Load()
	c := &queue.Collector{Pool: pool, Log: zap.NewNop()}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := r.Gather(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := statements.n.Load() - before; n > 4 { // two, and as many if five seconds have passed
		t.Errorf("50 scrapes asked the database %d times", n)
	}
	err = testutil.GatherAndCompare(r, strings.NewReader(`
# HELP postcall_dead_letters What waits for a person: analyses that were given up, and jobs of targets that ran out of attempts; up to 100 000. The same for all processes.
# TYPE postcall_dead_letters gauge
postcall_dead_letters{kind="analyze"} 2
postcall_dead_letters{kind="crm_bpmsoft"} 3
# HELP postcall_queue_paused Whether a queue is paused, by the workers or by hand. The same for all processes.
# TYPE postcall_queue_paused gauge
postcall_queue_paused{queue="analyze"} 0
postcall_queue_paused{queue="crm_bpmsoft"} 1
# HELP postcall_queue_readable Whether the figures of the queues could be read: 0 while the database is away, and then there are none.
# TYPE postcall_queue_readable gauge
postcall_queue_readable 1
`), "postcall_dead_letters", "postcall_queue_paused", "postcall_queue_readable")
	if err != nil {
		t.Error(err)
	}

	pool.Close()
	away := &queue.Collector{Pool: pool, Log: zap.NewNop()}
	if n := testutil.CollectAndCount(away); n != 1 {
		t.Errorf("%d figures without a database, want the one that says so", n)
	}
}
