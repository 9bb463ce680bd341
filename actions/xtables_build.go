package actions

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

const (
	// maxXSets bounds the ipsets of a plan: the kernel numbers them with 16 bits,
	// and a plan stands beside the one that it replaces.
	maxXSets = 30000
	// maxXNames bounds the addresses in one set of names; it is ipset's default.
	maxXNames = 65536
	// xLogPrefixSize is what the NFLOG target carries of a prefix (struct
	// xt_nflog_info of linux/netfilter/xt_NFLOG.h: 64 with its NUL).
	xLogPrefixSize = 63
)

var errXKey = errors.New("iptables can't look at it")

// xtables gathers a policy as iptables data.
type xtables struct {
	b     *builder
	t     *Table
	names *xnames
	have  map[string]bool // sets and chains that are there
	items map[Family][]xitem
	// local is set where forwarded flows and the host's own need walks of their
	// own, ports where the rare protocols do.
	local, ports bool
}

// both adds a chain of the mangle table to both families.
func (x *xtables) both(name string, lines ...string) {
	for _, f := range []Family{IPv4, IPv6} {
		x.chain(f, "mangle", name, nil, lines)
	}
}

func (x *xtables) chain(f Family, table, name string, hooks, lines []string) {
	x.t.XT.Chains = append(x.t.XT.Chains, XChain{Family: f, Table: table, Name: XPrefix + name, Hooks: hooks, Rules: lines})
}

// xtables plans the table for iptables: a walk over the rules in their order, so
// that the first one that holds wins, and chains for what becomes of the flow.
func (b *builder) xtables(w *state.World) {
	p := b.plan
	p.Table = Table{Name: TableName, XT: &Xtables{}}
	x := &xtables{b: b, t: &p.Table, names: newXnames(), have: map[string]bool{}, items: map[Family][]xitem{}}
	p.xnames = x.names
	x.names.table = x.t
	x.collect()
	x.hooks()
	x.traffic()
	x.walks()
	for _, i := range leaves(b.policy) {
		x.route(i)
	}
	x.worldSets(w)
	x.warn()
	if n := len(p.Table.XT.Sets); n > maxXSets {
		b.lacks(diag.Error, diag.Span{}, "put lists into sets, or use backend nftables", "%d ipsets are more than %d", n, maxXSets)
		return
	}
	p.Table.seal(p.PolicyHash)
	x.names.tag = p.Table.Shape[:xTagSize]
}

// iptables reports whether the plan is for iptables, and what is missing.
func (b *builder) iptables() bool {
	missing := func(what string) {
		b.lacks(diag.Error, diag.Span{}, "see docs/operations.md, Backends", "daemon.backend %s: %s on this host", b.cfg.Backend, what)
	}
	switch {
	case b.cfg.Backend == rules.NFTables && b.host.NoNFTables:
		missing("nftables is not")
	case b.cfg.Backend == rules.IPTables && !b.host.XTables:
		missing("iptables-restore, ip6tables-restore or ipset is not")
	case b.cfg.Backend == rules.AutoBackend && b.host.NoNFTables && !b.host.XTables:
		missing("neither nftables nor iptables-restore with ip6tables-restore and ipset are")
	}
	return b.cfg.Backend == rules.IPTables || b.cfg.Backend == rules.AutoBackend && b.host.NoNFTables
}

// warn says what the policy asks for and iptables does not have.
func (x *xtables) warn() {
	b := x.b
	for i := range b.policy.Groups {
		g := &b.policy.Groups[i]
		if g.Strategy == rules.Weighted || g.Strategy == rules.HashOf {
			b.lacks(diag.Warning, g.Span, "use backend nftables", "group %s: iptables can't share flows out by their hash: all new flows take the member with the greatest share", g.Name)
		}
	}
	if slices.ContainsFunc(b.plan.actions, func(a action) bool { return a.moves(b.policy) }) {
		b.lacks(diag.Hint, diag.Span{}, "use backend nftables", "iptables can't share flows out by their hash: an uplink in RECOVERY gets all its new flows back at once")
	}
}

