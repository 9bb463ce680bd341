package actions

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
)

// DefaultRelayPort is where on loopback the relay takes forwarded flows.
const DefaultRelayPort = 1041

// Relay is how the table hands flows to the relay: packets with Mark go to this
// host, and there to the sockets that listen on port Port of loopback.
type Relay struct {
	Mark   uint32 // under the plan's MarkMask
	CTMark uint32 // of taken flows, under CTMask
	Port   uint16
}

// Loopback returns where the relay listens, for both families.
func (r Relay) Loopback() [2]netip.AddrPort {
	return [2]netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), r.Port),
		netip.AddrPortFrom(netip.IPv6Loopback(), r.Port),
	}
}

// isSOCKS reports whether the relay can take a route that is a tunnel.
func isSOCKS(r *rules.Route) bool { return strings.HasPrefix(r.Other, "socks ") }

// RelaySees reports whether the relay can decide by a program: of its clients it
// does not see what some rules ask for.
func RelaySees(p *engine.Program) bool {
	return !slices.ContainsFunc([]rules.Field{rules.FieldIfaceIn, rules.FieldSrcMAC, rules.FieldDSCP, rules.FieldMark}, p.Reads)
}

// relay plans how flows come to the relay, before numbers are given out: the
// highest number of a route that is free, and of a way out, are its own.
func (b *builder) relay(iptables bool) {
	want := &b.policy.Daemon.Relay
	if !want.Takes() {
		return
	}
	if iptables {
		b.lacks(diag.Warning, diag.Span{}, "use daemon.backend: nftables", "daemon.tproxy: not with iptables: no forwarded flow goes through the relay")
		return
	}
	if !RelaySees(b.plan.prog) {
		b.lacks(diag.Warning, diag.Span{}, "match the sources by src_ip", "daemon.tproxy: not with rules on iface_in, src_mac, dscp or mark: the relay does not see those, and blocks by them would not hold")
		return
	}
	p := b.plan
	p.Relay = Relay{Mark: place(p.wayMost(), p.MarkMask), CTMark: place(p.lastRoute(), p.CTMask), Port: want.Port}
	if p.Relay.Port == 0 {
		p.Relay.Port = DefaultRelayPort
	}
	n := p.wayMost()
	for _, f := range []Family{IPv4, IPv6} {
		any := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if f == IPv6 {
			any = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		table := b.cfg.TableBase + n - 1
		p.IPRules = append(p.IPRules, IPRule{Family: f, Priority: max(1, b.cfg.RulePriority-1), Mark: p.Relay.Mark, Mask: p.MarkMask, Table: table})
		p.IPRoutes = append(p.IPRoutes, IPRoute{Family: f, Table: table, Dst: any, Dev: "lo", Local: true})
	}
}

// wayMost is the highest number of a mark that is not the bypass.
func (p *Plan) wayMost() uint32 { return p.Bypass()>>trailing(p.MarkMask) - 1 }

// relayed leads new forwarded flows to the relay: those that come from no uplink
// and are not for this host.
func (b *builder) relayed() []Rule {
	p := b.plan
	if p.Relay == (Relay{}) {
		return nil
	}
	fresh := []Match{{Key: KeyCTState, Nums: num(CTNew)}, {Key: KeyCTMark, Mask: p.CTMask, Nums: num(0)}}
	var from []Match
	var devs []string
	for i := range b.policy.Uplinks {
		if dev := b.policy.Uplinks[i].Dev; dev != "" {
			devs = append(devs, dev)
		}
	}
	if len(devs) > 0 {
		from = append(from, Match{Key: KeyIifname, Op: Not, Texts: devs})
	}
	from = append(from, Match{Key: KeyDstType, Op: Not, Texts: []string{"local", "broadcast", "multicast"}})
	var list []Rule
	for _, x := range []struct {
		proto uint32
		ports []rules.PortRange
	}{{6, b.policy.Daemon.Relay.TCP}, {17, b.policy.Daemon.Relay.UDP}} {
		if len(x.ports) == 0 {
			continue
		}
		ifs := slices.Concat(fresh, []Match{{Key: KeyL4Proto, Nums: num(x.proto)}, {Key: KeyDstPort, Nums: numbersOf(x.ports)}}, from)
		list = append(list, Rule{If: ifs, Do: []Stmt{
			{Kind: SetCTMark, Mask: p.CTMask, Value: p.Relay.CTMark}, {Kind: Goto, Target: "relay"},
		}})
	}
	return list
}

// relayChains hand packets to the relay's sockets. Where nobody listens, new flows
// are decided as all others are; those that the relay had are lost.
func (b *builder) relayChains() []Chain {
	p := b.plan
	if p.Relay == (Relay{}) {
		return nil
	}
	c := Chain{Name: "relay"}
	for i, to := range p.Relay.Loopback() {
		for _, proto := range []uint32{6, 17} {
			c.Rules = append(c.Rules, Rule{
				If: []Match{{Key: KeyNFProto, Nums: num(nfOf(families[i]))}, {Key: KeyL4Proto, Nums: num(proto)}},
				Do: []Stmt{
					{Kind: TProxy, V6: i == 1, Target: to.String()},
					{Kind: SetMark, Mask: p.MarkMask, Value: p.Relay.Mark},
					{Kind: Return},
				},
			})
		}
	}
	c.Rules = append(c.Rules,
		Rule{If: []Match{{Key: KeyCTState, Nums: num(CTNew)}}, Do: []Stmt{{Kind: Goto, Target: "first"}}},
		Rule{Do: []Stmt{{Kind: Drop}}})
	return []Chain{c}
}

// RouteMark returns the packet mark that leads over a concrete route, under
// MarkMask or, for routes that are a mark, their own; false for routes that are
// no way out.
func (p *Plan) RouteMark(policy *rules.Policy, route int) (uint32, bool) {
	r := &policy.Routes[route]
	switch r.Kind {
	case rules.RouteMain:
		return 0, true
	case rules.RouteMark:
		return r.Mark, true
	case rules.RouteOther: // that is the tunnel's own
		return 0, false
	default:
		n, ok := p.IDs.Marks[wayOut(policy, r)]
		return place(n, p.MarkMask), ok
	}
}

// tproxyText is the statement as nft spells it.
func (s *Stmt) tproxyText() string {
	family := "ip"
	if s.V6 {
		family = "ip6"
	}
	return fmt.Sprintf("tproxy %s to %s", family, s.Target)
}
