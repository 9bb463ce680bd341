package actions

import (
	"fmt"
	"net/netip"
	"slices"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Destinations and sources that are never decided: what belongs to the link
// itself (RFC 1112, 3927, 4291, 6890).
var (
	exempt4 = []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	}
	exempt6       = []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8")}
	exemptSource4 = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/32"), netip.MustParsePrefix("169.254.0.0/16")}
	exemptSource6 = []netip.Prefix{netip.MustParsePrefix("::/128"), netip.MustParsePrefix("fe80::/10")}
)

// table puts the gathered rules together.
func (b *builder) table(w *state.World) {
	p := b.plan
	p.Table.Name = TableName
	p.Table.Chains = b.chains()
	p.Table.Chains = append(p.Table.Chains, b.extra...)
	if len(b.mods) > 0 {
		p.Table.Chains = append(p.Table.Chains, b.modStage()...)
	}
	for _, c := range p.Table.Chains {
		p.chains[c.Name] = true
	}
	p.prepare()
	p.Table.Chains = append(p.Table.Chains, p.layout.forest.out...)
	for _, c := range p.layout.forest.out {
		p.chains[c.Name] = true
	}
	p.prune()
	p.Table.lasts = len(p.Table.Chains)
	p.Table.Sets = b.sets(w)
	p.Table.Shape = (&Table{Sets: p.Table.Sets, Chains: p.Table.Chains[:p.Table.lasts]}).lasting(p.PolicyHash)
}

// prune drops the lists and guards that nothing asks for in the end.
func (p *Plan) prune() {
	used := map[string]bool{}
	use := func(list []Match) {
		for i := range list {
			used[list[i].Set] = true
		}
	}
	for i := range p.Table.Chains {
		for j := range p.Table.Chains[i].Rules {
			use(p.Table.Chains[i].Rules[j].If)
		}
	}
	if len(p.names.terms) > 0 { // chains to come
		for _, a := range p.names.alts {
			for _, e := range a.entries {
				if e != nil && a.pivot == byDst {
					use(e.conds)
				}
			}
		}
	}
	if p.names.named {
		for i := range p.names.mods {
			for j := range p.names.mods[i].terms {
				use(p.conditions(&p.names.mods[i].terms[j]))
			}
		}
	}
	p.lists = slices.DeleteFunc(p.lists, func(s Set) bool { return !used[s.Name] })
	p.guards = slices.DeleteFunc(p.guards, func(g guard) bool { return !used[g.set] })
}

// modStage is the general chain for modifiers: an address whose names some of
// these rules ask for goes to a chain of its own.
func (b *builder) modStage() []Chain {
	var general []modRule
	for _, m := range b.mods {
		var terms []term
		for _, t := range m.terms {
			if len(t.names) == 0 {
				terms = append(terms, t)
			}
		}
		m.terms = terms
		general = append(general, m)
	}
	list := b.plan.modChains("mods", general)
	if b.plan.names.named {
		main := &list[len(list)-1]
		main.Rules = append([]Rule{
			{Do: []Stmt{{Kind: Lookup, Key: KeyDst, Target: "mhost4"}}},
			{Do: []Stmt{{Kind: Lookup, Key: KeyDst, V6: true, Target: "mhost6"}}},
		}, main.Rules...)
	}
	return list
}

func num(n uint32) []Range { return []Range{{n, n}} }

// chains returns the skeleton: hooks, established flows, exemptions, deciding,
// and one pair of chains a route.
func (b *builder) chains() []Chain {
	p := b.plan
	list := b.hooks()
	if devs := b.masqueraded(); len(devs) > 0 {
		list = append(list, Chain{Name: "post", Hook: "type nat hook postrouting priority srcnat; policy accept;", Rules: []Rule{
			{If: []Match{{Key: KeyOifname, Texts: devs}}, Do: []Stmt{{Kind: Masquerade}}},
		}})
	}
	list = append(list, b.askChains()...)
	list = append(list, b.relayChains()...)
	list = append(list, b.helloChains()...)
	list = append(list, p.newChain(), b.decideChain())
	if b.hasLabels() {
		list = append(list, p.applyChain())
	}
	list = append(list, Chain{Name: "refuse", Rules: []Rule{
		{Do: []Stmt{{Kind: SetRank}}},
		{If: []Match{{Key: KeyL4Proto, Nums: num(6)}}, Do: []Stmt{{Kind: RejectTCP}}},
		{Do: []Stmt{{Kind: RejectAny}}},
	}})
	for _, i := range leaves(b.policy) {
		list = append(list, b.routeChains(i)...)
	}
	return append(list, b.throttleChains()...)
}

