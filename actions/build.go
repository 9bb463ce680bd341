package actions

import (
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

const (
	// A candidate is epoch<<actionBits | action: the smaller, the earlier in the
	// order.
	actionBits = 12
	actionMask = 1<<actionBits - 1
	maxActions = actionMask
)

// builder gathers a table.
type builder struct {
	plan    *Plan
	policy  *rules.Policy
	host    *Host
	cfg     rules.Daemon
	diags   []diag.Diagnostic
	before  IDs             // of the plan before
	kept    map[uint32]bool // numbers of its actions
	taken   map[uint32]bool // numbers of this plan's
	drafts  []draft
	alts    []*alt
	mods    []modRule
	start   uint32 // the default's candidate, without its action
	winners []Elem
	extra   []Chain // winners' chains
	bare    bool    // the table has no rules: see alone
	tcp     []Range // ports of flows whose hello is held
	udp     []Range
}

// draft is a rule with the ways in which it can be true.
type draft struct {
	rule   *rules.Rule
	terms  []term
	action uint32
}

// PlanFor plans what the host h must look like for prog to be enforced in the
// world w. prev is the plan that was in force, possibly read back from the
// ledger: numbers that live kernel state holds are kept. The diagnostics say
// what the kernel can't do (NP502); on an error among them the plan is nil.
func PlanFor(prog *engine.Program, h Host, w *state.World, prev *Plan) (*Plan, []diag.Diagnostic) {
	policy := prog.Policy()
	cfg := settings(policy.Daemon)
	p := &Plan{
		PolicyHash: hashText(policy.Hash), MarkMask: cfg.MarkMask, CTMask: cfg.CTMask,
		prog: prog, byRoute: map[int]uint32{}, names: newNameIndex(),
		chains: map[string]bool{}, guardOf: map[string]string{}, listOf: map[string]string{}, shares: map[uint32]string{},
	}
	p.IDs.Actions = map[string]uint32{}
	b := &builder{plan: p, policy: policy, host: &h, cfg: cfg, before: orEmpty(prev).IDs, kept: map[uint32]bool{}, taken: map[uint32]bool{}}
	for _, n := range b.before.Actions {
		b.kept[n] = true
	}
	xt := b.iptables()
	b.consult(xt)
	b.relay(xt)
	b.hello(xt)
	if !b.number(prev) {
		return nil, b.diags
	}
	b.routing()
	if xt {
		b.noThrottles()
		b.collectLabels()
		b.xtables(worldOf(w))
	} else {
		b.shaping()
		b.collectLabels()
		b.checkThrottles()
		b.lower()
		b.table(worldOf(w))
	}
	for _, d := range b.diags {
		if d.Severity == diag.Error {
			return nil, b.diags
		}
	}
	return p, b.diags
}

// lacks reports something that the executor can't do.
func (b *builder) lacks(s diag.Severity, span diag.Span, help, format string, args ...any) {
	b.diags = append(b.diags, diag.Diagnostic{Code: "NP502", Severity: s, Span: span, Message: fmt.Sprintf(format, args...), Help: help})
}

// number gives ids to routes and marks to ways out, and reports whether there was room.
func (b *builder) number(prev *Plan) bool {
	if !contiguous(b.cfg.MarkMask, 2) || !contiguous(b.cfg.CTMask, 3) {
		b.lacks(diag.Error, diag.Span{}, "", "daemon: mark_mask needs at least 2 and ct_mask at least 3 bits in one run")
		return false
	}
	old := orEmpty(prev)
	if old.MarkMask != b.cfg.MarkMask || old.CTMask != b.cfg.CTMask {
		old = &Plan{} // other bits: the old numbers mean nothing
	}
	var names, ways []string
	seen := map[string]bool{}
	for _, i := range leaves(b.policy) {
		r := &b.policy.Routes[i]
		names = append(names, r.Name)
		if way := wayOut(b.policy, r); way != "" && !seen[way] {
			seen[way] = true
			ways = append(ways, way)
		}
	}
	var err error
	p := b.plan
	if p.IDs.Routes, err = assign(old.IDs.Routes, names, idReject+1, p.lastRoute()); err != nil {
		b.lacks(diag.Error, diag.Span{}, "widen daemon.ct_mask", "ct_mask %#x: routes: %v", p.CTMask, err)
		return false
	}
	bypass := place(^uint32(0), p.MarkMask)
	last := bypass/place(1, p.MarkMask) - 1 // all ones is the bypass
	if p.Relay != (Relay{}) {
		last--
	}
	if p.IDs.Marks, err = assign(old.IDs.Marks, ways, 1, last); err != nil {
		b.lacks(diag.Error, diag.Span{}, "widen daemon.mark_mask", "mark_mask %#x: ways out: %v", p.MarkMask, err)
		return false
	}
	for _, i := range leaves(b.policy) {
		p.byRoute[i] = place(p.routeID(i), p.CTMask)
	}
	return b.numberThrottles(old)
}

// collectLabels numbers the values of dscp and mark, so that each flow can remember its own.
func (b *builder) collectLabels() {
	l := &b.plan.labels
	seenD, seenM := map[uint8]bool{}, map[uint32]bool{}
	collect := func(m *rules.Modifiers) {
		if d, ok := m.DSCP.Get(); ok && !seenD[d] {
			seenD[d] = true
			l.dscp = append(l.dscp, d)
		}
		if n, ok := m.Mark.Get(); ok && !seenM[n] {
			seenM[n] = true
			l.mark = append(l.mark, n)
		}
	}
	for i := range b.policy.Rules {
		r := &b.policy.Rules[i]
		collect(&r.Do.Mods)
		b.checkMods(&r.Do, r.Name)
	}
	if d := b.policy.Default; d != nil {
		collect(&d.Mods)
		b.checkMods(d, "default")
	}
	if room := int(b.plan.labelEnd() - labelFirst); len(l.dscp)+len(l.mark) > room {
		b.lacks(diag.Error, diag.Span{}, "", "%d different dscp and mark values; beside the throttles the kernel's connection labels hold %d",
			len(l.dscp)+len(l.mark), room)
	}
}

func (b *builder) checkMods(o *rules.Outcome, name string) {
	if n, ok := o.Mods.Mark.Get(); ok && n&b.cfg.MarkMask != 0 {
		b.lacks(diag.Warning, o.Span, "use other bits, or change daemon.mark_mask",
			"mark %#x of %s: the bits in %#x are netpolicy's own and stay as they are", n, name, b.cfg.MarkMask)
	}
}

// lower finds out how the rules can be true when a connection begins, and lays
// them out as the first shape within bounds says.
func (b *builder) lower() {
	for _, i := range b.plan.prog.Order() {
		r := &b.policy.Rules[i]
		terms, left, err := lowerRule(r, b.host, b.cfg.MarkMask)
		if err != nil {
			b.lacks(diag.Warning, r.NameSpan, "split it into several rules", "rule %s: %v: it is enforced only by the daemon, later", r.Name, err)
			continue
		}
		for _, f := range left {
			b.lacks(diag.Hint, r.NameSpan, "", "rule %s: the kernel does not know %s when a connection begins: until the daemon does, the rule counts as not matching", r.Name, f)
		}
		switch {
		case r.Do.Kind != rules.ActNone:
			b.drafts = append(b.drafts, draft{r, terms, b.action(&r.Do)})
		case anyMods(&r.Do.Mods) && len(terms) > 0:
			b.drafts = append(b.drafts, draft{r, terms, 0})
		}
	}
	if b.plan.Consult.Strict {
		b.alone() // nothing comes to the table's rules
	}
	best, most, fits := -1, 0, false
	for i, s := range shapes {
		fits = b.attempt(s)
		if fits || b.failed() {
			break
		}
		if f := &b.plan.layout.forest; f.rules <= maxTable && (best < 0 || f.most < most) {
			best, most = i, f.most
		}
	}
	if !fits && best >= 0 {
		b.attempt(shapes[best])
	}
	f := &b.plan.layout.forest
	size := fmt.Sprintf("%d rules in %d chains, at most %d in a row", f.rules, len(f.out), f.most)
	switch {
	case f.rules > maxTable && b.plan.Consult.Via != NoQueue:
		b.lacks(diag.Warning, diag.Span{}, "", "the table would have %s: more than the kernel loads in reasonable time: "+
			"new flows that the daemon does not answer pass undecided", size)
		b.alone()
		b.attempt(shapes[0])
	case f.rules > maxTable:
		b.lacks(diag.Error, diag.Span{}, "fewer rules that ask for several fields, or daemon.enforce: consult", "the table would have %s: more than the kernel loads in reasonable time", size)
	case !f.fits():
		b.lacks(diag.Hint, diag.Span{}, "", "the table has %s: new connections are decided more slowly", size)
	}
	b.index()
	b.bring()
}

func (b *builder) failed() bool { return diag.Count(b.diags, diag.Error) > 0 }

func (f *forest) fits() bool {
	return len(f.out) <= maxChains && f.rules <= maxRules && f.most <= maxLongest
}

// attempt lays the rules out in the shape, and reports whether that is within bounds.
func (b *builder) attempt(s shape) bool {
	p := b.plan
	p.guards, p.guardOf, p.lists, p.listOf = nil, map[string]string{}, nil, map[string]string{}
	b.alts, b.mods = nil, nil
	for i := range b.drafts {
		d := &b.drafts[i]
		if d.rule.Do.Kind != rules.ActNone {
			for _, t := range d.terms {
				b.alts = append(b.alts, &alt{rule: d.rule, t: t, pivot: byRest})
			}
		}
	}
	choosePivots(b.alts, s.few)
	var items []item
	raw := b.alts
	b.alts = nil
	for i := range b.drafts {
		d := &b.drafts[i]
		if d.rule.Do.Kind == rules.ActNone {
			var terms []term
			for _, t := range d.terms {
				terms = append(terms, p.spread(t)...)
			}
			items = append(items, item{mod: len(b.mods)})
			b.mods = append(b.mods, modRule{name: d.rule.Name, mods: d.rule.Do.Mods, terms: terms})
			continue
		}
		own := raw[:len(d.terms)]
		raw = raw[len(d.terms):]
		slices.SortStableFunc(own, func(x, y *alt) int { return int(x.pivot) - int(y.pivot) })
		for _, a := range own {
			for _, t := range p.spread(a.t) {
				one := *a
				one.t = t
				b.alts = append(b.alts, &one)
				items = append(items, item{alt: &one, action: d.action})
			}
		}
	}
	end, ok := b.epochs(items)
	if !ok {
		p.layout = &layout{}
		return false
	}
	b.start = end << actionBits
	start := b.start
	if d := b.policy.Default; d != nil {
		start |= b.action(d)
	}
	for _, a := range b.alts {
		for fi, f := range families {
			a.entries[fi] = p.entry(a, f)
		}
	}
	for i := range b.mods { // the sets must all be known before the table is written
		for j := range b.mods[i].terms {
			p.conditions(&b.mods[i].terms[j])
		}
	}
	b.start = start
	p.layout = b.lay(s)
	return p.layout.forest.fits()
}

// index gathers the alternatives and modifiers that ask for names.
func (b *builder) index() {
	x := b.plan.names
	x.alts, x.mods = b.alts, b.mods
	for i, a := range b.alts {
		if len(a.t.names) > 0 {
			x.take(i)
		}
	}
	for _, m := range b.mods {
		for _, t := range m.terms {
			x.named = x.named || len(t.names) > 0
		}
	}
}

// bring records what winners' own modifiers do.
func (b *builder) bring() {
	chains := map[*rules.Rule]string{}
	seen := map[uint32]bool{}
	for _, a := range b.alts {
		if !anyMods(&a.rule.Do.Mods) || seen[a.value] {
			continue
		}
		seen[a.value] = true
		if chains[a.rule] == "" {
			chains[a.rule] = fmt.Sprintf("%x", a.value)
			b.extra = append(b.extra, b.plan.winnerChain(chains[a.rule], a.rule.Name, a.rule.Do.Mods)...)
		}
		b.winners = append(b.winners, Elem{Key: fmt.Sprintf("%#x", a.value), Value: "jump w_" + chains[a.rule]})
	}
	if d := b.policy.Default; d != nil && anyMods(&d.Mods) {
		b.extra = append(b.extra, b.plan.winnerChain("default", "default", d.Mods)...)
		b.winners = append(b.winners, Elem{Key: fmt.Sprintf("%#x", b.start), Value: "jump w_default"})
	}
}

// conditions returns a term's matches with its guard, if it depends on the world.
func (p *Plan) conditions(t *term) []Match {
	if len(t.world) == 0 {
		return t.matches
	}
	list := make([]Match, 0, len(t.matches)+1)
	list = append(list, Match{Key: KeyNFProto, Set: p.guard(t.world)})
	return append(list, t.matches...)
}

// guardPrefix begins the names of guards; a digest of their condition follows.
const guardPrefix = "w_"

// guard returns the set of the guard for lits, the same for equal conditions.
func (p *Plan) guard(lits []worldLit) string {
	var texts []string
	for _, l := range lits {
		texts = append(texts, l.String())
	}
	key := strings.Join(texts, ";")
	name, ok := p.guardOf[key]
	if !ok {
		name = guardPrefix + digestText([]string{key})
		p.guardOf[key] = name
		p.guards = append(p.guards, guard{name, lits})
	}
	return name
}

// action returns the id of what the outcome asks for; equal requests share one.
func (b *builder) action(o *rules.Outcome) uint32 {
	a := action{asked: -1}
	var key string
	switch o.Kind {
	case rules.ActBlock:
		a.block, a.reject = true, o.Reject
		key = fmt.Sprint("block ", o.Reject)
	case rules.ActRoute, rules.ActSwitchRoute, rules.ActFailover:
		a.asked = o.Route
		key = "route " + b.policy.Routes[o.Route].Name
	case rules.ActFallback:
		a.list = o.Routes
		key = "list"
		for _, r := range o.Routes {
			key += " " + b.policy.Routes[r].Name
		}
	default:
		return 0
	}
	ids := b.plan.IDs.Actions
	if id, ok := ids[key]; ok {
		return id
	}
	if len(ids) >= maxActions {
		b.lacks(diag.Error, o.Span, "", "more than %d different actions", maxActions)
		return 0
	}
	a.id = b.freeAction(key)
	ids[key] = a.id
	b.plan.actions = append(b.plan.actions, a)
	return a.id
}

// freeAction returns the number that the action had in the plan before, if it is
// free, else the lowest that neither plan uses: so a changed rule changes few
// elements.
func (b *builder) freeAction(key string) uint32 {
	old := b.before.Actions
	if n := old[key]; n > 0 && !b.taken[n] {
		b.taken[n] = true
		return n
	}
	for range 2 {
		n, ok := lowest(1, maxActions, func(n uint32) bool { return !b.taken[n] && !b.kept[n] })
		if ok {
			b.taken[n] = true
			return n
		}
		clear(b.kept)
	}
	return 0 // there are fewer actions than numbers
}
