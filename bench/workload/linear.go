package workload

import (
	"strings"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Linear looks at rules one after the other: everything is parsed and sorted,
// and cheap conditions come first. It is the baseline, and the judge of what the
// other systems answer.
type Linear struct {
	rules []Rule
	// loose leaves out states and latencies, which no peer has.
	loose bool
}

// NewLinear searches rules in the order of the list. With loose set, it
// answers as a system without states and latencies must.
func NewLinear(list []Rule, loose bool) *Linear { return &Linear{list, loose} }

// Find returns the first rule that holds for the connection in a state, as an
// index into the list, or NoMatch.
func (l *Linear) Find(c *Conn, s state.State) int {
	for i := range l.rules {
		r := &l.rules[i]
		if r.Proto != 0 && r.Proto != c.Proto {
			continue
		}
		if !l.loose && (r.States != 0 && !r.States.Has(s) || r.Latency != 0 && c.Latency <= r.Latency) {
			continue
		}
		if r.Name != "" && !r.hasName(c.Name) {
			continue
		}
		if r.Dst.IsValid() && !r.Dst.Contains(c.Dst) || r.Src.IsValid() && !r.Src.Contains(c.Src) {
			continue
		}
		if r.Ports != nil && !inPorts(r.Ports, c.DstPort) || r.SrcPorts != nil && !inPorts(r.SrcPorts, c.SrcPort) {
			continue
		}
		return i
	}
	return NoMatch
}

// Decide returns the outcome for the connection in NORMAL, or NoMatch.
func (l *Linear) Decide(c *Conn) int {
	if i := l.Find(c, state.Normal); i >= 0 {
		return l.rules[i].Outcome
	}
	return NoMatch
}

func (r *Rule) hasName(name string) bool {
	switch r.Kind {
	case rules.Exact:
		return name == r.Name
	case rules.Suffix:
		return strings.HasSuffix(name, r.Name) && (len(name) == len(r.Name) || name[len(name)-len(r.Name)-1] == '.')
	default:
		return strings.Contains(name, r.Name)
	}
}

func inPorts(list []rules.PortRange, port uint16) bool {
	for _, r := range list {
		if r.Lo <= port && port <= r.Hi {
			return true
		}
	}
	return false
}
