package engine

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// pred evaluates one predicate.
func (c *facts) pred(p *rules.Pred) tri {
	f := c.flow
	switch p.Field {
	case rules.FieldSNI:
		return c.name(0, p)
	case rules.FieldDomain:
		return c.name(1, p)
	case rules.FieldHTTPHost:
		return c.name(2, p)
	case rules.FieldDstIP:
		return c.inPrefixes(f.Dst, p)
	case rules.FieldSrcIP:
		return c.inPrefixes(f.Src, p)
	case rules.FieldPort:
		return inPorts(f.DstPort, p.Ports)
	case rules.FieldSrcPort:
		return inPorts(f.SrcPort, p.Ports)
	case rules.FieldProto:
		return inNumbers(f.Proto, p.Numbers)
	case rules.FieldProcess:
		return c.inGlobs(f.Process, p)
	case rules.FieldProcessPath:
		return c.inGlobs(f.ProcessPath, p)
	case rules.FieldUser:
		return c.inGlobs(f.User, p)
	case rules.FieldCgroup:
		return c.inGlobs(f.Cgroup, p)
	case rules.FieldSrcMAC:
		return inMACs(f.SrcMAC, p.MACs)
	case rules.FieldIfaceIn:
		return inLiterals(f.IfaceIn, p.Globs)
	case rules.FieldDSCP:
		return inNumbers(f.DSCP, p.Numbers)
	case rules.FieldMark:
		return inNumbers(f.Mark, p.Numbers)
	case rules.FieldRTT:
		return compare(f.RTT, p.Cmp, p.Bound)
	case rules.FieldLatency:
		return compare(c.latency, p.Cmp, p.Bound)
	case rules.FieldErrorRate:
		return compare(c.errorRate, p.Cmp, p.Bound)
	case rules.FieldState:
		return truth(p.States.Has(c.state))
	default:
		return c.rarePred(p)
	}
}

// rarePred is pred for what few rules read.
func (c *facts) rarePred(p *rules.Pred) tri {
	f := c.flow
	switch p.Field {
	case rules.FieldApp:
		return inLiterals(f.App, p.Globs)
	case rules.FieldALPN:
		return inList(f.ALPN, p.Globs)
	case rules.FieldGroup:
		return c.inGlobs(f.Group, p)
	case rules.FieldIfaceOut:
		return inLiterals(f.IfaceOut, p.Globs)
	case rules.FieldCountry:
		return inLiterals(f.Country, p.Globs)
	case rules.FieldASN:
		return inNumbers(f.ASN, p.Numbers)
	case rules.FieldConnBytes:
		return compare(f.ConnBytes, p.Cmp, p.Bound)
	case rules.FieldConnAge:
		return compare(f.ConnAge, p.Cmp, p.Bound)
	case rules.FieldUplink, rules.FieldRoute:
		return metricPred(c.world, p)
	case rules.FieldSchedule:
		return bit(c.world.Schedules, p.Ref)
	case rules.FieldQuota:
		return bit(c.world.Quotas, p.Ref)
	case rules.FieldCondition:
		return bit(c.world.Conditions, p.Ref)
	default:
		return isFalse // a field without facts: rules.Check lets none through
	}
}

// metricPred evaluates a predicate over a metric.
func metricPred(w *state.World, p *rules.Pred) tri {
	v := metric(w, p.Ref, p.Metric)
	if p.Metric != rules.MetricState {
		return compare(v, p.Cmp, p.Bound)
	}
	n, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	return truth(p.States.Has(state.State(n)))
}

// name evaluates a predicate over the name field with a place in modes.
func (c *facts) name(field int, p *rules.Pred) tri {
	switch m := c.modes[field]; m {
	case nameKnown:
		return truth(c.inNames(p, c.text(c.asked[field])))
	case nameNone:
		return isFalse
	case nameHints, nameDNS:
		if c.blind {
			return isUnknown
		}
		for name := range c.flow.DNS.All() {
			if c.inNames(p, name) {
				return isTrue
			}
		}
		if m == nameDNS {
			return isFalse
		}
	}
	return isUnknown
}

