package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/policyfile"
)

func newLintCmd() *cobra.Command {
	var o lintOptions
	cmd := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check policies and show every problem with its place",
		Long: `Lint reads policies in NPL or YAML, with what they import, and shows every
problem with its place, and how to mend it. Assertions about a connection are tried,
and rules that can never decide are looked for.

It exits with 0 when no policy has an error, 1 on errors, and with --strict 3
when there are warnings. Hints never fail. --allow drops warnings and hints of a
code; in a policy "allow" does so for one rule. "-" reads standard input.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"text", "json", "sarif"}, o.output) {
				return fmt.Errorf("-o %s: the outputs are text, json and sarif", o.output)
			}
			for _, code := range o.allow {
				if e, ok := diag.Lookup(diag.Code(code)); !ok || e.Severity == diag.Error {
					return fmt.Errorf("--allow %s: no warning or hint has this code", code)
				}
			}
			return lint(cmd.OutOrStdout(), cmd.InOrStdin(), args, o)
		},
	}
	cmd.Flags().BoolVar(&o.strict, "strict", false, "fail on warnings, too")
	cmd.Flags().StringSliceVar(&o.allow, "allow", nil, "`CODE`s of warnings and hints that are not shown and don't count")
	cmd.Flags().StringVarP(&o.output, "output", "o", "text", "text, json or sarif")
	return cmd
}

type lintOptions struct {
	strict bool
	allow  []string
	output string
}

// lint checks each file on its own and writes the findings of all of them.
func lint(w io.Writer, stdin io.Reader, files []string, o lintOptions) error {
	var all []diag.Diagnostic
	var sources []*diag.Source
	var summary strings.Builder
	for _, name := range files {
		r, err := policyfile.Load(name, stdin, nil)
		if err != nil {
			return err
		}
		diags := r.Diags
		if r.Policy != nil && len(r.Policy.Asserts) > 0 {
			diags = append(diags, analysis.Assertions(engine.Compile(r.Policy)).Diags...)
		}
		if r.Policy != nil {
			diags = append(diags, analysis.Dead(r.Policy, analysis.Thorough).Diags...)
		}
		diags = slices.DeleteFunc(diags, func(d diag.Diagnostic) bool {
			return d.Severity != diag.Error && slices.Contains(o.allow, string(d.Code))
		})
		all = append(all, diags...)
		sources = append(sources, r.Sources...)
		if r.Policy != nil && len(diags) == 0 {
			fmt.Fprintf(&summary, "%s: ok, %s\n", name, plural(len(r.Policy.Rules), "rule"))
		} else {
			fmt.Fprintf(&summary, "%s: %s, %s, %s\n", name, plural(diag.Count(diags, diag.Error), "error"),
				plural(diag.Count(diags, diag.Warning), "warning"), plural(diag.Count(diags, diag.Hint), "hint"))
		}
	}
	all = diag.Sort(all)
	write := diag.Text
	switch o.output {
	case "json":
		write = diag.JSON
	case "sarif":
		write = diag.SARIF
	}
	if err := write(w, all, sources...); err != nil {
		return err
	}
	if o.output == "text" {
		if _, err := io.WriteString(w, summary.String()); err != nil {
			return fmt.Errorf("write the summary: %w", err)
		}
	}
	switch {
	case diag.HasErrors(all):
		return cli.Errors
	case o.strict && diag.Count(all, diag.Warning) > 0:
		return cli.Warnings
	default:
		return nil
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
