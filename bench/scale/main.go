// Command scale measures several ingest and several worker processes on one
// PostgreSQL with fsync on, all started here on 127.0.0.1: how much they take
// and analyse together, and what asking for the queues' figures costs.
//
//	go run ./bench/scale --help
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"postcall/bench/rig"
	"postcall/pkg/queue"
)

type options struct {
	ingests, workers int
	connections      int
	duration         time.Duration
	events, jobs     int
	work             time.Duration
	limit            time.Duration
	jsonPath         string
}

// database is the one that all write to.
const database = "scale"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/scale:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func command() *cobra.Command {
	o := options{}
	c := &cobra.Command{
		Use:   "scale",
		Short: "Measure several ingest and worker processes on one PostgreSQL",
		Long: `Send signed deliveries of 14 KB over keep-alive connections to several ingest
processes on one PostgreSQL with fsync on, as fast as they are answered; then let the
workers, with the built-in analyser, work off what is queued. Prints what each took,
how long an answer took, how fast the backlog went, and how many connections
PostgreSQL had. With --events and --jobs, beside an archive of that size.

Everything shares this machine's processors.`,
		Example: `  go run ./bench/scale --ingests 1 --workers 1
  go run ./bench/scale --ingests 3 --workers 3
  go run ./bench/scale --events 1000000 --jobs 100000 --workers 0`,
		Args:         cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return run(c, o) },
	}
	f := c.Flags()
	f.IntVar(&o.ingests, "ingests", 3, "ingest processes")
	f.IntVar(&o.workers, "workers", 3, "worker processes; they start once the deliveries have been sent")
	f.IntVar(&o.connections, "connections", 48, "connections that deliver, all ingests together")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "how long deliveries are sent")
	f.IntVar(&o.events, "events", 0, "events that are there already")
	f.IntVar(&o.jobs, "jobs", 0, "how many of them have a waiting job, which no worker may then work off: use --workers 0")
	f.DurationVar(&o.work, "work", 20*time.Second, "how long the workers may take of the backlog")
	f.DurationVar(&o.limit, "limit", 10*time.Minute, "when to give up")
	f.StringVar(&o.jsonPath, "json", "", "also write the figures to this file, as JSON")
	return c
}

// Figures is what a run shows.
type Figures struct {
	Ingests       int     `json:"ingests"`
	Workers       int     `json:"workers"`
	Events        int     `json:"events_before"`
	Jobs          int     `json:"jobs_before"`
	Taken         []int64 `json:"taken_by_ingest"`
	PerSecond     float64 `json:"deliveries_per_second"`
	P50MS         float64 `json:"p50_ms"`
	P99MS         float64 `json:"p99_ms"`
	Failed        int64   `json:"failed"`
	Analysed      int64   `json:"analysed"`
	AnalysedRate  float64 `json:"analysed_per_second"`
	ByWorker      []int64 `json:"analysed_by_worker"`
	Connections   int     `json:"database_connections"`
	DepthMS       float64 `json:"queue_figures_ms"` // the median of what reading them took
	IngestPeakMiB int64   `json:"ingest_peak_mib"`
}

