package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/daemon"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/state"
)

const (
	// lookTime is how long a dry run lists the connections now alive: the
	// sources give what there is at once.
	lookTime = 700 * time.Millisecond
	// maxShown bounds the connections that a dry run prints.
	maxShown = 1000
)

// load reads the policy; one with errors is printed and ends the program.
func (s *settings) load(cmd *cobra.Command) (load.Result, error) {
	r, err := daemon.LoadPolicy(s.config, s.stateDir)
	if err == nil && r.Policy == nil {
		err = &daemon.PolicyError{Diagnostics: r.Diags, Sources: r.Sources}
	}
	if err != nil {
		return load.Result{}, failed(cmd, err)
	}
	return r, nil
}

// stateOf is the state to decide in: --state, else the flow's own, else NORMAL.
func (s *settings) stateOf(f *flow.Flow) (state.State, error) {
	name := s.state
	if name == "" && f != nil {
		name = f.State
	}
	if name == "" {
		return state.Normal, nil
	}
	st, ok := state.Parse(name)
	if !ok {
		return 0, fmt.Errorf("--state %q: want NORMAL, DEGRADED, FAILOVER or RECOVERY", name)
	}
	return st, nil
}

// decideFlow answers for one flow. It needs no rights and looks at nothing but the policy.
func (s *settings) decideFlow(cmd *cobra.Command) error {
	f, err := flow.ParseText(s.flow)
	if err != nil {
		return fmt.Errorf("--flow: %w", err)
	}
	st, err := s.stateOf(&f)
	if err != nil {
		return err
	}
	f.State = st.String()
	r, err := s.load(cmd)
	if err != nil {
		return err
	}
	p := r.Policy
	prog := engine.Compile(p)
	e := prog.Explain(&f, engine.OfflineWorldAt(p, st, time.Now(), time.Local))
	out := prog.ExplainText(&f, &e)
	if s.output == "json" {
		out = string(prog.AppendDecision(nil, f.ID, &e.Decision)) + "\n"
	}
	_, err = io.WriteString(cmd.OutOrStdout(), out)
	return err
}

// printPlan prints what would be done, and how the connections now alive would
// be decided. It only reads.
func (s *settings) printPlan(cmd *cobra.Command) error {
	st, err := s.stateOf(nil)
	if err != nil {
		return err
	}
	r, err := s.load(cmd)
	if err != nil {
		return err
	}
	p := r.Policy
	s.stateDir = firstOf(s.stateDir, p.Daemon.StateDir, defaultStateDir)
	host, previous, err := readHost(cmd.Context(), s.stateDir)
	if err != nil {
		return failed(cmd, err)
	}
	prog := engine.Compile(p)
	world := engine.OfflineWorldAt(p, st, time.Now(), time.Local)
	plan, hints := actions.PlanFor(prog, *host, world, previous)
	printDiagnostics(cmd.ErrOrStderr(), append(slices.Clone(r.Diags), hints...), r.Sources)
	if plan == nil {
		return cli.Errors
	}
	live, problems := connections(cmd.Context(), lookers())
	if s.output == "json" {
		return printPlanJSON(cmd.OutOrStdout(), prog, world, plan, live)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# the plan for %s (%s) in state %s; nothing was touched\n%s", p.File, plan.PolicyHash[:12], st, plan)
	fmt.Fprintf(&b, "\n# the connections now alive: %d\n", len(live))
	for _, problem := range problems {
		fmt.Fprintf(&b, "# not asked: %s\n", problem)
	}
	for _, f := range live[:min(len(live), maxShown)] {
		d := prog.Decide(&f, world)
		fmt.Fprintf(&b, "%s\n    %s (%s)\n", f, prog.ActionText(&d), decidedBy(p, prog, &d))
	}
	if more := len(live) - maxShown; more > 0 {
		fmt.Fprintf(&b, "... and %d more\n", more)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), b.String())
	return err
}

func decidedBy(p *rules.Policy, prog *engine.Program, d *engine.Decision) string {
	switch {
	case d.Rule >= 0:
		return "by " + p.Rules[d.Rule].Name + ": " + prog.Why(d)
	case d.Kind == rules.ActNone:
		return "no rule, no default: left to the kernel"
	default:
		return "by default"
	}
}

// printPlanJSON prints {"plan": text, "connections": [{decision..., "flow": {...}}]}.
func printPlanJSON(w io.Writer, prog *engine.Program, world *state.World, plan *actions.Plan, live []flow.Flow) error {
	type decided struct {
		Flow     json.RawMessage `json:"flow"`
		Decision json.RawMessage `json:"decision"`
	}
	out := struct {
		Plan        string    `json:"plan"`
		Connections []decided `json:"connections"`
	}{plan.String(), []decided{}}
	for _, f := range live {
		d := prog.Decide(&f, world)
		out.Connections = append(out.Connections, decided{f.AppendJSON(nil), prog.AppendDecision(nil, f.ID, &d)})
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

// connections lists the connections now alive, in order, with what the sources
// know of them, and why a source could not be asked.
func connections(ctx context.Context, list []inspector.Source) (live []flow.Flow, problems []string) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	type failure struct {
		name string
		err  error
	}
	events := make(chan inspector.Event, 1024)
	ended := make(chan failure, len(list))
	for _, src := range list {
		go func() {
			err := src.Run(ctx, func(e inspector.Event) {
				select {
				case events <- e:
				case <-ctx.Done():
				}
			})
			ended <- failure{src.Name(), err}
		}()
	}
	var table daemon.FlowTable
	for running := len(list); running > 0; {
		select {
		case e := <-events:
			table.Observe(&e)
		case f := <-ended:
			running--
			if f.err != nil {
				problems = append(problems, fmt.Sprintf("%s: %v", f.name, f.err))
			}
		}
	}
	for len(events) > 0 {
		e := <-events
		table.Observe(&e)
	}
	slices.Sort(problems)
	return table.Flows(), problems
}
