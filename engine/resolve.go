package engine

import (
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Resolve finds the concrete route that a flow with the given hash (flow.Hash)
// takes when route is asked for. A route that is not a group is obeyed even
// when its uplink is dead. ok is false when the flow must be blocked: a group
// with when_none block has no usable member.
func Resolve(p *rules.Policy, w *state.World, route int, hash uint32) (leaf int, ok bool) {
	r := resolver{policy: p, world: w, hash: hash}
	c := r.route(route, r.depth())
	return c.leaf, c.leaf >= 0
}

// ResolveFallback is Resolve for the action `fallback: [a, b, c]`: the first
// usable route of the list, else the best of the bad ones.
func ResolveFallback(p *rules.Policy, w *state.World, routes []int, hash uint32) (leaf int, ok bool) {
	r := resolver{policy: p, world: w, hash: hash}
	c := r.choose(routes, -1, false, r.depth())
	return c.leaf, c.leaf >= 0
}

type resolver struct {
	policy *rules.Policy
	world  *state.World
	hash   uint32
	// bad holds the groups found without a usable member, and the best of the bad
	// for each, so that no group is searched twice however many lead to it. (One
	// with a usable member ends the search of all above it.) The first ones stand
	// in an array, so that deciding allocates nothing.
	bad    [badGroups]badGroup
	nBad   int
	badMap map[int]int // group to leaf
}

// badGroups is room for a group all of whose members (64 at the most) are groups;
// only deeper nests of more take a map.
const badGroups = 66

type badGroup struct{ group, leaf int32 }

// known returns what was found out about a group without a usable member.
func (r *resolver) known(group int) (choice, bool) {
	for _, b := range r.bad[:r.nBad] {
		if int(b.group) == group {
			return choice{leaf: int(b.leaf)}, true
		}
	}
	leaf, ok := r.badMap[group]
	return choice{leaf: leaf}, ok
}

func (r *resolver) remember(group, leaf int) {
	if r.nBad < badGroups {
		r.bad[r.nBad] = badGroup{int32(group), int32(leaf)}
		r.nBad++
		return
	}
	if r.badMap == nil {
		r.badMap = make(map[int]int)
	}
	r.badMap[group] = leaf
}

// depth bounds groups within groups. rules.Check refuses cycles; the bound keeps
// a policy built by hand from recursing without end.
func (r *resolver) depth() int { return len(r.policy.Groups) }

// choice is a concrete route (-1: blocked) and whether it is usable.
type choice struct {
	leaf   int
	usable bool
}

func (r *resolver) route(route, depth int) choice {
	if route < 0 || route >= len(r.policy.Routes) {
		return choice{leaf: -1}
	}
	rt := &r.policy.Routes[route]
	if rt.Kind != rules.RouteGroup {
		return choice{route, r.usable(route)}
	}
	if rt.Group < 0 || rt.Group >= len(r.policy.Groups) || depth == 0 {
		return choice{leaf: -1}
	}
	if c, ok := r.known(rt.Group); ok {
		return c
	}
	g := &r.policy.Groups[rt.Group]
	selected := -1
	if g.Strategy == rules.LowestLatency && rt.Group < len(r.world.Selected) {
		selected = r.world.Selected[rt.Group]
	}
	c := r.choose(g.Members, selected, g.BlockWhenNone, depth-1)
	if !c.usable {
		r.remember(rt.Group, c.leaf)
	}
	return c
}

// choose takes the selected member if it is usable, else the first usable one,
// else the best of the bad ones unless block says otherwise.
func (r *resolver) choose(members []int, selected int, block bool, depth int) choice {
	if selected >= 0 && selected < len(members) {
		if c := r.route(members[selected], depth); c.usable {
			return c
		}
	}
	best := choice{leaf: -1}
	for _, m := range members {
		c := r.route(m, depth)
		switch {
		case c.usable:
			return c
		case c.leaf < 0 || block:
		case best.leaf < 0 || r.better(c.leaf, best.leaf):
			best = c
		}
	}
	return best
}

// usable reports whether groups may give the route to this flow. A route
// without an uplink always is; one that recovers gets its share of the hashes.
func (r *resolver) usable(route int) bool {
	l, ok := r.link(route)
	if !ok {
		return true
	}
	if l.Unknown && !l.Up || l.State == state.Failover {
		return false
	}
	return int(flow.Bucket(r.hash, 100)) < l.Share
}

// better reports whether dead route a is the better of two bad ones: link up,
// then fewest lost probes, then lowest RTT. Equal means list order.
func (r *resolver) better(a, b int) bool {
	x, _ := r.link(a)
	y, _ := r.link(b)
	switch {
	case x.Up != y.Up:
		return x.Up
	case x.Lost != y.Lost:
		return x.Lost < y.Lost
	default:
		return rtt(x) < rtt(y)
	}
}

// rtt makes "not measured" the slowest.
func rtt(l *state.Link) time.Duration {
	if l.RTT < 0 {
		return 1<<63 - 1
	}
	return l.RTT
}

// link returns the health of the route's uplink, and false for a route without
// one or a world that does not know it.
func (r *resolver) link(route int) (*state.Link, bool) {
	rt := &r.policy.Routes[route]
	if rt.Kind != rules.RouteUplink && rt.Kind != rules.RouteOther || rt.Uplink < 0 || rt.Uplink >= len(r.world.Uplinks) {
		return nil, false
	}
	return &r.world.Uplinks[rt.Uplink], true
}

// OfflineWorld is the world outside the daemon: every link up and NORMAL,
// nothing measured, but the primary uplink in state s (RECOVERY with its first
// share, 10 %). The global state is s.
func OfflineWorld(p *rules.Policy, s state.State) *state.World {
	w := &state.World{
		Global: s, Primary: p.Primary,
		Uplinks: make([]state.Link, len(p.Uplinks)), Selected: make([]int, len(p.Groups)),
	}
	for i := range w.Uplinks {
		w.Uplinks[i] = state.Link{State: state.Normal, Up: true, Share: 100, RTT: -1, P90: -1, Jitter: -1, Loss: -1, ErrorRate: -1, Usage: -1}
	}
	for i := range w.Selected {
		w.Selected[i] = -1
	}
	if p.Primary >= 0 && p.Primary < len(w.Uplinks) {
		l := &w.Uplinks[p.Primary]
		l.State = s
		switch s {
		case state.Recovery:
			l.Share = 10
		case state.Failover:
			l.Share = 0
		}
	}
	return w
}
