package relay

import (
	"fmt"
	"net/netip"
	"strings"
)

// Needs is what TProxy inbounds need of the kernel besides their sockets: packets
// with Mark are given to the inbound and routed to this host. Who sets the mark
// decides what goes through the relay: on packets that come in, and, for local
// programs, on those that go out (a chain of type route), which then come in on lo.
//
// There is no loop as long as Mark is neither Config.Mark nor a Way's: what the
// relay sends has one of those. The sockets of TProxy clients and the datagrams
// that answer in the name of their destinations have Config.Mark.
type Needs struct {
	Mark, Mask uint32 // Mark lies under Mask
	Table      uint32 // a routing table for this alone
	Priority   int    // of the ip rules: before those that send other marks elsewhere
	// IPv4 and IPv6 are where the inbounds listen; the zero AddrPort leaves a family
	// out. Loopback addresses keep everyone from connecting to them directly.
	IPv4, IPv6 netip.AddrPort
}

// families calls f for each family that has an inbound.
func (n Needs) families(f func(family, nfproto string, to netip.AddrPort)) {
	if n.IPv4.IsValid() {
		f("-4", "ip", n.IPv4)
	}
	if n.IPv6.IsValid() {
		f("-6", "ip6", n.IPv6)
	}
}

// IP returns the arguments of the ip commands that bring it about, one command a line.
func (n Needs) IP() string {
	var b strings.Builder
	n.families(func(family, _ string, _ netip.AddrPort) {
		fmt.Fprintf(&b, "ip %s rule add priority %d fwmark %#x/%#x lookup %d\n", family, n.Priority, n.Mark, n.Mask, n.Table)
		fmt.Fprintf(&b, "ip %s route add local default dev lo table %d\n", family, n.Table)
	})
	return b.String()
}

// NFT returns the rules of a chain of an inet table, to be hooked into prerouting
// after the marks are set and before routing: `type filter hook prerouting
// priority mangle + 1`. tproxy ends the way through the chain, so that it must be
// the last of what is done there. A connection that has been taken stays with its
// socket: the kernel looks for that first.
func (n Needs) NFT() string {
	var b strings.Builder
	n.families(func(_, nfproto string, to netip.AddrPort) {
		fmt.Fprintf(&b, "meta nfproto %s meta l4proto { tcp, udp } meta mark & %#x == %#x tproxy %s to %s accept\n",
			map[string]string{"ip": "ipv4", "ip6": "ipv6"}[nfproto], n.Mask, n.Mark, nfproto, to)
	})
	return b.String()
}

// IPTables returns the same for a chain of the mangle table that PREROUTING jumps
// to, as iptables-restore and ip6tables-restore read rules.
func (n Needs) IPTables(chain string) (ipv4, ipv6 string) {
	n.families(func(family, _ string, to netip.AddrPort) {
		var b strings.Builder
		for _, proto := range []string{"tcp", "udp"} {
			fmt.Fprintf(&b, "-A %s -p %s -m mark --mark %#x/%#x -j TPROXY --on-ip %s --on-port %d --tproxy-mark %#x/%#x\n",
				chain, proto, n.Mark, n.Mask, to.Addr(), to.Port(), n.Mark, n.Mask)
		}
		if family == "-4" {
			ipv4 = b.String()
		} else {
			ipv6 = b.String()
		}
	})
	return ipv4, ipv6
}
