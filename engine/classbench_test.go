//go:build !race

// Long, and of one goroutine: nothing for the race detector.

package engine_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// sharedData returns a file that nobody here wrote; the test skips without it.
func sharedData(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join("..", "..", "shared", "data", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%v: it is kept beside the repository", err)
	}
	return path
}

// aclRule is a line of a ClassBench filter set: source, destination, both ports,
// protocol. The TCP flags are left out: a connection has none.
type aclRule struct {
	src, dst         netip.Prefix
	srcPort, dstPort rules.PortRange
	proto            uint32
	anyProto         bool
}

func readACL(t *testing.T) []aclRule {
	t.Helper()
	file, err := os.Open(sharedData(t, "classbench/acl1.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var list []aclRule
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var src, dst string
		var r aclRule
		var mask uint32
		_, err := fmt.Sscanf(lines.Text(), "@%s %s %d : %d %d : %d 0x%x/0x%x", &src, &dst,
			&r.srcPort.Lo, &r.srcPort.Hi, &r.dstPort.Lo, &r.dstPort.Hi, &r.proto, &mask)
		if err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		r.src, r.dst, r.anyProto = netip.MustParsePrefix(src), netip.MustParsePrefix(dst), mask == 0
		list = append(list, r)
	}
	return list
}

// aclPolicy gives the earlier line the higher priority; /0 and all ports are no condition.
func aclPolicy(list []aclRule) *rules.Policy {
	p := policy()
	for i, r := range list {
		e := all()
		if r.src.Bits() > 0 {
			e.Kids = append(e.Kids, pred(rules.Pred{Field: rules.FieldSrcIP, Prefixes: []netip.Prefix{r.src.Masked()}}))
		}
		if r.dst.Bits() > 0 {
			e.Kids = append(e.Kids, pred(rules.Pred{Field: rules.FieldDstIP, Prefixes: []netip.Prefix{r.dst.Masked()}}))
		}
		if full := (rules.PortRange{Hi: 65535}); r.srcPort != full {
			e.Kids = append(e.Kids, pred(rules.Pred{Field: rules.FieldSrcPort, Ports: []rules.PortRange{r.srcPort}}))
		}
		if full := (rules.PortRange{Hi: 65535}); r.dstPort != full {
			e.Kids = append(e.Kids, pred(rules.Pred{Field: rules.FieldPort, Ports: []rules.PortRange{r.dstPort}}))
		}
		if !r.anyProto {
			e.Kids = append(e.Kids, proto(r.proto))
		}
		p.Rules = append(p.Rules, rule(fmt.Sprintf("line%d", i+1), -i, e, route(i%3)))
	}
	return p
}

type header struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
	proto            uint32
}

// linear is the first rule that holds, -1 for none.
func linear(list []aclRule, h *header) int {
	ports := flow.Proto(h.proto).HasPorts()
	in := func(n uint16, r rules.PortRange) bool {
		return r.Lo == 0 && r.Hi == 65535 || ports && r.Lo <= n && n <= r.Hi
	}
	for i := range list {
		r := &list[i]
		if r.src.Contains(h.src) && r.dst.Contains(h.dst) && in(h.srcPort, r.srcPort) && in(h.dstPort, r.dstPort) &&
			(r.anyProto || r.proto == h.proto) {
			return i
		}
	}
	return -1
}

// sample is a header that a random rule holds for, or nearly.
func sample(rng *rand.Rand, list []aclRule) header {
	r := list[rng.IntN(len(list))]
	addr := func(p netip.Prefix) netip.Addr {
		b := p.Addr().As4()
		for i := p.Bits(); i < 32; i++ {
			b[i/8] ^= byte(rng.IntN(2)) << (7 - i%8)
		}
		if rng.IntN(20) == 0 {
			i := rng.IntN(32)
			b[i/8] ^= 0x80 >> (i % 8)
		}
		return netip.AddrFrom4(b)
	}
	port := func(r rules.PortRange) uint16 {
		n := int(r.Lo) + rng.IntN(int(r.Hi)-int(r.Lo)+1)
		if rng.IntN(20) == 0 {
			n += 2*rng.IntN(2) - 1
		}
		return uint16(n)
	}
	h := header{addr(r.src), addr(r.dst), port(r.srcPort), port(r.dstPort), r.proto}
	if r.anyProto || rng.IntN(20) == 0 {
		h.proto = []uint32{1, 6, 17, 47}[rng.IntN(4)]
	}
	return h
}

func (h *header) flow() flow.Flow {
	f := flow.Flow{Proto: flow.Some(flow.Proto(h.proto)), Src: flow.Some(h.src), Dst: flow.Some(h.dst)}
	f.SrcPort, f.DstPort = flow.Absent[uint16](), flow.Absent[uint16]()
	if flow.Proto(h.proto).HasPorts() {
		f.SrcPort, f.DstPort = flow.Some(h.srcPort), flow.Some(h.dstPort)
	}
	return f
}

// TestClassBench compares 100,000 headers near the rules of a ClassBench filter
// set with a linear search.
func TestClassBench(t *testing.T) {
	list := readACL(t)
	p := aclPolicy(list)
	prog := engine.Compile(p)
	w := engine.OfflineWorld(p, state.Normal)
	rng := rand.New(rand.NewPCG(*seed, 3))
	const headers = 100_000
	hits, winners := 0, map[int]bool{}
	for range headers {
		h := sample(rng, list)
		f := h.flow()
		d, want := prog.Decide(&f, w), linear(list, &h)
		if d.Rule != want || !d.Final || d.Pending != 0 {
			t.Fatalf("%+v: %+v, want rule %d", h, d, want)
		}
		count(&hits, want >= 0)
		winners[want] = true
	}
	t.Logf("ClassBench: %d rules, %d headers, %d hit one of %d rules, none different", len(list), headers, hits, len(winners))
	if hits < headers/2 || len(winners) < len(list)/4 {
		t.Errorf("only %d headers hit, only %d rules win", hits, len(winners))
	}
}

// TestClassBenchUnknown compares with the oracle what is decided while ports,
// addresses or the protocol are not known.
func TestClassBenchUnknown(t *testing.T) {
	list := readACL(t)
	rng := rand.New(rand.NewPCG(*seed, 4))
	const rulesEach, flows = 150, 300
	pending := 0
	for from := 0; from+rulesEach <= len(list); from += len(list) / 5 {
		part := list[from : from+rulesEach]
		p := aclPolicy(part)
		prog := engine.Compile(p)
		for range flows {
			h := sample(rng, part)
			f := h.flow()
			if rng.IntN(2) == 0 {
				f.DstPort = flow.Value[uint16]{}
			}
			if rng.IntN(3) == 0 {
				f.SrcPort = flow.Value[uint16]{}
			}
			if rng.IntN(4) == 0 {
				f.Proto = flow.Value[flow.Proto]{}
			}
			if rng.IntN(4) == 0 {
				f.Src = flow.Value[netip.Addr]{}
			}
			if rng.IntN(8) == 0 {
				f.Dst = flow.Value[netip.Addr]{}
			}
			d := compare(t, prog, p, &f, oracle.World(rng, p))
			if t.Failed() {
				return
			}
			count(&pending, d.Pending != 0)
		}
	}
	if pending < flows {
		t.Errorf("only %d decisions are pending", pending)
	}
}
