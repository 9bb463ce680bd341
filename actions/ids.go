package actions

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"netpolicy.dev/netpolicy/rules"
)

// idReject is the route id of rejected flows; the highest id is that of
// dropped ones, 0 of flows not decided yet.
const idReject = 1

// top is the highest route id: dropped flows.
func (p *Plan) top() uint32 { return p.CTMask >> bits.TrailingZeros32(p.CTMask) }

// place puts a number into a mask's bits.
func place(n, mask uint32) uint32 { return n << bits.TrailingZeros32(mask) & mask }

func trailing(mask uint32) int { return bits.TrailingZeros32(mask) }

// contiguous reports whether the mask is one run of at least n bits.
func contiguous(mask uint32, n int) bool {
	return mask != 0 && bits.OnesCount32(mask) >= n &&
		bits.Len32(mask)-bits.TrailingZeros32(mask) == bits.OnesCount32(mask)
}

// assign numbers the keys from lo to hi: a key keeps the number it had, a new
// one takes the lowest that neither plan uses, so that marks of flows still
// alive never mean something else. Only when there is no such number is one of
// the old plan's taken.
func assign(prev map[string]uint32, keys []string, lo, hi uint32) (map[string]uint32, error) {
	ids := make(map[string]uint32, len(keys))
	used := map[uint32]bool{}
	for _, k := range keys {
		if n, ok := prev[k]; ok && n >= lo && n <= hi && !used[n] {
			ids[k], used[n] = n, true
		}
	}
	old := map[uint32]bool{}
	for _, n := range prev {
		old[n] = true
	}
	for _, k := range keys {
		if _, ok := ids[k]; ok {
			continue
		}
		n, ok := lowest(lo, hi, func(n uint32) bool { return !used[n] && !old[n] })
		if !ok {
			n, ok = lowest(lo, hi, func(n uint32) bool { return !used[n] })
		}
		if !ok {
			return nil, fmt.Errorf("room for %d only, the policy needs %d", hi-lo+1, len(keys))
		}
		ids[k], used[n] = n, true
	}
	return ids, nil
}

func lowest(lo, hi uint32, free func(uint32) bool) (uint32, bool) {
	for n := lo; n <= hi; n++ {
		if free(n) {
			return n, true
		}
	}
	return 0, false
}

// wayOut names what a route's packets are marked for, "" for none: two routes
// over the same uplink share a mark and a table. A tunnel's own packets leave over
// the uplink that it is on.
func wayOut(p *rules.Policy, r *rules.Route) string {
	switch r.Kind {
	case rules.RouteUplink, rules.RouteOther:
		if r.Uplink < 0 {
			return ""
		}
		return "uplink " + p.Uplinks[r.Uplink].Name
	case rules.RouteDev:
		return fmt.Sprintf("dev %s %v %v", r.Dev, r.Gateway[0], r.Gateway[1])
	case rules.RouteTable:
		return fmt.Sprintf("table %d", r.Table)
	default:
		return ""
	}
}

// leaves returns the concrete routes that the policy can give, in order.
func leaves(p *rules.Policy) []int {
	seen := make([]bool, len(p.Routes))
	var list []int
	var visit func(route int)
	visit = func(route int) {
		if route < 0 || route >= len(p.Routes) || seen[route] {
			return
		}
		seen[route] = true
		if p.Routes[route].Kind != rules.RouteGroup {
			list = append(list, route)
			return
		}
		for _, m := range p.Groups[p.Routes[route].Group].Members {
			visit(m)
		}
	}
	outcome := func(o *rules.Outcome) {
		switch o.Kind {
		case rules.ActRoute, rules.ActSwitchRoute, rules.ActFailover:
			visit(o.Route)
		case rules.ActFallback:
			for _, r := range o.Routes {
				visit(r)
			}
		}
	}
	for i := range p.Rules {
		outcome(&p.Rules[i].Do)
	}
	if p.Default != nil {
		outcome(p.Default)
	}
	slices.Sort(list)
	return list
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
