package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/rules/load"
)

func newExplainCodeCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "explain-code CODE...",
		Short:   "Say what a diagnostic's code means, with an example",
		Example: "  netpolicy explain-code NP110",
		Args:    cobra.MinimumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var codes []string
			for _, e := range diag.Catalogue() {
				codes = append(codes, string(e.Code)+"\t"+e.Title)
			}
			return codes, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			for i, arg := range args {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				e, ok := diag.Lookup(diag.Code(strings.ToUpper(arg)))
				if !ok {
					return cli.Fail(cmd, fmt.Errorf("no code %s; docs/diagnostics.md lists all", arg))
				}
				if err := explainCode(cmd.OutOrStdout(), e); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// explainCode writes an entry; of its example it shows what lint says.
func explainCode(w io.Writer, e diag.Entry) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (%s)\n", e.Code, e.Title, e.Severity)
	if e.Detail == "" {
		b.WriteString("\nNothing reports this code in this version.\n")
	} else {
		fmt.Fprintf(&b, "\n%s\n", e.Detail)
	}
	if e.Example != "" {
		fmt.Fprintf(&b, "\nFor example\n\n    %s\n\n", strings.ReplaceAll(strings.TrimSuffix(e.Example, "\n"), "\n", "\n    "))
		r := load.Policy("policy.yaml", []byte(e.Example), load.Options{})
		var own []diag.Diagnostic
		for _, d := range r.Diags {
			if d.Code == e.Code {
				own = append(own, d)
			}
		}
		if err := diag.Text(&b, own, r.Sources...); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the explanation: %w", err)
	}
	return nil
}
