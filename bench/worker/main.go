// Command worker measures analysing: the real ingest process, workers in this
// one, a model that answers at once, and a PostgreSQL with fsync on, all on
// 127.0.0.1, against River working jobs that do nothing on the same server.
//
//	go run ./bench/worker --help
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"postcall/bench/rig"
)

// options are what a run is asked for.
type options struct {
	rate        int
	steady      time.Duration
	backlog     int
	archive     int
	concurrency int
	rounds      int
	limit       time.Duration
	jsonPath    string
	pprof       string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/worker:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func command() *cobra.Command {
	o := options{}
	c := &cobra.Command{
		Use:   "worker",
		Short: "Measure analysing: latency under load, and how fast a backlog is worked off",
		Long: `Measure analysing with the real ingest process, a worker, a model server that answers
at once, and a PostgreSQL with fsync on, all started here on 127.0.0.1.

  latency  deliveries at a fixed rate; from the moment each was sent to the moment its
           analysis could be read
  backlog  deliveries that wait, then a worker: the payload read, the model asked, the
           result and the event's state written, the CRM job inserted and the job
           completed for each; in turns with as many River jobs that do nothing, with
           the same client settings, on the same server

Both on an empty database and on one that holds many analysed calls. Sender, ingest,
worker, model and PostgreSQL share this machine's processors. Transcripts are of 14 KB and
hold words about as often as speech does. Each call must end with exactly one analysis,
or the program ends with 1. All of it takes about half an hour. The data is in a
temporary directory: set TMPDIR to choose the disk.`,
		Example: `  go run ./bench/worker
  go run ./bench/worker --archive 0 --backlog 2000 --steady 5s     a sketch`,
		Args:         cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return run(c, o) },
	}
	f := c.Flags()
	f.IntVar(&o.rate, "rate", 200, "deliveries a second, for latency")
	f.DurationVar(&o.steady, "steady", 15*time.Second, "how long latency is measured")
	f.IntVar(&o.backlog, "backlog", 20_000, "calls that wait, and River jobs that do nothing")
	f.IntVar(&o.archive, "archive", 1_000_000, "analysed calls that the full database holds; 0 leaves that part out")
	f.IntVar(&o.concurrency, "concurrency", 16, "analyses at once, and River jobs at once")
	f.IntVar(&o.rounds, "rounds", 3, "how often a backlog is worked off, of each in turn")
	f.DurationVar(&o.limit, "limit", time.Hour, "when to give up")
	f.StringVar(&o.pprof, "pprof", "", "also write a processor profile of this process to this file; sender and model are in it")
	f.StringVar(&o.jsonPath, "json", "", "also write the figures to this file, as JSON")
	return c
}

// bench is a run.
type bench struct {
	options
	postgres *rig.Postgres
	dir      string
	ingest   string // the binary
	model    string // the base URL
	calls    *rig.Calls
	next     uint64 // the number of the next call that nobody has sent
	bar      *progressbar.ProgressBar
}

func run(c *cobra.Command, o options) (err error) {
	ctx, cancel := context.WithTimeoutCause(c.Context(), o.limit, fmt.Errorf("gave up after %v (--limit)", o.limit))
	defer cancel()
	if o.rate < 1 || o.steady < time.Second || o.backlog < 1 || o.archive < 0 || o.concurrency < 1 || o.rounds < 1 {
		return errors.New("--rate, --backlog, --concurrency and --rounds must be 1 or more, --steady 1s or more, --archive 0 or more")
	}
	b := &bench{options: o, calls: rig.NewSpoken(uint64(time.Now().UnixNano()))}
	databases := 1
	if o.archive > 0 {
		databases = 2
	}
	b.bar = rig.Bar(c.ErrOrStderr(), 1+databases*(2+2*o.rounds), "starting PostgreSQL")
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
	if b.ingest, err = rig.Build(ctx, b.dir); err != nil {
		return err
	}
	model := newModel()
	defer model.Close()
	b.model = model.URL + "/v1"
	fsync, err := rig.Fsync(ctx)
	if err != nil {
		return err
	}
	r := &Report{
		Began: time.Now().UTC().Truncate(time.Second), Processors: runtime.NumCPU(), Postgres: b.postgres.Description(),
		FsyncMS: ms(fsync), BodyBytes: rig.BodySize, Backlog: o.backlog, Concurrency: o.concurrency,
	}
	if o.pprof != "" {
		profile, err := os.Create(o.pprof)
		if err != nil {
			return fmt.Errorf("writing the profile: %w", err)
		}
		defer func() { err = errors.Join(err, profile.Close()) }()
		if err := pprof.StartCPUProfile(profile); err != nil {
			return fmt.Errorf("writing the profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	for _, archive := range []int{0, o.archive}[:databases] {
		m, err := b.measure(ctx, archive)
		if m != nil {
			r.Measured = append(r.Measured, *m)
		}
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			_ = b.bar.Exit()
			r.Print(c.OutOrStdout()) // what has been measured took its time
			return err
		}
	}
	_ = b.bar.Finish()
	r.Print(c.OutOrStdout())
	return rig.WriteJSON(o.jsonPath, r)
}

func (b *bench) step(text string) {
	b.bar.Describe(text)
	_ = b.bar.Add(1) // drawing is all that can fail
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
