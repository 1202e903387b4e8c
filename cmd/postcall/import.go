package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"postcall/pkg/app"
	"postcall/pkg/backfill"
	"postcall/pkg/config"
	"postcall/pkg/telemetry"
)

func importCommand() *cobra.Command {
	var (
		since, until, agent string
		dry, sound          bool
	)
	c := &cobra.Command{
		Use: "import", Short: "Fetch calls from ElevenLabs whose webhook never came", Args: args(cobra.NoArgs),
		Long: `Fetch calls from ElevenLabs whose webhook never came, and calls that came without
their transcript. What ElevenLabs could not deliver it does not send again: only its
API still has it. A worker with ELEVENLABS_API_KEY looks by itself, every
IMPORT_EVERY_MINUTES; this is for what is longer ago, and for the first time.

It lists the conversations of the window, and fetches those that are over and not
here. They are stored as a webhook would have been, under the time at which the call
ended, and analysed and handed on like all others, after those of now. A webhook that
comes later is the same call: it is not analysed or handed on again. Erased calls stay
erased. It may be stopped and run again at any time.

It reads DATABASE_URL, AUDIO_URL, ANALYZE_AUTO, ANALYZE_MAX_ATTEMPTS as ingest does,
ELEVENLABS_API_KEY, ELEVENLABS_BASE_URL and ELEVENLABS_RPS.

Exit codes: 0 nothing is missing any more, 1 something could not be fetched, 2 the
arguments or the settings must change first.`,
		Example: "  postcall import --since 7d --dry-run       what is missing\n" +
			"  postcall import --since 7d\n  postcall import --since 2026-11-01 --until 2026-11-08 --agent agent_… --audio",
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := config.LoadImport(c.Context(), config.Environment())
			if err != nil {
				return err
			}
			now := time.Now().UTC()
			w := backfill.Window{AgentID: agent, Recordings: sound}
			if w.Since, err = moment(since, now); err != nil {
				return usage(fmt.Errorf("--since %w", err))
			}
			if w.Until, err = moment(until, now); err != nil {
				return usage(fmt.Errorf("--until %w", err))
			}
			if !w.Since.Before(w.Until) {
				return usage(errors.New("--since must lie before --until"))
			}
			// A line a call is for processes that nobody watches.
			level := settings.LogLevel
			if level == "info" {
				level = "warn"
			}
			log, err := telemetry.Logger(c.ErrOrStderr(), level, settings.LogFormat, "import")
			if err != nil {
				return err
			}
			bar := progressBar(c.ErrOrStderr(), -1, "looking at calls")
			run, err := app.Import(c.Context(), settings, w, dry, log, func(t backfill.Tally) { _ = bar.Set(t.Upstream) })
			_ = bar.Finish() // drawing is all that can fail
			printImported(c.OutOrStdout(), run, dry)
			if err == nil && run.Failed > 0 {
				err = fmt.Errorf("%d calls could not be fetched: the log says why; run it again", run.Failed)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&since, "since", "7d", "where the window begins, of when calls began: an age such as 7d or 36h, or a day or time such as 2026-11-01 (UTC)")
	f.StringVar(&until, "until", "0h", "where it ends, likewise")
	f.StringVar(&agent, "agent", "", "of one agent only, by its id")
	f.BoolVar(&dry, "dry-run", false, "only look and count")
	f.BoolVar(&sound, "audio", false, "fetch missing recordings too")
	return c
}

// moment reads an age before now, a day or a time.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "0h" {
		return now, nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04", time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return at.UTC(), nil
		}
	}
	age, err := config.ParseAge(text)
	if err != nil {
		return now, fmt.Errorf("%q is neither an age such as 7d or 36h nor a day such as 2026-11-01", text)
	}
	return now.Add(-age), nil
}

func printImported(w io.Writer, r backfill.Run, dry bool) {
	if r.Since.IsZero() {
		return // it did not begin
	}
	done := "imported"
	if dry {
		done = "would be imported"
	}
	fmt.Fprintf(w, "%d calls at ElevenLabs from %s to %s: %d were here, %d %s, %d completed", r.Upstream,
		r.Since.Format(time.DateTime), r.Until.Format(time.DateTime), r.Present, r.Imported, done, r.Completed)
	if r.Recordings > 0 {
		fmt.Fprintf(w, ", %d recordings", r.Recordings)
	}
	if r.Erased > 0 {
		fmt.Fprintf(w, ", %d stay erased", r.Erased)
	}
	fmt.Fprintf(w, ", %d failed\n", r.Failed)
}
