package engine

import (
	"bytes"
	"cmp"
	"math/bits"
	"net/netip"
	"slices"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// tri is a truth value of Kleene's strong three-valued logic: `and` is the
// minimum, `or` the maximum.
type tri uint8

const (
	isFalse tri = iota
	isUnknown
	isTrue
)

func not(v tri) tri { return isTrue - v }

func truth(b bool) tri {
	if b {
		return isTrue
	}
	return isFalse
}

// nameMode says what a name field can be compared with.
type nameMode uint8

const (
	nameUnknown nameMode = iota // nothing known: unknown
	nameNone                    // absent or invalid: false
	nameKnown                   // one name
	nameHints                   // not known yet, but the DNS names of the destination are: true or unknown
	nameDNS                     // the DNS names are all that it will ever be: true or false
)

type nameFact struct {
	mode nameMode
	name string
}

// facts is a flow and a world as predicates look at them, made once a decision.
type facts struct {
	flow  *flow.Flow
	prog  *Program
	state state.State

	names     [3]nameFact // sni, domain, http.host
	latency   flow.Value[int64]
	errorRate flow.Value[int64]

	// queries are the different names that are known, each with its fields.
	queries  [3]query
	nQueries int

	// dns is how DNS names take part: nameHints, nameDNS, or 0 for not at all;
	// dnsFields are the fields that take them.
	dns       nameMode
	dnsFields fields3
	// unknown are the fields, of those that rules read, that a decision can be
	// waiting for; blindUnknown also has those that only DNS names tell.
	unknown, blindUnknown FieldSet
	// blind makes every predicate unknown whose value comes from DNS names, to
	// find out what rests on them.
	blind bool
}

type query struct {
	name   string
	fields fields3
}

// newFacts gathers what f and w tell. The result refers to f.
func (p *Program) newFacts(c *facts, f *flow.Flow, w *state.World) {
	c.flow, c.prog = f, p
	c.state = w.Global
	if f.State != "" {
		if s, ok := state.Parse(f.State); ok {
			c.state = s
		}
	}
	if p.fields&nameFields != 0 {
		c.setNames(f)
	}
	if p.fields&worldFields != 0 {
		c.setWorld(f, w)
	}
	for left := p.fields; left != 0; left &= left - 1 {
		field := rules.Field(bits.TrailingZeros32(uint32(left)))
		if !c.isUnknown(field) {
			continue
		}
		c.unknown = c.unknown.With(field)
	}
	c.blindUnknown = c.unknown
	if c.dns != nameDNS {
		return
	}
	for i, n := range c.names {
		if n.mode == nameDNS {
			c.blindUnknown |= 1 << nameField3[i] & p.fields
		}
	}
}

const (
	nameFields  = FieldSet(1<<rules.FieldSNI | 1<<rules.FieldDomain | 1<<rules.FieldHTTPHost)
	worldFields = FieldSet(1<<rules.FieldLatency | 1<<rules.FieldErrorRate)
)

// nameField3 are the fields of facts.names.
var nameField3 = [3]rules.Field{rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost}

// nameField is the field's place in facts.names.
func nameField(f rules.Field) int {
	switch f {
	case rules.FieldSNI:
		return 0
	case rules.FieldDomain:
		return 1
	default:
		return 2
	}
}

// setWorld takes what the flow does not tell from the primary uplink.
func (c *facts) setWorld(f *flow.Flow, w *state.World) {
	c.latency, c.errorRate = f.Latency, f.ErrorRate
	if w.Primary < 0 || w.Primary >= len(w.Uplinks) {
		return
	}
	l := &w.Uplinks[w.Primary]
	if c.latency.Unknown() && l.RTT >= 0 {
		c.latency = flow.Some(l.RTT.Microseconds())
	}
	if c.errorRate.Unknown() && l.ErrorRate >= 0 {
		c.errorRate = flow.Some(l.ErrorRate)
	}
}

// setNames applies "ClientHello or Host header replaces the hints": a known
// name in either silences them, an absent one does not.
func (c *facts) setNames(f *flow.Flow) {
	hints := !f.DNS.Empty()
	sni, sniKnown := f.SNI.Get()
	host, hostKnown := f.HTTPHost.Get()
	named := sniKnown || hostKnown

	own := func(v flow.Value[string]) nameFact {
		switch v.Status() {
		case flow.Known:
			name, _ := v.Get()
			return nameFact{nameKnown, name}
		case flow.Unknown:
			if hints && !named {
				return nameFact{mode: nameHints}
			}
			return nameFact{mode: nameUnknown}
		default:
			return nameFact{mode: nameNone}
		}
	}
	c.names[0], c.names[2] = own(f.SNI), own(f.HTTPHost)
	switch {
	case !f.Domain.Unknown():
		c.names[1] = own(f.Domain)
	case sniKnown:
		c.names[1] = nameFact{nameKnown, sni}
	case hostKnown:
		c.names[1] = nameFact{nameKnown, host}
	case f.SNI.Unknown() || f.HTTPHost.Unknown():
		c.names[1] = own(f.Domain)
	case hints:
		c.names[1] = nameFact{mode: nameDNS}
	default:
		c.names[1] = nameFact{mode: nameNone}
	}
	for i := range c.names {
		switch n := &c.names[i]; n.mode {
		case nameHints, nameDNS:
			c.dns = n.mode // never both: nameDNS needs both names to be absent
			c.dnsFields |= 1 << i
		case nameKnown:
			c.query(n.name, 1<<i)
		}
	}
}

func (c *facts) query(name string, field fields3) {
	for i := range c.nQueries {
		if c.queries[i].name == name {
			c.queries[i].fields |= field
			return
		}
	}
	c.queries[c.nQueries] = query{name, field}
	c.nQueries++
}

// isUnknown reports whether a decision can be waiting for the field.
func (c *facts) isUnknown(field rules.Field) bool {
	f := c.flow
	switch field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		m := c.names[nameField(field)].mode
		return m == nameUnknown || m == nameHints
	case rules.FieldDstIP:
		return f.Dst.Unknown()
	case rules.FieldSrcIP:
		return f.Src.Unknown()
	case rules.FieldPort:
		return f.DstPort.Unknown()
	case rules.FieldSrcPort:
		return f.SrcPort.Unknown()
	case rules.FieldProto:
		return f.Proto.Unknown()
	case rules.FieldProcess:
		return f.Process.Unknown()
	case rules.FieldProcessPath:
		return f.ProcessPath.Unknown()
	case rules.FieldUser:
		return f.User.Unknown()
	case rules.FieldCgroup:
		return f.Cgroup.Unknown()
	case rules.FieldSrcMAC:
		return f.SrcMAC.Unknown()
	case rules.FieldIfaceIn:
		return f.IfaceIn.Unknown()
	case rules.FieldDSCP:
		return f.DSCP.Unknown()
	case rules.FieldMark:
		return f.Mark.Unknown()
	case rules.FieldRTT:
		return f.RTT.Unknown()
	case rules.FieldLatency:
		return c.latency.Unknown()
	case rules.FieldErrorRate:
		return c.errorRate.Unknown()
	default:
		return false
	}
}

