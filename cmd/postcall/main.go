// Command postcall is the operator's command line.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"postcall/pkg/app"
	"postcall/pkg/call"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "postcall: %v\n", err)
	}
	return app.ExitCode(err)
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "postcall",
		Short: "Post-call analytics for ElevenLabs voice agents",
		Long: `Postcall keeps what ElevenLabs Agents send after each call, has the
conversation analysed, and hands the result to people.

See it work, without Docker, key or account:   postcall demo
A small installation of your own:              postcall up
A large one:                                   the processes ingest and worker

Exit codes: 0 it worked, 1 a fault (trying again may help), 2 the arguments or
the configuration must change first.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w; see `%s --help`", err, c.CommandPath()))
	})
	c.AddCommand(demoCommand(), upCommand(), migrateCommand(), sendCommand(), spoolCommand(), tokenCommand(), evalCommand(), crmCommand(), doctorCommand(), importCommand(), alertsCommand(), eraseCommand(), subjectExportCommand())
	return c
}

// usage marks an error as one of the arguments.
func usage(err error) error {
	return &call.Error{Code: call.Invalid, Message: err.Error()}
}

// args wraps a check of the arguments so that its errors count as usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, list []string) error {
		if err := check(c, list); err != nil {
			return usage(fmt.Errorf("%w; see `%s --help`", err, c.CommandPath()))
		}
		return nil
	}
}
