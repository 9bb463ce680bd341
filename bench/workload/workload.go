// Package workload makes the policies and connections that every system of the
// benchmark decides on, in a neutral form, and the linear search that judges
// their answers. The same size always gives the same rules and connections.
package workload

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Outcomes is how many different outcomes the rules have. NoMatch stands for
// the default.
const (
	Outcomes = 7
	NoMatch  = -1
)

// Rule is one rule. A zero field asks for nothing.
type Rule struct {
	Kind     rules.PatternKind // of Name: Exact, Suffix or Keyword
	Name     string
	Others   []string // more suffixes; with them, one of all must hold
	Dst, Src netip.Prefix
	Ports    []rules.PortRange // of the destination
	SrcPorts []rules.PortRange
	Proto    flow.Proto
	States   state.Set // in which the rule is active; 0: all
	Latency  int64     // the rule is for a latency above it, microseconds
	Outcome  int       // 0 to Outcomes-1
	priority int
}

// Conn is one connection. Name "" is a connection without a name.
type Conn struct {
	Name             string
	Dst, Src         netip.Addr
	DstPort, SrcPort uint16
	Proto            flow.Proto
	Latency          int64 // microseconds
}

// Mix returns the n rules that docs/performance.md describes, in the order in which
// they are looked at: 70 % suffixes, 10 % exact names, 5 % keywords, 15 %
// prefixes; 20 % also with ports, 20 % with a protocol, 5 % with states, 3 % with
// a latency.
func Mix(n int) []Rule {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	list := make([]Rule, n)
	for i := range list {
		r := &list[i]
		switch k := rng.IntN(100); {
		case k < 70:
			r.Kind, r.Name = rules.Suffix, name(rng)
		case k < 80:
			r.Kind, r.Name = rules.Exact, name(rng)
		case k < 85:
			r.Kind, r.Name = rules.Keyword, word(rng, 5+rng.IntN(8))
		default:
			r.Dst = prefix(rng)
		}
		if rng.IntN(5) == 0 {
			r.Ports = ports(rng)
		}
		if rng.IntN(5) == 0 {
			r.Proto = []flow.Proto{flow.TCP, flow.UDP}[rng.IntN(2)]
		}
		if rng.IntN(100) < 5 {
			r.States = state.Set(1 + rng.IntN(int(state.AllStates)-1))
		}
		if rng.IntN(100) < 3 {
			r.Latency = 1 + rng.Int64N(300_000)
		}
		r.Outcome, r.priority = rng.IntN(Outcomes), rng.IntN(1000)
	}
	return ordered(list)
}

// ordered sorts rules as a policy of them orders them: by priority, specificity, place.
func ordered(list []Rule) []Rule {
	type ranked struct {
		rule Rule
		spec rules.Specificity
	}
	p := Policy(list)
	all := make([]ranked, len(list))
	for i := range list {
		all[i] = ranked{list[i], p.Rules[i].Specificity()}
	}
	slices.SortStableFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.rule.priority, a.rule.priority), b.spec.Compare(a.spec))
	})
	for i := range all {
		list[i] = all[i].rule
	}
	return list
}

// OneSet returns the mix as the easier question that sets answer: one outcome, and
// no ports, protocols, states or latencies.
func OneSet(n int) []Rule {
	list := Mix(n)
	for i := range list {
		list[i] = Rule{Kind: list[i].Kind, Name: list[i].Name, Dst: list[i].Dst}
	}
	return list
}

// Conns returns n connections: half to a name under a random rule's, a quarter
// to other names, a quarter without one.
func Conns(list []Rule, n int) []Conn {
	rng := rand.New(rand.NewPCG(uint64(len(list)), uint64(n)))
	var named []int
	for i := range list {
		if list[i].Name != "" && list[i].Kind != rules.Keyword {
			named = append(named, i)
		}
	}
	out := make([]Conn, n)
	for i := range out {
		c := &out[i]
		c.Proto = flow.TCP
		if rng.IntN(5) == 0 {
			c.Proto = flow.UDP
		}
		c.Src, c.SrcPort = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), uint16(1024+rng.IntN(60_000))
		c.DstPort = []uint16{443, 443, 443, 443, 80, 8080, 22, 53, 0, 0}[rng.IntN(10)]
		if c.DstPort == 0 {
			c.DstPort = uint16(1 + rng.IntN(65_535))
		}
		c.Dst = address(rng, rng.IntN(5) > 0)
		c.Latency = rng.Int64N(300_000)
		switch rng.IntN(4) {
		case 0, 1:
			if len(named) == 0 {
				break
			}
			r := &list[named[rng.IntN(len(named))]]
			c.Name = strings.Clone(r.Name) // it comes with a packet, not from the policy
			if r.Kind == rules.Suffix && rng.IntN(2) == 0 {
				c.Name = "www." + r.Name
			}
		case 2:
			c.Name = name(rng)
		default:
			if rng.IntN(2) == 0 { // half of the addresses are in some rule's prefix, if any rule has one
				if r := &list[rng.IntN(len(list))]; r.Dst.IsValid() {
					c.Dst = r.Dst.Addr()
				}
			}
		}
	}
	return out
}

func word(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + rng.IntN(26))
	}
	return string(b)
}

func name(rng *rand.Rand) string {
	s := word(rng, 5+rng.IntN(8)) + "." + []string{"com", "net", "org", "co.uk", "io"}[rng.IntN(5)]
	if rng.IntN(3) == 0 {
		s = word(rng, 2+rng.IntN(5)) + "." + s
	}
	return s
}

func address(rng *rand.Rand, v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte{byte(1 + rng.IntN(223)), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())})
	}
	a := [16]byte{0x20, 0x01}
	for j := 2; j < len(a); j++ {
		a[j] = byte(rng.Uint32())
	}
	return netip.AddrFrom16(a)
}

// prefix is an IPv4 prefix four times of five, most often a /24.
func prefix(rng *rand.Rand) netip.Prefix {
	v4 := rng.IntN(5) > 0
	bits := 32 + rng.IntN(33)
	if v4 {
		bits = []int{24, 24, 24, 24, 24, 23, 22, 22, 21, 20, 19, 18, 16, 32, 28}[rng.IntN(15)]
	}
	return netip.PrefixFrom(address(rng, v4), bits).Masked()
}

func ports(rng *rand.Rand) []rules.PortRange {
	switch rng.IntN(4) {
	case 0:
		return []rules.PortRange{{Lo: 80, Hi: 80}, {Lo: 443, Hi: 443}, {Lo: 8000, Hi: 8100}}
	case 1:
		lo := uint16(rng.IntN(60_000))
		return []rules.PortRange{{Lo: lo, Hi: lo + uint16(rng.IntN(5000))}}
	default:
		return []rules.PortRange{{Lo: 443, Hi: 443}}
	}
}