// pred evaluates one predicate.
func (c *facts) pred(p *rules.Pred) tri {
	f := c.flow
	switch p.Field {
	case rules.FieldSNI:
		return c.name(&c.names[0], p)
	case rules.FieldDomain:
		return c.name(&c.names[1], p)
	case rules.FieldHTTPHost:
		return c.name(&c.names[2], p)
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
		return compare(f.RTT, p)
	case rules.FieldLatency:
		return compare(c.latency, p)
	case rules.FieldErrorRate:
		return compare(c.errorRate, p)
	case rules.FieldState:
		return truth(p.States.Has(c.state))
	default:
		return isFalse // a field without facts: rules.Check lets none through
	}
}

func (c *facts) name(n *nameFact, p *rules.Pred) tri {
	switch n.mode {
	case nameKnown:
		return truth(c.inNames(p, n.name))
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
		if n.mode == nameDNS {
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

func compare(v flow.Value[int64], p *rules.Pred) tri {
	n, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	switch p.Cmp {
	case rules.Eq:
		return truth(n == p.Bound)
	case rules.Lt:
		return truth(n < p.Bound)
	case rules.Le:
		return truth(n <= p.Bound)
	case rules.Gt:
		return truth(n > p.Bound)
	default:
		return truth(n >= p.Bound)
	}
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
