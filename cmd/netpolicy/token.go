package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
)

func newTokenCmd() *cobra.Command {
	var (
		f              daemonFlags
		readOnly, anew bool
	)
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Show what opens the web interface, and the API over TCP",
		Long: "Token shows the token that opens the web interface and the API over TCP, where the policy's\n" +
			"daemon section has them served (api_listen). With --read-only it is the one for looking alone.\n" +
			"--renew makes another one; sessions of the old one end.",
		Example: "  netpolicy token --read-only",
		Args:    cobra.NoArgs,
		RunE: f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
			role := api.RoleAdmin
			if readOnly {
				role = api.RoleRead
			}
			t, err := c.Token(ctx, api.TokenRequest{Role: role, Renew: anew})
			if err != nil {
				return err
			}
			return f.print(out, t, func() { fmt.Fprintln(out, t.Token) })
		}),
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&readOnly, "read-only", false, "the token for looking alone")
	cmd.Flags().BoolVar(&anew, "renew", false, "make another one; sessions of the old one end")
	return cmd
}
