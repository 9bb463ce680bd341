package engine

import (
	"net/netip"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// tuple is what rules ask for beside a pivot and a protocol: one prefix or range
// for each of both addresses and ports, and a latency. It is compared in a cache
// line or two, where the condition itself would be read from many.
type tuple struct {
	addrs   [2]network // destination, source
	ports   [2]uint32  // destination, source: low and, above it, high
	latency int64      // the bound
	cmp     rules.Cmp  // of the latency
	has     tupleParts
}

type tupleParts uint8

const (
	tupleDst tupleParts = 1 << iota
	tupleSrc
	tuplePort
	tupleSrcPort
	tupleLatency
)

// network is a prefix. An IPv4 address stands in the upper half of hi.
type network struct {
	addr6
	bits uint8
	v4   bool
}

func networkOf(p netip.Prefix) network {
	return network{addressOf(p.Addr()), uint8(p.Bits()), p.Addr().Is4()}
}

func addressOf(a netip.Addr) addr6 {
	if a.Is4() {
		return addr6{hi: uint64(toAddr4(a)) << 32}
	}
	return toAddr6(a)
}

func (n *network) contains(a netip.Addr) bool {
	if a.Is4() != n.v4 || a.Zone() != "" {
		return false
	}
	x := addressOf(a)
	if n.bits <= 64 {
		return (x.hi^n.hi)>>(64-n.bits) == 0
	}
	return x.hi == n.hi && (x.lo^n.lo)>>(128-n.bits) == 0
}

// add takes over a predicate; false if there is no room for it.
func (t *tuple) add(p *rules.Pred) bool {
	part, second := tupleParts(0), 0
	switch p.Field {
	case rules.FieldLatency:
		if t.has&tupleLatency != 0 {
			return false
		}
		t.has |= tupleLatency
		t.latency, t.cmp = p.Bound, p.Cmp
		return true
	case rules.FieldDstIP:
		part = tupleDst
	case rules.FieldSrcIP:
		part, second = tupleSrc, 1
	case rules.FieldPort:
		part = tuplePort
	case rules.FieldSrcPort:
		part, second = tupleSrcPort, 1
	}
	if part == 0 || t.has&part != 0 || len(p.Prefixes)+len(p.Ports) != 1 {
		return false
	}
	t.has |= part
	if len(p.Ports) == 1 {
		t.ports[second] = packPorts(p.Ports[0])
	} else {
		t.addrs[second] = networkOf(p.Prefixes[0])
	}
	return true
}

// eval says whether a flow has what the tuple asks for.
func (t *tuple) eval(c *facts) tri {
	f := c.flow
	v := isTrue
	if t.has&tupleDst != 0 {
		v = t.addrs[0].holds(f.Dst)
	}
	if v != isFalse && t.has&tupleSrc != 0 {
		v = min(v, t.addrs[1].holds(f.Src))
	}
	if v != isFalse && t.has&tuplePort != 0 {
		v = min(v, holdsPort(t.ports[0], f.DstPort))
	}
	if v != isFalse && t.has&tupleSrcPort != 0 {
		v = min(v, holdsPort(t.ports[1], f.SrcPort))
	}
	if v != isFalse && t.has&tupleLatency != 0 {
		v = min(v, compare(c.latency, t.cmp, t.latency))
	}
	return v
}

func (n *network) holds(v flow.Value[netip.Addr]) tri {
	if a, known := v.Get(); known {
		return truth(n.contains(a))
	}
	return missing(v.Status())
}

func holdsPort(packed uint32, v flow.Value[uint16]) tri {
	if port, known := v.Get(); known {
		return truth(inPort(packed, port))
	}
	return missing(v.Status())
}
