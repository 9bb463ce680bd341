package quic

import "slices"

// assembler puts pieces of a message in order. Of a byte that comes twice, the
// first counts.
type assembler struct {
	buf  []byte
	have []span // in order, with gaps between them
}

// span is the bytes from..to.
type span struct{ from, to int }

// add takes a piece; false when a bound makes it lost.
func (a *assembler) add(offset uint64, data []byte) bool {
	if offset > MaxHello || uint64(len(data)) > MaxHello-offset {
		return false
	}
	if len(data) == 0 {
		return true
	}
	from, to := int(offset), int(offset)+len(data)
	// The spans that the piece overlaps or touches: first..last.
	first, _ := slices.BinarySearchFunc(a.have, from, func(s span, at int) int { return s.to - at })
	last := first
	for last < len(a.have) && a.have[last].from <= to {
		last++
	}
	if first == last && len(a.have) == maxSpans {
		return false
	}
	if len(a.buf) < to {
		a.buf = append(a.buf, make([]byte, to-len(a.buf))...)
	}
	merged := span{from, to}
	at := from // what lies before it is there
	for _, s := range a.have[first:last] {
		if at < s.from {
			copy(a.buf[at:s.from], data[at-from:])
		}
		at = max(at, s.to)
		merged.from, merged.to = min(merged.from, s.from), max(merged.to, s.to)
	}
	if at < to {
		copy(a.buf[at:to], data[at-from:])
	}
	a.have = slices.Replace(a.have, first, last, merged)
	return true
}

// prefix returns what is there without a gap from the beginning.
func (a *assembler) prefix() []byte {
	if len(a.have) == 0 || a.have[0].from > 0 {
		return nil
	}
	return a.buf[:a.have[0].to]
}
