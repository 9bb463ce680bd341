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
	// begin to differ, the last interval that begins at or before it: few steps
	// are left for a binary search.
	top   []uint32
	shift uint8
	mask  T
}

type bound[T uint32 | uint64] struct {
	at    T
	value uint32
}

// newBounds takes the starts in order; the first is 0.
func newBounds[T uint32 | uint64](starts []bound[T]) bounds[T] {
	b := bounds[T]{start: slices.Clone(starts)}
	n := len(b.start)
	if n < 3 {
		return b
	}
	// All numbers from the second start to the last share their upper bits.
	first, last := b.start[1].at, b.start[n-1].at
	below := bits.Len64(uint64(first ^ last)) // how many bits differ
	size := min(bits.Len(uint(n)), below)     // of the table, in bits: half to one entry an interval
	b.shift, b.mask = uint8(below-size), T(1)<<size-1
	b.top = make([]uint32, 1<<size+1)
	i := 0
	for x := range 1 << size {
		for at := first>>below<<below | T(x)<<b.shift; i+1 < n && b.start[i+1].at <= at; {
			i++
		}
		b.top[x] = uint32(i)
	}
	b.top[1<<size] = uint32(n - 1)
	return b
}

// find returns the index of the last start at or below x.
func (b *bounds[T]) find(x T) int {
	last := len(b.start) - 1
	switch {
	case last == 0 || x < b.start[1].at:
		return 0
	case x >= b.start[last].at:
		return last
	}
	if b.top == nil {
		return 0
	}
	at := x >> b.shift & b.mask
	lo, hi := int(b.top[at]), int(b.top[at+1])+1
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if b.start[mid].at <= x {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}
