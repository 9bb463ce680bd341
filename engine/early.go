package engine

import (
	"slices"

	"netpolicy.dev/netpolicy/state"
)

// early is one of the first of many rules, with a copy of what it asks for, as far
// as there is room: the records themselves lie far apart.
type early struct {
	id       id
	ports    uint32 // of the destination: low and, above it, high
	srcPorts uint32
	addr     addr4 // one prefix, of the source or the destination
	active   state.Set
	protos   protoSet   // 0: not asked for
	asks     tupleParts // which facts the rule needs, of the addresses one
	exact    bool       // that is all it needs, or else its record has the rest
}

// addr4 is an IPv4 prefix.
type addr4 struct{ addr, mask uint32 }

const anyPort = 0xffff << 16

// firstRules of a node with more than manyRules are looked at before its indexes,
// and as many of those around an address, if one of them is likely to be true.
const (
	firstRules = 32
	manyRules  = 2 * firstRules
)

// head is how many rules stand at a place, and the first of them, in order.
type head struct {
	ids  []id
	size int
}

// headOf makes the head of ids in order.
func headOf(ids []id) head {
	return head{slices.Clone(ids[:min(len(ids), firstRules)]), len(ids)}
}

// head returns the head of what a ref leads to; a rule may be counted twice.
func (b *builder) head(r ref) head {
	switch r & refForm {
	case refOne:
		return head{[]id{id(r)}, 1}
	case refNode:
		return b.heads[r&^refForm]
	case refList:
		return headOf(b.pool.list(r))
	default:
		var h head
		for _, x := range b.pool.list(r) {
			h = h.with(b.head(ref(x)))
		}
		return h
	}
}

