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

// ownMarks are the marks of routes that are the user's own, by which sockets of the
// relay and of the DNS forwarder leave. A local socket with one has chosen its way, as
// one with a mark of ours has, and is not decided again: it takes the same privilege.
// In order; nil where there is neither relay nor forwarder.
func ownMarks(p *rules.Policy, mask uint32) (list []uint32) {
	if !p.Daemon.Relay.Used() && len(p.Daemon.DNS.Listen) == 0 {
		return nil
	}
	for i := range p.Routes {
		if r := &p.Routes[i]; r.Kind == rules.RouteMark && r.Mark&mask == 0 {
			list = append(list, r.Mark)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// chosen lets sockets leave that chose their way by SO_MARK: our own, and the probes
// of each uplink.
func (b *builder) chosen() []Rule {
	ret := []Stmt{{Kind: Return}}
	list := []Rule{{If: []Match{{Key: KeyMark, Mask: b.plan.MarkMask, Op: Not, Nums: num(0)}}, Do: ret}}
	if marks := ownMarks(b.policy, b.plan.MarkMask); len(marks) > 0 {
		m := Match{Key: KeyMark}
		for _, n := range marks {
			m.Nums = append(m.Nums, Range{n, n})
		}
		list = append(list, Rule{If: []Match{m}, Do: ret})
	}
	return list
}

// isSOCKS reports whether the relay can take a route that is a tunnel.
func isSOCKS(r *rules.Route) bool { return strings.HasPrefix(r.Other, "socks ") }

// proxies are the addresses of the policy's SOCKS servers elsewhere, by family and in
// order. What such a server sends for us is what the relay has given it: the relay does
// not take it again, and a route through a server is direct for it.
func (b *builder) proxies() (list [2][]netip.Prefix) {
	own := ownPrefixes(b.host)
	for i := range b.policy.Routes {
		r := &b.policy.Routes[i]
		at, err := netip.ParseAddrPort(strings.TrimPrefix(r.Other, "socks "))
		if r.Kind != rules.RouteOther || !isSOCKS(r) || err != nil {
			continue
		}
		a := at.Addr().Unmap().WithZone("")
		p := netip.PrefixFrom(a, a.BitLen())
		// This host's own programs have its addresses, and are no server of ours.
		if a.IsLoopback() || a.IsUnspecified() || slices.Contains(own, p) {
			continue
		}
		fi := 0
		if a.Is6() {
			fi = 1
		}
		list[fi] = append(list[fi], p)
	}
	for fi := range list {
		slices.SortFunc(list[fi], comparePrefixes)
		list[fi] = slices.Compact(list[fi])
	}
	return list
}

// fromProxies is a rule for each family in which there are such servers.
func (b *builder) fromProxies(do ...Stmt) (list []Rule) {
	for fi, prefixes := range b.proxies() {
		if len(prefixes) > 0 {
			list = append(list, Rule{If: []Match{{Key: KeySrc, V6: fi == 1, Prefixes: prefixes}}, Do: do})
		}
	}
	return list
}

// tunnelMark is the packet mark of a tunnel's own packets.
func (p *Plan) tunnelMark(policy *rules.Policy, r *rules.Route) uint32 {
	return place(p.IDs.Marks[wayOut(policy, r)], p.MarkMask)
}

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
// and are not for this host, and not those of SOCKS servers.
func (b *builder) relayed() []Rule {
	if b.plan.Relay == (Relay{}) {
		return nil
	}
	if len(b.fromProxies()) > 0 {
		return []Rule{{If: b.fresh(), Do: []Stmt{{Kind: Jump, Target: "taken"}}}}
	}
	return b.takes()
}

// fresh is true of packets of flows that nobody has decided.
func (b *builder) fresh() []Match {
	return []Match{{Key: KeyCTState, Nums: num(CTNew)}, {Key: KeyCTMark, Mask: b.plan.CTMask, Nums: num(0)}}
}

func (b *builder) takes() []Rule {
	p, fresh := b.plan, b.fresh()
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
	if but := b.fromProxies(Stmt{Kind: Return}); len(but) > 0 {
		return []Chain{c, {Name: "taken", Rules: append(but, b.takes()...)}}
	}
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
