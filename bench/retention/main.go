// Command retention measures receiving while retention runs: the real ingest
// process on a database with a million old events, at a fixed rate, in turns
// with retention at work and without.
//
//	go run ./bench/retention --help
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	vegeta "github.com/tsenart/vegeta/v12/lib"
	"go.uber.org/zap"

	"postcall/bench/rig"
	"postcall/pkg/archive"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/privacy"
)

type options struct {
	events, listed, rate, rounds int
	steady, limit                time.Duration
	jsonPath                     string
}

// Figures are what a run measured, in milliseconds.
type Figures struct {
	Events  int     `json:"events"`
	Rate    int     `json:"rate"`
	FsyncMS float64 `json:"fsync_ms"`
	Without []Phase `json:"without"`
	With    []Phase `json:"with"`
	// Ratio is of the p99 of all deliveries with retention to that of all without.
	Ratio float64    `json:"p99_ratio"`
	P50   [2]float64 `json:"p50_ms"` // without, with
	P99   [2]float64 `json:"p99_ms"`
	// Removed is how many events retention took the transcript out of.
	Removed int64 `json:"removed"`
}

// Phase is one measurement.
type Phase struct {
	Sent    int     `json:"sent"`
	Failed  int     `json:"failed"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Removed int64   `json:"removed"`

	took []time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/retention:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func command() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use: "retention", Short: "Measure receiving while retention runs", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		Long: `Measure receiving at a fixed rate, in an open loop, with the real ingest process and a
PostgreSQL with fsync on, on a database of a million events that are all too old. In turns
retention rests and takes transcripts out of them, at the pace it has in a worker. What it
changes is indexed anew meanwhile, as by a worker. On a machine that others use too, many
short rounds (--steady 3s --rounds 20) compare better than few long ones.`,
		RunE: func(c *cobra.Command, _ []string) error { return run(c, o) },
	}
	f := c.Flags()
	f.IntVar(&o.events, "events", 1_000_000, "old events")
	f.IntVar(&o.listed, "listed", 30_000, "how many of the oldest have their row for lists, which a change brings up to date")
	f.IntVar(&o.rate, "rate", 200, "deliveries a second")
	f.IntVar(&o.rounds, "rounds", 4, "how often each is measured, in turns")
	f.DurationVar(&o.steady, "steady", 15*time.Second, "how long one measurement takes")
	f.DurationVar(&o.limit, "limit", 20*time.Minute, "when to give up")
	f.StringVar(&o.jsonPath, "json", "", "also write the figures to this file, as JSON")
	return c
}

func run(c *cobra.Command, o options) (err error) {
	ctx, cancel := context.WithTimeout(c.Context(), o.limit)
	defer cancel()
	if o.rounds < 1 || o.listed > o.events || o.steady < time.Second {
		return errors.New("--rounds must be 1 or more, --steady 1s or more, --listed at most --events")
	}
	postgres, err := rig.StartPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, postgres.Stop(context.Background())) }() //nolint:contextcheck // it is stopped whatever ended the run
	dir, err := postgres.Room()
	if err != nil {
		return err
	}
	binary, err := rig.Build(ctx, dir)
	if err != nil {
		return err
	}
	url, err := postgres.Create(ctx, "retention")
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer pool.Close()
	fmt.Fprintf(c.ErrOrStderr(), "filling a database with %d events\n", o.events)
	if err := fill(ctx, pool, o); err != nil {
		return err
	}
	ingest, err := rig.NewIngest(ctx, binary, dir, "DATABASE_URL="+url, "WEBHOOK_RATE_RPS=1000000", "WEBHOOK_RATE_BURST=1000000")
	if err != nil {
		return err
	}
	if err := ingest.Start(ctx); err != nil {
		ingest.Kill()
		return err
	}
	defer func() { err = errors.Join(err, ingest.Stop()) }()
	m := &measurement{
		options: o, pool: pool, url: ingest.URL(), calls: rig.NewCalls(uint64(time.Now().UnixNano())),
		retention: &privacy.Retention{Pool: pool, Ages: privacy.Ages{Transcripts: 90 * 24 * time.Hour}, Pace: privacy.DefaultPace, Log: zap.NewNop()},
	}
	fsync, err := rig.Fsync(ctx)
	if err != nil {
		return err
	}
	// What retention changes is indexed anew, by a worker.
	indexing, stop := context.WithCancel(ctx)
	var indexer sync.WaitGroup
	indexer.Go(func() { (&archive.Indexer{Pool: pool, Log: zap.NewNop()}).Run(indexing) })
	defer indexer.Wait()
	defer stop()
	figures := &Figures{Events: o.events, Rate: o.rate, FsyncMS: ms(fsync)}
	if _, err := m.phase(ctx, false); err != nil { // warms up
		return err
	}
	for round := range o.rounds {
		// Whatever changes with time falls on both alike.
		for _, with := range []bool{round%2 == 1, round%2 == 0} {
			p, err := m.phase(ctx, with)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "retention %v: p50 %.1f ms, p99 %.1f ms, %d failed, %d rows\n", with, p.P50, p.P99, p.Failed, p.Removed)
			if with {
				figures.With = append(figures.With, p)
			} else {
				figures.Without = append(figures.Without, p)
			}
		}
	}
	figures.sum()
	fmt.Fprintf(c.OutOrStdout(), "%d a second beside %d old events (fsync %.2f ms)\n  without retention  p50 %6.2f ms  p99 %6.2f ms\n  with retention     p50 %6.2f ms  p99 %6.2f ms  (%d rows)\n  p99 with to without: %.2f\n",
		o.rate, o.events, figures.FsyncMS, figures.P50[0], figures.P99[0], figures.P50[1], figures.P99[1], figures.Removed, figures.Ratio)
	return rig.WriteJSON(o.jsonPath, figures)
}

func (f *Figures) sum() {
	for i, list := range [][]Phase{f.Without, f.With} {
		var took []time.Duration
		for _, p := range list {
			took = append(took, p.took...)
			f.Removed += p.Removed
		}
		slices.Sort(took)
		f.P50[i], f.P99[i] = ms(rig.Quantile(took, 0.5)), ms(rig.Quantile(took, 0.99))
	}
	f.Ratio = f.P99[1] / f.P99[0]
}

// measurement is a run once everything stands.
type measurement struct {
	options
	pool      *pgxpool.Pool
	url       string
	calls     *rig.Calls
	next      atomic.Uint64
	retention *privacy.Retention
}

// phase measures at the rate, beside retention or without. It fails if
// retention had nothing to do: then there would be nothing to compare.
func (m *measurement) phase(ctx context.Context, with bool) (p Phase, err error) {
	if _, err := m.pool.Exec(ctx, `checkpoint`); err != nil {
		return p, fmt.Errorf("writing everything out: %w", err)
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	var (
		wg      sync.WaitGroup
		failure error
		more    bool
	)
	if with {
		wg.Go(func() {
			var removed map[string]int64
			removed, more, failure = m.retention.Run(running)
			p.Removed = removed["transcripts"]
		})
	}
	attacker := vegeta.NewAttacker(vegeta.Timeout(10 * time.Second))
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()
	for result := range attacker.Attack(m.target, vegeta.Rate{Freq: m.rate, Per: time.Second}, m.steady, "") {
		p.Sent++
		if result.Code != http.StatusOK {
			p.Failed++
		}
		p.took = append(p.took, result.Latency)
	}
	stop()
	wg.Wait()
	if ctx.Err() != nil {
		return p, ctx.Err()
	}
	if failure != nil {
		return p, failure
	}
	if with && (!more || p.Removed == 0) {
		return p, errors.New("retention had not enough to do: give it more --events")
	}
	slices.Sort(p.took)
	p.P50, p.P99 = ms(rig.Quantile(p.took, 0.5)), ms(rig.Quantile(p.took, 0.99))
	return p, nil
}

func (m *measurement) target(t *vegeta.Target) error {
	t.Method, t.URL, t.Body = http.MethodPost, m.url, m.calls.Transcript(m.next.Add(1))
	t.Header = http.Header{"Content-Type": {"application/json"}, elevenlabs.SignatureHeader: {rig.Sign(t.Body)}}
	return nil
}

// fill makes old events with an analysis each. The rows for lists are made for
// those that retention comes to first.
func fill(ctx context.Context, pool *pgxpool.Pool, o options) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to fill a database: %w", err)
	}
	defer conn.Release()
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{`set synchronous_commit = off`, nil},
		{`alter table webhook_events disable trigger user`, nil},
		{`alter table analyses disable trigger user`, nil},
		{`insert into webhook_events (
				event_type, event_timestamp, agent_id, conversation_id, status, has_audio, payload, dedup_key, request_id,
				analysis_state, processed, processed_at, received_at, last_delivered_at)
			select 'post_call_transcription', 1700000000 + n, 'agent_' || n % 10, 'conv_' || md5(n::text), 'done', true,
				jsonb_build_object('type', 'post_call_transcription', 'data', jsonb_build_object('conversation_id', 'conv_' || md5(n::text),
					'transcript', jsonb_build_array(jsonb_build_object('role', 'user', 'message', 'Ищу квартиру, номер ' || n),
						jsonb_build_object('role', 'agent', 'message', md5('said' || n) || ' ' || md5('again' || n))))),
				'call:post_call_transcription:conv_' || md5(n::text) || ':' || 1700000000 + n, md5('request' || n),
				'done', true, at, at, at
			from (select n, now() - interval '100 days' - interval '1 second' * ($1 - n) as at from generate_series(1, $1::int) n) made`, []any{o.events}},
		{`insert into analyses (event_id, result, analyzer, created_at)
			select id, '{"topic": "Квартира", "quality": 4, "summary_ru": "Клиент ищет квартиру."}', 'builtin', received_at from webhook_events`, nil},
		{`select list_call(id) from (select id from webhook_events order by received_at, id limit $1) oldest`, []any{o.listed}},
		{`alter table webhook_events enable trigger user`, nil},
		{`alter table analyses enable trigger user`, nil},
		{`vacuum (analyze) webhook_events`, nil},
		{`vacuum (analyze) analyses`, nil},
		{`vacuum (analyze) calls`, nil},
		{`checkpoint`, nil},
	} {
		if _, err := conn.Exec(ctx, statement.sql, statement.args...); err != nil {
			return fmt.Errorf("filling a database: %w", err)
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
