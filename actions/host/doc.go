// Package host enforces plans on this Linux host: it ties the nftables and the
// ip rule/route appliers together, keeps the ledger of what was created, takes
// everything back when a step fails, and cleans up after itself, also after a
// crash.
//
//	e, err := host.New(host.Config{StateDir: dir})
//	h, err := e.ReadHost()
//	plan, diags := actions.PlanFor(prog, h, world, e.Previous())
//	err = e.Apply(ctx, plan)
//	err = e.Update(ctx, plan.WorldUpdates(old, new))
//
// It is the one edge that imports other edges (actions/nft, actions/iproute):
// order and take-back concern both.
package host
