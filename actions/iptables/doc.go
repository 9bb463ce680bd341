// Package iptables writes plans with iptables-restore, ip6tables-restore and
// ipset, and single elements over netlink, for hosts without nftables. Both kinds of iptables will do: the one
// over the kernel's own tables (legacy), and the one that writes to nftables.
//
// One transaction a table and a family replaces all of our chains and leaves
// those of others as they are; sets are filled beside the old ones and swapped.
// Every chain and set of ours begins with actions.XPrefix, and each built-in
// chain in use has one jump to a chain of ours, at its beginning.
//
//	v, err := iptables.Detect(ctx)
//	a := iptables.New(v)
//	err = a.Replace(ctx, &plan.Table, made) // made: what the ledger lists
//	err = a.Update(ctx, plan.WorldUpdates(old, new))
//	err = a.Delete(ctx, made)
//
// Needs iptables 1.6, ipset 6.20, and a kernel with ip_set and the matches set,
// conntrack, connmark, connlabel, mark.
package iptables
