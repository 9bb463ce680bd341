// Package actions plans what the host must look like for a policy to be
// enforced: one nftables table, ip rules and routes, as data. It also says
// which steps lead from one plan to the next, and which single elements change
// when the world (uplink states) or the DNS names of an address change.
//
//	plan, diags := actions.PlanFor(prog, host, world, nil)
//	fmt.Print(plan)                             // --dry-run
//	steps := actions.Diff(nil, plan)            // an Applier carries them out
//	updates, err := plan.WorldUpdates(old, new) // a failover: one element
//
// The lowering is exact: for a flow's first packet the table gives the verdict
// that engine.Decide gives (provisionally) for the same facts and world, which
// package fake and a real kernel are compared with on random policies.
//
// The package is pure: no I/O and no clock. Appliers are below it: nft,
// iproute, conntrack, host; fake is a kernel in memory.
package actions
