// Package oracle is the meaning of a policy as obvious code: language.md
// section 4, sentence by sentence, with strings, slices and no thought of speed.
// It exists to be compared with package engine; nothing else uses it.
//
// It shares with the engine the types of its input and output, flow.Hash,
// Rule.Specificity, and the standard library's regular expressions.
package oracle

import (
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// The three truth values.
const (
	no    = "no"
	maybe = "maybe"
	yes   = "yes"
)

// Decide answers as engine.Program.Decide should.
func Decide(p *rules.Policy, f *flow.Flow, w *state.World) engine.Decision {
	x := view{f, w, false}
	blind := view{f, w, true}

	// Priority descending; then specificity descending; then source order.
	var order []int
	for i := range p.Rules {
		if p.Rules[i].Active.Has(x.state()) {
			order = append(order, i)
		}
	}
	sort.SliceStable(order, func(a, b int) bool {
		x, y := &p.Rules[order[a]], &p.Rules[order[b]]
		if x.Priority != y.Priority {
			return x.Priority > y.Priority
		}
		return x.Specificity().Compare(y.Specificity()) > 0
	})

	value, rests := map[int]string{}, map[int]bool{}
	for _, i := range order {
		m := whole(p.Rules[i])
		value[i] = x.holds(m)
		rests[i] = value[i] != maybe && blind.holds(m) == maybe
	}

	won := walk(p, order, value)
	d := engine.Decision{
		Rule: won.rule, Kind: won.do.Kind, Asked: -1, Route: -1, Reject: won.do.Reject, Mods: won.mods,
		Default: won.rule < 0, Final: true, RunnerUp: -1,
	}
	switch d.Kind {
	case rules.ActRoute, rules.ActSwitchRoute, rules.ActFailover:
		d.Asked = won.do.Route
		d.Route = resolve(p, w, hundredth(f), won.do.Route).leaf
	case rules.ActFallback:
		d.AskedList = won.do.Routes
		d.Route = pick(p, w, hundredth(f), won.do.Routes, -1, false).leaf
	}
	past := false
	for _, i := range order {
		if past && value[i] == yes && d.RunnerUp < 0 {
			d.RunnerUp = i
		}
		past = past || i == won.rule
	}

	hinted := func(i int) { // the decision rests on DNS names through rule i
		d.Hinted = true
		if x.hints() {
			d.Final = false
			addHinted(&d.Pending, x, blind, whole(p.Rules[i]))
		}
	}
	for _, i := range order {
		r := p.Rules[i]
		switch {
		case value[i] == yes:
			if rests[i] && (i == won.rule || slices.Contains(won.setters, i)) {
				hinted(i)
			}
		case r.OnUnknown == rules.Skip:
		case value[i] == maybe || rests[i]:
			was := value[i]
			value[i] = yes
			other := walk(p, order, value)
			value[i] = was
			if other.same(won) {
				break
			}
			if was == no {
				hinted(i)
				break
			}
			d.Final = false
			addUnknown(&d.Pending, x, whole(r))
			if x.hints() {
				addHinted(&d.Pending, x, blind, whole(r))
			}
		}
		if i == won.rule {
			break
		}
	}
	return d
}

// whole is all that a rule asks for beside its states: its match and its `when`.
func whole(r rules.Rule) rules.Expr {
	if r.When == nil {
		return r.Match
	}
	return rules.Expr{Op: rules.OpAnd, Kids: []rules.Expr{r.Match, *r.When}}
}

type result struct {
	rule    int
	do      rules.Outcome
	mods    rules.Modifiers
	setters []int
}

func (r result) same(s result) bool {
	a, b := r.do, s.do
	return a.Kind == b.Kind && a.Route == b.Route && slices.Equal(a.Routes, b.Routes) && a.Reject == b.Reject && r.mods == s.mods
}

// walk is first match: the first setter of each modifier wins, the first
// primary action ends it, the default comes last.
func walk(p *rules.Policy, order []int, value map[int]string) result {
	r := result{rule: -1}
	take := func(i int, m rules.Modifiers) {
		before := r.mods
		if r.mods.Log.Unknown() {
			r.mods.Log = m.Log
		}
		if r.mods.Throttle.Unknown() {
			r.mods.Throttle = m.Throttle
		}
		if r.mods.Mark.Unknown() {
			r.mods.Mark = m.Mark
		}
		if r.mods.DSCP.Unknown() {
			r.mods.DSCP = m.DSCP
		}
		if r.mods != before {
			r.setters = append(r.setters, i)
		}
	}
	for _, i := range order {
		if value[i] != yes {
			continue
		}
		do := p.Rules[i].Do
		take(i, do.Mods)
		if do.Kind != rules.ActNone {
			r.rule, r.do = i, do
			return r
		}
	}
	if p.Default != nil {
		take(-1, p.Default.Mods)
		r.do = *p.Default
	}
	return r
}

// view is what can be seen of a flow; blind sees no DNS names.
type view struct {
	f     *flow.Flow
	w     *state.World
	blind bool
}

func (x view) state() state.State {
	for _, s := range []state.State{state.Normal, state.Degraded, state.Failover, state.Recovery} {
		if s.String() == x.f.State {
			return s
		}
	}
	return x.w.Global
}

func (x view) holds(e rules.Expr) string {
	var kids []string
	for _, k := range e.Kids {
		kids = append(kids, x.holds(k))
	}
	switch e.Op {
	case rules.OpAny:
		return yes
	case rules.OpNot:
		return map[string]string{yes: no, maybe: maybe, no: yes}[kids[0]]
	case rules.OpAnd:
		switch {
		case slices.Contains(kids, no):
			return no
		case slices.Contains(kids, maybe):
			return maybe
		}
		return yes
	case rules.OpOr:
		switch {
		case slices.Contains(kids, yes):
			return yes
		case slices.Contains(kids, maybe):
			return maybe
		}
		return no
	}
	return x.pred(e.Pred)
}

// addUnknown adds what the maybe predicates read that lie under maybes only.
func addUnknown(set *engine.FieldSet, x view, e rules.Expr) {
	if x.holds(e) != maybe {
		return
	}
	if e.Op == rules.OpPred {
		*set |= 1 << e.Pred.Field
	}
	for _, k := range e.Kids {
		addUnknown(set, x, k)
	}
}

// addHinted adds the facts whose hints matter: without them the predicate and
// all around it would be maybe.
func addHinted(set *engine.FieldSet, x, blind view, e rules.Expr) {
	if blind.holds(e) != maybe {
		return
	}
	if e.Op == rules.OpPred && x.pred(e.Pred) == yes {
		*set |= 1 << e.Pred.Field
	}
	for _, k := range e.Kids {
		addHinted(set, x, blind, k)
	}
}

// hints reports whether DNS names stand in for names that may still come.
func (x view) hints() bool { return x.f.SNI.Unknown() || x.f.HTTPHost.Unknown() }

func (x view) pred(p rules.Pred) string {
	f := x.f
	switch p.Field {
	case rules.FieldSNI:
		return x.name(f.SNI, p.Names)
	case rules.FieldHTTPHost:
		return x.name(f.HTTPHost, p.Names)
	case rules.FieldDomain:
		return x.domain(p.Names)
	case rules.FieldDstIP:
		return check(f.Dst, func(a netip.Addr) bool { return inside(a, p.Prefixes) })
	case rules.FieldSrcIP:
		return check(f.Src, func(a netip.Addr) bool { return inside(a, p.Prefixes) })
	case rules.FieldPort:
		return check(f.DstPort, func(n uint16) bool { return port(n, p.Ports) })
	case rules.FieldSrcPort:
		return check(f.SrcPort, func(n uint16) bool { return port(n, p.Ports) })
	case rules.FieldProto:
		return check(f.Proto, func(n flow.Proto) bool { return slices.Contains(p.Numbers, uint32(n)) })
	case rules.FieldDSCP:
		return check(f.DSCP, func(n uint8) bool { return slices.Contains(p.Numbers, uint32(n)) })
	case rules.FieldMark:
		return check(f.Mark, func(n uint32) bool { return slices.Contains(p.Numbers, n) })
	case rules.FieldSrcMAC:
		return check(f.SrcMAC, func(m flow.MAC) bool { return slices.Contains(p.MACs, m) })
	case rules.FieldProcess:
		return check(f.Process, func(s string) bool { return globs(s, p.Globs) })
	case rules.FieldProcessPath:
		return check(f.ProcessPath, func(s string) bool { return globs(s, p.Globs) })
	case rules.FieldUser:
		return check(f.User, func(s string) bool { return globs(s, p.Globs) })
	case rules.FieldCgroup:
		return check(f.Cgroup, func(s string) bool { return globs(s, p.Globs) })
	case rules.FieldIfaceIn:
		return check(f.IfaceIn, func(s string) bool { return slices.Contains(p.Globs, rules.Glob(s)) })
	case rules.FieldRTT:
		return check(f.RTT, func(n int64) bool { return compare(n, p) })
	case rules.FieldLatency:
		v := f.Latency
		if i := x.w.Primary; v.Unknown() && i >= 0 && i < len(x.w.Uplinks) && x.w.Uplinks[i].RTT >= 0 {
			v = flow.Some(x.w.Uplinks[i].RTT.Microseconds())
		}
		return check(v, func(n int64) bool { return compare(n, p) })
	case rules.FieldErrorRate:
		v := f.ErrorRate
		if i := x.w.Primary; v.Unknown() && i >= 0 && i < len(x.w.Uplinks) && x.w.Uplinks[i].ErrorRate >= 0 {
			v = flow.Some(x.w.Uplinks[i].ErrorRate)
		}
		return check(v, func(n int64) bool { return compare(n, p) })
	case rules.FieldApp:
		return check(f.App, func(s string) bool { return slices.Contains(p.Globs, rules.Glob(s)) })
	case rules.FieldALPN: // one of those offered is one of those asked for
		return check(f.ALPN, func(s string) bool {
			return slices.ContainsFunc(strings.Split(s, ","), func(s string) bool { return slices.Contains(p.Globs, rules.Glob(s)) })
		})
	case rules.FieldGroup:
		return check(f.Group, func(s string) bool { return globs(s, p.Globs) })
	case rules.FieldIfaceOut:
		return check(f.IfaceOut, func(s string) bool { return slices.Contains(p.Globs, rules.Glob(s)) })
	case rules.FieldCountry:
		return check(f.Country, func(s string) bool { return slices.Contains(p.Globs, rules.Glob(s)) })
	case rules.FieldASN:
		return check(f.ASN, func(n uint32) bool { return slices.Contains(p.Numbers, n) })
	case rules.FieldConnBytes:
		return check(f.ConnBytes, func(n int64) bool { return compare(n, p) })
	case rules.FieldConnAge:
		return check(f.ConnAge, func(n int64) bool { return compare(n, p) })
	case rules.FieldUplink, rules.FieldRoute:
		return x.metric(p)
	case rules.FieldSchedule:
		return map[state.Truth]string{state.True: yes, state.Unset: maybe, state.False: no}[x.w.Schedules[p.Ref]]
	case rules.FieldQuota:
		return map[state.Truth]string{state.True: yes, state.Unset: maybe, state.False: no}[x.w.Quotas[p.Ref]]
	case rules.FieldCondition:
		return map[state.Truth]string{state.True: yes, state.Unset: maybe, state.False: no}[x.w.Conditions[p.Ref]]
	default: // state
		return map[bool]string{true: yes, false: no}[p.States.Has(x.state())]
	}
}

// metric is of an uplink: what is not measured is maybe, what has no uplink is no.
func (x view) metric(p rules.Pred) string {
	if p.Ref == -1 {
		return no
	}
	l := x.w.Uplinks[p.Ref]
	us := time.Microsecond
	n := map[rules.Metric]int64{
		rules.MetricRTT: int64(l.RTT / us), rules.MetricP90: int64(l.P90 / us), rules.MetricJitter: int64(l.Jitter / us),
		rules.MetricLoss: l.Loss, rules.MetricErrorRate: l.ErrorRate, rules.MetricUsage: l.Usage,
		rules.MetricUp: map[bool]int64{true: 1, false: 0}[l.Up],
	}[p.Metric]
	unmeasured := map[rules.Metric]bool{rules.MetricRTT: l.RTT < 0, rules.MetricP90: l.P90 < 0, rules.MetricJitter: l.Jitter < 0}
	switch {
	case p.Metric == rules.MetricState:
		return map[bool]string{true: yes, false: no}[p.States.Has(l.State)]
	case n < 0 || unmeasured[p.Metric]:
		return maybe
	}
	return map[bool]string{true: yes, false: no}[compare(n, p)]
}

// check: unknown is maybe; none and invalid are no.
func check[T comparable](v flow.Value[T], ok func(T) bool) string {
	n, known := v.Get()
	switch {
	case v.Unknown():
		return maybe
	case known && ok(n):
		return yes
	}
	return no
}

// name is sni or http.host: its own value, else hints unless the other one has a name.
func (x view) name(v flow.Value[string], patterns []rules.NamePattern) string {
	_, sni := x.f.SNI.Get()
	_, host := x.f.HTTPHost.Get()
	if v.Unknown() && !sni && !host && x.dnsMatches(patterns) {
		return yes
	}
	return check(v, func(s string) bool { return matches(s, patterns) })
}

// domain is sni, else http.host, else all that DNS says if neither can come, else the hint.
func (x view) domain(patterns []rules.NamePattern) string {
	f := x.f
	if !f.Domain.Unknown() {
		return check(f.Domain, func(s string) bool { return matches(s, patterns) })
	}
	for _, v := range []flow.Value[string]{f.SNI, f.HTTPHost} {
		if s, ok := v.Get(); ok {
			return map[bool]string{true: yes, false: no}[matches(s, patterns)]
		}
	}
	if x.dnsMatches(patterns) {
		return yes
	}
	if x.hints() || x.blind && !f.DNS.Empty() {
		return maybe
	}
	return no
}

func (x view) dnsMatches(patterns []rules.NamePattern) bool {
	for name := range x.f.DNS.All() {
		if matches(name, patterns) && !x.blind {
			return true
		}
	}
	return false
}

func inside(a netip.Addr, list []netip.Prefix) bool {
	return slices.ContainsFunc(list, func(n netip.Prefix) bool {
		same, err := a.Prefix(n.Bits())                  // fails for a prefix longer than the address
		return err == nil && same == n && a.Zone() == "" // a prefix has no zone
	})
}

func port(n uint16, list []rules.PortRange) bool {
	return slices.ContainsFunc(list, func(r rules.PortRange) bool { return n >= r.Lo && n <= r.Hi })
}

func compare(n int64, p rules.Pred) bool {
	return map[rules.Cmp]bool{
		rules.Eq: n == p.Bound, rules.Lt: n < p.Bound, rules.Le: n <= p.Bound, rules.Gt: n > p.Bound, rules.Ge: n >= p.Bound,
	}[p.Cmp]
}

func matches(name string, patterns []rules.NamePattern) bool {
	return slices.ContainsFunc(patterns, func(p rules.NamePattern) bool {
		switch p.Kind {
		case rules.Exact:
			return name == p.Name
		case rules.Suffix:
			return name == p.Name || strings.HasSuffix(name, "."+p.Name)
		case rules.Subdomain:
			return strings.HasSuffix(name, "."+p.Name)
		case rules.Keyword:
			return strings.Contains(name, p.Name)
		case rules.Regex:
			return p.Match(name)
		}
		return labels(strings.Split(p.Name, "."), strings.Split(name, "."))
	})
}

// labels compares from the right; a whole leftmost * takes one label or more.
func labels(pattern, name []string) bool {
	if len(pattern) == 1 && pattern[0] == "*" {
		return len(name) >= 1
	}
	if len(pattern) == 0 || len(name) == 0 {
		return len(pattern) == len(name)
	}
	p, n := len(pattern)-1, len(name)-1
	return glob(pattern[p], name[n]) && labels(pattern[:p], name[:n])
}

func globs(s string, list []rules.Glob) bool {
	return slices.ContainsFunc(list, func(g rules.Glob) bool { return glob(string(g), s) })
}

// glob: * matches any run without a slash.
func glob(pattern, s string) bool {
	switch {
	case pattern == "":
		return s == ""
	case pattern[0] == '*':
		return glob(pattern[1:], s) || s != "" && s[0] != '/' && glob(pattern, s[1:])
	default:
		return s != "" && s[0] == pattern[0] && glob(pattern[1:], s[1:])
	}
}

type choice struct {
	leaf   int // -1: blocked
	usable bool
}

// hundredth is in which hundredth of all hashes the flow's lies.
func hundredth(f *flow.Flow) int { return int(uint64(flow.Hash(f)) * 100 >> 32) }

func resolve(p *rules.Policy, w *state.World, draw int, route int) choice {
	r := p.Routes[route]
	if r.Kind == rules.RouteGroup {
		g, selected := p.Groups[r.Group], -1
		switch g.Strategy {
		case rules.LowestLatency:
			selected = w.Selected[r.Group]
		case rules.Weighted, rules.HashOf:
			// The members in the order in which this flow asks them, then all.
			next := (37*draw + 11) % 100
			for _, m := range preferred(p, g, draw) {
				if c := resolve(p, w, next, m); c.usable {
					return c
				}
			}
			draw = next
		case rules.SLA:
			for i, m := range g.Members {
				if c := resolve(p, w, draw, m); c.usable && w.Meets[r.Group][i] == state.True {
					return c
				}
			}
		}
		return pick(p, w, draw, g.Members, selected, g.BlockWhenNone)
	}
	dead := len(w.Alive) > 0 && w.Alive[route] == state.False
	if dead || r.Kind != rules.RouteUplink {
		return choice{route, !dead}
	}
	l := w.Uplinks[r.Uplink]
	usable := false
	switch {
	case l.Unknown && !l.Up: // with the link up, unknown counts by its state, which is NORMAL unless kept or forced
	case l.State == state.Normal, l.State == state.Degraded:
		usable = true
	case l.State == state.Recovery:
		usable = draw < l.Share // the first Share hundredths of all hashes
	}
	return choice{route, usable}
}

// preferred are a group's members in the order in which a flow asks them: the one
// in whose part of a line, as long as all weights, the draw lies; then, with
// another draw, one of the others.
func preferred(p *rules.Policy, g rules.Group, draw int) []int {
	var out []int
	left := slices.Clone(g.Members)
	for len(left) > 0 {
		var line []int // as many places as weights, each with its member's place in left
		for i, m := range left {
			n := 1
			if g.Strategy == rules.Weighted {
				n = weight(p, m)
			}
			line = append(line, slices.Repeat([]int{i}, n)...)
		}
		i := line[draw*len(line)/100]
		out = append(out, left[i])
		left = slices.Delete(left, i, i+1)
		draw = (63*draw + 29) % 100
	}
	return out
}

func weight(p *rules.Policy, route int) int {
	switch r := p.Routes[route]; r.Kind {
	case rules.RouteGroup:
		return weight(p, p.Groups[r.Group].Members[0])
	case rules.RouteUplink:
		return max(1, p.Uplinks[r.Uplink].Weight)
	}
	return 1
}

// standing is what speaks for a route that is not usable: its uplink, and whether it
// is dead itself.
func standing(p *rules.Policy, w *state.World, route int) (state.Link, bool) {
	dead := len(w.Alive) > 0 && w.Alive[route] == state.False
	if r := p.Routes[route]; r.Kind == rules.RouteUplink {
		return w.Uplinks[r.Uplink], dead
	}
	return state.Link{Up: true, RTT: -1}, dead
}

func pick(p *rules.Policy, w *state.World, draw int, members []int, selected int, block bool) choice {
	var all []choice
	for _, m := range members {
		all = append(all, resolve(p, w, draw, m))
	}
	if selected >= 0 && all[selected].usable {
		return all[selected]
	}
	var bad []choice
	for _, c := range all {
		if c.usable {
			return c
		}
		if c.leaf >= 0 {
			bad = append(bad, c)
		}
	}
	if block || len(bad) == 0 {
		return choice{leaf: -1}
	}
	sort.SliceStable(bad, func(i, j int) bool {
		a, deadA := standing(p, w, bad[i].leaf)
		b, deadB := standing(p, w, bad[j].leaf)
		if a.Up != b.Up {
			return a.Up
		}
		if deadA != deadB {
			return deadB
		}
		if a.Lost != b.Lost {
			return a.Lost < b.Lost
		}
		return b.RTT < 0 && a.RTT >= 0 || a.RTT >= 0 && a.RTT < b.RTT
	})
	return bad[0]
}
