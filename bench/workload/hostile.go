package workload

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// Adversary is a set with connections that reach as many of its rules as they can.
type Adversary struct {
	Name, What string
	Make       func(n int) []Rule
	Conns      func(list []Rule, n int) []Conn
}

// Hostile are the sets that are made to break an index: what all rules share is
// what a rule is first looked up by.
var Hostile = []Adversary{
	{"one-suffix", "one suffix, told apart by ports", oneSuffix, hostileConns},
	{"shared-lists", "lists of nine suffixes that have one in common, told apart by ports", sharedLists, hostileConns},
	{"one-prefix", "one prefix, told apart by ports and protocols", onePrefix, hostileConns},
	{"shared-grams", "keywords that begin alike, names that are full of that", sharedGrams, gramConns},
	{"dense-grams", "keywords over three letters, names of which every part is one", denseGrams, denseConns},
	{"wide-ports", "wide port ranges, and nothing else", widePorts, hostileConns},
	{"wide-ports-src", "wide port ranges, and overlapping source prefixes", widePortsSrc, hostileConns},
	{"5-tuple", "nested source and destination prefixes, port ranges, protocols", fiveTuple, hostileConns},
}

// Beyond are sets for which no bound is promised.
var Beyond = []Adversary{
	{"dense-grams-ports", "keywords over three letters with narrow ports: both dense, and only together do they tell", denseGramsPorts, denseConns},
	{"latencies", "no pivot: latencies above those of most connections", latencies, hostileConns},
}

func hostile(n int, seed uint64, do func(rng *rand.Rand, r *Rule)) []Rule {
	rng := rand.New(rand.NewPCG(uint64(n), seed))
	list := make([]Rule, n)
	for i := range list {
		do(rng, &list[i])
		list[i].Outcome, list[i].priority = rng.IntN(Outcomes), rng.IntN(1_000_000)
	}
	return ordered(list)
}

func narrow(rng *rand.Rand) []rules.PortRange {
	lo := rng.IntN(65_000)
	return []rules.PortRange{{Lo: uint16(lo), Hi: uint16(lo + rng.IntN(100))}}
}

func wide(rng *rand.Rand) []rules.PortRange {
	lo := rng.IntN(30_000)
	return []rules.PortRange{{Lo: uint16(lo), Hi: uint16(lo + 10_000 + rng.IntN(25_000))}}
}

func protocol(rng *rand.Rand) flow.Proto {
	return []flow.Proto{0, flow.TCP, flow.UDP}[rng.IntN(3)]
}

func oneSuffix(n int) []Rule {
	return hostile(n, 2, func(rng *rand.Rand, r *Rule) {
		r.Kind, r.Name, r.Ports = rules.Suffix, "crowd.example", narrow(rng)
	})
}

func sharedLists(n int) []Rule {
	return hostile(n, 9, func(rng *rand.Rand, r *Rule) {
		r.Kind, r.Name, r.Ports = rules.Suffix, "crowd.example", narrow(rng)
		for range 8 {
			r.Others = append(r.Others, word(rng, 8)+".example")
		}
	})
}

func denseGramsPorts(n int) []Rule {
	return hostile(n, 10, func(rng *rand.Rand, r *Rule) {
		r.Kind, r.Name, r.Ports = rules.Keyword, letters(rng, 5+rng.IntN(8)), narrow(rng)
	})
}

func latencies(n int) []Rule {
	return hostile(n, 11, func(rng *rand.Rand, r *Rule) { r.Latency = 1 + rng.Int64N(300_000) })
}

func onePrefix(n int) []Rule {
	return hostile(n, 3, func(rng *rand.Rand, r *Rule) {
		r.Dst, r.Ports, r.Proto = netip.MustParsePrefix("203.0.113.0/24"), narrow(rng), protocol(rng)
	})
}

func sharedGrams(n int) []Rule {
	return hostile(n, 4, func(rng *rand.Rand, r *Rule) {
		r.Kind, r.Name = rules.Keyword, "shared"+word(rng, 2+rng.IntN(5))
	})
}

func letters(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abc"[rng.IntN(3)]
	}
	return string(b)
}

func denseGrams(n int) []Rule {
	return hostile(n, 5, func(rng *rand.Rand, r *Rule) {
		r.Kind, r.Name = rules.Keyword, letters(rng, 5+rng.IntN(8))
	})
}

func widePorts(n int) []Rule {
	return hostile(n, 6, func(rng *rand.Rand, r *Rule) { r.Ports, r.Proto = wide(rng), protocol(rng) })
}