// with returns the head of both.
func (h head) with(o head) head {
	ids := slices.Concat(h.ids, o.ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return head{ids[:min(len(ids), firstRules)], h.size + o.size}
}

// size is head's, without making it.
func (b *builder) size(r ref) int {
	switch r & refForm {
	case refOne:
		return 1
	case refNode:
		return b.heads[r&^refForm].size
	case refList:
		return len(b.pool.list(r))
	default:
		n := 0
		for _, x := range b.pool.list(r) {
			n += b.size(ref(x))
		}
		return n
	}
}

// along gives an index's entries the first rules of them and all their parents, where
// these are many. Parents stand before what lies in them.
func (b *builder) along(x *prefixIndex, without classSet) {
	if b.records == nil || b.open {
		return
	}
	sizes, most := make([]int, len(x.entries)), 0
	for i := range x.entries {
		e := &x.entries[i]
		sizes[i] = b.size(e.ref)
		if e.parent != none {
			sizes[i] += sizes[e.parent]
		}
		most = max(most, sizes[i])
	}
	if most <= manyRules {
		return
	}
	x.firstAt = make([]uint32, len(x.entries))
	heads := make([]head, len(x.entries))
	for i := range x.entries {
		e := &x.entries[i]
		heads[i] = b.head(e.ref)
		x.firstAt[i] = none
		if e.parent != none {
			outer := heads[e.parent]
			if heads[i] = outer.with(heads[i]); slices.Equal(heads[i].ids, outer.ids) {
				x.firstAt[i] = x.firstAt[e.parent]
			}
		}
		if sizes[i] > manyRules && len(heads[i].ids) == firstRules && x.firstAt[i] == none {
			if list := b.likely(heads[i].ids, without); list != nil {
				x.firstAt[i] = uint32(len(x.first))
				x.first = append(x.first, list...)
			}
		}
	}
	x.first = slices.Clone(x.first)
}

// firstOf returns the first of ids, or nil if all of them ask for so much else
// that hardly one will be true.
func (b *builder) firstOf(ids []id, without classSet) []early {
	sorted := slices.Clone(ids)
	slices.Sort(sorted)
	return b.likely(sorted[:firstRules], without)
}

// likely makes the copies of rules which are found by the given classes, or nil if
// all of them ask for so much else that hardly one will be true.
func (b *builder) likely(ids []id, without classSet) []early {
	likely := 0
	list := make([]early, len(ids))
	for at, i := range ids {
		likely += b.likelihood(&b.records[i])
		list[at] = b.early(i, without)
	}
	if likely < certain/2 {
		return nil
	}
	return list
}

func (b *builder) early(i id, without classSet) early {
	r := &b.records[i]
	e := early{id: i, active: r.active, ports: anyPort, srcPorts: anyPort}
	if r.flags&hasProto != 0 {
		e.protos = r.protos
	}
	switch {
	case r.flags&hasRange != 0:
		e.asks, e.ports, e.exact = tuplePort, r.ports, true
	case r.flags&hasTuple != 0:
		t := &b.tuples[r.ports]
		if t.has&tuplePort != 0 {
			e.asks, e.ports = tuplePort, t.ports[0]
		}
		if t.has&tupleSrcPort != 0 {
			e.asks, e.srcPorts = e.asks|tupleSrcPort, t.ports[1]
		}
		switch n := t.addrs; {
		case t.has&tupleDst != 0 && n[0].v4 && !without.has(classDst):
			e.asks, e.addr = e.asks|tupleDst, n[0].short()
		case t.has&tupleSrc != 0 && n[1].v4 && !without.has(classSrc):
			e.asks, e.addr = e.asks|tupleSrc, n[1].short()
		}
		e.exact = e.asks == t.has
	default:
		e.exact = r.flags&(hasPorts|needsEval) == 0
	}
	return e
}

// short returns an IPv4 prefix.
func (n *network) short() addr4 {
	mask := ^uint32(0) << (32 - n.bits)
	return addr4{uint32(n.hi>>32) & mask, mask}
}

const certain = 1 << 16

// likelihood estimates how likely a rule is true once its pivot is, in parts of
// certain: by the widths of ports, and a quarter for all else.
func (b *builder) likelihood(r *record) int {
	of := certain
	width := func(packed uint32) { of = of * (int(packed>>16) - int(packed&0xffff) + 1) >> 16 }
	switch {
	case r.flags&hasRange != 0:
		width(r.ports)
	case r.flags&hasTuple != 0:
		t := &b.tuples[r.ports]
		if t.has&tuplePort != 0 {
			width(t.ports[0])
		}
		if t.has&tupleSrcPort != 0 {
			width(t.ports[1])
		}
		if t.has&(tupleDst|tupleSrc|tupleLatency) != 0 {
			of /= 4
		}
	case r.flags&(hasPorts|needsEval) != 0:
		of /= 4
	}
	return of
}

// early looks at the first of many rules; true if none after them counts.
func (s *search) early(list []early) bool {
	f := s.c.flow
	var has tupleParts
	port, known := f.DstPort.Get()
	if known {
		has |= tuplePort
	}
	srcPort, known := f.SrcPort.Get()
	if known {
		has |= tupleSrcPort
	}
	var dst, src uint32
	if a, known := f.Dst.Get(); known && a.Is4() {
		dst, has = toAddr4(a), has|tupleDst
	}
	if a, known := f.Src.Get(); known && a.Is4() {
		src, has = toAddr4(a), has|tupleSrc
	}
	for i := range list {
		e := &list[i]
		if e.id >= s.bound {
			return true
		}
		if e.asks&^has != 0 || !inPort(e.ports, port) || !inPort(e.srcPorts, srcPort) || !e.active.Has(s.c.state) ||
			e.protos != 0 && !s.hasProto(e.protos) {
			continue
		}
		a := dst
		if e.asks&tupleSrc != 0 {
			a = src
		}
		if (a^e.addr.addr)&e.addr.mask != 0 {
			continue
		}
		if r := &s.l.records[e.id]; e.exact && !s.verify && r.flags&isDead == 0 {
			s.found(s.l.position(e.id), r)
		} else {
			s.rule(e.id, r)
		}
	}
	return false
}