// collect lowers the rules, in order, to the items of both families.
func (x *xtables) collect() {
	b := x.b
	for pos, i := range b.plan.prog.Order() {
		r := &b.policy.Rules[i]
		terms, left, err := lowerRule(r, b.host, b.cfg.MarkMask)
		if err != nil {
			b.lacks(diag.Warning, r.NameSpan, "split it into several rules", "rule %s: %v: it is enforced only by the daemon, later", r.Name, err)
			continue
		}
		for _, f := range left {
			b.lacks(diag.Hint, r.NameSpan, "", "rule %s: the kernel does not know %s when a connection begins: until the daemon does, the rule counts as not matching", r.Name, f)
		}
		primary := r.Do.Kind != rules.ActNone
		if len(terms) == 0 || !primary && !anyMods(&r.Do.Mods) {
			continue
		}
		x.look(terms)
		id := fmt.Sprint(pos + 1)
		if primary {
			x.add(r, terms, x.target(&r.Do, r.Name, id))
			continue
		}
		x.both("m_"+id, x.modifiers(&r.Do.Mods, r.Name)...)
		x.addAll(r, terms, "m_"+id)
	}
}

// look notes which walks the terms need.
func (x *xtables) look(terms []term) {
	for i := range terms {
		for j := range terms[i].matches {
			switch terms[i].matches[j].Key {
			case KeyUID, KeyIif:
				x.local = true
			case KeySrcPort, KeyDstPort:
				x.ports = true
			case KeyL4Proto:
				x.ports = x.ports || terms[i].matches[j].Set == portSet
			}
		}
	}
}

// add appends the rule's alternatives, putting one that leads to the same as the
// one before together with it where their conditions allow: between them stands
// no rule that could be the first to hold.
func (x *xtables) add(r *rules.Rule, terms []term, target string) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, t := range terms {
			if !t.in(f) {
				continue
			}
			list := x.items[f]
			if n := len(list); n > 0 && list[n-1].target == target {
				if both, ok := merge(&list[n-1].terms[0], &t); ok {
					list[n-1].terms = []term{both}
					continue
				}
			}
			x.items[f] = append(list, xitem{rule: r, terms: []term{t}, target: target})
		}
	}
}

// addAll appends a rule that goes on after its chain: it must not do so twice.
func (x *xtables) addAll(r *rules.Rule, terms []term, chain string) {
	for _, f := range []Family{IPv4, IPv6} {
		var own []term
		for _, t := range terms {
			if t.in(f) {
				own = append(own, t)
			}
		}
		if len(own) > 0 {
			x.items[f] = append(x.items[f], xitem{rule: r, terms: own, goesOn: chain})
		}
	}
}

// target returns where a flow goes for which the outcome is the decision.
func (x *xtables) target(o *rules.Outcome, name, id string) string {
	to := x.action(o)
	if !anyMods(&o.Mods) {
		return to
	}
	x.both("w_"+id, append(x.modifiers(&o.Mods, name), to)...)
	return "-g " + XPrefix + "w_" + id
}

// modifiers returns the lines that log, and that note what later packets get. Of
// dscp and mark the first that is set stays.
func (x *xtables) modifiers(m *rules.Modifiers, name string) []string {
	var lines []string
	if !m.Log.Unknown() {
		prefix := LogPrefix(name)
		lines = append(lines, fmt.Sprintf("-m limit --limit %d/second --limit-burst %d -j NFLOG --nflog-group %d --nflog-prefix %s",
			LogRate, LogBurst, LogGroup, xquote(prefix[:min(len(prefix), xLogPrefixSize)])))
	}
	set := func(done, label uint32) {
		lines = append(lines, fmt.Sprintf("-m connlabel ! --label %d -m connlabel --label %d --set -m connlabel --label %d --set", done, label, done))
	}
	if d, ok := m.DSCP.Get(); ok {
		set(labelDSCP, x.b.plan.dscpLabel(d))
	}
	if n, ok := m.Mark.Get(); ok {
		set(labelMark, x.b.plan.markLabel(n))
	}
	return lines
}

