// Package nft puts tables and elements into nftables over netlink: a whole
// table, or any number of elements and chains, in one transaction that the
// kernel carries out or refuses as a whole. The `nft` command is not needed.
// What the kernel then holds is, instruction by instruction, what `nft -f` makes
// of the table's text, which a test compares.
//
//	a, err := nft.Open(nft.Options{})
//	err = a.Replace(ctx, &plan.Table)
//	err = a.Update(ctx, plan.WorldUpdates(old, new))
//	err = a.Watch(ctx, func(what string) { ... }) // others changed it
//
// Needs Linux 5.10 (reject in prerouting).
package nft
