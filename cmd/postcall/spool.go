package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"postcall/pkg/app"
	"postcall/pkg/config"
	"postcall/pkg/telemetry"
)

func spoolCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "spool",
		Short: "Deliveries that wait on the disk for the database",
		Long: `While the database is away, ingest keeps verified deliveries in the file at
SPOOL_PATH and stores them by itself as soon as the database is back.`,
	}
	c.AddCommand(&cobra.Command{
		Use: "drain", Short: "Store what waits in the spool", Args: args(cobra.NoArgs),
		Long: `Store the deliveries that wait at SPOOL_PATH in the database at DATABASE_URL, with
their jobs, in order: for a spool whose ingest is gone, or was started without a
database. A running ingest drains its own spool and keeps it to itself.

It may be stopped and repeated at any time: nothing is lost, nothing is stored
twice. It reads DATABASE_URL, SPOOL_PATH, AUDIO_URL, ANALYZE_AUTO and
ANALYZE_MAX_ATTEMPTS as ingest does; give it the same values.`,
		RunE: func(c *cobra.Command, _ []string) error {
			return drain(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	})
	return c
}

func drain(ctx context.Context, out, progress io.Writer) error {
	c, err := config.LoadDrain(ctx, config.Environment())
	if err != nil {
		return err
	}
	// A line a delivery is for processes that nobody watches.
	level := c.LogLevel
	if level == "info" {
		level = "warn"
	}
	log, err := telemetry.Logger(progress, level, c.LogFormat, "spool drain")
	if err != nil {
		return err
	}
	bar := progressBar(progress, 0, "draining")
	d, err := app.Drain(ctx, c, log, func(done, total int64) {
		bar.ChangeMax64(total)
		// A bar that cannot be drawn stops nothing.
		_ = bar.Set64(done)
	})
	_ = bar.Finish()
	if err == nil || d.Stored > 0 {
		fmt.Fprintf(out, "%d stored, %d waiting\n", d.Stored, d.Waiting)
	}
	if d.Aside > 0 {
		fmt.Fprintf(out, "%d could not be stored at all and were moved to %s.rejected, each with its reason\n", d.Aside, c.SpoolPath)
	}
	if d.Path != "" && d.Path != c.SpoolPath {
		fmt.Fprintf(out, "%s is held by a running process, which drains it by itself\n", c.SpoolPath)
	}
	return err
}
