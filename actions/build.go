package actions

import (
	"fmt"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

const (
	// A candidate is epoch<<actionBits | action: the smaller, the earlier in the
	// order. 20 bits of epoch hold the 1,000,000 rules of language.md.
	actionBits = 12
	actionMask = 1<<actionBits - 1
	maxActions = actionMask

	// stride is after how many rules the general chain asks whether a rule
	// above all the rest has been found already.
	stride = 32
)

// builder gathers a table while the rules are walked in order.
type builder struct {
	plan    *Plan
	policy  *rules.Policy
	host    *Host
	cfg     rules.Daemon
	diags   []diag.Diagnostic
	byKey   map[string]uint32 // action's text -> id
	linear  []Rule
	mods    []modRule
	winners []Elem
	extra   []Chain // winners' chains
	since   int     // rules since the last early return
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
		chains: map[string]bool{}, guardOf: map[string]string{}, listOf: map[string]string{},
	}
	b := &builder{plan: p, policy: policy, host: &h, cfg: cfg, byKey: map[string]uint32{}}
	if !b.number(prev) {
		return nil, b.diags
	}
	b.routing()
	b.shaping()
	b.collectLabels()
	b.checkThrottles()
	b.lower()
	b.table(worldOf(w))
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
	if p.IDs.Routes, err = assign(old.IDs.Routes, names, idReject+1, p.top()-1); err != nil {
		b.lacks(diag.Error, diag.Span{}, "widen daemon.ct_mask", "ct_mask %#x: routes: %v", p.CTMask, err)
		return false
	}
	bypass := place(^uint32(0), p.MarkMask)
	last := bypass/place(1, p.MarkMask) - 1 // all ones is the bypass
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

// lower walks the rules in order and sorts their alternatives: general ones
// into one chain, those that ask for names into the index.
func (b *builder) lower() {
	order := b.plan.prog.Order()
	for pos, i := range order {
		r := &b.policy.Rules[i]
		terms, left, err := lowerRule(r, b.host, b.cfg.MarkMask)
		if err != nil {
			b.lacks(diag.Warning, r.NameSpan, "split it into several rules", "rule %s: %v: it is enforced only by the daemon, later", r.Name, err)
			continue
		}
		for _, f := range left {
			b.lacks(diag.Hint, r.NameSpan, "", "rule %s: the kernel does not know %s when a connection begins: until the daemon does, the rule counts as not matching", r.Name, f)
		}
		b.rule(r, uint32(pos+1), terms)
	}
	b.plan.names.mods = b.mods
}

func (b *builder) rule(r *rules.Rule, epoch uint32, terms []term) {
	cand := epoch << actionBits
	var ready []term
	for _, t := range terms { // the sets must all be known before the table is written
		ready = append(ready, b.plan.spread(t)...)
		b.plan.conditions(&t)
	}
	terms = ready
	if r.Do.Kind == rules.ActNone {
		if anyMods(&r.Do.Mods) && len(terms) > 0 {
			m := modRule{bound: cand | actionMask, name: r.Name, mods: r.Do.Mods, terms: terms}
			for _, t := range terms {
				b.plan.names.named = b.plan.names.named || len(t.names) > 0
			}
			b.mods = append(b.mods, m)
		}
		return
	}
	cand |= b.action(&r.Do)
	b.winner(cand, r.Name, &r.Do.Mods, strconv.Itoa(int(epoch)))
	for i := range terms {
		t := &terms[i]
		if len(t.names) > 0 {
			b.plan.names.add(nameTerm{cand, *t})
			continue
		}
		if b.since++; b.since > stride && len(b.plan.names.terms) > 0 {
			b.since = 1
			b.linear = append(b.linear, Rule{
				If: []Match{{Key: KeyRank, Op: Below, Nums: []Range{{cand &^ actionMask, cand &^ actionMask}}}},
				Do: []Stmt{{Kind: Return}},
			})
		}
		guard := Match{Key: KeyRank, Op: Above, Nums: []Range{{cand, cand}}}
		b.linear = append(b.linear, Rule{
			If: append([]Match{guard}, b.plan.conditions(t)...),
			Do: []Stmt{{Kind: SetRank, Value: cand}, {Kind: Return}},
		})
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

// guard returns the set of the guard for lits, the same for equal conditions.
func (p *Plan) guard(lits []worldLit) string {
	var texts []string
	for _, l := range lits {
		texts = append(texts, l.String())
	}
	key := strings.Join(texts, ";")
	name, ok := p.guardOf[key]
	if !ok {
		name = fmt.Sprintf("w%d", len(p.guards))
		p.guardOf[key] = name
		p.guards = append(p.guards, guard{name, lits})
	}
	return name
}

// winner records what the rule's own modifiers do when it wins.
func (b *builder) winner(cand uint32, rule string, m *rules.Modifiers, id string) {
	if !anyMods(m) {
		return
	}
	b.extra = append(b.extra, b.plan.winnerChain(id, rule, *m)...)
	b.winners = append(b.winners, Elem{Key: fmt.Sprintf("%#x", cand), Value: "jump w_" + id})
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
		key = fmt.Sprint("route ", o.Route)
	case rules.ActFallback:
		a.list = o.Routes
		key = fmt.Sprint("list ", o.Routes)
	default:
		return 0
	}
	if id, ok := b.byKey[key]; ok {
		return id
	}
	if len(b.plan.actions) >= maxActions {
		b.lacks(diag.Error, o.Span, "", "more than %d different actions", maxActions)
		return 0
	}
	a.id = uint32(len(b.plan.actions) + 1)
	b.byKey[key] = a.id
	b.plan.actions = append(b.plan.actions, a)
	return a.id
}
