package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"postcall/pkg/alert"
	"postcall/pkg/app"
	"postcall/pkg/call"
	"postcall/pkg/config"
)

func alertsCommand() *cobra.Command {
	c := &cobra.Command{Use: "alerts", Short: "Try the channels that alerts are told by"}
	c.AddCommand(&cobra.Command{
		Use: "test", Short: "Send one test message to each channel", Args: args(cobra.NoArgs),
		Long: `Send one test message to each channel that is configured, by the worker's settings
(ALERT_…), and say what came of it. It needs no database.

Exit codes: 0 every channel took it, 1 one did not, 2 the settings must change first.`,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := config.LoadAlerts(c.Context(), config.Environment())
			if err != nil {
				return err
			}
			tried, err := app.TryAlerts(c.Context(), settings)
			if err != nil {
				return err
			}
			failed := 0
			for _, one := range tried {
				if one.Err != nil {
					failed++
					fmt.Fprintf(c.OutOrStdout(), "✗ %s: %v\n", one.Channel, one.Err)
					continue
				}
				fmt.Fprintf(c.OutOrStdout(), "✓ %s took it\n", one.Channel)
			}
			if app.AlertLimits(settings) == (alert.Limits{}) {
				fmt.Fprintln(c.ErrOrStderr(), "No rule is on, so nothing would ever be told: set ALERT_DEAD_LETTERS, ALERT_FAILURE_PERCENT, ALERT_SILENCE_HOURS or ALERT_COST_USD.")
			}
			if failed > 0 {
				return call.Errorf(call.Unavailable, "%d of %d channels did not take the message", failed, len(tried))
			}
			return nil
		},
	})
	return c
}
