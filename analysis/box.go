package analysis

import (
	"slices"
	"sort"
)

// span is a run of values of one dimension, both ends included.
type span struct{ lo, hi int32 }

// values is a set of values of one dimension: spans in order, which neither overlap
// nor touch. The empty set is nil. It is never modified once made.
type values []span

// normal sorts spans and joins those that overlap or touch, in place.
func normal(list []span) values {
	if len(list) == 0 {
		return nil
	}
	slices.SortFunc(list, func(a, b span) int { return int(a.lo) - int(b.lo) })
	out := list[:1]
	for _, s := range list[1:] {
		if last := &out[len(out)-1]; s.lo <= last.hi+1 {
			last.hi = max(last.hi, s.hi)
			continue
		}
		out = append(out, s)
	}
	return values(out)
}

// from returns the place of the first span that ends at x or behind it.
func (v values) from(x int32) int {
	return sort.Search(len(v), func(i int) bool { return v[i].hi >= x })
}

// has reports whether the value is in the set.
func (v values) has(x int32) bool {
	if len(v) == 1 {
		return v[0].lo <= x && x <= v[0].hi
	}
	i := v.from(x)
	return i < len(v) && v[i].lo <= x
}

// covers reports whether all of w is in the set.
func (v values) covers(w values) bool {
	if len(w) > 0 && len(v) > 0 && &v[0] == &w[0] && len(v) == len(w) {
		return true
	}
	for _, s := range w {
		if i := v.from(s.lo); i == len(v) || v[i].lo > s.lo || v[i].hi < s.hi {
			return false
		}
	}
	return true
}

// and returns what is in both sets.
func (v values) and(w values) values {
	if len(v) > len(w) {
		v, w = w, v
	}
	var out values
	for _, s := range v {
		for i := w.from(s.lo); i < len(w) && w[i].lo <= s.hi; i++ {
			out = append(out, span{max(s.lo, w[i].lo), min(s.hi, w[i].hi)})
		}
	}
	return out
}

// minus returns what is in v and not in w.
func (v values) minus(w values) values {
	var out values
	for _, s := range v {
		lo := s.lo
		for i := w.from(lo); i < len(w) && w[i].lo <= s.hi; i++ {
			if w[i].lo > lo {
				out = append(out, span{lo, w[i].lo - 1})
			}
			lo = w[i].hi + 1
		}
		if lo <= s.hi {
			out = append(out, span{lo, s.hi})
		}
	}
	return out
}

// count returns how many values are in the set.
func (v values) count() int {
	n := 0
	for _, s := range v {
		n += int(s.hi-s.lo) + 1
	}
	return n
}

// side is what a box says of one dimension.
type side struct {
	dim int32
	in  values
	// named: the side asks that a name matches, see space.meet.
	named bool
}

// box is the set of all points that are on each of its sides. Sides are ordered by
// dimension; a dimension without a side is free. A box is never modified once made.
type box []side

// side returns what the box says of a dimension; false: it is free.
func (b box) side(dim int32) (values, bool) {
	for i := range b {
		if b[i].dim == dim {
			return b[i].in, true
		}
	}
	return nil, false
}

// with returns the box with another side in place of that of its dimension.
func (b box) with(s side) box {
	at, found := slices.BinarySearchFunc(b, s.dim, func(t side, dim int32) int { return int(t.dim) - int(dim) })
	out := make(box, 0, len(b)+1)
	out = append(append(out, b[:at]...), s)
	if found {
		at++
	}
	return append(out, b[at:]...)
}

// and returns the points that are in both boxes; false: there are none. meet is
// what two sides of one dimension have in common.
func (b box) and(c box, meet func(a, b side) values) (box, bool) {
	out := make(box, 0, len(b)+len(c))
	for len(b) > 0 || len(c) > 0 {
		switch {
		case len(c) == 0 || len(b) > 0 && b[0].dim < c[0].dim:
			out, b = append(out, b[0]), b[1:]
		case len(b) == 0 || c[0].dim < b[0].dim:
			out, c = append(out, c[0]), c[1:]
		default:
			in := meet(b[0], c[0])
			if len(in) == 0 {
				return nil, false
			}
			out, b, c = append(out, side{b[0].dim, in, b[0].named || c[0].named}), b[1:], c[1:]
		}
	}
	return out, true
}

// cutFrom cuts the points of b out of the piece and returns what is left, as boxes that do not
// overlap. sizes has how many values each dimension has.
func (b box) cutFrom(piece box, sizes []int32) []box {
	whole := piece
	var left []box
	for _, s := range b {
		in, limited := piece.side(s.dim)
		if !limited {
			in = values{{0, sizes[s.dim] - 1}}
		}
		if s.in.covers(in) {
			continue
		}
		if out := in.minus(s.in); len(out) > 0 {
			left = append(left, piece.with(side{dim: s.dim, in: out}))
		}
		both := in.and(s.in)
		if len(both) == 0 {
			return []box{whole}
		}
		piece = piece.with(side{dim: s.dim, in: both})
	}
	return left
}
