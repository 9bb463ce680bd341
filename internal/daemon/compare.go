package daemon

import (
	"context"
	"errors"
	"fmt"

	unified "github.com/rogpeppe/go-internal/diff"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/rules"
)

// Compare tells what a policy would change in the kernel, and touches nothing.
func (d *Daemon) Compare(ctx context.Context, q api.PlanRequest) (api.PlanAnswer, error) {
	type reply struct {
		out api.PlanAnswer
		err error
	}
	done := make(chan reply, 1)
	ask := func(running context.Context) {
		if ctx.Err() == nil {
			out, err := d.compare(running, &q)
			done <- reply{out, err}
		}
	}
	// It is done where policies are made live: compiling builds on what decides.
	select {
	case d.asks <- ask:
	case <-ctx.Done():
		return api.PlanAnswer{}, fmt.Errorf("ask for a plan: %w", ctx.Err())
	}
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
		return api.PlanAnswer{}, fmt.Errorf("wait for the plan: %w", ctx.Err())
	}
}

func (d *Daemon) compare(ctx context.Context, q *api.PlanRequest) (api.PlanAnswer, error) {
	out := api.PlanAnswer{Diagnostics: []api.Diagnostic{}}
	c, err := d.candidate(ctx, &change{bundle: q.Policy, confined: d.confined(q.Confined), why: "compare", again: true, bare: true})
	if err != nil {
		out.Error = err.Error()
		var r *rejection
		if errors.As(err, &r) {
			out.Diagnostics = renamed(apiDiagnostics(r.diags, r.sources, false), d.opts.Config, q.Policy)
		}
		return out, nil
	}
	out.Diagnostics = renamed(append(apiDiagnostics(c.diags, c.sources, false), apiDiagnostics(c.hints, c.sources, false)...), d.opts.Config, q.Policy)
	var table FlowTable
	if err := d.call(ctx, func(l *loop) error { table = l.core.known(); return nil }); err != nil {
		return out, err
	}
	now := d.snap.Load()
	r := PlanReport{Program: c.prog, World: &c.world, State: now.machine.Host().State, Plan: c.plan, Live: table.Flows(), Xray: DescribeXray(d.opts.Config, c.policy, d.parts.Proxies)}
	if !d.opts.Observe {
		r.Previous = outline(now.plan)
	}
	if q.Policy != nil {
		r.File = q.Policy.Name
	}
	if out.Output, err = r.String(q.JSON); err != nil {
		return out, err
	}
	out.Hash, out.Rules, out.Tried = shortHash(c.policy.Hash), len(c.policy.Rules), c.tried
	if e, err := d.Present(ctx); err == nil && q.Policy != nil {
		diff := diffOf(&e.Policy, q.Policy, maxDiff)
		out.Diff = string(diff)
		out.Added, out.Removed = countChanges(diff)
		out.Kernel = string(atMost(maxDiff, unified.Diff("kernel (before)", []byte(again(now, c.host)), "kernel", []byte(c.text))))
	}
	return out, nil
}

// again is the plan of the policy in force as text, for the host and the world as they are
// now: what differs from it is the policy's doing.
func again(now *snapshot, h *actions.Host) string {
	w := now.machine.World(now.live.health)
	guess(&w, now.live.prog, &base{live: now.live})
	p, _ := actions.PlanFor(now.live.prog, *h, &w, now.plan)
	if p == nil {
		return ""
	}
	return p.String()
}

// confined is the policy in force, for changes of those who must not read files by naming them.
func (d *Daemon) confined(yes bool) *rules.Policy {
	if !yes {
		return nil
	}
	return d.snap.Load().live.policy
}

// outline is a plan as the ledger keeps it: what the table has is told by its shape.
func outline(p *actions.Plan) *actions.Plan {
	o := *p
	o.Table = actions.Table{Name: p.Table.Name, Shape: p.Table.Shape}
	if p.Table.XT != nil {
		o.Table.XT = &actions.Xtables{}
	}
	return &o
}