func (b *builder) hasLabels() bool { return len(b.plan.labels.dscp)+len(b.plan.labels.mark) > 0 }

// hooks returns where packets come in: those of decided flows first, since they
// are many, and each rule costs. Replies go their own way.
func (b *builder) hooks() []Chain {
	p := b.plan
	blocked := []Range{{place(idReject, p.CTMask), place(idReject, p.CTMask)}, {place(p.top(), p.CTMask), place(p.top(), p.CTMask)}}
	ret := []Stmt{{Kind: Return}}
	reply := []Match{{Key: KeyCTDir, Nums: num(CTReply)}}
	lo := func(k Key) Rule { return Rule{If: []Match{{Key: k, Texts: []string{"lo"}}}, Do: ret} }
	var decided []Rule
	if b.hasLabels() {
		decided = append(decided, Rule{If: []Match{{Key: KeyCTDir, Nums: num(CTOriginal)}}, Do: []Stmt{{Kind: Jump, Target: "apply"}}})
	}
	decided = append(decided, Rule{Do: []Stmt{{Kind: Lookup, Key: KeyCTMark, Mask: p.CTMask, Target: "mk"}}})
	first := p.undecided()
	pre := Chain{Name: "pre", Hook: p.hook("filter", "prerouting")}
	pre.Rules = append(pre.Rules, Rule{If: reply, Do: []Stmt{{Kind: Goto, Target: "replies"}}})
	pre.Rules = append(pre.Rules, decided...)
	pre.Rules = append(pre.Rules, lo(KeyIifname), Rule{If: []Match{{Key: KeyMark, Mask: p.MarkMask, Nums: num(p.MarkMask)}}, Do: ret})
	if p.Relay != (Relay{}) {
		// Not by the map: the kernel has no tproxy for what is reached from output.
		pre.Rules = append(pre.Rules, Rule{If: []Match{{Key: KeyCTMark, Mask: p.CTMask, Nums: num(p.Relay.CTMark)}}, Do: []Stmt{{Kind: Goto, Target: "relay"}}})
	}
	if p.Consult.Via == NoQueue { // else they come before the question
		pre.Rules = append(pre.Rules, b.relayed()...)
	}
	pre.Rules = append(pre.Rules, first)
	out := Chain{Name: "out", Hook: p.hook("route", "output")}
	out.Rules = append(append(append(out.Rules, lo(KeyOifname)), b.chosen()...), Rule{If: reply, Do: ret})
	out.Rules = append(out.Rules, decided...)
	out.Rules = append(out.Rules, first)
	return []Chain{pre, out, {Name: "replies", Rules: []Rule{
		lo(KeyIifname), // the refusals of the host's own flows
		{If: []Match{{Key: KeyCTMark, Mask: p.CTMask, Nums: blocked}}, Do: []Stmt{{Kind: Drop}}},
	}}}
}

// newChain leaves alone what belongs to the link: neighbours, multicast,
// broadcast, DHCP. (Neighbour discovery is not tracked, so never new.)
func (p *Plan) newChain() Chain {
	ret := []Stmt{{Kind: Return}}
	udp := Match{Key: KeyL4Proto, Nums: num(17)}
	c := Chain{Name: "first", Rules: []Rule{
		{If: []Match{{Key: KeyDst, Prefixes: exempt4}}, Do: ret},
		{If: []Match{{Key: KeyDst, V6: true, Prefixes: exempt6}}, Do: ret},
		{If: []Match{{Key: KeySrc, Prefixes: exemptSource4}}, Do: ret},
		{If: []Match{{Key: KeySrc, V6: true, Prefixes: exemptSource6}}, Do: ret},
		{If: []Match{{Key: KeyDstType, Texts: []string{"broadcast"}}}, Do: ret},
	}}
	for _, pair := range [][]Range{{{67, 68}}, {{546, 547}}} {
		c.Rules = append(c.Rules, Rule{If: []Match{udp, {Key: KeySrcPort, Nums: pair}, {Key: KeyDstPort, Nums: pair}}, Do: ret})
	}
	c.Rules = append(c.Rules, p.exempted()...)
	return c
}

