// Command ingest measures receiving: the real ingest process and a PostgreSQL
// with fsync on, both started here on 127.0.0.1, against what pgbench reaches
// with the same inserts on the same server.
//
//	go run ./bench/ingest --help
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"postcall/bench/rig"
)

// options are what a run is asked for.
type options struct {
	only     string
	quick    bool
	duration time.Duration // of one measurement of throughput
	steady   time.Duration // of one measurement of latency
	rounds   int
	rates    []int
	events   int
	jobs     int
	bodies   int
	limit    time.Duration
	jsonPath string
	pprof    string
	binary   string
	env      []string
}

const (
	connections        = 64
	pgbenchConnections = 32
	pgbenchThreads     = 2
	warmUp             = time.Second
	audioBytes         = 50 << 20 // as they are sent, in base64
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/ingest:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func command() *cobra.Command {
	o := options{}
	c := &cobra.Command{
		Use:   "ingest",
		Short: "Measure receiving: throughput, latency, behaviour when full, memory",
		Long: `Measure receiving with the real ingest process and a PostgreSQL with fsync on,
both started here on 127.0.0.1 and ended at the end. Bodies are signed transcripts of
14 KB whose text no database can compress; each has an id of its own.

  a  throughput over 64 connections, and of pgbench -M extended with 32 that makes the
     same two inserts of such bodies; in turns, each on a fresh database, medians
  b  latency at fixed rates, in an open loop: a delivery is sent when it is due,
     whether or not earlier ones were answered
  c  throughput and latency beside 1 000 000 events and 100 000 waiting jobs, in turns
     with an empty database
  d  peak memory of ingest during the above, and with 16 audio bodies of 50 MB at once

Sender, ingest and PostgreSQL share this machine's processors; how much of them each
took is printed. The data is in a temporary directory: set TMPDIR to choose the disk.`,
		Example: `  go run ./bench/ingest                  all, about seven minutes
  go run ./bench/ingest --quick          all in about 80 seconds, with a tenth of the events in c
  go run ./bench/ingest --only a --pprof ingest.prof`,
		Args:         cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return run(c, o) },
	}
	f := c.Flags()
	f.StringVar(&o.only, "only", "a,b,c,d", "the parts to run")
	f.BoolVar(&o.quick, "quick", false, "short measurements: a sketch")
	f.DurationVar(&o.duration, "duration", 15*time.Second, "how long one measurement of throughput takes")
	f.DurationVar(&o.steady, "steady", 15*time.Second, "how long one measurement of latency takes")
	f.IntVar(&o.rounds, "rounds", 3, "how often throughput is measured, of each in turn")
	f.IntSliceVar(&o.rates, "rates", []int{200, 500, 1000}, "the rates at which latency is measured, a second")
	f.IntVar(&o.events, "events", 1_000_000, "events that are there already in c")
	f.IntVar(&o.jobs, "jobs", 100_000, "how many of them have a waiting job")
	f.IntVar(&o.bodies, "audio", 16, "audio bodies at once in d")
	f.DurationVar(&o.limit, "limit", 20*time.Minute, "when to give up")
	f.StringVar(&o.jsonPath, "json", "", "also write the figures to this file, as JSON")
	f.StringVar(&o.pprof, "pprof", "", "also write a processor profile of ingest during a to this file, if ingest offers one beside its metrics")
	f.StringVar(&o.binary, "ingest", "", "an ingest that was built already")
	f.StringArrayVar(&o.env, "env", nil, "a variable for ingest, as NAME=VALUE; may be repeated")
	return c
}

// bench is a run.
type bench struct {
	options
	postgres *rig.Postgres
	dir      string
	calls    *rig.Calls
	next     uint64 // the number of the next call that nobody has sent
	bar      *progressbar.ProgressBar
	report   *Report
}