func (c *facts) inNames(p *rules.Pred, name string) bool {
	if len(p.Names) >= indexedList {
		return c.prog.lists[listKeyOf(p)].name(&c.prog.seeds, name, p.Names)
	}
	return matchAny(p.Names, name)
}

func matchAny(patterns []rules.NamePattern, name string) bool {
	for i := range patterns {
		if patterns[i].Match(name) {
			return true
		}
	}
	return false
}

// missing gives the value of a predicate over a fact without a value.
func missing(s flow.Status) tri {
	if s == flow.Unknown {
		return isUnknown
	}
	return isFalse
}

func (c *facts) inPrefixes(v flow.Value[netip.Addr], p *rules.Pred) tri {
	a, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	if len(p.Prefixes) >= indexedList {
		return truth(c.prog.lists[listKeyOf(p)].addr(a))
	}
	for i := range p.Prefixes {
		if p.Prefixes[i].Contains(a) {
			return isTrue
		}
	}
	return isFalse
}

func inPorts(v flow.Value[uint16], list []rules.PortRange) tri {
	n, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	if len(list) < indexedList {
		for _, r := range list {
			if r.Lo <= n && n <= r.Hi {
				return isTrue
			}
		}
		return isFalse
	}
	at, found := slices.BinarySearchFunc(list, n, func(r rules.PortRange, n uint16) int { return cmp.Compare(r.Lo, n) })
	return truth(found || at > 0 && n <= list[at-1].Hi)
}

func inNumbers[T uint8 | uint32 | flow.Proto](v flow.Value[T], list []uint32) tri {
	n, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	_, found := slices.BinarySearch(list, uint32(n))
	return truth(found)
}

func (c *facts) inGlobs(v flow.Value[string], p *rules.Pred) tri {
	s, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	if len(p.Globs) >= indexedList {
		return truth(c.prog.lists[listKeyOf(p)].glob(s, p.Globs))
	}
	return truth(matchGlobs(p.Globs, s))
}

func inMACs(v flow.Value[flow.MAC], list []flow.MAC) tri {
	m, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	_, found := slices.BinarySearchFunc(list, m, func(a, b flow.MAC) int { return bytes.Compare(a[:], b[:]) })
	return truth(found)
}

func inLiterals(v flow.Value[string], list []rules.Glob) tri {
	s, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	for _, g := range list {
		if string(g) == s {
			return isTrue
		}
	}
	return isFalse
}

// inList reports whether one of a list joined by commas is one of the literals.
func inList(v flow.Value[string], list []rules.Glob) tri {
	s, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	for more := true; more; {
		var id string
		id, s, more = strings.Cut(s, ",")
		for _, g := range list {
			if string(g) == id {
				return isTrue
			}
		}
	}
	return isFalse
}

func compare(v flow.Value[int64], op rules.Cmp, bound int64) tri {
	n, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	switch op {
	case rules.Eq:
		return truth(n == bound)
	case rules.Lt:
		return truth(n < bound)
	case rules.Le:
		return truth(n <= bound)
	case rules.Gt:
		return truth(n > bound)
	default:
		return truth(n >= bound)
	}
}

// rule evaluates all that a rule asks for but the states in which it is active.
func (c *facts) rule(r *rules.Rule) tri {
	v := c.expr(&r.Match)
	if r.When != nil && v != isFalse {
		v = min(v, c.expr(r.When))
	}
	return v
}

// expr evaluates a condition. Its depth is bounded by the parser.
func (c *facts) expr(e *rules.Expr) tri {
	switch e.Op {
	case rules.OpPred:
		return c.pred(&e.Pred)
	case rules.OpNot:
		return not(c.expr(&e.Kids[0]))
	case rules.OpAnd:
		v := isTrue
		for i := range e.Kids {
			if v = min(v, c.expr(&e.Kids[i])); v == isFalse {
				break
			}
		}
		return v
	case rules.OpOr:
		v := isFalse
		for i := range e.Kids {
			if v = max(v, c.expr(&e.Kids[i])); v == isTrue {
				break
			}
		}
		return v
	default:
		return isTrue
	}
}
