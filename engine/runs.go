package engine

import (
	"cmp"
	"maps"
	"slices"

	"netpolicy.dev/netpolicy/state"
)

// run is a part of a node's rest in which all rules do the same, read the same
// fields and hold in the same states: of the ones that are open, the first tells
// all there is to tell.
type run struct {
	do  uint32
	ids []id
}

// runGroup are the runs that read the same fields and hold in the same states,
// those with the best rules first.
type runGroup struct {
	reads  uint8
	active state.Set
	runs   []run
}

func (b *builder) runs(ids []id) []runGroup {
	list := slices.Clone(ids)
	slices.SortFunc(list, func(x, y id) int {
		p, q := &b.records[x], &b.records[y]
		return cmp.Or(cmp.Compare(p.reads, q.reads), cmp.Compare(p.active, q.active), cmp.Compare(p.do, q.do), cmp.Compare(x, y))
	})
	var out []runGroup
	for from := 0; from < len(list); {
		r := &b.records[list[from]]
		to := from + 1
		for to < len(list) {
			s := &b.records[list[to]]
			if s.do != r.do || s.reads != r.reads || s.active != r.active {
				break
			}
			to++
		}
		if r.flags&isSkip == 0 || !b.allSkip(list[from:to]) {
			if n := len(out); n == 0 || out[n-1].reads != r.reads || out[n-1].active != r.active {
				out = append(out, runGroup{reads: r.reads, active: r.active})
			}
			g := &out[len(out)-1]
			g.runs = append(g.runs, run{r.do, list[from:to:to]})
		}
		from = to
	}
	for i := range out {
		slices.SortFunc(out[i].runs, func(x, y run) int { return cmp.Compare(x.ids[0], y.ids[0]) })
		out[i].runs = slices.Clone(out[i].runs)
	}
	return slices.Clone(out)
}

// allSkip reports whether no rule of the list can be open.
func (b *builder) allSkip(ids []id) bool {
	return !slices.ContainsFunc(ids, func(i id) bool { return b.records[i].flags&isSkip == 0 })
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
