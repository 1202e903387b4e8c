package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"postcall/pkg/app"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/export"
)

func doctorCommand() *cobra.Command {
	var (
		x      app.Examination
		asJSON bool
	)
	c := &cobra.Command{
		Use: "doctor", Short: "Say what is wrong with an installation, and what to do", Args: args(cobra.NoArgs),
		Long: `Look at an installation from end to end and say what is wrong: the webhook as it is
set up at ElevenLabs (switched off, without retries, failing, going elsewhere), the
settings, the clocks, the database and its schema, disk and audio store, the model,
BPMSoft and the outbound webhook. Each fault is one line, and what to do about it
another. Nothing is changed; a probe is written to the audio store and deleted.

It reads the environment of ingest and worker; ELEVENLABS_API_KEY must be allowed to
read conversations and webhooks.

Exit codes: 0 nothing is known to be wrong, 1 something is.`,
		Example: "  postcall doctor --url https://calls.example.com\n  postcall doctor --json | jq '.[] | select(.level == \"fail\")'",
		RunE: func(c *cobra.Command, _ []string) error {
			findings := app.Examine(c.Context(), config.Environment(), x)
			if !asJSON {
				return printFindings(c.OutOrStdout(), findings, "the installation is not sound as things are")
			}
			out := json.NewEncoder(c.OutOrStdout())
			out.SetIndent("", "  ")
			if err := out.Encode(findings); err != nil {
				return fmt.Errorf("printing what was found: %w", err)
			}
			for _, f := range findings {
				if f.Level == export.Fail {
					return call.Errorf(call.Unavailable, "something is wrong")
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&x.PublicURL, "url", "", "where ElevenLabs reaches ingest, such as https://calls.example.com: the webhook must go there")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
