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
	r := resolver{policy: p, world: w, draw: flow.Bucket(hash, Hundredths)}
	c := r.route(route, r.depth())
	return c.leaf, c.leaf >= 0
}

// ResolveFallback is Resolve for the action `fallback: [a, b, c]`: the first
// usable route of the list, else the best of the bad ones.
func ResolveFallback(p *rules.Policy, w *state.World, routes []int, hash uint32) (leaf int, ok bool) {
	r := resolver{policy: p, world: w, draw: flow.Bucket(hash, Hundredths)}
	c := r.choose(routes, -1, false, r.depth())
	return c.leaf, c.leaf >= 0
}

// Hundredths is how finely flows are told apart by their hash: a route is the same
// for all hashes with one flow.Bucket of so many.
const Hundredths = 100

type resolver struct {
	policy *rules.Policy
	world  *state.World
	// draw is the hundredth of all hashes in which the flow's lies, drawn anew for
	// each group that shares flows out among its members (level counts them): of the
	// flows that such a group gave to a member, those with low hashes are no more
	// than others.
	draw  uint32
	level int32
	// bad holds the groups found without a usable member, and the best of the bad
	// for each, so that no group is searched twice however many lead to it. (One
	// with a usable member ends the search of all above it.) The first ones stand
	// in an array, so that deciding allocates nothing.
	bad    [badGroups]badGroup
	nBad   int
	badMap map[badKey]int32 // to leaf
}

// badGroups is room for a group all of whose members (64 at the most) are groups;
// only deeper nests of more take a map.
const badGroups = 66

// badKey is a group as it looks with one draw.
type badKey struct{ group, level int32 }

type badGroup struct {
	badKey
	leaf int32
}

// known returns what was found out about a group without a usable member.
func (r *resolver) known(group int) (choice, bool) {
	key := badKey{int32(group), r.level}
	for _, b := range r.bad[:r.nBad] {
		if b.badKey == key {
			return choice{leaf: int(b.leaf)}, true
		}
	}
	leaf, ok := r.badMap[key]
	return choice{leaf: int(leaf)}, ok
}

func (r *resolver) remember(group, leaf int) {
	key := badKey{int32(group), r.level}
	if r.nBad < badGroups {
		r.bad[r.nBad] = badGroup{key, int32(leaf)}
		r.nBad++
		return
	}
	if r.badMap == nil {
		r.badMap = make(map[badKey]int32)
	}
	r.badMap[key] = int32(leaf)
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
	c := r.group(rt.Group, depth-1)
	if !c.usable {
		r.remember(rt.Group, c.leaf)
	}
	return c
}

func (r *resolver) group(group, depth int) choice {
	g := &r.policy.Groups[group]
	selected := -1
	switch g.Strategy {
	case rules.LowestLatency:
		if group < len(r.world.Selected) {
			selected = r.world.Selected[group]
		}
	case rules.Weighted, rules.HashOf:
		return r.share(g, depth)
	case rules.SLA:
		if group < len(r.world.Meets) {
			meets := r.world.Meets[group]
			for i, m := range g.Members[:min(len(g.Members), len(meets))] {
				if meets[i] != state.True {
					continue
				}
				if c := r.route(m, depth); c.usable {
					return c
				}
			}
		}
	}
	return r.choose(g.Members, selected, g.BlockWhenNone, depth)
}

// maxShared is the most members among which flows are shared out: rules.Check
// takes no more.
const maxShared = 64

// share gives each flow a member by its hash: each member its part of the hundred
// by weight. A flow whose member is not usable for it draws again among the others,
// and so on. Which members a flow asks, and in what order, depends on nothing that
// changes: when a member dies its own flows move and no others, and they come back.
func (r *resolver) share(g *rules.Group, depth int) choice {
	draw := r.draw
	defer func(draw uint32) { r.draw, r.level = draw, r.level-1 }(draw)
	r.draw, r.level = (37*draw+11)%Hundredths, r.level+1
	var tried uint64
	for range min(len(g.Members), maxShared) {
		i := r.member(g, draw, tried)
		if c := r.route(g.Members[i], depth); c.usable {
			return c
		}
		tried |= 1 << i
		draw = (63*draw + 29) % Hundredths
	}
	return r.choose(g.Members, -1, g.BlockWhenNone, depth)
}

// member returns whose part of the hundred a draw lies in, without the members
// that have been tried.
func (r *resolver) member(g *rules.Group, draw uint32, tried uint64) int {
	weight := func(i int) int {
		switch {
		case tried>>i&1 == 1:
			return 0
		case g.Strategy == rules.HashOf:
			return 1
		default:
			return r.weight(g.Members[i])
		}
	}
	n := min(len(g.Members), maxShared)
	total := 0
	for i := range n {
		total += weight(i)
	}
	upto := 0
	for i := range n {
		if upto += weight(i); int(draw)*total < upto*Hundredths {
			return i
		}
	}
	return n - 1 // not reached: a draw is below a hundred
}

// weight is that of the uplink that stands for a route. A route without one counts
// as 1, and so does a weight below.
func (r *resolver) weight(route int) int {
	if u := uplinkOf(r.policy, route); u >= 0 && u < len(r.policy.Uplinks) {
		return max(1, r.policy.Uplinks[u].Weight)
	}
	return 1
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
// without an uplink is as long as it is not known to be dead itself; one that
// recovers gets its share of the hashes.
func (r *resolver) usable(route int) bool {
	if r.dead(route) {
		return false
	}
	l, ok := r.link(route)
	if !ok {
		return true
	}
	if l.Unknown && !l.Up || l.State == state.Failover {
		return false
	}
	return int(r.draw) < l.Share
}

// dead reports whether a concrete route is known not to carry anything, whatever
// its uplink does.
func (r *resolver) dead(route int) bool {
	return route < len(r.world.Alive) && r.world.Alive[route] == state.False
}

// unmeasured stands for the uplink of a route that has none.
var unmeasured = state.Link{Up: true, RTT: -1}

// better reports whether dead route a is the better of two bad ones: link up, not
// dead itself, then fewest lost probes, then lowest RTT. Equal means list order.
func (r *resolver) better(a, b int) bool {
	x, ok := r.link(a)
	if !ok {
		x = &unmeasured
	}
	y, ok := r.link(b)
	if !ok {
		y = &unmeasured
	}
	switch {
	case x.Up != y.Up:
		return x.Up
	case r.dead(a) != r.dead(b):
		return r.dead(b)
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
// share, 10 %). The global state is s. No quota is exceeded, schedules are not
// known, and conditions are what follows from that.
func OfflineWorld(p *rules.Policy, s state.State) *state.World {
	w := offline(p, s)
	c := NewClock(&rules.Policy{Uplinks: p.Uplinks, Routes: p.Routes, Groups: p.Groups, Conditions: p.Conditions}, nil)
	c.once = true
	c.Step(time.Time{}, w)
	w.Schedules = make([]state.Truth, len(p.Schedules))
	return w
}

// OfflineWorldAt is OfflineWorld at a time: schedules are open or closed as they are
// then, local being the zone of those that name none. Nothing has a past: what a
// condition wants to have held for some time counts at once.
func OfflineWorldAt(p *rules.Policy, s state.State, now time.Time, local *time.Location) *state.World {
	w := offline(p, s)
	c := NewClock(p, local)
	c.once = true
	c.Step(now, w)
	return w
}

func offline(p *rules.Policy, s state.State) *state.World {
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
	for range p.Quotas {
		w.Quotas = append(w.Quotas, state.False)
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
