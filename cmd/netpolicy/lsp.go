package main

import (
	"errors"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/lsp"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/rules"
)

func newLSPCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "lsp",
		Short: "Serve editors: diagnostics, hovers, completion and more over standard input and output",
		Long: `Lsp is a language server for policies in NPL and YAML. Editors start it and talk to
it over standard input and output (Language Server Protocol 3.17).

It exits with 0 after the client's shutdown, and with 1 when the client leaves
without it. editors/README.md tells how to set up editors.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := lsp.Serve(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), lsp.Options{
				ReadFile: policyfile.Import,
				Lists:    func(policy string) rules.Lists { return policyfile.Lists(policy, "") },
			})
			switch {
			case errors.Is(err, lsp.ErrNoShutdown):
				return cli.Errors
			case err != nil:
				return cli.Fail(cmd, err)
			}
			return nil
		},
	}
}
