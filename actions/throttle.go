package actions

import (
	"fmt"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// throttle is a profile in use, with the number that it keeps over reloads.
type throttle struct {
	*rules.Throttle
	number uint32
}

// shared reports whether the profile's rate is for each host or connection.
func (t *throttle) shared() bool { return t.Per == "host" || t.Per == "conn" }

// first is the minor number of the profile's first class.
func (t *throttle) first() uint32 { return t.number * tcBlock }

// label is the connection label of flows with the profile.
func (t *throttle) label() uint32 { return labelThrottle - t.number }

const (
	// hostTTL is how long an address keeps its class. When it runs out, it gets
	// another: so as many addresses as there are classes in this time have one each.
	hostTTL = 3600 * 1e9
	// policeBurst is what a limit has to let pass at once at least, one packet of the
	// largest size. nft's limits hold a second's worth anyway.
	policeBurst = 64 << 10
)

// numberThrottles gives numbers to the profiles that rules refer to, and
// reports whether there was room.
func (b *builder) numberThrottles(old *Plan) bool {
	used := make([]bool, len(b.policy.Throttles))
	use := func(m *rules.Modifiers) {
		if i, ok := m.Throttle.Get(); ok && i < len(used) {
			used[i] = true
		}
	}
	for i := range b.policy.Rules {
		use(&b.policy.Rules[i].Do.Mods)
	}
	if b.policy.Default != nil {
		use(&b.policy.Default.Mods)
	}
	var names []string
	for i, in := range used {
		if in {
			names = append(names, b.policy.Throttles[i].Name)
		}
	}
	if len(names) == 0 {
		return true
	}
	ids, err := assign(old.IDs.Throttles, names, 1, tcProfiles)
	if err != nil {
		b.lacks(diag.Error, diag.Span{}, "", "throttles: %v", err)
		return false
	}
	b.plan.IDs.Throttles = ids
	for i := range b.policy.Throttles {
		if t := &b.policy.Throttles[i]; used[i] {
			b.plan.throttles = append(b.plan.throttles, &throttle{t, ids[t.Name]})
		}
	}
	return true
}

// throttleLabel is the label of the policy's i-th throttle.
func (p *Plan) throttleLabel(i int) uint32 {
	for _, t := range p.throttles {
		if t.Throttle == &p.prog.Policy().Throttles[i] {
			return t.label()
		}
	}
	return labelThrottle
}

// labelEnd is the first label that dscp and mark values can't have.
func (p *Plan) labelEnd() uint32 {
	end := uint32(labelThrottle)
	for _, t := range p.throttles {
		end = min(end, t.label())
	}
	return end
}

// checkThrottles says where throttles are less than exact.
func (b *builder) checkThrottles() {
	if len(b.plan.throttles) == 0 {
		return
	}
	const help = "limits drop what is too fast: over a long time never more than the rate, TCP often less, and after a pause up to one second's worth at once"
	span := b.plan.throttles[0].Span
	if why := b.host.NoShaping; why != "" {
		b.lacks(diag.Warning, span, help, "throttles: no shaping here (%s): the kernel limits instead", why)
		return
	}
	if why := b.host.NoOwnShaping; why != "" {
		b.lacks(diag.Hint, span, help, "throttles: what this host itself receives is limited, not shaped (%s)", why)
	}
	for _, dev := range b.unshaped() {
		b.lacks(diag.Warning, span, help, "throttles: device %q has an ingress qdisc of others: what leaves by it is limited, not shaped", dev)
	}
}

// noThrottles says that iptables does not hold flows back.
func (b *builder) noThrottles() {
	for _, t := range b.plan.throttles {
		b.lacks(diag.Warning, t.Span, "use daemon.backend: nftables", "throttle %s: not enforced with iptables: its flows run at full speed", t.Name)
	}
	b.plan.throttles = nil
}

// throttleChains returns the chains that put packets of throttled flows into
// their classes: what leaves by a device is shaped, what this host itself
// receives is limited.
func (b *builder) throttleChains() []Chain {
	p := b.plan
	if len(p.throttles) == 0 {
		return nil
	}
	has := func(label uint32) []Match { return []Match{{Key: KeyCTLabel, Nums: num(label)}} }
	shape := Chain{Name: "shape", Hook: "type filter hook postrouting priority mangle; policy accept;"}
	own := Chain{Name: "own", Hook: "type filter hook input priority mangle; policy accept;"}
	own.Rules = []Rule{{If: has(labelThrottle), Do: []Stmt{{Kind: Goto, Target: "police"}}}}
	police, classify := Chain{Name: "police"}, Chain{Name: "throttle"}
	shape.Rules = []Rule{{If: has(labelThrottle), Do: []Stmt{{Kind: Goto, Target: "throttle"}}}}
	if devs := b.unshaped(); b.host.NoShaping != "" {
		shape.Rules[0].Do[0].Target = "police"
	} else if len(devs) > 0 {
		classify.Rules = append(classify.Rules, Rule{If: []Match{{Key: KeyOifname, Texts: devs}}, Do: []Stmt{{Kind: Goto, Target: "police"}}})
	}
	var rest []Chain
	for _, t := range p.throttles {
		limit := p.policeChain(t)
		police.Rules = append(police.Rules, Rule{If: has(t.label()), Do: []Stmt{{Kind: Goto, Target: limit.Name}}})
		rest = append(rest, limit)
		if b.host.NoShaping == "" {
			list := p.classChains(t)
			classify.Rules = append(classify.Rules, Rule{If: has(t.label()), Do: []Stmt{{Kind: Goto, Target: list[0].Name}}})
			rest = append(rest, list...)
		}
	}
	chains := []Chain{shape, own}
	if b.host.NoShaping == "" {
		chains = append(chains, classify)
	}
	return append(append(chains, police), rest...)
}

var (
	ctOriginal = Match{Key: KeyCTDir, Nums: num(CTOriginal)}
	ctReply    = Match{Key: KeyCTDir, Nums: num(CTReply)}
)

// oneWay leaves the direction alone for which the profile has no rate.
func (t *throttle) oneWay() []Rule {
	switch {
	case t.Up == 0:
		return []Rule{{If: []Match{ctOriginal}, Do: []Stmt{{Kind: Return}}}}
	case t.Down == 0:
		return []Rule{{If: []Match{ctReply}, Do: []Stmt{{Kind: Return}}}}
	}
	return nil
}

// classChains returns the chain that finds the class of a packet, and those
// that it needs.
func (p *Plan) classChains(t *throttle) []Chain {
	main := Chain{Name: fmt.Sprintf("t_%d", t.number)}
	add := func(do Stmt, conds ...Match) { main.Rules = append(main.Rules, Rule{If: conds, Do: []Stmt{do}}) }
	base := uint32(TCMajor<<16) | t.first()
	var chains []Chain
	switch t.Per {
	case "host":
		fresh := Chain{Name: fmt.Sprintf("n_%d", t.number)}
		find := func(c *Chain) {
			for _, v6 := range []bool{false, true} {
				c.Rules = append(c.Rules, Rule{Do: []Stmt{{Kind: MapRank, Key: KeyCTSrc, V6: v6, Target: t.hosts(v6)}}})
			}
		}
		add(Stmt{Kind: SetRank})
		find(&main)
		add(Stmt{Kind: Jump, Target: fresh.Name}, Match{Key: KeyRank, Nums: num(0)})
		// A number that nobody has is taken by adding it; who finds the map full, or
		// comes second, uses what the map says, else the class of the rest.
		fresh.Rules = append(fresh.Rules, Rule{Do: []Stmt{{Kind: NextRank, Value: base + 1, Mask: tcBlock - 1}}})
		for _, v6 := range []bool{false, true} {
			fresh.Rules = append(fresh.Rules, Rule{Do: []Stmt{{Kind: AddRank, Key: KeyCTSrc, V6: v6, Target: t.hosts(v6)}}})
		}
		fresh.Rules = append(fresh.Rules, Rule{Do: []Stmt{{Kind: SetRank, Value: base}}})
		find(&fresh)
		chains = append(chains, fresh)
	case "conn":
		add(Stmt{Kind: HashRank, Value: base, Mask: tcBlock})
	default:
		add(Stmt{Kind: SetRank, Value: base})
	}
	add(Stmt{Kind: OrRank, Value: TCDown}, ctReply)
	// The other direction of a host's own connection is told by the class, too.
	main.Rules = append(main.Rules, t.oneWay()...)
	add(Stmt{Kind: SetMark, Mask: p.MarkMask, Value: p.MarkMask})
	return append([]Chain{main}, chains...)
}

// hosts names the map from the address that opened a flow to its class.
func (t *throttle) hosts(v6 bool) string {
	if v6 {
		return fmt.Sprintf("th%d_6", t.number)
	}
	return fmt.Sprintf("th%d_4", t.number)
}

// policeChain returns the chain that drops what is above the rate.
func (p *Plan) policeChain(t *throttle) Chain {
	c := Chain{Name: fmt.Sprintf("p_%d", t.number)}
	for _, dir := range []struct {
		name string
		bits int64
		cond Match
	}{{"u", t.Up, ctOriginal}, {"d", t.Down, ctReply}} {
		if dir.bits == 0 {
			continue
		}
		rate := min(max(1, dir.bits/8), 1<<32-1)
		limit := Stmt{Kind: Police, Value: uint32(rate), Mask: uint32(max(0, min(max(t.Burst, policeBurst)-rate, tcMaxBurst)))}
		switch t.Per {
		case "host":
			for _, v6 := range []bool{false, true} {
				limit.Key, limit.V6, limit.Target = KeyCTSrc, v6, t.limits(dir.name, v6)
				c.Rules = append(c.Rules, Rule{If: []Match{dir.cond}, Do: []Stmt{limit, {Kind: Drop}}})
			}
		case "conn":
			limit.Key, limit.Target = KeyCTID, t.limits(dir.name, false)
			c.Rules = append(c.Rules, Rule{If: []Match{dir.cond}, Do: []Stmt{limit, {Kind: Drop}}})
		default:
			c.Rules = append(c.Rules, Rule{If: []Match{dir.cond}, Do: []Stmt{limit, {Kind: Drop}}})
		}
	}
	return c
}

// limits names the set of the limits of hosts or connections.
func (t *throttle) limits(dir string, v6 bool) string {
	name := fmt.Sprintf("tl%d%s", t.number, dir)
	if v6 {
		name += "6"
	}
	return name
}

// throttleSets declares what the chains fill.
func (b *builder) throttleSets() []Set {
	var list []Set
	for _, t := range b.plan.throttles {
		if t.Per == "host" && b.host.NoShaping == "" {
			list = append(list,
				Set{Name: t.hosts(false), Type: "type ipv4_addr", Map: true, Ranks: true, Size: tcBlock - 1, TTL: hostTTL},
				Set{Name: t.hosts(true), Type: "type ipv6_addr", Map: true, Ranks: true, Size: tcBlock - 1, TTL: hostTTL})
		}
		for _, dir := range []struct {
			name string
			bits int64
		}{{"u", t.Up}, {"d", t.Down}} {
			switch {
			case dir.bits == 0:
			case t.Per == "host":
				list = append(list,
					Set{Name: t.limits(dir.name, false), Type: "type ipv4_addr", Size: maxLimits, TTL: limitTTL},
					Set{Name: t.limits(dir.name, true), Type: "type ipv6_addr", Size: maxLimits, TTL: limitTTL})
			case t.Per == "conn":
				list = append(list, Set{Name: t.limits(dir.name, false), Type: "typeof ct id", Size: maxLimits, TTL: limitTTL})
			}
		}
	}
	return list
}

const (
	// maxLimits bounds the limits of one profile and direction; flows beyond pass.
	maxLimits = 65536
	// limitTTL is how long a limit is kept after its last packet. A new one lets a
	// second's worth pass, as one does that had a second's rest: nothing is lost.
	limitTTL = 60 * 1e9
)
