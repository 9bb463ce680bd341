package engine

import (
	"math/bits"
	"slices"
)

// bounds finds the elementary interval that a number lies in: start holds the
// intervals' first numbers, in order, beginning with 0, and what they stand for.
type bounds[T uint32 | uint64] struct {
	start []bound[T]
	// top holds, for each value of the bits in which the starts after the first
	// begin to differ, the value of the interval in which all these numbers lie, or,
	// where they lie in several, manyHere and the first of these.
	top   []uint32
	shift uint8
	mask  T
	// first and last are the second start, or the highest number, and the last start.
	first, last T
}

// manyHere marks an entry of top that is an interval and not a value; a value of
// none is one bit shorter there.
const (
	manyHere = 1 << 31
	topNone  = none &^ manyHere
)

type bound[T uint32 | uint64] struct {
	at    T
	value uint32
}

// newBounds takes the starts in order; the first is 0.
func newBounds[T uint32 | uint64](starts []bound[T]) bounds[T] {
	n := len(starts)
	b := bounds[T]{start: slices.Clone(starts), first: ^T(0), last: starts[n-1].at}
	if n > 1 {
		b.first = starts[1].at
	}
	if n < 3 {
		return b
	}
	// All numbers from the second start to the last share their upper bits.
	first, last := b.first, b.last
	below := bits.Len64(uint64(first ^ last)) // how many bits differ
	size := min(bits.Len(uint(n))+1, below)   // of the table, in bits: most entries are values
	b.shift, b.mask = uint8(below-size), T(1)<<size-1
	b.top = make([]uint32, 1<<size)
	i := 0
	for x := range 1 << size {
		at := first>>below<<below | T(x)<<b.shift
		for i+1 < n && b.start[i+1].at <= at {
			i++
		}
		b.top[x] = b.start[i].value &^ manyHere
		if end := at + (T(1)<<b.shift - 1); i+1 < n && b.start[i+1].at <= end {
			b.top[x] = manyHere | uint32(i)
		}
	}
	return b
}

// cell returns the entry of top for x.
func (b *bounds[T]) cell(x T) uint32 { return b.top[x>>b.shift&b.mask] }

// find returns the value of the interval around x, which is below manyHere or none.
func (b *bounds[T]) find(x T) uint32 {
	last := len(b.start) - 1
	if x < b.first {
		return b.start[0].value
	}
	if x >= b.last {
		return b.start[last].value
	}
	at := b.cell(x)
	if at&manyHere == 0 {
		if at == topNone {
			return none
		}
		return at
	}
	lo := int(at &^ manyHere)
	hi := lo + 1
	for step := 1; hi < last && b.start[hi].at <= x; step *= 2 {
		lo, hi = hi, min(hi+step, last)
	}
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if b.start[mid].at <= x {
			lo = mid
		} else {
			hi = mid
		}
	}
	return b.start[lo].value
}