func run(c *cobra.Command, o options) (err error) {
	if o.ingests < 1 || o.workers < 0 || o.connections < o.ingests || o.jobs > o.events || o.jobs > 0 && o.workers > 0 {
		return errors.New("--ingests must be 1 or more, --connections as many at least, --jobs not above --events and only with --workers 0")
	}
	ctx, cancel := context.WithTimeoutCause(c.Context(), o.limit, fmt.Errorf("gave up after %v (--limit)", o.limit))
	defer cancel()
	postgres, err := rig.StartPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { //nolint:contextcheck // it is stopped whatever ended the run
		err = errors.Join(err, postgres.Stop(context.Background()))
	}()
	dir, err := postgres.Room()
	if err != nil {
		return err
	}
	url, err := postgres.Create(ctx, database)
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return fmt.Errorf("connecting to measure: %w", err)
	}
	defer pool.Close()
	if err := fill(ctx, pool, o); err != nil {
		return err
	}
	if err := postgres.Checkpoint(ctx); err != nil {
		return err
	}
	f := &Figures{Ingests: o.ingests, Workers: o.workers, Events: o.events, Jobs: o.jobs}
	ingests, err := start(ctx, dir, "ingest", o.ingests, url)
	defer stop(ingests)
	if err != nil {
		return err
	}
	if err := f.receive(ctx, o, ingests); err != nil {
		return err
	}
	if f.DepthMS, err = depth(ctx, pool); err != nil {
		return err
	}
	workers, err := start(ctx, dir, "worker", o.workers, url)
	defer stop(workers)
	if err != nil {
		return err
	}
	if err := f.work(ctx, pool, o); err != nil {
		return err
	}
	for _, i := range ingests {
		f.IngestPeakMiB = max(f.IngestPeakMiB, rig.PeakMemory(i.Pid())>>20)
	}
	f.Print(c.OutOrStdout())
	return rig.WriteJSON(o.jsonPath, f)
}

// fill makes an archive.
func fill(ctx context.Context, pool *pgxpool.Pool, o options) error {
	if o.events == 0 {
		return nil
	}
	for _, statement := range []struct {
		sql string
		n   int
	}{
		{`insert into webhook_events (event_type, event_timestamp, conversation_id, payload, dedup_key, analysis_state, processed)
			select 'post_call_transcription', 1700000000 + n, 'old_' || n, '{}', 'old:' || n, 'done', true from generate_series(1, $1::int) n`, o.events},
		{`insert into river_job (kind, queue, args, max_attempts, state, unique_key)
			select 'analyze', 'analyze', jsonb_build_object('event_id', id), 8, 'available', null from webhook_events order by id limit $1::int`, o.jobs},
	} {
		if _, err := pool.Exec(ctx, statement.sql, statement.n); err != nil {
			return fmt.Errorf("making an archive: %w", err)
		}
	}
	if _, err := pool.Exec(ctx, `vacuum analyze webhook_events, river_job`); err != nil {
		return fmt.Errorf("making an archive: %w", err)
	}
	return nil
}

// start runs so many of a process.
func start(ctx context.Context, dir, process string, n int, url string) (list []*rig.Ingest, err error) {
	build := map[string]func(context.Context, string) (string, error){"ingest": rig.Build, "worker": rig.BuildWorker}[process]
	binary, err := build(ctx, dir)
	if err != nil {
		return nil, err
	}
	for k := range n {
		home := filepath.Join(dir, process+"-"+strconv.Itoa(k))
		p, err := rig.NewIngest(ctx, binary, home, "DATABASE_URL="+url, "LOG_LEVEL=warn",
			"WEBHOOK_RATE_RPS=1000000", "WEBHOOK_RATE_BURST=1000000", // all come from one address here
			"ANALYZER=builtin", "ANALYZE_MAX_CONCURRENCY="+strconv.Itoa(8*n), "CRM_MD_ENABLED=false")
		if err != nil {
			return list, err
		}
		if process == "worker" {
			p.With("METRICS_ADDR=" + p.Address) // it listens nowhere else
		}
		if err := p.Start(ctx); err != nil {
			return list, err
		}
		list = append(list, p)
	}
	return list, nil
}

func stop(list []*rig.Ingest) {
	for _, p := range list {
		if err := p.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench/scale:", err)
		}
	}
}

