package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/rules/yaml"
)

func newLintCmd() *cobra.Command {
	var strict bool
	var output string
	cmd := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check policies and show every problem with its place",
		Long: `Lint reads policies and shows every problem with its place, and how to mend it.

It exits with 0 when no policy has an error, 1 on errors, and with --strict 3
when there are warnings. Hints never fail. "-" reads standard input.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: the outputs are text and json", output)
			}
			return lint(cmd.OutOrStdout(), cmd.InOrStdin(), args, output, strict)
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings, too")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// lint checks each file on its own and writes the findings of all of them.
func lint(w io.Writer, stdin io.Reader, files []string, output string, strict bool) error {
	var all []diag.Diagnostic
	var sources []*diag.Source
	var summary strings.Builder
	for _, name := range files {
		src, err := readPolicy(name, stdin)
		if err != nil {
			return err
		}
		policy, diags := yaml.Load(name, src)
		all = append(all, diags...)
		sources = append(sources, diag.NewSource(name, src))
		if policy != nil && len(diags) == 0 {
			fmt.Fprintf(&summary, "%s: ok, %s\n", name, plural(len(policy.Rules), "rule"))
		} else {
			fmt.Fprintf(&summary, "%s: %s, %s, %s\n", name, plural(diag.Count(diags, diag.Error), "error"),
				plural(diag.Count(diags, diag.Warning), "warning"), plural(diag.Count(diags, diag.Hint), "hint"))
		}
	}
	all = diag.Sort(all)
	if output == "json" {
		if err := diag.JSON(w, all, sources...); err != nil {
			return err
		}
	} else {
		if err := diag.Text(w, all, sources...); err != nil {
			return err
		}
		if _, err := io.WriteString(w, summary.String()); err != nil {
			return fmt.Errorf("write the summary: %w", err)
		}
	}
	switch {
	case diag.HasErrors(all):
		return cli.Errors
	case strict && diag.Count(all, diag.Warning) > 0:
		return cli.Warnings
	default:
		return nil
	}
}

// readPolicy reads a file, or standard input for "-"; one byte more than a
// policy can have is enough for its error.
func readPolicy(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read policy: %w", err)
		}
		defer f.Close()
		r = f
	}
	src, err := io.ReadAll(io.LimitReader(r, yaml.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", name, err)
	}
	return src, nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
