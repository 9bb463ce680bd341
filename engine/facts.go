package engine

import (
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

// Slots of the words that guards look at. A word packs so much of a fact that a
// mismatch under a rule's mask proves a predicate false.
const (
	// A name has a slot for each of its last labels: slot field*nameDepth + n-1
	// holds the hash of its last n labels, for sni, domain and http.host.
	nameDepth = 6                      // what is deeper is told apart by the rule itself
	slotDst   = 3*nameDepth - 1 + iota // IPv4: ffff and the address; IPv6: the upper half
	slotSrc
	slotPort
	slotSrcPort
	slotProto
	slotNone // of guards that reject nothing
	slots
)

// known says what a guard can conclude from a slot.
type known uint8

const (
	slotUnknown known = iota // its predicate is unknown
	slotValue                // false if the word differs
	slotAbsent               // false
	slotHints                // unknown if no hint's word fits
	slotAny                  // nothing
)

// hintWords is how many DNS names guards tell apart; with more, rules are
// evaluated in full. Few addresses have more live names.
const hintWords = 4

// facts is a flow and a world as predicates look at them, made once a decision.
type facts struct {
	flow  *flow.Flow
	state state.State

	names     [3]nameFact // sni, domain, http.host
	latency   flow.Value[int64]
	errorRate flow.Value[int64]

	// What guards look at.
	word  [slots]uint64
	known [slots]known
	hints [hintWords][nameDepth]uint64
	nHint int

	// dns is how DNS names take part: nameHints, nameDNS, or 0 for not at all.
	dns nameMode
	// blind makes every predicate unknown whose value comes from DNS names, to
	// find out what rests on them.
	blind bool
}

// newFacts gathers what f and w tell. The result refers to f.
func (p *Program) newFacts(c *facts, f *flow.Flow, w *state.World) {
	c.flow = f
	c.state = w.Global
	if s, ok := state.Parse(f.State); ok && f.State != "" {
		c.state = s
	}
	c.setNames(f)
	c.latency, c.errorRate = f.Latency, f.ErrorRate
	if w.Primary >= 0 && w.Primary < len(w.Uplinks) {
		l := &w.Uplinks[w.Primary]
		if c.latency.Unknown() && l.RTT >= 0 {
			c.latency = flow.Some(l.RTT.Microseconds())
		}
		if c.errorRate.Unknown() && l.ErrorRate >= 0 {
			c.errorRate = flow.Some(l.ErrorRate)
		}
	}
	c.setGuards(f)
}

// setGuards fills what guards look at.
func (c *facts) setGuards(f *flow.Flow) {
	for name := range f.DNS.All() {
		if c.dns != nameHints || c.nHint == hintWords {
			c.nHint = -1
			break
		}
		suffixes(c.hints[c.nHint][:], name)
		c.nHint++
	}
	for i, n := range c.names {
		at := i * nameDepth
		k := slotUnknown
		switch {
		case n.mode == nameKnown:
			k = slotValue
			suffixes(c.word[at:at+nameDepth], n.name)
		case n.mode == nameNone:
			k = slotAbsent
		case n.mode == nameDNS || n.mode == nameHints && c.nHint < 0:
			k = slotAny
		case n.mode == nameHints:
			k = slotHints
		}
		for j := range nameDepth {
			c.known[at+j] = k
		}
	}
	c.setAddr(slotDst, f.Dst)
	c.setAddr(slotSrc, f.Src)
	setWord(c, slotPort, f.DstPort)
	setWord(c, slotSrcPort, f.SrcPort)
	setWord(c, slotProto, f.Proto)
	c.known[slotNone] = slotAny
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
	for _, n := range c.names {
		if n.mode == nameHints || n.mode == nameDNS {
			c.dns = n.mode // never both: nameDNS needs both names to be absent
		}
	}
}

func (c *facts) setAddr(slot int, v flow.Value[netip.Addr]) {
	switch a, known := v.Get(); {
	case known:
		c.word[slot], c.known[slot] = addrWord(a), slotValue
	case !v.Unknown():
		c.known[slot] = slotAbsent
	}
}

func setWord[T uint16 | flow.Proto](c *facts, slot int, v flow.Value[T]) {
	switch n, known := v.Get(); {
	case known:
		c.word[slot], c.known[slot] = uint64(n), slotValue
	case !v.Unknown():
		c.known[slot] = slotAbsent
	}
}

// suffixes sets to[n-1] to a hash (FNV-1a, from the end) of the last n labels of
// name. Equal suffixes have equal hashes, and that is all that guards rely on.
func suffixes(to []uint64, name string) {
	const offset, prime = 14695981039346656037, 1099511628211
	h, n := uint64(offset), 0
	for i := len(name) - 1; i >= 0 && n < len(to); i-- {
		if name[i] == '.' {
			to[n] = h ^ h>>32
			n++
		}
		h = (h ^ uint64(name[i])) * prime
	}
	if n < len(to) {
		to[n] = h ^ h>>32
	}
}

func addrWord(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return 0xffff<<32 | uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
	}
	b := a.As16()
	var w uint64
	for _, x := range b[:8] {
		w = w<<8 | uint64(x)
	}
	return w
}

