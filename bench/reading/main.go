// Command reading measures lists, filters, searches, counts, figures and
// exports of an archive of a million calls, on a PostgreSQL with fsync on and
// otherwise as it comes, started here.
//
//	go run ./bench/reading --help
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"postcall/bench/rig"
	"postcall/db"
)

// options are what a run is asked for.
type options struct {
	events   int
	repeat   int
	url      string
	explain  string
	jsonPath string
	limit    time.Duration
	whole    bool
}

// bound is what every list, filter, search and count must answer within, at
// the 95th percentile.
const bound = 50 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/reading:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func command() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:           "reading",
		Short:         "Measure reading from a large archive",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), o.limit)
			defer cancel()
			return run(ctx, c.OutOrStdout(), o)
		},
	}
	f := c.Flags()
	f.IntVar(&o.events, "events", 1_000_000, "how many events the archive has, nine of ten with an analysis")
	f.IntVar(&o.repeat, "repeat", 40, "how often each query is asked, with other values each time")
	f.StringVar(&o.url, "url", "", "an address of an empty or already filled database, which stays; otherwise one is started and removed")
	f.StringVar(&o.explain, "explain", "", "write each query's statements with EXPLAIN (ANALYZE, BUFFERS) to this file")
	f.StringVar(&o.jsonPath, "json", "", "write the figures to this file")
	f.DurationVar(&o.limit, "limit", time.Hour, "the longest that a run may take")
	f.BoolVar(&o.whole, "export", true, "export all of it too")
	return c
}

func run(ctx context.Context, out io.Writer, o options) (err error) {
	if o.url == "" {
		server, err := rig.StartPostgres(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Stop(context.WithoutCancel(ctx))) }()
		if o.url, err = server.Create(ctx, "archive"); err != nil {
			return err
		}
	}
	if err := prepare(ctx, out, o); err != nil {
		return err
	}
	b, err := newBench(ctx, out, o)
	if err != nil {
		return err
	}
	defer b.close()
	return b.run(ctx)
}

// prepare fills the archive if it is empty.
func prepare(ctx context.Context, out io.Writer, o options) error {
	pool, err := pgxpool.New(ctx, o.url)
	if err != nil {
		return fmt.Errorf("connecting to the archive: %w", err)
	}
	defer pool.Close()
	if err := db.Up(ctx, pool); err != nil {
		return err
	}
	var filled bool
	if err := pool.QueryRow(ctx, `select exists (select from webhook_events)`).Scan(&filled); err != nil {
		return fmt.Errorf("looking into the archive: %w", err)
	}
	if filled {
		return nil
	}
	began := time.Now()
	return fill(ctx, pool, o.events, func(step string) {
		fmt.Fprintf(out, "%6s  %s\n", time.Since(began).Round(time.Second), step)
	})
}
