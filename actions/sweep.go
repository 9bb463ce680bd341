package actions

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// point is a value of a field's domain: an address, a port or a protocol, as an
// unsigned number of 128 bits.
type point struct{ hi, lo uint64 }

func (p point) compare(q point) int { return cmp.Or(cmp.Compare(p.hi, q.hi), cmp.Compare(p.lo, q.lo)) }

// next is the point after p; that of the last one of all is the zero point.
func (p point) next() point {
	p.lo++
	if p.lo == 0 {
		p.hi++
	}
	return p
}

// prev is the point before p.
func (p point) prev() point {
	if p.lo == 0 {
		p.hi--
	}
	p.lo--
	return p
}

// span is an inclusive range of points.
type span struct{ lo, hi point }

func numberSpan(r Range) span { return span{point{0, uint64(r.Lo)}, point{0, uint64(r.Hi)}} }

func addrPoint(a netip.Addr) point {
	if a.Is4() {
		b := a.As4()
		return point{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return point{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (p point) addr(f Family) netip.Addr {
	if f == IPv4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(p.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], p.hi)
	binary.BigEndian.PutUint64(b[8:], p.lo)
	return netip.AddrFrom16(b)
}

func prefixSpan(p netip.Prefix) span {
	s := span{lo: addrPoint(p.Masked().Addr())}
	s.hi = s.lo
	host := p.Addr().BitLen() - p.Bits()
	if host >= 64 {
		s.hi.lo = ^uint64(0)
		s.hi.hi |= 1<<(host-64) - 1
	} else {
		s.hi.lo |= 1<<host - 1
	}
	return s
}

// addrs spells the span as nft does: an address, a prefix, or a range.
func (s span) addrs(f Family) string {
	lo, hi := s.lo.addr(f), s.hi.addr(f)
	if s.lo == s.hi {
		return lo.String()
	}
	for bits := lo.BitLen() - 1; bits >= 0; bits-- {
		p := netip.PrefixFrom(lo, bits)
		one := prefixSpan(p)
		if one.lo != s.lo || one.hi.compare(s.hi) > 0 {
			break
		}
		if one.hi == s.hi {
			return p.String()
		}
	}
	return fmt.Sprintf("%s-%s", lo, hi)
}

// numbers spells the span as nft does: a number or a range of two.
func (s span) numbers() string {
	if s.lo == s.hi {
		return fmt.Sprint(s.lo.lo)
	}
	return fmt.Sprintf("%d-%d", s.lo.lo, s.hi.lo)
}

// unite sorts spans and joins those that overlap or touch.
func unite(list []span) []span {
	slices.SortFunc(list, func(a, b span) int { return a.lo.compare(b.lo) })
	var out []span
	for _, s := range list {
		if n := len(out); n > 0 && (s.lo.compare(out[n-1].hi) <= 0 || s.lo == out[n-1].hi.next()) {
			if s.hi.compare(out[n-1].hi) > 0 {
				out[n-1].hi = s.hi
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// edge is where something of number id begins or, with end, is over.
type edge struct {
	at  point
	id  int
	end bool
}

// edges returns the sorted edges of spans, which do not overlap for one id. What
// ends with the domain has no end.
func edges(n int, spans func(id int) []span) []edge {
	var list []edge
	for id := range n {
		for _, s := range spans(id) {
			list = append(list, edge{s.lo, id, false})
			if after := s.hi.next(); after != (point{}) {
				list = append(list, edge{after, id, true})
			}
		}
	}
	slices.SortFunc(list, func(a, b edge) int { return a.at.compare(b.at) })
	return list
}

// sweep calls each for every piece between two edges where something holds,
// with the ids that hold there, ascending; last is the domain's last point. The
// ids are only lent.
func sweep(list []edge, last point, each func(piece span, ids []int)) {
	var active []int
	for i := 0; i < len(list); {
		at := list[i].at
		for ; i < len(list) && list[i].at == at; i++ {
			k, found := slices.BinarySearch(active, list[i].id)
			switch {
			case list[i].end && found:
				active = slices.Delete(active, k, k+1)
			case !list[i].end && !found:
				active = slices.Insert(active, k, list[i].id)
			}
		}
		if len(active) == 0 {
			continue
		}
		piece := span{at, last}
		if i < len(list) {
			piece.hi = list[i].at.prev()
		}
		each(piece, active)
	}
}
