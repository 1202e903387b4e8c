package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"postcall/pkg/access"
)

func tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Make tokens for people and programs"}
	var role string
	add := &cobra.Command{
		Use:   "new NAME --role ROLE",
		Short: "Make a token and its entry for ADMIN_TOKENS",
		Long: `Make a token. It is printed once and kept nowhere: give it to whoever will use it,
and add the entry, which holds only its hash, to ADMIN_TOKENS (comma-separated).

Roles: viewer reads; operator also reprocesses, resends and acts on dead letters;
admin may do everything.`,
		Example: "  postcall token new anna --role viewer",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, list []string) error {
			t, err := access.NewToken(list[0], access.Role(role))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "token, shown only now:  %s\nentry for ADMIN_TOKENS: %s\n", t.Plain, t.Entry())
			return nil
		},
	}
	add.Flags().StringVar(&role, "role", "", "viewer, operator or admin (required)")
	c.AddCommand(add)
	return c
}