// settled returns the fields that no decision can be waiting for.
func (c *facts) settled() FieldSet {
	f := c.flow
	s := FieldSet(0).With(rules.FieldState)
	add := func(field rules.Field, unknown bool) {
		if !unknown {
			s = s.With(field)
		}
	}
	for i, field := range [...]rules.Field{rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost} {
		add(field, c.names[i].mode == nameUnknown || c.names[i].mode == nameHints)
	}
	add(rules.FieldDstIP, f.Dst.Unknown())
	add(rules.FieldSrcIP, f.Src.Unknown())
	add(rules.FieldPort, f.DstPort.Unknown())
	add(rules.FieldSrcPort, f.SrcPort.Unknown())
	add(rules.FieldProto, f.Proto.Unknown())
	add(rules.FieldProcess, f.Process.Unknown())
	add(rules.FieldProcessPath, f.ProcessPath.Unknown())
	add(rules.FieldUser, f.User.Unknown())
	add(rules.FieldCgroup, f.Cgroup.Unknown())
	add(rules.FieldSrcMAC, f.SrcMAC.Unknown())
	add(rules.FieldIfaceIn, f.IfaceIn.Unknown())
	add(rules.FieldDSCP, f.DSCP.Unknown())
	add(rules.FieldMark, f.Mark.Unknown())
	add(rules.FieldRTT, f.RTT.Unknown())
	add(rules.FieldLatency, c.latency.Unknown())
	add(rules.FieldErrorRate, c.errorRate.Unknown())
	return s
}

// pred evaluates one predicate.
func (c *facts) pred(p *rules.Pred) tri {
	f := c.flow
	switch p.Field {
	case rules.FieldSNI:
		return c.name(&c.names[0], p.Names)
	case rules.FieldDomain:
		return c.name(&c.names[1], p.Names)
	case rules.FieldHTTPHost:
		return c.name(&c.names[2], p.Names)
	case rules.FieldDstIP:
		return inPrefixes(f.Dst, p.Prefixes)
	case rules.FieldSrcIP:
		return inPrefixes(f.Src, p.Prefixes)
	case rules.FieldPort:
		return inPorts(f.DstPort, p.Ports)
	case rules.FieldSrcPort:
		return inPorts(f.SrcPort, p.Ports)
	case rules.FieldProto:
		return inNumbers(f.Proto, p.Numbers)
	case rules.FieldProcess:
		return inGlobs(f.Process, p.Globs)
	case rules.FieldProcessPath:
		return inGlobs(f.ProcessPath, p.Globs)
	case rules.FieldUser:
		return inGlobs(f.User, p.Globs)
	case rules.FieldCgroup:
		return inGlobs(f.Cgroup, p.Globs)
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

func (c *facts) name(n *nameFact, patterns []rules.NamePattern) tri {
	switch n.mode {
	case nameKnown:
		return truth(matchAny(patterns, n.name))
	case nameNone:
		return isFalse
	case nameHints, nameDNS:
		if c.blind {
			return isUnknown
		}
		for name := range c.flow.DNS.All() {
			if matchAny(patterns, name) {
				return isTrue
			}
		}
		if n.mode == nameDNS {
			return isFalse
		}
	}
	return isUnknown
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

func inPrefixes(v flow.Value[netip.Addr], list []netip.Prefix) tri {
	a, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	for i := range list {
		if list[i].Contains(a) {
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
	for _, r := range list {
		if r.Lo <= n && n <= r.Hi {
			return isTrue
		}
	}
	return isFalse
}

func inNumbers[T uint8 | uint32 | flow.Proto](v flow.Value[T], list []uint32) tri {
	n, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	for _, x := range list {
		if x == uint32(n) {
			return isTrue
		}
	}
	return isFalse
}

func inGlobs(v flow.Value[string], list []rules.Glob) tri {
	s, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	for _, g := range list {
		if g.Match(s) {
			return isTrue
		}
	}
	return isFalse
}

func inMACs(v flow.Value[flow.MAC], list []flow.MAC) tri {
	m, known := v.Get()
	if !known {
		return missing(v.Status())
	}
	return truth(slices.Contains(list, m))
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
