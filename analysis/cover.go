package analysis

import "slices"

// budget is how much work may still be done: one for each side of a box that a point is
// compared with, and for each run of values that is compared or made. So what is found
// does not depend on the machine.
type budget struct {
	left int
	// each is the most for one question.
	each int
}

// perPart is the work of making a box.
const perPart = 20

// verdict is the answer to whether a region is covered.
type verdict uint8

const (
	covered   verdict = iota
	uncovered         // there is a point outside of all boxes
	undecided         // the budget is used up
)

// cover finds out whether boxes cover regions, and what is left.
type cover struct {
	space *space
	index *index
	// point is scratch: a value for each dimension, all 0 between questions.
	point []int32
	// near is the place of a rule which has the last sample in a box but for what is not
	// compared; nowhere if there is none.
	near int
}

func newCover(s *space, x *index) *cover {
	return &cover{space: s, index: x, point: make([]int32, len(s.sizes))}
}

// all reports whether the boxes that were added, or those of the places that only has,
// cover all pieces together. used are the places of rules that do, in order: none if no
// flow is in the pieces. If they don't, left is a region that is not covered at its sample.
func (c *cover) all(pieces []box, only func(place int) bool, b *budget) (v verdict, used []int, left box) {
	limit := b.left - min(b.each, b.left)
	todo := slices.Clone(pieces)
	seen := map[int]bool{}
	for len(todo) > 0 {
		piece := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		best := c.best(piece, only, b, limit)
		if b.left <= limit {
			return undecided, nil, nil
		}
		if best == nil {
			return uncovered, nil, piece
		}
		if best.place != nowhere && !seen[best.place] {
			seen[best.place] = true
			used = append(used, best.place)
		}
		parts := best.cutFrom(piece, c.space.sizes)
		for _, part := range parts {
			b.left -= perPart
			for _, s := range part {
				b.left -= len(s.in)
			}
		}
		todo = append(todo, parts...)
	}
	slices.Sort(used)
	return covered, used, nil
}

// sample returns a value on the side: that the fact is not known yet, if that can be,
// else the last one. Few boxes have the first, and the last is what no rule names.
func (s side) sample() int32 {
	if s.in[0].lo == unknown {
		return unknown
	}
	return s.in[len(s.in)-1].hi
}

// goTo makes the point the sample of a piece; leave takes that back.
func (c *cover) goTo(piece box) {
	for _, s := range piece {
		c.point[s.dim] = s.sample()
	}
}

func (c *cover) leave(piece box) {
	for _, s := range piece {
		c.point[s.dim] = 0
	}
}

// best returns, of the boxes in which the sample of the piece is, the one that leaves
// the least of the piece; of several the first. nil: there is none.
func (c *cover) best(piece box, only func(place int) bool, b *budget, limit int) *placed {
	c.goTo(piece)
	var best *placed
	least := 0
	c.near = nowhere
	c.index.each(piece, c.point, func(p *placed) bool {
		b.left -= 1 + len(p.box)
		if b.left <= limit {
			return false
		}
		if only != nil && !only(p.place) {
			return true
		}
		open, near := 0, false
		for _, s := range p.box {
			if !s.in.has(c.point[s.dim]) {
				if !c.space.keys[s.dim].open() {
					return true
				}
				near = true
				continue
			}
			in, limited := piece.side(s.dim)
			b.left -= len(in)
			if !limited || !s.in.covers(in) {
				open++
			}
		}
		if near {
			c.near = p.place
			return true
		}
		if best == nil || open < least || open == least && p.place < best.place {
			best, least = p, open
		}
		return least > 0
	})
	c.leave(piece)
	return best
}

// holders returns the places of rules that have the sample of the piece in a box, in
// order, at most so many.
func (c *cover) holders(piece box, most int, b *budget) []int {
	c.goTo(piece)
	var out []int
	c.index.each(piece, c.point, func(p *placed) bool {
		b.left -= 1 + len(p.box)
		for _, s := range p.box {
			if !s.in.has(c.point[s.dim]) {
				return true
			}
		}
		if p.place != nowhere {
			out = append(out, p.place)
		}
		return b.left > 0 && len(out) < most
	})
	c.leave(piece)
	slices.Sort(out)
	return slices.Compact(out)
}