// action returns where flows go that get the outcome. One that depends on the
// world asks a set for each route that it can give; just one of them holds.
func (x *xtables) action(o *rules.Outcome) string {
	id := x.b.action(o)
	if id == 0 {
		return "-g " + XPrefix + "undecided"
	}
	list := x.b.plan.actions
	a := &list[slices.IndexFunc(list, func(a action) bool { return a.id == id })]
	switch {
	case a.block && a.reject:
		return "-g " + XPrefix + "refuse"
	case a.block:
		return "-j DROP"
	case !a.moves(x.b.policy):
		return x.toRoute(a.asked)
	}
	name := fmt.Sprintf("a_%d", id)
	if !x.have[name] {
		x.have[name] = true
		var lines []string
		for _, leaf := range x.b.plan.xleaves(a) {
			lines = append(lines, "-m set --match-set "+xname(xaction(id, x.b.plan.routeID(leaf)))+" dst "+x.toRoute(leaf))
		}
		x.both(name, append(lines, "-j DROP")...)
	}
	return "-g " + XPrefix + name
}

func (x *xtables) toRoute(route int) string {
	return fmt.Sprintf("-g %sd_%d", XPrefix, x.b.plan.routeID(route))
}

// xaction names the set that holds while the action gives the route.
func xaction(action, route uint32) string { return fmt.Sprintf("a%d_%d", action, route) }

// xleaves returns the concrete routes that the action can give.
func (p *Plan) xleaves(a *action) []int {
	policy := p.prog.Policy()
	seen := make([]bool, len(policy.Routes))
	var list []int
	var visit func(route int)
	visit = func(route int) {
		if route < 0 || route >= len(seen) || seen[route] {
			return
		}
		seen[route] = true
		if policy.Routes[route].Kind != rules.RouteGroup {
			list = append(list, route)
			return
		}
		for _, m := range policy.Groups[policy.Routes[route].Group].Members {
			visit(m)
		}
	}
	if a.asked >= 0 {
		visit(a.asked)
	}
	for _, r := range a.list {
		visit(r)
	}
	return list
}

func (p *Plan) xct(id uint32) string {
	return fmt.Sprintf("%#x/%#x", place(id, p.CTMask), p.CTMask)
}

// hooks are the chains that built-in ones jump to.
func (x *xtables) hooks() {
	p := x.b.plan
	mark := func(n uint32) string { return fmt.Sprintf("--mark %#x/%#x", n, p.MarkMask) }
	blocked := "-m conntrack --ctdir REPLY -m connmark --mark "
	out := "traffic"
	if x.local {
		out = "traffic_l"
	}
	chosen := []string{"-o lo -j RETURN", "-m mark ! " + mark(0) + " -j RETURN"}
	for _, n := range ownMarks(x.b.policy, p.MarkMask) {
		chosen = append(chosen, fmt.Sprintf("-m mark --mark %#x -j RETURN", n))
	}
	devs := x.b.masqueraded()
	for _, f := range []Family{IPv4, IPv6} {
		x.chain(f, "mangle", "pre", []string{"PREROUTING"}, []string{
			"-i lo -j RETURN",
			"-m mark " + mark(p.MarkMask) + " -j RETURN",
			blocked + p.xct(idReject) + " -j DROP",
			blocked + p.xct(p.top()) + " -j DROP",
			"-g " + XPrefix + "traffic",
		})
		x.chain(f, "mangle", "out", []string{"OUTPUT"}, append(slices.Clone(chosen), "-g "+XPrefix+out))
		if len(devs) > 0 {
			var lines []string
			for _, d := range devs {
				lines = append(lines, "-o "+xquote(d)+" -j MASQUERADE")
			}
			x.chain(f, "nat", "post", []string{"POSTROUTING"}, lines)
		}
		// REJECT is of the filter table alone: the mark says whom it is for. Not the
		// answers, which are of the same connection.
		refused := "-m conntrack --ctdir ORIGINAL -m connmark --mark " + p.xct(idReject)
		with := "icmp-admin-prohibited"
		if f == IPv6 {
			with = "icmp6-adm-prohibited"
		}
		x.chain(f, "filter", "reject", []string{"INPUT", "FORWARD", "OUTPUT"}, []string{
			refused + " -p tcp -j REJECT --reject-with tcp-reset",
			refused + " -j REJECT --reject-with " + with,
		})
	}
}