// decideChain finds the winner and carries it out.
func (b *builder) decideChain() Chain {
	c := Chain{Name: "decide"}
	add := func(r Rule) { c.Rules = append(c.Rules, r) }
	dead := []Match{{Key: KeyNFProto, Op: Not, Set: "alive"}}
	switch b.cfg.OnCrash {
	case rules.Open:
		add(Rule{If: dead, Do: []Stmt{{Kind: Return}}})
	case rules.Closed:
		add(Rule{If: dead, Do: []Stmt{{Kind: Drop}}})
	}
	add(Rule{Do: []Stmt{{Kind: SetRank, Value: b.start}}})
	l := b.plan.layout
	for fi := range families {
		if len(l.dst[fi].Elems) > 0 {
			add(Rule{Do: []Stmt{{Kind: MapRank, Key: KeyDst, V6: fi == 1, Target: l.dst[fi].Name}}})
		}
		if b.plan.hosts() {
			add(Rule{Do: []Stmt{{Kind: MapRank, Key: KeyDst, V6: fi == 1, Target: rankMaps[fi]}}})
		}
	}
	if len(l.classes) > 0 {
		add(Rule{Do: []Stmt{{Kind: Lookup, Key: KeyRank, Target: classMap}}})
	}
	for fi := range families {
		if b.plan.hosts() {
			add(Rule{Do: []Stmt{{Kind: Lookup, Key: KeyDst, V6: fi == 1, Target: chainMaps[fi]}}})
		}
	}
	for fi := range families {
		if len(l.src[fi].Elems) > 0 {
			add(Rule{Do: []Stmt{{Kind: Lookup, Key: KeySrc, V6: fi == 1, Target: l.src[fi].Name}}})
		}
	}
	for fi, f := range families {
		switch {
		case l.rest[fi] == "":
		case l.rest[0] == l.rest[1] && fi == 0:
			add(Rule{Do: []Stmt{{Kind: Jump, Target: l.rest[fi]}}})
		case l.rest[0] != l.rest[1]:
			add(Rule{If: []Match{{Key: KeyNFProto, Nums: num(nfOf(f))}}, Do: []Stmt{{Kind: Jump, Target: l.rest[fi]}}})
		}
	}
	if len(b.mods) > 0 {
		add(Rule{Do: []Stmt{{Kind: Jump, Target: "mods"}}})
	}
	if len(b.winners) > 0 {
		add(Rule{Do: []Stmt{{Kind: Lookup, Key: KeyRank, Target: "win"}}})
	}
	if b.hasLabels() {
		add(Rule{Do: []Stmt{{Kind: Jump, Target: "apply"}}})
	}
	add(Rule{Do: []Stmt{{Kind: MapRank, Key: KeyRank, Mask: actionMask, Target: fwMap}}})
	add(Rule{Do: []Stmt{{Kind: Lookup, Key: KeyRank, Target: wayMap}}})
	add(Rule{Do: []Stmt{{Kind: SetRank}}})
	return c
}

// routeChains returns d_N, which pins a new flow to the route, and r_N, which
// every packet of such a flow goes through.
func (b *builder) routeChains(route int) []Chain {
	p, r := b.plan, &b.policy.Routes[route]
	id := p.routeID(route)
	every := Chain{Name: fmt.Sprintf("r_%d", id)}
	pin := Chain{Name: fmt.Sprintf("d_%d", id), Rules: []Rule{
		{Do: []Stmt{{Kind: SetRank}}},
		{Do: []Stmt{{Kind: SetCTMark, Mask: p.CTMask, Value: place(id, p.CTMask)}}},
		{Do: []Stmt{{Kind: Goto, Target: every.Name}}},
	}}
	set := func(mask, value uint32) {
		every.Rules = append(every.Rules, Rule{Do: []Stmt{{Kind: SetMark, Mask: mask, Value: value}}})
	}
	switch r.Kind {
	case rules.RouteMain:
		set(p.MarkMask, 0)
	case rules.RouteBlackhole:
		every.Rules = append(every.Rules, Rule{Do: []Stmt{{Kind: Drop}}})
	case rules.RouteMark:
		set(p.MarkMask|r.Mark, r.Mark)
	case rules.RouteOther:
		// What can't be tunnelled must not leave in the clear.
		every.Rules = append(b.fromProxies(Stmt{Kind: SetMark, Mask: p.MarkMask, Value: p.tunnelMark(b.policy, r)}, Stmt{Kind: Return}), Rule{Do: []Stmt{{Kind: Goto, Target: "refuse"}}})
	default:
		set(p.MarkMask, place(p.IDs.Marks[wayOut(b.policy, r)], p.MarkMask))
	}
	b.checkRoute(r)
	return []Chain{pin, every}
}