func widePortsSrc(n int) []Rule {
	return hostile(n, 7, func(rng *rand.Rand, r *Rule) {
		r.Ports, r.SrcPorts = wide(rng), wide(rng)
		r.Src = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rng.IntN(16)), byte(rng.Uint32())}), 12+rng.IntN(13)).Masked()
	})
}

// fiveTuple nests prefixes of few networks, as access lists of large sites do.
func fiveTuple(n int) []Rule {
	nested := func(rng *rand.Rand, net byte) netip.Prefix {
		a := netip.AddrFrom4([4]byte{net, byte(rng.IntN(8)), byte(rng.IntN(32) * 8), byte(rng.Uint32())})
		return netip.PrefixFrom(a, []int{8, 13, 16, 21, 24, 24, 28, 32, 32}[rng.IntN(9)]).Masked()
	}
	return hostile(n, 8, func(rng *rand.Rand, r *Rule) {
		r.Src, r.Dst, r.Proto = nested(rng, 10), nested(rng, 11), protocol(rng)
		switch rng.IntN(3) {
		case 0:
			r.Ports = narrow(rng)
		case 1:
			r.Ports, r.SrcPorts = wide(rng), wide(rng)
		}
	})
}

// hostileConns are in the ranges of random rules, one in eight in none.
func hostileConns(list []Rule, n int) []Conn {
	rng := rand.New(rand.NewPCG(uint64(len(list)), uint64(n)))
	out := make([]Conn, n)
	for i := range out {
		r := &list[rng.IntN(len(list))]
		c := &out[i]
		c.Name, c.Proto = r.Name, r.Proto
		if c.Proto == 0 {
			c.Proto = []flow.Proto{flow.TCP, flow.UDP}[rng.IntN(2)]
		}
		c.Dst, c.Src = within(rng, r.Dst), within(rng, r.Src)
		c.DstPort, c.SrcPort = inRanges(rng, r.Ports), inRanges(rng, r.SrcPorts)
		if r.Kind == rules.Suffix && r.Name != "" {
			c.Name = word(rng, 6) + "." + r.Name
		}
		if rng.IntN(8) == 0 {
			c.DstPort = uint16(rng.Uint32())
		}
	}
	return out
}

func within(rng *rand.Rand, p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return address(rng, true)
	}
	b := p.Addr().As4() // hostile sets have IPv4 alone
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= byte(rng.IntN(2)) << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

func inRanges(rng *rand.Rand, list []rules.PortRange) uint16 {
	if len(list) == 0 {
		return uint16(rng.Uint32())
	}
	r := list[rng.IntN(len(list))]
	return r.Lo + uint16(rng.IntN(int(r.Hi)-int(r.Lo)+1))
}

func gramConns(list []Rule, n int) []Conn {
	return withNames(list, n, func(rng *rand.Rand) string {
		var b strings.Builder
		for b.Len() < 40 {
			b.WriteString("shared" + word(rng, 1+rng.IntN(6)))
		}
		return b.String() + ".example"
	})
}

func denseConns(list []Rule, n int) []Conn {
	return withNames(list, n, func(rng *rand.Rand) string { return letters(rng, 32) + ".example" })
}

func withNames(list []Rule, n int, name func(*rand.Rand) string) []Conn {
	out := hostileConns(list, n)
	rng := rand.New(rand.NewPCG(uint64(n), 9))
	for i := range out {
		out[i].Name = name(rng)
	}
	return out
}

// filterSet reads a ClassBench filter set: a line a rule, the earlier first. The
// TCP flags are left out, as a connection has none.
func filterSet(data []byte) ([]Rule, error) {
	var list []Rule
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		var src, dst string
		var sport, dport rules.PortRange
		var proto, mask uint32
		_, err := fmt.Sscanf(lines.Text(), "@%s %s %d : %d %d : %d 0x%x/0x%x", &src, &dst,
			&sport.Lo, &sport.Hi, &dport.Lo, &dport.Hi, &proto, &mask)
		if err != nil {
			return nil, fmt.Errorf("line %d, %q: %w", len(list)+1, lines.Text(), err)
		}
		r := Rule{Outcome: len(list) % Outcomes, priority: -len(list)}
		all := rules.PortRange{Hi: 65_535}
		if p, err := netip.ParsePrefix(src); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(list)+1, err)
		} else if p.Bits() > 0 {
			r.Src = p.Masked()
		}
		if p, err := netip.ParsePrefix(dst); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(list)+1, err)
		} else if p.Bits() > 0 {
			r.Dst = p.Masked()
		}
		if sport != all {
			r.SrcPorts = []rules.PortRange{sport}
		}
		if dport != all {
			r.Ports = []rules.PortRange{dport}
		}
		if mask != 0 {
			r.Proto = flow.Proto(proto)
		}
		list = append(list, r)
	}
	return list, nil
}