// traffic sends packets of decided flows on their way, and leaves alone what
// belongs to the link.
func (x *xtables) traffic() {
	p := x.b.plan
	x.both("refuse", "-j CONNMARK --set-xmark "+p.xct(idReject))
	apply := x.apply()
	x.both("undecided", apply...)
	for _, local := range []string{"", "_l"} {
		if local != "" && !x.local {
			break
		}
		lines := append([]string{"-m conntrack --ctdir REPLY -j RETURN"}, apply...)
		for _, i := range leaves(x.b.policy) {
			id := p.routeID(i)
			lines = append(lines, fmt.Sprintf("-m connmark --mark %s -g %sr_%d", p.xct(id), XPrefix, id))
		}
		lines = append(lines,
			"-m connmark --mark "+p.xct(idReject)+" -g "+XPrefix+"refuse",
			"-m connmark --mark "+p.xct(p.top())+" -j DROP",
			"-m conntrack --ctstate NEW -m connmark --mark "+p.xct(0)+" -g "+XPrefix+"first"+local)
		x.both("traffic"+local, lines...)
		for _, f := range []Family{IPv4, IPv6} {
			x.chain(f, "mangle", "first"+local, nil, append(exempt(f), "-g "+XPrefix+"decide"+local))
		}
	}
}

// exempt returns what is never decided.
func exempt(f Family) []string {
	dst, src, dhcp := exempt4, exemptSource4, "67:68"
	if f == IPv6 {
		dst, src, dhcp = exempt6, exemptSource6, "546:547"
	}
	var lines []string
	add := func(option string, list []netip.Prefix) {
		for _, p := range list {
			lines = append(lines, option+" "+p.String()+" -j RETURN")
		}
	}
	add("-d", dst)
	add("-s", src)
	if f == IPv4 {
		lines = append(lines, "-m addrtype --dst-type BROADCAST -j RETURN")
	}
	return append(lines, "-p udp -m udp --sport "+dhcp+" --dport "+dhcp+" -j RETURN")
}

// apply returns the jump to the chain that gives a packet what its flow's labels
// say, and makes the chain.
func (x *xtables) apply() []string {
	if !x.b.hasLabels() {
		return nil
	}
	p := x.b.plan
	if !x.have["apply"] {
		x.have["apply"] = true
		var lines []string
		for _, d := range p.labels.dscp {
			lines = append(lines, fmt.Sprintf("-m connlabel --label %d -j DSCP --set-dscp %d", p.dscpLabel(d), d))
		}
		for _, n := range p.labels.mark {
			lines = append(lines, fmt.Sprintf("-m connlabel --label %d -j MARK --set-xmark %#x/%#x", p.markLabel(n), n&^p.MarkMask, ^p.MarkMask))
		}
		x.both("apply", lines...)
	}
	return []string{"-j " + XPrefix + "apply"}
}

// walks makes the chains that decide.
func (x *xtables) walks() {
	end := "-g " + XPrefix + "undecided"
	if d := x.b.policy.Default; d != nil {
		end = x.target(d, "default", "default")
	}
	for _, local := range []bool{false, true} {
		if local && !x.local {
			break
		}
		for _, f := range []Family{IPv4, IPv6} {
			x.walk(walk{f, local, false}, end)
			if x.ports {
				x.walk(walk{f, local, true}, end)
			}
		}
	}
}

func (w walk) name() string {
	name := "decide"
	if w.rare {
		name = "rare"
	}
	if w.local {
		name += "_l"
	}
	return name
}

func (x *xtables) walk(w walk, end string) {
	var lines []string
	if !w.rare {
		dead := "-m set ! --match-set " + xname("alive") + " dst -j "
		switch x.b.cfg.OnCrash {
		case rules.Open:
			lines = append(lines, dead+"RETURN")
		case rules.Closed:
			lines = append(lines, dead+"DROP")
		}
		if x.ports {
			to := walk{w.family, w.local, true}
			for _, n := range rareProtos {
				lines = append(lines, fmt.Sprintf("-p %d -g %s%s", n, XPrefix, to.name()))
			}
		}
	}
	for n, item := range x.items[w.family] {
		var matches []string
		for i := range item.terms {
			more, err := x.lines(&item.terms[i], w)
			if err != nil {
				x.tooMany(item.rule, err)
				break
			}
			matches = append(matches, more...)
		}
		switch {
		case item.goesOn == "":
			for _, m := range matches {
				lines = append(lines, strings.TrimSpace(m+" "+item.target))
			}
			if slices.Contains(matches, "") { // nothing comes after it
				x.chain(w.family, "mangle", w.name(), nil, lines)
				return
			}
		case len(matches) == 1:
			lines = append(lines, strings.TrimSpace(matches[0]+" -j "+XPrefix+item.goesOn))
		case len(matches) > 1:
			// The first that holds goes to the modifiers, and from there back here.
			sub := fmt.Sprintf("%s_%d", w.name(), n)
			for i := range matches {
				matches[i] = strings.TrimSpace(matches[i] + " -g " + XPrefix + item.goesOn)
			}
			x.chain(w.family, "mangle", sub, nil, matches)
			lines = append(lines, "-j "+XPrefix+sub)
		}
	}
	x.chain(w.family, "mangle", w.name(), nil, append(lines, end))
}