// checkRoute reports what can't be done for a route's packets.
func (b *builder) checkRoute(r *rules.Route) {
	switch {
	case r.Kind == rules.RouteMark && r.Mark&b.plan.MarkMask != 0:
		b.lacks(diag.Warning, r.Span, "use other bits, or change daemon.mark_mask",
			"route %s: mark %#x uses bits of netpolicy's own mark_mask %#x", r.Name, r.Mark, b.plan.MarkMask)
	case r.Kind == rules.RouteOther && isSOCKS(r) && b.policy.Daemon.Relay.Used():
		b.lacks(diag.Hint, r.Span, "", "route %s via %s: flows that do not go through the relay are rejected, so that nothing leaves in the clear", r.Name, r.Other)
		if len(b.policy.Daemon.Relay.Listen) > 0 && len(b.policy.Daemon.DNS.Upstreams) == 0 && b.plan.prog.Reads(rules.FieldDstIP) {
			b.lacks(diag.Hint, r.Span, "give daemon.dns_listen and dns_upstreams", "route %s: where a rule on dst_ip comes first, names that clients ask the relay for are looked up "+
				"through the SOCKS server at this host's resolvers, and refused where those are in private networks", r.Name)
		}
	case r.Kind == rules.RouteOther && !b.policy.Daemon.Relay.Used():
		b.lacks(diag.Warning, r.Span, "give the daemon `relay` or `tproxy`",
			"route %s via %s is carried out by the relay alone, and there is none: its flows are rejected, so that nothing leaves in the clear", r.Name, r.Other)
	}
}

// sets returns the sets and maps with their elements in the world w.
func (b *builder) sets(w *state.World) []Set {
	p := b.plan
	mk := Set{Name: "mk", Type: "type mark", Map: true, Elems: []Elem{
		{Key: fmt.Sprintf("%#x", place(idReject, p.CTMask)), Value: "goto refuse"},
		{Key: fmt.Sprintf("%#x", place(p.top(), p.CTMask)), Value: "drop"},
	}}
	for _, i := range leaves(b.policy) {
		id := p.routeID(i)
		mk.Elems = append(mk.Elems, Elem{Key: fmt.Sprintf("%#x", place(id, p.CTMask)), Value: fmt.Sprintf("goto r_%d", id)})
	}
	fw := Set{Name: fwMap, Type: "type classid", Map: true, Ranks: true}
	for i := range p.actions {
		a := &p.actions[i]
		n, chain := p.way(a, w)
		if chain != nil && !p.chains[chain.Name] {
			p.chains[chain.Name] = true
			p.Table.Chains = append(p.Table.Chains, *chain)
		}
		fw.Elems = append(fw.Elems, fwElem(a.id, n))
	}
	ported := Set{Name: portSet, Type: "type inet_proto"}
	for _, r := range portProtos {
		ported.Elems = append(ported.Elems, Elem{Key: fmt.Sprint(r.Lo)})
	}
	list := append([]Set{mk, fw, p.ways(leaves(b.policy)), ported}, p.lists...)
	list = append(list, b.throttleSets()...)
	list = append(list, p.answers()...)
	if b.cfg.OnCrash != rules.Last {
		alive := Set{Name: "alive", Type: "type nf_proto", Timeout: true}
		for _, k := range guardKeys {
			alive.Elems = append(alive.Elems, Elem{Key: k, Timeout: AliveTTL})
		}
		list = append(list, alive)
	}
	for i := range p.guards {
		list = append(list, Set{Name: p.guards[i].set, Type: "type nf_proto", Elems: p.guards[i].elems(w)})
	}
	for fi, typ := range []string{"type ipv4_addr", "type ipv6_addr"} {
		if p.hosts() {
			list = append(list, Set{Name: rankMaps[fi], Type: typ, Map: true, Ranks: true, Timeout: true},
				Set{Name: chainMaps[fi], Type: typ, Map: true, Timeout: true})
		}
		if p.names.named {
			list = append(list, Set{Name: modMaps[fi], Type: typ, Map: true, Timeout: true})
		}
		for _, s := range []Set{p.layout.dst[fi], p.layout.src[fi]} {
			if len(s.Elems) > 0 {
				list = append(list, s)
			}
		}
	}
	if l := p.layout; len(l.classes) > 0 {
		classes := Set{Name: classMap, Type: "typeof meta priority", Map: true}
		for _, c := range l.classes {
			classes.Elems = append(classes.Elems, Elem{Key: fmt.Sprintf("%#x", l.number[c]), Value: "jump " + c})
		}
		list = append(list, classes)
	}
	list = append(list, p.layout.forest.maps...)
	if len(b.winners) > 0 {
		list = append(list, Set{Name: "win", Type: "typeof meta priority", Map: true, Elems: b.winners})
	}
	return list
}

func (b *builder) masqueraded() []string {
	var devs []string
	for _, u := range b.cfg.Masquerade {
		if dev := b.policy.Uplinks[u].Dev; dev != "" {
			devs = append(devs, dev)
		}
	}
	return devs
}
