package workload

import (
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Linear looks at rules one after the other: everything is parsed and sorted,
// and what most rules fail by stands together and is compared first. It is the
// baseline, and the judge of what the other systems answer.
type Linear struct {
	quick []quick
	rules []Rule
	// loose leaves out states and latencies, which no peer has.
	loose bool
}

// quick is what is compared first, in 32 bytes.
type quick struct {
	name   string // or
	net    uint32 // an IPv4 prefix with its mask
	mask   uint32
	kind   quickKind
	states state.Set
	proto  flow.Proto
}

type quickKind uint8

const (
	quickExact quickKind = iota
	quickSuffix
	quickKeyword
	quickNet  // IPv4 destinations
	quickRest // the rest tells
)

// NewLinear searches rules in the order of the list. With loose set, it
// answers as a system without states and latencies must.
func NewLinear(list []Rule, loose bool) *Linear {
	l := &Linear{make([]quick, len(list)), list, loose}
	for i := range list {
		r, q := &list[i], &l.quick[i]
		q.name, q.states, q.proto = r.Name, r.States, r.Proto
		if q.states == 0 || loose {
			q.states = state.AllStates
		}
		switch {
		case r.Others != nil:
			q.kind = quickRest
		case r.Name != "":
			q.kind = map[rules.PatternKind]quickKind{rules.Exact: quickExact, rules.Suffix: quickSuffix, rules.Keyword: quickKeyword}[r.Kind]
		case r.Dst.IsValid() && r.Dst.Addr().Is4():
			q.kind, q.net, q.mask = quickNet, ipv4(r.Dst.Addr()), ^uint32(0)<<(32-r.Dst.Bits())
		default:
			q.kind = quickRest
		}
	}
	return l
}

func ipv4(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// Find returns the first rule that holds for the connection in a state, as an
// index into the list, or NoMatch.
func (l *Linear) Find(c *Conn, s state.State) int {
	dst, is4 := uint32(0), c.Dst.Is4()
	if is4 {
		dst = ipv4(c.Dst)
	}
	for i := range l.quick {
		q := &l.quick[i]
		switch q.kind {
		case quickExact:
			if c.Name != q.name {
				continue
			}
		case quickSuffix:
			if !under(c.Name, q.name) {
				continue
			}
		case quickKeyword:
			if !strings.Contains(c.Name, q.name) {
				continue
			}
		case quickNet:
			if !is4 || (dst^q.net)&q.mask != 0 {
				continue
			}
		}
		if q.states.Has(s) && (q.proto == 0 || q.proto == c.Proto) && l.rest(&l.rules[i], c) {
			return i
		}
	}
	return NoMatch
}

// rest compares what is not in quick.
func (l *Linear) rest(r *Rule, c *Conn) bool {
	if r.Others != nil && !under(c.Name, r.Name) && !slices.ContainsFunc(r.Others, func(s string) bool { return under(c.Name, s) }) {
		return false
	}
	return (l.loose || r.Latency == 0 || c.Latency > r.Latency) &&
		(!r.Dst.IsValid() || r.Dst.Contains(c.Dst)) && (!r.Src.IsValid() || r.Src.Contains(c.Src)) &&
		inPorts(r.Ports, c.DstPort) && inPorts(r.SrcPorts, c.SrcPort)
}

// under reports whether a name is the suffix or lies under it.
func under(name, suffix string) bool {
	n := len(name) - len(suffix)
	return n >= 0 && name[n:] == suffix && (n == 0 || name[n-1] == '.')
}

// Decide returns the outcome for the connection in NORMAL, or NoMatch.
func (l *Linear) Decide(c *Conn) int {
	if i := l.Find(c, state.Normal); i >= 0 {
		return l.rules[i].Outcome
	}
	return NoMatch
}

// inPorts reports whether a port is in the list; nil holds all.
func inPorts(list []rules.PortRange, port uint16) bool {
	for _, r := range list {
		if r.Lo <= port && port <= r.Hi {
			return true
		}
	}
	return list == nil
}