// tooMany reports, once, a rule that needs more lines than a walk takes.
func (x *xtables) tooMany(r *rules.Rule, err error) {
	if key := "too many: " + r.Name; !x.have[key] {
		x.have[key] = true
		x.b.lacks(diag.Warning, r.NameSpan, "split it into several rules", "rule %s: %v: it is enforced only by the daemon, later", r.Name, err)
	}
}

// route makes d_N, which pins a new flow to the route, and r_N, which every
// packet of such a flow goes through.
func (x *xtables) route(route int) {
	p, r := x.b.plan, &x.b.policy.Routes[route]
	id := p.routeID(route)
	every := fmt.Sprintf("r_%d", id)
	x.both(fmt.Sprintf("d_%d", id), append(append([]string{"-j CONNMARK --set-xmark " + p.xct(id)}, x.apply()...), "-g "+XPrefix+every)...)
	set := func(value, mask uint32) string { return fmt.Sprintf("-j MARK --set-xmark %#x/%#x", value, mask) }
	switch r.Kind {
	case rules.RouteMain:
		x.both(every, set(0, p.MarkMask))
	case rules.RouteBlackhole:
		x.both(every, "-j DROP")
	case rules.RouteMark:
		x.both(every, set(r.Mark, p.MarkMask|r.Mark))
	case rules.RouteOther:
		for fi, f := range families {
			var lines []string
			for _, a := range x.b.proxies()[fi] {
				lines = append(lines, "-s "+a.String()+" "+set(p.tunnelMark(x.b.policy, r), p.MarkMask), "-s "+a.String()+" -j RETURN")
			}
			x.chain(f, "mangle", every, nil, append(lines, "-g "+XPrefix+"refuse"))
		}
	default:
		x.both(every, set(place(p.IDs.Marks[wayOut(x.b.policy, r)], p.MarkMask), p.MarkMask))
	}
	x.b.checkRoute(r)
}

// worldSets declares the sets that change while the table stays.
func (x *xtables) worldSets(w *state.World) {
	p := x.b.plan
	for i, prefixes := range [][]string{{"0.0.0.0/1", "128.0.0.0/1"}, {"::/1", "8000::/1"}} {
		x.declare(XSet{Name: xAny[i], Type: "hash:net family " + inet([]Family{IPv4, IPv6}[i]) + sized(2), Elems: prefixes})
	}
	add := func(name, options string, elems []Elem) {
		// Two members at most, of eight that ipset makes room for.
		x.declare(XSet{Name: xname(name), Type: "list:set size 8" + options})
		p.Table.Sets = append(p.Table.Sets, Set{Name: xname(name), Type: "list:set", Elems: elems, Timeout: options != ""})
	}
	if x.b.cfg.OnCrash != rules.Last {
		var elems []Elem
		for _, k := range xAny {
			elems = append(elems, Elem{Key: k, Timeout: AliveTTL})
		}
		add("alive", " timeout 0", elems)
	}
	for i := range p.guards {
		add(p.guards[i].set, "", xholds(p.guards[i].holds(w)))
	}
	for i := range p.actions {
		a := &p.actions[i]
		if !a.moves(x.b.policy) {
			continue
		}
		now := p.xleaf(a, w)
		for _, leaf := range p.xleaves(a) {
			add(xaction(a.id, p.routeID(leaf)), "", xholds(leaf == now))
		}
	}
	if x.names.count > 0 {
		p.Table.Sets = append(p.Table.Sets, Set{Name: XNames, Type: "addresses in sets of names", Map: true, Timeout: true})
	}
}

// xholds returns the elements of a set that holds or does not.
func xholds(holds bool) []Elem {
	if !holds {
		return nil
	}
	return []Elem{{Key: xAny[0]}, {Key: xAny[1]}}
}
