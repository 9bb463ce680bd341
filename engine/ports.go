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
	tree   []portNode // leaves in the second half
	// path has, by leaf, the least id of its node and all above it: mostly there is
	// no need to look at them.
	path []id
}

type portNode struct {
	ref   ref
	least id
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

func (b *builder) portIndex(f *portFiling, without classSet) portIndex {
	n := len(f.bounds.start)
	b.crowded = b.crowded || n > bigTree
	x := portIndex{bounds: f.bounds, tree: make([]portNode, 2*n), path: make([]id, n)}
	for i := range f.tree {
		r := b.ref(f.tree[i], without)
		x.tree[i] = portNode{r, b.pool.least(r)}
	}
	for leaf := range x.path {
		x.path[leaf] = none
		for at := leaf + n; at > 0; at >>= 1 {
			x.path[leaf] = min(x.path[leaf], x.tree[at].least)
		}
	}
	return x
}
