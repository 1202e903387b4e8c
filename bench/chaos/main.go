// Command chaos shows that nothing acknowledged is lost and nothing is doubled
// while ingest and PostgreSQL are killed again and again under load. Both are
// started here on 127.0.0.1.
//
//	go run ./bench/chaos --help
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postcall/bench/rig"
)

type options struct {
	flood         bool
	duration      time.Duration
	rate          int
	twice         float64
	everyIngest   time.Duration
	everyPostgres time.Duration
	seed          uint64
	drain         time.Duration
	limit         time.Duration
	jsonPath      string
	binary        string
	prometheus    bool
	docs          string
	env           []string
}

// errFailed ends the program with 1 after the table has said why.
var errFailed = errors.New("it did not hold")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/chaos:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func command() *cobra.Command {
	o := options{}
	c := &cobra.Command{
		Use:   "chaos",
		Short: "Kill ingest and PostgreSQL under load and compare what was acknowledged with what is there",
		Long: `Send signed deliveries of 14 KB at a fixed rate to the real ingest process, beside a
PostgreSQL with fsync on; kill both with -9, each at random intervals, and start them
again on the same port, spool and data. Some deliveries are sent twice.

Then let everything come back, wait until the spool is drained, and compare: what was
answered 200 must be in webhook_events exactly once, word for word, with exactly one job.
What was not answered may be there or not, but at most once. Any difference ends the
program with 1.

With --flood instead: forged deliveries beside genuine ones, the limits as they come.`,
		Example: `  go run ./bench/chaos
  go run ./bench/chaos --duration 20s --seed 7
  go run ./bench/chaos --prometheus
  go run ./bench/chaos --flood`,
		Args:         cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return run(c, o) },
	}
	f := c.Flags()
	f.BoolVar(&o.flood, "flood", false, "10 000 forged deliveries from one address beside 200 genuine ones, instead of kills")
	f.DurationVar(&o.duration, "duration", time.Minute, "how long deliveries are sent")
	f.IntVar(&o.rate, "rate", 300, "deliveries a second")
	f.Float64Var(&o.twice, "twice", 0.05, "the share of deliveries that is sent twice, half of them at once and half later")
	f.DurationVar(&o.everyIngest, "kill-ingest", 3*time.Second, "how long ingest lives on average; 0 spares it")
	f.DurationVar(&o.everyPostgres, "kill-postgres", 4*time.Second, "how long PostgreSQL lives on average; 0 spares it")
	f.Uint64Var(&o.seed, "seed", 0, "repeats the schedule of a run; 0 takes a new one")
	f.DurationVar(&o.drain, "drain", 2*time.Minute, "how long the spool may take to drain")
	f.DurationVar(&o.limit, "limit", 10*time.Minute, "when to give up")
	f.StringVar(&o.jsonPath, "json", "", "also write the figures to this file, as JSON")
	f.BoolVar(&o.prometheus, "prometheus", false, "run a worker too, and a real Prometheus that scrapes both; then hold docs/alerts.yaml and the dashboard to what it saw")
	f.StringVar(&o.docs, "docs", "docs", "where they are")
	f.StringVar(&o.binary, "ingest", "", "an ingest that was built already")
	f.StringArrayVar(&o.env, "env", nil, "a variable for ingest, as NAME=VALUE; may be repeated")
	return c
}

// installation is what the program sends to and kills.
type installation struct {
	*rig.Ingest
	postgres *rig.Postgres
	watched  *watched // nil without --prometheus
}

// database is the one that ingest writes to.
const database = "chaos"

func run(c *cobra.Command, o options) (err error) {
	ctx, cancel := context.WithTimeoutCause(c.Context(), o.limit, fmt.Errorf("gave up after %v (--limit)", o.limit))
	defer cancel()
	if o.rate < 1 || o.duration < time.Second || o.twice < 0 || o.twice > 1 || o.everyIngest < 0 || o.everyPostgres < 0 {
		return errors.New("--rate must be 1 or more, --duration 1s or more, --twice from 0 to 1, --kill-ingest and --kill-postgres 0 or more")
	}
	for o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
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
	if o.binary == "" {
		o.binary, err = rig.Build(ctx, dir)
	} else {
		o.binary, err = filepath.Abs(o.binary)
	}
	if err != nil {
		return err
	}
	url, err := postgres.Create(ctx, database)
	if err != nil {
		return err
	}
	env := []string{"DATABASE_URL=" + url}
	if o.flood {
		env = append(env, "TRUSTED_PROXIES=127.0.0.1") // so that one sender here can be several
	} else {
		// All deliveries come from one address here, and more than one may send.
		env = append(env, "WEBHOOK_RATE_RPS=1000000", "WEBHOOK_RATE_BURST=1000000")
	}
	ingest, err := rig.NewIngest(ctx, o.binary, dir, append(env, o.env...)...)
	if err != nil {
		return err
	}
	defer ingest.Kill()
	i := &installation{Ingest: ingest, postgres: postgres}
	if o.prometheus {
		if i.watched, err = watch(ctx, o, dir, url, ingest); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, i.watched.close()) }()
	}
	if o.flood {
		err = flood(ctx, c, o, i)
	} else {
		err = chaos(ctx, c, o, i)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}