func run(c *cobra.Command, o options) (err error) {
	ctx, cancel := context.WithTimeoutCause(c.Context(), o.limit, fmt.Errorf("gave up after %v (--limit)", o.limit))
	defer cancel()
	parts, err := chosen(o.only)
	if err != nil {
		return err
	}
	if o.quick {
		o.duration, o.steady, o.rounds = 3*time.Second, 3*time.Second, 2
		o.events, o.jobs = o.events/10, o.jobs/10
	}
	if o.rounds < 1 || o.duration < time.Second || o.steady < time.Second || o.jobs > o.events {
		return errors.New("--rounds must be 1 or more, --duration and --steady 1s or more, --jobs at most --events")
	}
	b := &bench{options: o, calls: rig.NewCalls(uint64(time.Now().UnixNano()))}
	b.bar = rig.Bar(c.ErrOrStderr(), b.steps(parts), "starting")
	b.step("starting PostgreSQL")
	if b.postgres, err = rig.StartPostgres(ctx); err != nil {
		return err
	}
	defer func() { //nolint:contextcheck // it is stopped whatever ended the run
		err = errors.Join(err, b.postgres.Stop(context.Background()))
	}()
	if b.dir, err = b.postgres.Room(); err != nil {
		return err
	}
	b.step("building")
	if b.binary == "" {
		b.binary, err = rig.Build(ctx, b.dir)
	} else {
		b.binary, err = filepath.Abs(b.binary)
	}
	if err != nil {
		return err
	}
	fsync, err := rig.Fsync(ctx)
	if err != nil {
		return err
	}
	b.report = &Report{
		Began: time.Now().UTC().Truncate(time.Second), Processors: runtime.NumCPU(),
		Postgres: b.postgres.Description(), FsyncMS: ms(fsync), BodyBytes: rig.BodySize,
	}
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"a", b.throughput}, {"b", b.latency}, {"c", b.full}, {"d", b.audio}} {
		if !parts[part.name] {
			continue
		}
		if err := part.run(ctx); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			_ = b.bar.Exit()
			b.report.Print(c.OutOrStdout()) // what has been measured took its time
			return fmt.Errorf("part %s: %w", part.name, err)
		}
	}
	_ = b.bar.Finish()
	b.report.Print(c.OutOrStdout())
	return rig.WriteJSON(o.jsonPath, b.report)
}

func chosen(only string) (map[string]bool, error) {
	parts := map[string]bool{}
	for part := range strings.SplitSeq(only, ",") {
		if part = strings.TrimSpace(part); len(part) != 1 || !strings.Contains("abcd", part) {
			return nil, fmt.Errorf("--only: there is no part %q; there are a, b, c and d", part)
		}
		parts[part] = true
	}
	return parts, nil
}

// steps is how many steps the bar has.
func (b *bench) steps(parts map[string]bool) int {
	n := 2
	for part, steps := range map[string]int{"a": 2 * b.rounds, "b": len(b.rates), "c": 1 + 2*b.rounds + 2*len(b.rates), "d": 1} {
		if parts[part] {
			n += steps
		}
	}
	return n
}

func (b *bench) step(text string) {
	b.bar.Describe(text)
	_ = b.bar.Add(1) // drawing is all that can fail
}

// receiver is an ingest on a database.
type receiver struct {
	*rig.Ingest
	database string
}

// start makes a database, unless it is there, and starts an ingest on it.
func (b *bench) start(ctx context.Context, database string, env ...string) (*receiver, error) {
	url, err := b.postgres.Create(ctx, database)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, database+"-*")
	if err != nil {
		return nil, fmt.Errorf("making a place for files: %w", err)
	}
	// All deliveries come from one address here, and more of them than one may
	// send: the limits would be what is measured.
	env = append([]string{"DATABASE_URL=" + url, "WEBHOOK_RATE_RPS=1000000", "WEBHOOK_RATE_BURST=1000000"}, env...)
	i, err := rig.NewIngest(ctx, b.binary, dir, append(env, b.env...)...)
	if err != nil {
		return nil, err
	}
	if err := i.Start(ctx); err != nil {
		i.Kill()
		return nil, err
	}
	return &receiver{i, database}, nil
}

// stop ends the ingest. Its peak of memory goes into the report.
func (b *bench) stop(r *receiver) error {
	peak := rig.PeakMemory(r.Pid())
	b.report.PeakMiB = max(b.report.PeakMiB, mib(peak))
	return r.Stop()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func mib(n int64) float64 { return float64(n) / (1 << 20) }
