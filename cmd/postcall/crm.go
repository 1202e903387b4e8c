package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"postcall/pkg/app"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/export"
	"postcall/pkg/postgres"
	"postcall/pkg/work"
)

func crmCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "crm",
		Short: "Look at the connection to BPMSoft, and at what would be sent",
		Long: `Look at the connection to BPMSoft, and at what would be sent. The settings are the
worker's (CRM_…); EXTERNAL_CRM_ENABLED need not be set yet, and nothing is sent.`,
	}
	c.AddCommand(
		&cobra.Command{
			Use: "check", Short: "Connect, send nothing, and say what is wrong", Args: args(cobra.NoArgs),
			Long: `Connect to BPMSoft with the worker's settings, and to the webhook if there is one, and say what is wrong and what to do
about it. Nothing is sent: what the landing service only tells to a lead (an
unknown or disabled landing, a domain that is not registered) is seen only if
CRM_ODATA_URL, CRM_ODATA_USER and CRM_ODATA_PASS are set as well.

Exit codes: 0 nothing is known to be wrong, 1 something is, 2 the settings must
change first.`,
			RunE: func(c *cobra.Command, _ []string) error {
				settings, crm, err := bpmsoft(c.Context(), config.Environment())
				if err != nil {
					return err
				}
				findings := crm.Check(c.Context())
				if settings.WebhookOutURL != "" {
					hook, err := app.Webhook(settings)
					if err != nil {
						return err
					}
					findings = append(findings, hook.Check(c.Context())...)
				}
				return printFindings(c.OutOrStdout(), findings, "results would not arrive as things are")
			},
		},
		&cobra.Command{
			Use: "preview EVENT", Short: "Print what would be sent of an event's newest analysis", Args: args(cobra.ExactArgs(1)),
			Long: `Print the body that BPMSoft would get for an event of the database, by its id, and
on standard error why it would not be sent, if that is so. Nothing is sent.`,
			Example: "  postcall crm preview 42",
			RunE: func(c *cobra.Command, list []string) error {
				id, err := strconv.ParseInt(list[0], 10, 64)
				if err != nil {
					return usage(fmt.Errorf("%q is no event's id, which is a number", list[0]))
				}
				settings, crm, err := bpmsoft(c.Context(), config.Environment())
				if err != nil {
					return err
				}
				return withDatabase(c.Context(), func(ctx context.Context, pool *pgxpool.Pool) error {
					return preview(ctx, pool, settings, crm, id, c.OutOrStdout(), c.ErrOrStderr())
				})
			},
		},
	)
	return c
}

// bpmsoft reads the settings and makes the exporter. The settings say
// CRMEnabled only if it is switched on.
func bpmsoft(ctx context.Context, env config.Lookuper) (config.Worker, app.CRM, error) {
	c, err := config.LoadCRM(ctx, env)
	if err != nil {
		return c, app.CRM{}, err
	}
	crm, err := app.BPMSoft(c, zap.NewNop())
	return c, crm, err
}

// printFindings prints a line for each, and what to do; if something fails, the
// error says verdict.
func printFindings(w io.Writer, list []export.Finding, verdict string) error {
	failed := 0
	for _, f := range list {
		mark := map[export.Level]string{export.OK: "✓", export.Warn: "!", export.Fail: "✗"}[f.Level]
		fmt.Fprintf(w, "%s %s\n", mark, f.Text)
		if f.Advice != "" {
			fmt.Fprintf(w, "  → %s\n", f.Advice)
		}
		if f.Level == export.Fail {
			failed++
		}
	}
	if failed > 0 {
		return call.Errorf(call.Unavailable, "%s", verdict)
	}
	return nil
}

func preview(ctx context.Context, pool *pgxpool.Pool, c config.Worker, crm app.CRM, eventID int64, out, notes io.Writer) error {
	analysis, err := postgres.NewestAnalysis(ctx, pool, eventID)
	if err != nil {
		return err
	}
	delivery, err := work.Delivery(ctx, pool, analysis)
	if err != nil {
		return err
	}
	receipt, err := crm.Preview(delivery)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := json.Indent(&text, receipt.Payload, "", "  "); err != nil {
		return fmt.Errorf("printing what would be sent: %w", err)
	}
	fmt.Fprintln(out, text.String())
	reasons, err := withheld(ctx, pool, c, crm, delivery)
	for _, reason := range reasons {
		fmt.Fprintln(notes, "It would not be sent: "+reason+".")
	}
	return err
}

// withheld lists why a result would not be sent.
func withheld(ctx context.Context, pool *pgxpool.Pool, c config.Worker, crm app.CRM, d export.Delivery) ([]string, error) {
	var reasons []string
	switch {
	case !c.CRMEnabled:
		reasons = append(reasons, "EXTERNAL_CRM_ENABLED is not true")
	case c.CRMDryRun:
		reasons = append(reasons, "EXTERNAL_CRM_DRY_RUN is true")
	}
	if reason := crm.Choose(d); reason != "" {
		reasons = append(reasons, reason)
	}
	earlier, err := postgres.EarlierDispatches(ctx, pool, d.Event.ID, d.Analysis.ID, crm.Target())
	switch {
	case err != nil:
		return reasons, err
	case earlier.Delivered:
		reasons = append(reasons, "it is there already; by force it is brought up to date")
	case earlier.CallDelivered > 0:
		reasons = append(reasons, fmt.Sprintf("the call is there already, with analysis %d; by force it is brought up to date", earlier.CallDelivered))
	case earlier.CallDelivered < 0:
		reasons = append(reasons, "the earlier service has sent this call")
	}
	return reasons, nil
}
