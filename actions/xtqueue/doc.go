// Package xtqueue puts the one thing into iptables-legacy that nftables can't do
// on kernels without nft_queue: a chain of our own in the mangle tables of both
// families, which hands marked first packets to NFQUEUE (actions.Consult).
//
// It is written with iptables-restore, all of one family in one transaction, and
// after the rules of others, because a packet that comes back accepted skips what
// stands behind. Rules of others are neither changed nor removed.
package xtqueue
