package engine

import (
	"slices"
)

// bounds finds the elementary interval that a number lies in: start holds the
// intervals' first numbers, in order, beginning with 0.
type bounds struct {
	start []uint32
	// top, where there are many, holds for each value of the upper 16 bits the
	// last interval that begins at or before it.
	top []uint32
}

// topFrom is how many intervals make the 256 KiB of a top table worth while.
const topFrom = 4096

func newBounds(starts []uint32) bounds {
	slices.Sort(starts)
	b := bounds{start: slices.Clip(slices.Compact(starts))}
	if len(b.start) < topFrom {
		return b
	}
	b.top = make([]uint32, 1<<16+1)
	i := 0
	for x := range 1 << 16 {
		for i+1 < len(b.start) && b.start[i+1] <= uint32(x)<<16 {
			i++
		}
		b.top[x] = uint32(i)
	}
	b.top[1<<16] = uint32(len(b.start) - 1)
	return b
}

// find returns the index of the last start at or below n.
func (b *bounds) find(n uint32) int {
	lo, hi := 0, len(b.start)
	if b.top != nil {
		lo, hi = int(b.top[n>>16]), int(b.top[n>>16+1])+1
	}
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if b.start[mid] <= n {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}
