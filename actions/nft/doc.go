// Package nft puts tables and elements into nftables: whole tables as text
// through `nft -f -`, which is one transaction, and single elements over
// netlink, which takes a fraction of a millisecond. Needs Linux 5.10 (reject in
// prerouting) and nft 1.0.
package nft
