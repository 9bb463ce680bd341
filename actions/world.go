package actions

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
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

// The numbers of ways are those of routes (IDs.Routes), of the two ways to block,
// and above them those of chains that share flows out.
const shareBase = 0x80000000

// way returns the number of what the action's flows get in this world, which is
// what its fw element holds, and the share chain that it stands for, if any.
func (p *Plan) way(a *action, w *state.World) (uint32, *Chain) {
	if a.block {
		if a.reject {
			return idReject, nil
		}
		return p.top(), nil
	}
	segs := a.resolve(p.prog.Policy(), w)
	if len(segs) > 1 {
		c := p.shareChain(segs)
		return p.share(c.Name), &c
	}
	if segs[0].leaf < 0 {
		return p.top(), nil
	}
	return p.routeID(segs[0].leaf), nil
}

// share returns the number of a share chain, from its name.
func (p *Plan) share(chain string) uint32 {
	n := uint32(shareBase) | digestNumber(chain)
	for ; p.shares[n] != "" && p.shares[n] != chain; n = shareBase | (n + 1) {
	}
	p.shares[n] = chain
	return n
}

// ways leads from the numbers of ways to their chains. Only when a share chain is
// new is it changed: for a verdict the kernel looks through all chains that can be
// reached, for a number it does not.
func (p *Plan) ways(leaves []int) Set {
	s := Set{Name: wayMap, Type: "typeof meta priority", Map: true, Elems: []Elem{
		{Key: fmt.Sprintf("%#x", idReject), Value: "goto refuse"}, {Key: fmt.Sprintf("%#x", p.top()), Value: "drop"},
	}}
	for _, i := range leaves {
		s.Elems = append(s.Elems, Elem{Key: fmt.Sprintf("%#x", p.routeID(i)), Value: p.leafVerdict(i)})
	}
	for _, n := range sortedKeys(p.shares) {
		s.Elems = append(s.Elems, wayElem(n, p.shares[n]))
	}
	return s
}

// wayMap is the name of the map of ways, fwMap that of the map from actions to them.
const (
	wayMap = "ways"
	fwMap  = "fw"
)

func wayElem(n uint32, chain string) Elem {
	return Elem{Key: fmt.Sprintf("%#x", n), Value: "goto " + chain}
}

func fwElem(action, way uint32) Elem {
	return Elem{Key: fmt.Sprintf("%#x", action), Value: fmt.Sprintf("%#x", way)}
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

// digestNumber is a number of 32 bits for a name.
func digestNumber(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return h.Sum32()
}

// digestText names texts by what they say.
func digestText(texts []string) string {
	h := sha256.New()
	for _, t := range texts {
		fmt.Fprintln(h, t)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// WorldUpdates returns the element changes that make the table decide in the
// world new instead of old: a guard that turned, and one `fw` element for each
// list of routes that resolves differently. Nothing is reloaded. Chains that
// share flows out over a recovering uplink are made when they are first needed.
func (p *Plan) WorldUpdates(old, new *state.World) []Update {
	if p.prog == nil {
		return nil
	}
	old, new = worldOf(old), worldOf(new)
	if p.Table.XT != nil {
		return p.xworld(old, new)
	}
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
		was, _ := p.way(a, old)
		now, chain := p.way(a, new)
		if was == now {
			continue
		}
		if chain != nil && !p.chains[chain.Name] {
			p.chains[chain.Name] = true
			list = append(list, Update{Kind: PutChain, Chain: *chain},
				Update{Kind: PutElem, Set: wayMap, Map: true, Elem: wayElem(now, chain.Name)})
		}
		list = append(list, Update{Kind: PutElem, Set: fwMap, Map: true, Elem: fwElem(a.id, now)})
	}
	return list
}
