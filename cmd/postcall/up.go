package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"postcall/pkg/config"
	"postcall/pkg/receive"
	"postcall/pkg/standalone"
	"postcall/pkg/telemetry"
)

func upCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a small installation: database, ingest and worker in one process",
		Long: `Run everything in this one process, with a PostgreSQL whose data stays in --data
(or the one of DATABASE_URL, if that is set). All settings of ingest and worker
hold; see .env.example.

Without WEBHOOK_SECRET a secret is made and kept in the data directory: good for
trying with ` + "`postcall send`" + `, until you set the one that ElevenLabs shows you.`,
		Example: "  WEBHOOK_SECRET=wsec_… OPENAI_API_KEY=sk-… postcall up",
		Args:    args(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return runUp(c, dir) },
	}
	c.Flags().StringVar(&dir, "data", "var/postcall", "the directory that keeps the database")
	return c
}

func runUp(c *cobra.Command, dir string) error {
	out := c.OutOrStdout()
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	// Others may pass, since the database's server can be another user; what is
	// secret inside is closed by itself.
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // see above
		return fmt.Errorf("making the data directory: %w", err)
	}
	env, err := withSecret(dir, say)
	if err != nil {
		return err
	}
	for name, path := range map[string]string{"SPOOL_PATH": "spool/events.jsonl", "AUDIO_URL": "audio"} {
		if _, set := env.Lookup(name); !set {
			env = config.Map(map[string]string{name: filepath.Join(dir, path)}, env)
		}
	}
	i, err := standalone.Start(c.Context(), standalone.Options{
		Env: env, DataDir: filepath.Join(dir, "postgres"), Say: say,
		Logger: func(c config.Common, process string) (*zap.Logger, error) {
			return telemetry.Logger(os.Stderr, c.LogLevel, c.LogFormat, process)
		}})
	if err != nil {
		return err
	}
	say("%s", dashboard(i))
	say("receiving   %s%s\nresults     %s\n\nCtrl-C stops it.", i.URL, receive.Path, i.Worker.MarkdownPath)
	return i.Wait()
}

// withSecret adds a secret of our own to an environment that has none.
func withSecret(dir string, say func(string, ...any)) (config.Lookuper, error) {
	env := config.Environment()
	if s, ok := env.Lookup("WEBHOOK_SECRET"); ok && strings.TrimSpace(s) != "" {
		return env, nil
	}
	path := filepath.Join(dir, "webhook-secret")
	secret, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		secret = []byte("wsec_local_" + rand.Text())
		err = os.WriteFile(path, secret, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("keeping a webhook secret: %w", err)
	}
	say("secret      made here, since WEBHOOK_SECRET is not set; to send: WEBHOOK_SECRET=$(cat %s) postcall send FILE", path)
	return config.Map(map[string]string{"WEBHOOK_SECRET": strings.TrimSpace(string(secret))}, env), nil
}
