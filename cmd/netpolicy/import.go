package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/rules/foreign"
)

func newImportCmd() *cobra.Command {
	var from, output, report string
	cmd := &cobra.Command{
		Use:   "import --from clash|singbox|mwan3 FILE",
		Short: "Turn a configuration of Clash, sing-box or mwan3 into a policy",
		Long: `Import reads a configuration of another program and writes a policy in NPL, to
standard output or to a file.

To standard error it says of every construct whether it was carried over,
approximated or dropped, where it went, and why. Secrets of proxies are not
copied. "-" reads standard input. It exits with 1 when the configuration can't
be read; what was dropped does not change the exit code.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(foreign.Formats(), from) {
				return fmt.Errorf("--from %s: the formats are clash, singbox and mwan3", from)
			}
			if !slices.Contains([]string{"text", "json", "none"}, report) {
				return fmt.Errorf("--report %s: the reports are text, json and none", report)
			}
			return importFile(cmd, from, args[0], output, report)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "clash (also mihomo), singbox or mwan3")
	cmd.Flags().StringVarP(&output, "output", "o", "", "the file to write the policy to; it is replaced whole")
	cmd.Flags().StringVar(&report, "report", "text", "text, json or none")
	return cmd
}

func importFile(cmd *cobra.Command, from, name, output, report string) error {
	src, err := readInput(name, cmd.InOrStdin(), foreign.MaxInput, "the configuration")
	if err != nil {
		return cli.Fail(cmd, err)
	}
	r, err := foreign.Import(from, name, src)
	if err != nil {
		return cli.Fail(cmd, err)
	}
	if output == "" {
		_, err = cmd.OutOrStdout().Write(r.NPL)
	} else {
		err = durable.Rewrite(output, r.NPL, 0o644)
	}
	if err != nil {
		return cli.Fail(cmd, fmt.Errorf("write the policy: %w", err))
	}
	if err := writeReport(cmd.ErrOrStderr(), name, r, report); err != nil {
		return cli.Fail(cmd, fmt.Errorf("write the report: %w", err))
	}
	return nil
}

// writeReport writes one line for each construct and a sum, or one JSON array.
func writeReport(w io.Writer, name string, r foreign.Result, form string) error {
	switch form {
	case "none":
		return nil
	case "json":
		lines := r.Report
		if lines == nil {
			lines = []foreign.Line{}
		}
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(lines)
	}
	for _, l := range r.Report {
		if _, err := fmt.Fprintf(w, "%s:%s\n", name, l); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s: %d carried, %d approximated, %d dropped\n", name,
		r.Count(foreign.Carried), r.Count(foreign.Approximated), r.Count(foreign.Dropped))
	return err
}
