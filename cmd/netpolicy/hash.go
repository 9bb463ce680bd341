package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
)

func newHashCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "hash FILE...",
		Short: "Print the hash of what policies mean",
		Long: `Hash prints the SHA-256 of each policy's meaning: what it decides. Comments,
spelling, syntax, the daemon section and assertions don't count. It stands in every
decision record.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				p, err := loadPolicy(name, cmd.InOrStdin(), cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%x  %s\n", p.Hash, name); err != nil {
					return cli.Fail(cmd, err)
				}
			}
			return nil
		},
	}
}
