package relay

import (
	"fmt"
	"net/netip"
	"strings"
)

// needs is what TProxy inbounds need of the kernel besides their sockets, as these
// tests make it: packets with mark are given to the inbound and routed to this host.
// (The daemon's are built by actions, and tested in the lab.) There is no loop as
// long as mark is neither Config.Mark nor a Way's.
type needs struct {
	mark, mask uint32 // mark lies under mask
	table      uint32 // a routing table for this alone
	priority   int    // of the ip rules: before those that send other marks elsewhere
	ipv4, ipv6 netip.AddrPort
}

// ip returns the ip commands that bring it about, one a line.
func (n needs) ip() string {
	var b strings.Builder
	for _, family := range []string{"-4", "-6"} {
		fmt.Fprintf(&b, "ip %s rule add priority %d fwmark %#x/%#x lookup %d\n", family, n.priority, n.mark, n.mask, n.table)
		fmt.Fprintf(&b, "ip %s route add local default dev lo table %d\n", family, n.table)
	}
	return b.String()
}

// nft returns the rules of a chain of an inet table, hooked into prerouting after the
// marks are set and before routing. A connection that has been taken stays with its
// socket: the kernel looks for that first.
func (n needs) nft() string {
	rule := "meta nfproto %s meta l4proto { tcp, udp } meta mark & %#x == %#x tproxy %s to %s accept; "
	return fmt.Sprintf(rule, "ipv4", n.mask, n.mark, "ip", n.ipv4) + fmt.Sprintf(rule, "ipv6", n.mask, n.mark, "ip6", n.ipv6)
}
