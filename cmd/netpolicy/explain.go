package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

func newExplainCmd() *cobra.Command {
	var config, text, in, output string
	cmd := &cobra.Command{
		Use:   "explain --config FILE --flow FLOW",
		Short: "Tell what a policy does with one connection, and why",
		Long: `Explain decides one connection and tells which rule won, why it goes before the
next one that matches, what could still change the answer, and why the rules
that came nearest did not match.

A flow is written "proto src > dst key=value ...": what is left out is not known
yet, "?" stands for an end that is not known, null for a fact that is known to be
absent. Every link counts as up and NORMAL; --state puts the primary uplink, and
with it the policy's state, into another one.`,
		Example: `  netpolicy explain --config policy.yaml --flow 'tcp 10.0.0.5:5000 > 1.2.3.4:443 sni=us01.zoom.us'
  netpolicy explain --config policy.yaml --flow 'udp ? > [2001:db8::1]:443 dns=a.example' --state FAILOVER -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			s, ok := state.Parse(in)
			if !ok {
				return fmt.Errorf("--state %s: the states are NORMAL, DEGRADED, FAILOVER and RECOVERY", in)
			}
			f, err := flow.ParseText(text)
			if err != nil {
				return flowError(text, err)
			}
			if own, ok := state.Parse(f.State); ok {
				s = own
			}
			policy, err := loadPolicy(config, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return explain(cmd.OutOrStdout(), policy, &f, s, output)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", `policy file, "-" for standard input`)
	cmd.Flags().StringVar(&text, "flow", "", "the connection")
	cmd.Flags().StringVar(&in, "state", "NORMAL", "state to decide in")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	require(cmd, "config", "flow")
	return cmd
}

func explain(w io.Writer, p *rules.Policy, f *flow.Flow, s state.State, output string) error {
	prog := engine.Compile(p)
	e := prog.Explain(f, engine.OfflineWorldAt(p, s, time.Now(), time.Local))
	out := prog.ExplainText(f, &e)
	if output == "json" {
		out = string(prog.AppendExplanation(nil, f.ID, &e)) + "\n"
	}
	if _, err := io.WriteString(w, out); err != nil {
		return fmt.Errorf("write the explanation: %w", err)
	}
	return nil
}

// flowError points at the place in a flow that can't be read.
func flowError(text string, err error) error {
	var e *flow.Error
	if !errors.As(err, &e) || strings.ContainsAny(text, "\n\t") || e.Pos > len(text) {
		return fmt.Errorf("--flow: %w", err)
	}
	return fmt.Errorf("--flow: %s\n  %s\n  %s^", e.Message, text, strings.Repeat(" ", utf8.RuneCountInString(text[:e.Pos])))
}

// loadPolicy reads a policy that must not have errors. It shows them on w and
// returns cli.Errors when it has; warnings are for lint to show.
func loadPolicy(name string, stdin io.Reader, w io.Writer) (*rules.Policy, error) {
	r, err := policyfile.Load(name, stdin, nil)
	if err != nil || r.Policy != nil {
		return r.Policy, err
	}
	if err := diag.Text(w, r.Diags, r.Sources...); err != nil {
		return nil, err
	}
	return nil, cli.Errors
}

// require marks flags as required. The flags exist, so it can't fail.
func require(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
}
