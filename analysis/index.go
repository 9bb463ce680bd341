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

// index finds the boxes that a point is in, of those that were added. A box is filed
// under one of its sides: the one that the fewest boxes share.
type index struct {
	boxes []placed // in order
	added int      // how many of them were added, or left out
	// sides are the different sides of all boxes, filed where each is in its dimension, from
	// 1, 0 while it is not; by are the places in sides of the boxes, -1 for one without any.
	sides []side
	filed []int32
	by    []int32

	dims   []dimIndex
	always []int32 // boxes without sides
	zero   []int32 // dimensions with a filed side that has the value 0
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

// newIndex prepares for boxes that are in order; none is added yet.
func newIndex(s *space, boxes []placed) *index {
	x := &index{dims: make([]dimIndex, len(s.sizes)), boxes: boxes, by: make([]int32, len(boxes))}
	ids := map[string]int32{} // of sides, by dimension and set
	var uses []int
	of := make([][]int32, len(boxes))
	var key []byte
	for i := range boxes {
		for _, d := range boxes[i].box {
			key = binary.LittleEndian.AppendUint32(key[:0], uint32(d.dim))
			for _, v := range d.in {
				key = binary.LittleEndian.AppendUint64(key, uint64(v.lo)<<32|uint64(uint32(v.hi)))
			}
			id, ok := ids[string(key)]
			if !ok {
				id = int32(len(x.sides))
				ids[string(key)], x.sides, uses = id, append(x.sides, d), append(uses, 0)
			}
			uses[id]++
			of[i] = append(of[i], id)
		}
	}
	x.filed = make([]int32, len(x.sides))
	// Sides with the value 0 are looked at for every point, and of those about what is not
	// compared it is asked what is near.
	poor := func(id int32) int {
		if x.sides[id].in.has(0) || s.keys[x.sides[id].dim].open() {
			return 1
		}
		return 0
	}
	for i, list := range of {
		if x.by[i] = -1; len(list) > 0 {
			x.by[i] = slices.MinFunc(list, func(a, b int32) int {
				return cmp.Or(cmp.Compare(poor(a), poor(b)), cmp.Compare(uses[a], uses[b]), cmp.Compare(x.sides[a].in.count(), x.sides[b].in.count()))
			})
		}
	}
	return x
}

// add adds the boxes up to a place, but for those of places that are left out.
func (x *index) add(s *space, place int, leave bool) {
	for ; x.added < len(x.boxes) && x.boxes[x.added].place <= place; x.added++ {
		i := int32(x.added)
		if leave && x.boxes[i].place == place {
			continue
		}
		id := x.by[i]
		if id < 0 {
			x.always = append(x.always, i)
			continue
		}
		dim := x.sides[id].dim
		d := &x.dims[dim]
		if x.filed[id] == 0 {
			d.file(x.sides[id].in, s.sizes[dim])
			x.filed[id] = int32(len(d.sets))
			if x.sides[id].in.has(0) && !slices.Contains(x.zero, dim) {
				x.zero = append(x.zero, dim)
			}
		}
		at := x.filed[id] - 1
		d.sets[at] = append(d.sets[at], i)
	}
}

// file adds a set to the tree.
func (d *dimIndex) file(in values, size int32) {
	if d.nodes == nil {
		d.size, d.nodes = size, make([]int32, 2*size)
	}
	set := int32(len(d.sets))
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

// each calls f with the boxes that may have the point in them, until f says false. The
// point has the value 0 where the piece around it is free.
func (x *index) each(piece box, point []int32, f func(*placed) bool) {
	some := func(list []int32) bool {
		for _, i := range list {
			if !f(&x.boxes[i]) {
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
