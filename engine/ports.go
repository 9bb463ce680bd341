package engine

import (
	"slices"

	"netpolicy.dev/netpolicy/rules"
)

// portIndex files rules under ranges of numbers: a segment tree over the
// elementary intervals. A range is filed under few of its nodes, and the nodes
// above a number's interval hold all ranges around it: at most 18, for 65,536
// ports.
type portIndex struct {
	bounds bounds[uint32]
	tree   []ref // leaves in the second half
	least  []id
}

// portFiling gathers what is filed under the nodes of a portIndex.
type portFiling struct {
	bounds bounds[uint32]
	tree   []filing
}

func newPortFiling(ranges []rules.PortRange) *portFiling {
	starts := []uint32{0}
	for _, r := range ranges {
		starts = append(starts, uint32(r.Lo))
		if r.Hi < 0xffff {
			starts = append(starts, uint32(r.Hi)+1)
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	list := make([]bound[uint32], len(starts))
	for i, at := range starts {
		list[i] = bound[uint32]{at, uint32(i)}
	}
	f := &portFiling{bounds: newBounds(list)}
	f.tree = make([]filing, 2*len(f.bounds.start))
	return f
}

func (f *portFiling) add(r rules.PortRange, file func(*filing)) {
	n := len(f.bounds.start)
	lo, hi := int(f.bounds.find(uint32(r.Lo)))+n, int(f.bounds.find(uint32(r.Hi)))+n+1
	for ; lo < hi; lo, hi = lo>>1, hi>>1 {
		if lo&1 == 1 {
			file(&f.tree[lo])
			lo++
		}
		if hi&1 == 1 {
			hi--
			file(&f.tree[hi])
		}
	}
}

func (b *builder) portIndex(f *portFiling, without classSet) *portIndex {
	x := &portIndex{bounds: f.bounds, tree: make([]ref, len(f.tree)), least: make([]id, len(f.tree))}
	for i := range f.tree {
		x.tree[i] = b.ref(f.tree[i], without)
		x.least[i] = b.pool.least(x.tree[i])
	}
	return x
}