// receive delivers over all connections, each to one ingest in turn, until the
// time is over.
func (f *Figures) receive(ctx context.Context, o options, ingests []*rig.Ingest) error {
	var (
		calls  = rig.NewCalls(1)
		next   atomic.Uint64
		taken  = make([]atomic.Int64, len(ingests))
		failed atomic.Int64
		mu     sync.Mutex
		took   []time.Duration
		wg     sync.WaitGroup
		began  = time.Now()
	)
	sending, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	for k := range o.connections {
		at := k % len(ingests)
		conn, err := rig.Dial(ctx, ingests[at].Address)
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer conn.Close() //nolint:errcheck // it is of no more use
			var own []time.Duration
			for sending.Err() == nil {
				body := calls.Transcript(next.Add(1))
				sent := time.Now()
				status, _, err := conn.Deliver(body, rig.Sign(body))
				if err != nil || status != http.StatusOK {
					failed.Add(1)
					break
				}
				own = append(own, time.Since(sent))
				taken[at].Add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
		})
	}
	wg.Wait()
	elapsed := time.Since(began).Seconds()
	slices.Sort(took)
	f.Failed = failed.Load()
	f.PerSecond = float64(len(took)) / elapsed
	f.P50MS, f.P99MS = ms(rig.Quantile(took, 0.5)), ms(rig.Quantile(took, 0.99))
	for k := range taken {
		f.Taken = append(f.Taken, taken[k].Load())
	}
	return ctx.Err()
}

// work lets the workers take of the backlog.
func (f *Figures) work(ctx context.Context, pool *pgxpool.Pool, o options) error {
	began := time.Now()
	if o.workers > 0 {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for waiting := true; waiting && time.Since(began) < o.work; {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
			if err := pool.QueryRow(ctx, `select exists (select from webhook_events where analysis_state in ('queued', 'running'))`).Scan(&waiting); err != nil {
				return fmt.Errorf("looking what waits: %w", err)
			}
		}
	}
	elapsed := time.Since(began).Seconds()
	if err := pool.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = $1 and application_name like 'postcall%'`, database).Scan(&f.Connections); err != nil {
		return fmt.Errorf("counting connections: %w", err)
	}
	if err := pool.QueryRow(ctx, `select count(*) from analyses`).Scan(&f.Analysed); err != nil {
		return fmt.Errorf("counting analyses: %w", err)
	}
	f.AnalysedRate = float64(f.Analysed) / elapsed
	err := pool.QueryRow(ctx, `select coalesce(array_agg(n), '{}') from (select count(*) as n from river_job where kind = 'analyze' and state = 'completed' group by attempted_by[1] order by 1) s`).Scan(&f.ByWorker)
	if err != nil {
		return fmt.Errorf("counting who analysed: %w", err)
	}
	return nil
}

// depth is how long it takes to read how the queues stand: the median of some,
// in milliseconds.
func depth(ctx context.Context, pool *pgxpool.Pool) (float64, error) {
	var took []float64
	for range 21 {
		began := time.Now()
		if _, err := queue.Depths(ctx, pool); err != nil {
			return 0, err
		}
		took = append(took, ms(time.Since(began)))
	}
	return rig.Median(took), nil
}

// Print writes the figures as a table.
func (f *Figures) Print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name string, value any, note string) { fmt.Fprintf(t, "%s\t%v\t%s\n", name, value, note) }
	line("processes", fmt.Sprintf("%d + %d", f.Ingests, f.Workers), "ingest + worker")
	if f.Events > 0 {
		line("archive", f.Events, fmt.Sprintf("events before, %d of them with a waiting job", f.Jobs))
	}
	line("deliveries a second", fmt.Sprintf("%.0f", f.PerSecond), fmt.Sprintf("by ingest: %v; %d failed", f.Taken, f.Failed))
	line("an answer", fmt.Sprintf("%.1f ms", f.P50MS), fmt.Sprintf("median; p99 %.1f ms, at full load", f.P99MS))
	if f.Workers > 0 {
		line("analysed a second", fmt.Sprintf("%.0f", f.AnalysedRate), fmt.Sprintf("%d, by worker: %v", f.Analysed, f.ByWorker))
	}
	line("connections", f.Connections, "that PostgreSQL had from them at the end")
	line("queue figures", fmt.Sprintf("%.1f ms", f.DepthMS), "to read, for Prometheus")
	line("ingest's memory", fmt.Sprintf("%d MiB", f.IngestPeakMiB), "at most, of the largest")
	_ = t.Flush()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
