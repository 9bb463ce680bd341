package engine

import (
	"cmp"
	"maps"
	"slices"
)

// run is a part of a node's rest in which all rules do the same, read the same
// fields and hold in the same states: of the ones that are open, the first tells
// all there is to tell.
type run struct {
	do     uint32
	reads  uint8
	active uint8
	ids    []id
}

func (b *builder) runs(ids []id) []run {
	list := slices.Clone(ids)
	slices.SortFunc(list, func(x, y id) int {
		p, q := &b.records[x], &b.records[y]
		return cmp.Or(cmp.Compare(p.do, q.do), cmp.Compare(p.reads, q.reads), cmp.Compare(p.active, q.active), cmp.Compare(x, y))
	})
	var out []run
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
			out = append(out, run{r.do, r.reads, uint8(r.active), list[from:to:to]})
		}
		from = to
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
