package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/daemon"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/state"
)

// lookTime is how long a dry run lists the connections now alive: the
// sources give what there is at once.
const lookTime = 700 * time.Millisecond

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
	s.stateDir = firstOf(s.stateDir, p.Daemon.StateDir, api.DefaultStateDir)
	host, previous, err := readHost(cmd.Context(), s.stateDir)
	if err != nil {
		return failed(cmd, err)
	}
	prog := engine.Compile(p)
	world := engine.OfflineWorldAt(p, st, time.Now(), time.Local)
	plan, hints := actions.PlanFor(prog, *host, world, previous)
	proxies := daemon.Subscriptions(s.stateDir)
	printDiagnostics(cmd.ErrOrStderr(), slices.Concat(r.Diags, hints, daemon.CheckXray(s.config, p, proxies)), r.Sources)
	if plan == nil {
		return cli.Errors
	}
	live, problems := connections(cmd.Context(), lookers())
	report := daemon.PlanReport{
		Program: prog, World: world, State: st, Plan: plan, Previous: previous, Live: live, Problems: problems,
		Xray: daemon.DescribeXray(s.config, p, proxies),
	}
	text, err := report.String(s.output == "json")
	if err != nil {
		return failed(cmd, err)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), text)
	return err
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
