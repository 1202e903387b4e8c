package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/demo"
	"postcall/pkg/receive"
	"postcall/pkg/standalone"
	"postcall/pkg/telemetry"
)

// demoDir is where the demo leaves what a person may want to look at.
const demoDir = "var/demo"

func demoCommand() *cobra.Command {
	var once bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "See the whole way of a call on this machine, without Docker, key or account",
		Long: `Start a PostgreSQL of its own (or use DATABASE_URL), ingest and worker in this one
process, then sign and post sample deliveries over HTTP as ElevenLabs would: calls
about flats and deliveries, a complaint, a failed dial, audio, a duplicate and a
forgery. A table shows what came of each.

With OPENAI_API_KEY the calls are analysed by a language model, otherwise by the
built-in analyser, which needs no network. What the demo writes for people is in
` + demoDir + `: crm.md and the log.`,
		Example: "  postcall demo\n  postcall demo --once      ends by itself; 0 only if everything worked",
		Args:    args(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return runDemo(c, once) },
	}
	c.Flags().BoolVar(&once, "once", false, "end after the table, non-zero if anything that should have worked did not")
	return c
}

func runDemo(c *cobra.Command, once bool) error {
	ctx, out := c.Context(), c.OutOrStdout()
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	if err := os.MkdirAll(demoDir, 0o750); err != nil {
		return fmt.Errorf("making a place for the demo's files: %w", err)
	}
	crm := filepath.Join(demoDir, "crm.md")
	if err := os.Remove(crm); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the last demo's file: %w", err)
	}
	logPath := filepath.Join(demoDir, "log.jsonl")
	logFile, err := os.Create(logPath)
	if err != nil {
		return fmt.Errorf("making the log: %w", err)
	}
	defer logFile.Close() //nolint:errcheck // nothing is written after the processes have stopped
	port, err := freePort(ctx, "3000")
	if err != nil {
		return err
	}
	env := config.Map(map[string]string{
		"WEBHOOK_SECRET": "wsec_demo_" + rand.Text(), "BIND_ADDR": "127.0.0.1", "PORT": port, "CRM_MD_PATH": crm,
		"SPOOL_PATH": filepath.Join(demoDir, "spool", "events.jsonl"), "AUDIO_URL": filepath.Join(demoDir, "audio"),
		// A demo that is interrupted should end at once.
		"SHUTDOWN_TIMEOUT_MS": "5000",
	}, config.Environment())
	i, err := standalone.Start(ctx, standalone.Options{Env: env, Say: say,
		Logger: func(c config.Common, process string) (*zap.Logger, error) {
			return telemetry.Logger(logFile, c.LogLevel, "json", process)
		}})
	if err != nil {
		return err
	}
	say("receiving   %s%s", i.URL, receive.Path)
	wrong, err := show(ctx, c, i)
	if err != nil || once {
		if serr := i.Stop(); err == nil {
			err = serr
		}
		if err == nil && wrong > 0 {
			err = call.Errorf(call.Internal, "%d of the deliveries did not go as they should; the log is in %s", wrong, logPath)
		}
		return err
	}
	say("\n%s", dashboard(i))
	say(`results     %s
log         %s
database    psql '%s'
one more    WEBHOOK_SECRET=%s go run ./cmd/postcall send --url %s%s FILE

Everything stays up until you press Ctrl-C.`, crm, logPath, i.DatabaseURL,
		i.Ingest.WebhookSecret[0].Reveal(), i.URL, receive.Path)
	return i.Wait()
}

func show(ctx context.Context, c *cobra.Command, i *standalone.Installation) (int, error) {
	began := time.Now()
	bar := progressBar(c.ErrOrStderr(), -1, "analysing the samples")
	steps, err := demo.Run(ctx, i, func(done, total int) {
		bar.ChangeMax(total)
		_ = bar.Set(done) // drawing is all that can fail
	})
	_ = bar.Finish()
	if err != nil {
		return 0, err
	}
	fmt.Fprintln(c.OutOrStdout())
	wrong := demo.Print(c.OutOrStdout(), steps)
	fmt.Fprintf(c.OutOrStdout(), "\n%d deliveries, %d as expected, in %s\n", len(steps), len(steps)-wrong, time.Since(began).Round(time.Millisecond))
	return wrong, nil
}

// freePort is the wanted port if it is free, else 0 for any.
func freePort(ctx context.Context, want string) (string, error) {
	if p := os.Getenv("PORT"); p != "" {
		return p, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", want))
	if err != nil {
		return "0", nil //nolint:nilerr // taken: any other will do
	}
	return want, l.Close()
}

// dashboard says where the dashboard is and how to get in.
func dashboard(i *standalone.Installation) string {
	if i.SignInURL == "" {
		return "dashboard   " + i.URL + "/ (sign in with a token of ADMIN_TOKENS)"
	}
	return "dashboard   " + i.SignInURL + "\n            opens " + i.URL + "/ and signs you in, once, within 15 minutes"
}
