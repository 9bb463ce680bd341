package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
)

func newRulesCmd() *cobra.Command {
	var f daemonFlags
	var dead, unused bool
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Show the rules in force: how often each has decided, and what was found in it",
		Long: `Show the rules of the policy in force in the order in which they are looked at: where each stands, what it does, how often it
has decided since the policy became live, when last, and the codes of what was found in it; below them, what that is.
` + "`netpolicy explain-code`" + ` explains a code. A rule is dead when it is proven that it can never decide.`,
		Example: "  netpolicy rules --unused\n  netpolicy rules --dead -o json",
		Args:    cobra.NoArgs,
		RunE: f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
			r, err := c.Rules(ctx)
			if err != nil {
				return err
			}
			r.Rules = slices.DeleteFunc(r.Rules, func(x api.Rule) bool { return dead && !x.Dead || unused && x.Decisions > 0 })
			return f.print(out, r, func() { writeRules(out, &r, !dead && !unused, time.Now()) })
		}),
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&dead, "dead", false, "only rules that can never decide")
	cmd.Flags().BoolVar(&unused, "unused", false, "only rules that have not decided since the policy became live")
	return cmd
}

// writeRules writes a table, with the default where all are shown.
func writeRules(w io.Writer, r *api.Rules, all bool, now time.Time) {
	last := func(at time.Time) string {
		if at.IsZero() {
			return "never"
		}
		return when(at, now)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RULE\tPLACE\tPRIORITY\tACTION\tHITS\tLAST\tFINDINGS")
	for i := range r.Rules {
		x := &r.Rules[i]
		place := x.File
		if x.Line > 0 {
			place = fmt.Sprintf("%s:%d", x.File, x.Line)
		}
		var found []string
		if x.Disabled {
			found = append(found, "disabled")
		}
		if x.Dead {
			found = append(found, "dead")
		}
		for _, d := range x.Findings {
			found = append(found, d.Code)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t%s\t%s\n", x.Name, cmp.Or(place, "-"), x.Priority, x.Action, x.Decisions, last(x.Last), cmp.Or(strings.Join(found, " "), "-"))
	}
	if all {
		fmt.Fprintf(t, "default\t-\t-\t%s\t%d\t%s\t-\n", cmp.Or(r.Default.Action, "none"), r.Default.Decisions, last(r.Default.Last))
	}
	t.Flush()
	for i := range r.Rules {
		for _, d := range r.Rules[i].Findings {
			writeDiagnostic(w, "", d)
		}
	}
	if r.DeadUpTo > 0 {
		fmt.Fprintf(w, "which rules can never decide is looked at in policies of up to %d rules; this one has more\n", r.DeadUpTo)
	}
}
