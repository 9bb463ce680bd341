package analysis

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// placed is a box of a rule, with the rule's place in the order; nowhere before all of
// them for points that no flow has.
type placed struct {
	box
	place int
}

const nowhere = -1

// index finds the boxes that a point is in. A box is filed under one of its sides: the
// one that the fewest boxes share.
type index struct {
	dims   []dimIndex
	always []int32 // boxes without sides
	zero   []int32 // dimensions with a filed side that has the value 0
	boxes  []placed
	dead   []bool // by place: boxes of these are not found
}

// dimIndex is a segment tree over the values of a dimension: each node has the sets that
// hold all of its values, though not all of its parent's. Boxes are filed by their set.
type dimIndex struct {
	size  int32
	nodes []int32 // the last of the node's entries, from 1; 0: it has none
	list  []entry
	sets  [][]int32 // the boxes of each, in order
}

// entry is a set at a node, and the node's entry before it.
type entry struct{ set, before int32 }

// newIndex files boxes that are in order.
func newIndex(s *space, boxes []placed, places int) *index {
	x := &index{dims: make([]dimIndex, len(s.sizes)), boxes: boxes, dead: make([]bool, places)}
	ids := map[string]int{} // by dimension and set
	var sets []side
	var uses []int
	of := make([][]int, len(boxes))
	var key []byte
	for i := range boxes {
		for _, d := range boxes[i].box {
			key = binary.LittleEndian.AppendUint32(key[:0], uint32(d.dim))
			for _, v := range d.in {
				key = binary.LittleEndian.AppendUint64(key, uint64(v.lo)<<32|uint64(uint32(v.hi)))
			}
			id, ok := ids[string(key)]
			if !ok {
				id = len(sets)
				ids[string(key)], sets, uses = id, append(sets, d), append(uses, 0)
			}
			uses[id]++
			of[i] = append(of[i], id)
		}
	}
	// Sides with the value 0 are looked at for every point, and of those about what is not
	// compared it is asked what is near.
	poor := func(id int) int {
		if sets[id].in.has(0) || s.keys[sets[id].dim].open() {
			return 1
		}
		return 0
	}
	filed := map[int]int{} // sets, by their place in their dimension
	for i, list := range of {
		if len(list) == 0 {
			x.always = append(x.always, int32(i))
			continue
		}
		id := slices.MinFunc(list, func(a, b int) int {
			return cmp.Or(cmp.Compare(poor(a), poor(b)), cmp.Compare(uses[a], uses[b]), cmp.Compare(sets[a].in.count(), sets[b].in.count()))
		})
		d := &x.dims[sets[id].dim]
		at, ok := filed[id]
		if !ok {
			at = len(d.sets)
			filed[id] = at
			d.file(sets[id].in, s.sizes[sets[id].dim], int32(at))
			if sets[id].in.has(0) {
				x.zero = append(x.zero, sets[id].dim)
			}
		}
		d.sets[at] = append(d.sets[at], int32(i))
	}
	slices.Sort(x.zero)
	x.zero = slices.Compact(x.zero)
	return x
}

// file adds a set to the tree.
func (d *dimIndex) file(in values, size, set int32) {
	if d.nodes == nil {
		d.size, d.nodes = size, make([]int32, 2*size)
	}
	d.sets = append(d.sets, nil)
	add := func(node int32) {
		d.list = append(d.list, entry{set, d.nodes[node]})
		d.nodes[node] = int32(len(d.list))
	}
	for _, v := range in {
		for lo, hi := v.lo+size, v.hi+size+1; lo < hi; lo, hi = lo/2, hi/2 {
			if lo&1 == 1 {
				add(lo)
				lo++
			}
			if hi&1 == 1 {
				hi--
				add(hi)
			}
		}
	}
}

// each calls f with the boxes of rules before a place that may have the point in them,
// until f says false. The point has the value 0 where the piece around it is free.
func (x *index) each(piece box, point []int32, before int, f func(*placed) bool) {
	some := func(list []int32) bool {
		for _, i := range list {
			b := &x.boxes[i]
			if b.place >= before {
				return true
			}
			if (b.place < 0 || !x.dead[b.place]) && !f(b) {
				return false
			}
		}
		return true
	}
	visit := func(dim int32) bool {
		d := &x.dims[dim]
		if d.nodes == nil {
			return true
		}
		for n := point[dim] + d.size; n > 0; n /= 2 {
			for at := d.nodes[n]; at > 0; at = d.list[at-1].before {
				if !some(d.sets[d.list[at-1].set]) {
					return false
				}
			}
		}
		return true
	}
	if !some(x.always) {
		return
	}
	for _, d := range piece {
		if !visit(d.dim) {
			return
		}
	}
	for _, dim := range x.zero {
		if _, limited := piece.side(dim); !limited && !visit(dim) {
			return
		}
	}
}

// impossible are points that no flow has.
func (s *space) impossible() (out []box) {
	add := func(sides ...side) {
		b := box{}
		for _, d := range sides {
			if d.dim < 0 || len(d.in) == 0 {
				return
			}
			b = b.with(d)
		}
		out = append(out, b)
	}
	// Of protocols without ports the ports are absent.
	proto := dimKey{field: rules.FieldProto}
	a := s.numbers[proto]
	var list []span
	for i := range len(a.cuts) - 1 {
		if !flow.Proto(a.cuts[i]).HasPorts() {
			list = append(list, span{known + int32(i), known + int32(i)})
		}
	}
	without := normal(list)
	for _, f := range []rules.Field{rules.FieldPort, rules.FieldSrcPort} {
		if port := s.valuesOf(f, values{{unknown, unknown}, {known, math.MaxInt32}}); port.dim >= 0 {
			add(side{dim: s.dim(proto), in: without}, port)
		}
	}
	// DNS names stand in for names that aren't known, as long as no other is; and where
	// a name is known, or none can come, domain follows.
	sni, host, domain := rules.FieldSNI, rules.FieldHTTPHost, rules.FieldDomain
	gone := values{{absent, absent}}
	add(s.nameAs(sni, asHint), s.nameAs(host, asKnown))
	add(s.nameAs(host, asHint), s.nameAs(sni, asKnown))
	for _, f := range []rules.Field{sni, host} {
		add(s.nameAs(f, asKnown), s.valuesOf(domain, values{{unknown, unknown}}))
		add(s.nameAs(f, asKnown), s.nameAs(domain, asHint))
		add(s.valuesOf(f, values{{unknown, unknown}, {known, math.MaxInt32}}), s.nameAs(domain, asAll))
	}
	add(s.valuesOf(sni, gone), s.valuesOf(host, gone), s.valuesOf(domain, values{{unknown, unknown}}))
	add(s.valuesOf(sni, gone), s.valuesOf(host, gone), s.nameAs(domain, asHint))
	return out
}

// valuesOf returns values of a field as a side; of the dimension -1 if no rule reads it.
func (s *space) valuesOf(f rules.Field, in values) side {
	dim, read := s.dims[dimKey{field: f}]
	if !read {
		return side{dim: -1}
	}
	return side{dim: dim, in: in.and(values{{0, s.sizes[dim] - 1}})}
}

// nameAs returns all names of a field in a form as a side.
func (s *space) nameAs(f rules.Field, form int32) side {
	n := int32(len(s.names[nameAt(f)].cuts) - 1)
	return s.valuesOf(f, values{{known + form*n, known + (form+1)*n - 1}})
}
