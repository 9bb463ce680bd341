package actions

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// guard is a set that holds both families exactly while its condition over the
// world is true, so that `meta nfproto @w3` tests it.
type guard struct {
	set  string
	lits []worldLit // all must hold
}

var guardKeys = []string{"ipv4", "ipv6"}

func (g *guard) holds(w *state.World) bool {
	for _, l := range g.lits {
		if !l.holds(w) {
			return false
		}
	}
	return true
}

// holds reports whether the literal is true; what is unknown is not, negated or not.
func (l *worldLit) holds(w *state.World) bool {
	switch engine.Truth(&l.pred, w) {
	case state.True:
		return !l.negated
	case state.False:
		return l.negated
	default:
		return false
	}
}

func (g *guard) elems(w *state.World) []Elem {
	if !g.holds(w) {
		return nil
	}
	return []Elem{{Key: guardKeys[0]}, {Key: guardKeys[1]}}
}

// action is what a candidate's low bits name: one verdict, or one list of
// routes to choose from.
type action struct {
	id     uint32
	block  bool
	reject bool
	asked  int   // a route, -1 for a list
	list   []int // fallback
}

// segment is a run of flow hashes, modulo 100 and below upto, with one answer.
type segment struct {
	upto int
	leaf int // a route, -1: blocked
}

// resolve returns what the action's flows get in this world, by flow hash.
func (a *action) resolve(p *rules.Policy, w *state.World) []segment {
	if a.asked >= 0 && p.Routes[a.asked].Kind != rules.RouteGroup {
		return []segment{{100, a.asked}}
	}
	// The answer changes only where some uplink's share ends, or anywhere below a
	// group that shares flows out.
	bounds := []int{engine.Hundredths}
	if slices.ContainsFunc(p.Groups, func(g rules.Group) bool { return g.Strategy == rules.Weighted || g.Strategy == rules.HashOf }) {
		for i := range engine.Hundredths {
			bounds = append(bounds, i+1)
		}
	}
	for i := range w.Uplinks {
		if s := w.Uplinks[i].Share; s > 0 && s < 100 {
			bounds = append(bounds, s)
		}
	}
	slices.Sort(bounds)
	var segs []segment
	from := 0
	for _, upto := range slices.Compact(bounds) {
		// The smallest hash that falls into bucket `from` of 100.
		hash := uint32((uint64(from)<<32 + 99) / 100)
		var leaf int
		var ok bool
		if a.asked >= 0 {
			leaf, ok = engine.Resolve(p, w, a.asked, hash)
		} else {
			leaf, ok = engine.ResolveFallback(p, w, a.list, hash)
		}
		if !ok {
			leaf = -1
		}
		if n := len(segs); n > 0 && segs[n-1].leaf == leaf {
			segs[n-1].upto = upto
		} else {
			segs = append(segs, segment{upto, leaf})
		}
		from = upto
	}
	return segs
}

// verdict returns the fw element's value for the action in this world, and the
// share chain it needs, if any.
func (p *Plan) verdict(a *action, w *state.World) (string, *Chain) {
	if a.block {
		if a.reject {
			return "goto refuse", nil
		}
		return "drop", nil
	}
	segs := a.resolve(p.prog.Policy(), w)
	if len(segs) == 1 {
		return p.leafVerdict(segs[0].leaf), nil
	}
	c := p.shareChain(segs)
	return "goto " + c.Name, &c
}

func (p *Plan) leafVerdict(leaf int) string {
	if leaf < 0 {
		return "drop"
	}
	return fmt.Sprintf("goto d_%d", p.routeID(leaf))
}

func (p *Plan) routeID(route int) uint32 {
	return p.IDs.Routes[p.prog.Policy().Routes[route].Name]
}

// shareChain gives each flow the answer of its hash. Its name says what it
// holds, so a chain of that name never changes.
func (p *Plan) shareChain(segs []segment) Chain {
	c := Chain{Rules: []Rule{{Do: []Stmt{{Kind: SetRank}}}}}
	for _, s := range segs[:len(segs)-1] {
		to := verdictStmt(p.leafVerdict(s.leaf))
		for _, v6 := range []bool{false, true} {
			below := Match{Key: KeyHash, V6: v6, Op: Below, Nums: []Range{{uint32(s.upto), uint32(s.upto)}}}
			c.Rules = append(c.Rules, Rule{If: []Match{{Key: KeyL4Proto, Set: portSet}, below}, Do: []Stmt{to}})
			below.Key = KeyHash0
			c.Rules = append(c.Rules, Rule{If: []Match{{Key: KeyL4Proto, Op: Not, Set: portSet}, below}, Do: []Stmt{to}})
		}
	}
	c.Rules = append(c.Rules, Rule{Do: []Stmt{verdictStmt(p.leafVerdict(segs[len(segs)-1].leaf))}})
	c.Name = "s_" + digest(c.Rules)
	return c
}

func verdictStmt(v string) Stmt {
	if chain, ok := strings.CutPrefix(v, "goto "); ok {
		return Stmt{Kind: Goto, Target: chain}
	}
	return Stmt{Kind: Drop}
}

// digest names rules by what they say.
func digest(list []Rule) string {
	var texts []string
	for i := range list {
		texts = append(texts, list[i].String())
	}
	return digestText(texts)
}

// digestText names texts by what they say.
func digestText(texts []string) string {
	h := sha256.New()
	for _, t := range texts {
		fmt.Fprintln(h, t)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func fwKey(id uint32) string { return fmt.Sprintf("%#x", id) }

// WorldUpdates returns the element changes that make the table decide in the
// world new instead of old: a guard that turned, and one `fw` element for each
// list of routes that resolves differently. Nothing is reloaded. Chains that
// share flows out over a recovering uplink are made when they are first needed.
func (p *Plan) WorldUpdates(old, new *state.World) []Update {
	if p.prog == nil {
		return nil
	}
	old, new = worldOf(old), worldOf(new)
	var list []Update
	for i := range p.guards {
		g := &p.guards[i]
		if g.holds(old) == g.holds(new) {
			continue
		}
		kind := DelElem
		if g.holds(new) {
			kind = PutElem
		}
		for _, k := range guardKeys {
			list = append(list, Update{Kind: kind, Set: g.set, Elem: Elem{Key: k}})
		}
	}
	for i := range p.actions {
		a := &p.actions[i]
		was, _ := p.verdict(a, old)
		now, chain := p.verdict(a, new)
		if was == now {
			continue
		}
		if chain != nil && !p.chains[chain.Name] {
			p.chains[chain.Name] = true
			list = append(list, Update{Kind: PutChain, Chain: *chain})
		}
		list = append(list, Update{Kind: PutElem, Set: "fw", Map: true, Elem: Elem{Key: fwKey(a.id), Value: now}})
	}
	return list
}
