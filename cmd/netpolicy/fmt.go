package main

import (
	"bytes"
	"errors"
	"fmt"

	unified "github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/rules/print"
)

func newFmtCmd() *cobra.Command {
	var write, showDiff, check bool
	cmd := &cobra.Command{
		Use:   "fmt [FILE...]",
		Short: "Bring policies into their usual form",
		Long: `Fmt writes policies in their usual form, in the syntax that they have; comments
stay. Without a flag the result goes to standard output; without a file, or for
"-", standard input is read. It changes nothing that a policy means: what can't be
read again as the same policy is not written.

It exits with 1 when a policy can't be read, and with --check when one is not in
its usual form.`,
		Example: "  netpolicy fmt -w policy.npl\n  netpolicy fmt --check *.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{policyfile.Stdin}
			}
			failed := false
			for _, name := range args {
				src, err := policyfile.Read(name, cmd.InOrStdin())
				if err != nil {
					return err
				}
				syntax := "yaml"
				if load.IsNPL(name, src) {
					syntax = "npl"
				}
				out, err := converted(name, src, syntax)
				var bad *unreadable
				switch {
				case errors.As(err, &bad):
					if err := diag.Text(cmd.ErrOrStderr(), bad.diags, bad.source); err != nil {
						return err
					}
					failed = true
					continue
				case err != nil:
					return cli.Fail(cmd, err)
				}
				same := bytes.Equal(src, out)
				if check && !same {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s: not in its usual form\n", name)
					failed = true
				}
				if showDiff && !same {
					if _, err := cmd.OutOrStdout().Write(unified.Diff(name, src, name+" (usual form)", out)); err != nil {
						return fmt.Errorf("write the difference: %w", err)
					}
				}
				switch {
				case write && name != policyfile.Stdin:
					if !same {
						if err := durable.Rewrite(name, out, 0o644); err != nil {
							return cli.Fail(cmd, err)
						}
					}
				case !check && !showDiff:
					if _, err := cmd.OutOrStdout().Write(out); err != nil {
						return fmt.Errorf("write the policy: %w", err)
					}
				}
			}
			if failed {
				return cli.Errors
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&write, "write", "w", false, "write to the file itself")
	cmd.Flags().BoolVarP(&showDiff, "diff", "d", false, "show what would change")
	cmd.Flags().BoolVar(&check, "check", false, "say which files are not in their usual form")
	cmd.MarkFlagsMutuallyExclusive("write", "check")
	return cmd
}

func newConvertCmd() *cobra.Command {
	var to, output string
	cmd := &cobra.Command{
		Use:   "convert --to npl|yaml FILE",
		Short: "Write a policy in the other syntax",
		Long: `Convert writes a policy in NPL or YAML, with its comments; imports stay imports.
What it writes is the same policy, or it writes nothing. "-" reads standard input.`,
		Example: "  netpolicy convert --to npl policy.yaml -o policy.npl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to != "npl" && to != "yaml" {
				return fmt.Errorf("--to %s: the syntaxes are npl and yaml", to)
			}
			src, err := policyfile.Read(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			out, err := converted(args[0], src, to)
			var bad *unreadable
			switch {
			case errors.As(err, &bad):
				if err := diag.Text(cmd.ErrOrStderr(), bad.diags, bad.source); err != nil {
					return err
				}
				return cli.Errors
			case err != nil:
				return cli.Fail(cmd, err)
			}
			if output != "" {
				if err := durable.Rewrite(output, out, 0o644); err != nil {
					return cli.Fail(cmd, err)
				}
				return nil
			}
			if _, err := cmd.OutOrStdout().Write(out); err != nil {
				return fmt.Errorf("write the policy: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "npl or yaml")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this `FILE`")
	require(cmd, "to")
	return cmd
}

// unreadable says that a policy's text has errors of syntax.
type unreadable struct {
	diags  []diag.Diagnostic
	source *diag.Source
}

func (e *unreadable) Error() string { return "the policy can't be read" }

// converted returns a policy's text in a syntax. It fails rather than return a text
// that is not the same policy.
func converted(name string, src []byte, syntax string) ([]byte, error) {
	ast, diags := load.Parse(name, src)
	if ast == nil || diag.HasErrors(diags) {
		return nil, &unreadable{diag.Sort(diags), diag.NewSource(name, src)}
	}
	write := print.YAML
	if syntax == "npl" {
		write = print.NPL
	}
	out := write(ast)
	again, diags := load.Parse("out."+syntax, out)
	switch {
	case again == nil || diag.HasErrors(diags):
		return nil, fmt.Errorf("%s can't be written as %s: the result could not be read again (%s); please report this", name, syntax, diags[0].Message)
	case print.Canonical(again) != print.Canonical(ast):
		return nil, fmt.Errorf("%s can't be written as %s: the result would be another policy; please report this", name, syntax)
	default:
		return out, nil
	}
}
