package actions

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// xnames finds the sets that an address's DNS names put it into: one for each
// different list of patterns that rules ask for.
type xnames struct {
	table        *Table
	tag          string
	count        int
	byKey        map[string]int // a list's text -> its number
	patternIndex                // finds the numbers of lists
}

func newXnames() *xnames {
	return &xnames{byKey: map[string]int{}, patternIndex: newPatternIndex()}
}

// own is the name of a set of the plan's own, once the shape is known.
func (n *xnames) own(set string) string { return strings.ReplaceAll(xname(set), xplace, n.tag) }

func xnameSet(list int, f Family) string { return fmt.Sprintf("n%d_%d", list, f) }

// set returns the set of the family's addresses that the patterns match.
func (n *xnames) set(list []rules.NamePattern, f Family) string {
	key := fmt.Sprint(list)
	id, ok := n.byKey[key]
	if !ok {
		id = n.count
		n.count++
		n.byKey[key] = id
		for _, p := range list {
			n.add(p, id)
		}
		for _, f := range []Family{IPv4, IPv6} {
			n.table.XT.Sets = append(n.table.XT.Sets, XSet{
				Name: xname(xnameSet(id, f)),
				Type: fmt.Sprintf("hash:ip family %s hashsize 64 maxelem %d timeout 0", inet(f), maxXNames),
			})
		}
	}
	return xname(xnameSet(id, f))
}

// find returns the numbers of the lists of which a pattern matches one of names, sorted.
func (n *xnames) find(names flow.Names) []int {
	hits := n.all(names)
	slices.Sort(hits)
	return slices.Compact(hits)
}

// xanswer is Answer for iptables: which sets of names the address is in now.
func (p *Plan) xanswer(addr netip.Addr, names flow.Names, ttl time.Duration) []Update {
	if p.xnames == nil || p.xnames.count == 0 {
		return nil
	}
	addr = addr.Unmap()
	f := IPv4
	if addr.Is6() {
		f = IPv6
	}
	var sets []string
	for _, id := range p.xnames.find(names) {
		sets = append(sets, p.xnames.own(xnameSet(id, f)))
	}
	u := Update{Kind: DelElem, Set: XNames, Map: true, Elem: Elem{Key: addr.String()}}
	if len(sets) > 0 {
		u.Kind = PutElem
		u.Elem.Value, u.Elem.Timeout = strings.Join(sets, " "), max(ttl, time.Second)
	}
	return []Update{u}
}

// xworld is WorldUpdates for iptables. What holds now comes before what holds no
// more, so that a packet in between finds an answer, the old or the new.
func (p *Plan) xworld(old, new *state.World) []Update {
	var put, del []Update
	change := func(set string, was, is bool) {
		if was == is {
			return
		}
		for _, k := range xAny {
			u := Update{Kind: DelElem, Set: p.xnames.own(set), Elem: Elem{Key: k}}
			if is {
				u.Kind = PutElem
				put = append(put, u)
			} else {
				del = append(del, u)
			}
		}
	}
	for i := range p.guards {
		change(p.guards[i].set, p.guards[i].holds(old), p.guards[i].holds(new))
	}
	for i := range p.actions {
		a := &p.actions[i]
		if !a.moves(p.prog.Policy()) {
			continue
		}
		was, now := p.xleaf(a, old), p.xleaf(a, new)
		for _, leaf := range p.xleaves(a) {
			change(xaction(a.id, p.routeID(leaf)), leaf == was, leaf == now)
		}
	}
	return append(put, del...)
}

// moves reports whether what the action gives depends on the world.
func (a *action) moves(p *rules.Policy) bool {
	return !a.block && (a.asked < 0 || p.Routes[a.asked].Kind == rules.RouteGroup)
}

// xleaf returns the route that the action's flows get in the world, -1 for none.
// iptables can't share flows out by their hash: a line that recovers counts as
// whole, and of several members the greatest share takes all.
func (p *Plan) xleaf(a *action, w *state.World) int {
	whole := *w
	whole.Uplinks = slices.Clone(w.Uplinks)
	for i := range whole.Uplinks {
		if s := &whole.Uplinks[i].Share; *s > 0 {
			*s = 100
		}
	}
	segs := a.resolve(p.prog.Policy(), &whole)
	share := map[int]int{}
	from := 0
	for _, s := range segs {
		share[s.leaf] += s.upto - from
		from = s.upto
	}
	best := segs[0].leaf
	for _, s := range segs {
		if share[s.leaf] > share[best] {
			best = s.leaf
		}
	}
	return best
}

// xalive returns the updates of KeepAlive for iptables.
func (p *Plan) xalive() []Update {
	if p.xnames == nil || p.Table.set(p.xnames.own("alive")) == nil {
		return nil
	}
	var list []Update
	for _, k := range xAny {
		list = append(list, Update{Kind: PutElem, Set: p.xnames.own("alive"), Elem: Elem{Key: k, Timeout: AliveTTL}})
	}
	return list
}
