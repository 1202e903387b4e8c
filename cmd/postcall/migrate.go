package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"postcall/db"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/postgres"
)

func migrateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database to this version's schema, or look at it",
		Long: `Bring the database in DATABASE_URL to the schema of this version: Postcall's own
tables and River's. The database of the Node service is taken over in place;
its rows and values stay as they are.

Several processes may migrate at once: one does, the others wait for it.`,
	}
	c.AddCommand(
		&cobra.Command{
			Use: "up", Short: "Apply every migration that is missing", Args: args(cobra.NoArgs),
			RunE: func(c *cobra.Command, _ []string) error {
				return withDatabase(c.Context(), func(ctx context.Context, pool *pgxpool.Pool) error {
					return printMigrations(c, "applied", "the database is up to date")(db.UpTo(ctx, pool, 0))
				})
			},
		},
		&cobra.Command{
			Use: "down", Short: "Revert the newest migration", Args: args(cobra.NoArgs),
			Long: `Revert the newest migration. What only the newer schema can hold is lost with it
(the raw bodies, the audit log, the audio's references); the events, analyses and
dispatches themselves stay. Make a backup first.`,
			RunE: func(c *cobra.Command, _ []string) error {
				return withDatabase(c.Context(), func(ctx context.Context, pool *pgxpool.Pool) error {
					return printMigrations(c, "reverted", "no migration is applied")(db.Down(ctx, pool))
				})
			},
		},
		&cobra.Command{
			Use: "status", Short: "List the migrations and when they were applied", Args: args(cobra.NoArgs),
			RunE: func(c *cobra.Command, _ []string) error {
				return withDatabase(c.Context(), func(ctx context.Context, pool *pgxpool.Pool) error {
					list, err := db.Status(ctx, pool)
					if err != nil {
						return err
					}
					t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
					for _, m := range list {
						when := "pending"
						if !m.AppliedAt.IsZero() {
							when = m.AppliedAt.Format(time.RFC3339)
						}
						fmt.Fprintf(t, "%d\t%s\t%s\n", m.Version, m.Name, when)
					}
					return t.Flush()
				})
			},
		},
	)
	return c
}

func printMigrations(c *cobra.Command, did, nothing string) func([]db.Migration, error) error {
	return func(list []db.Migration, err error) error {
		for _, m := range list {
			fmt.Fprintf(c.OutOrStdout(), "%s %d %s (%d ms)\n", did, m.Version, m.Name, m.Duration.Milliseconds())
		}
		if err == nil && len(list) == 0 {
			fmt.Fprintln(c.OutOrStdout(), nothing)
		}
		return err
	}
}

// withDatabase runs f on the database of DATABASE_URL.
func withDatabase(ctx context.Context, f func(context.Context, *pgxpool.Pool) error) error {
	c, err := config.LoadCommon(ctx, config.Environment())
	if err != nil {
		return err
	}
	if c.DatabaseURL == "" {
		return call.Errorf(call.Invalid, "DATABASE_URL is not set: set it to postgres://user:password@host:5432/database")
	}
	// Migrations of a large table take their time: no statement timeout.
	pool, err := postgres.Pool(ctx, c.DatabaseURL.Reveal(), "postcall migrate", db.MinConns, 0)
	if err != nil {
		return err
	}
	defer pool.Close()
	waiting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := postgres.Wait(waiting, pool); err != nil {
		return err
	}
	return f(ctx, pool)
}
