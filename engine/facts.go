package engine

import (
	"math/bits"
	"time"

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

// facts is a flow and a world as predicates look at them, made once a decision.
type facts struct {
	flow  *flow.Flow
	prog  *Program
	world *state.World
	state state.State

	latency   flow.Value[int64]
	errorRate flow.Value[int64]

	// modes are for sni, domain and http.host; asked says which of the queries is
	// the name of one that is known.
	modes [3]nameMode
	asked [3]uint8
	// queries are the different names that are known, each with its fields.
	nQueries uint8
	queries  [3]query

	// dns is how DNS names take part: nameHints, nameDNS, or 0 for not at all;
	// dnsFields are the fields that take them, as dnsReads, too.
	dns       nameMode
	dnsFields fields3
	dnsReads  FieldSet
	// unknown are the fields, of those that rules read, that a decision can be
	// waiting for; blindUnknown also has those that only DNS names tell.
	unknown, blindUnknown FieldSet
	// blind makes every predicate unknown whose value comes from DNS names, to
	// find out what rests on them.
	blind bool
}

// query is a name that is known: the flow's of the name field with this place in
// modes. It is not the name itself, as what regular expressions are given must not
// be in the facts: the compiler would move all that they refer to to the heap.
type query struct {
	of     uint8
	fields fields3
}

// text returns the name of a query.
func (c *facts) text(query uint8) string {
	v := &c.flow.SNI
	switch c.queries[query].of {
	case 1:
		v = &c.flow.Domain
	case 2:
		v = &c.flow.HTTPHost
	}
	name, _ := v.Get()
	return name
}

// gather completes facts of which the flow and the program are set, by what they and w tell.
func (c *facts) gather(w *state.World) {
	f, p := c.flow, c.prog
	c.world = w
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
	c.unknown = c.unknownOf(p.fields)
	c.blindUnknown = c.unknown
	if c.dns == nameDNS {
		c.blindUnknown |= c.dnsReads & p.fields
	}
}

const (
	nameFields  = FieldSet(1<<rules.FieldSNI | 1<<rules.FieldDomain | 1<<rules.FieldHTTPHost)
	tupleFields = FieldSet(1<<rules.FieldDstIP | 1<<rules.FieldSrcIP | 1<<rules.FieldPort | 1<<rules.FieldSrcPort | 1<<rules.FieldProto)
	worldFields = FieldSet(1<<rules.FieldLatency | 1<<rules.FieldErrorRate)
	linkFields  = FieldSet(1<<rules.FieldUplink | 1<<rules.FieldRoute)
)

// nameField3 are the fields of facts.modes.
var nameField3 = [3]rules.Field{rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost}

// nameField is the field's place in facts.modes.
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
	sni, host := f.SNI.Status(), f.HTTPHost.Status()
	unknown := nameUnknown
	if sni != flow.Known && host != flow.Known && !f.DNS.Empty() {
		unknown = nameHints
	}
	c.modes[0], c.modes[2] = modeOf(sni, unknown), modeOf(host, unknown)
	switch sni {
	case flow.Known:
		c.ask(0)
	case flow.Unknown:
		c.unknown |= 1 << rules.FieldSNI
	}
	switch host {
	case flow.Known:
		c.ask(2)
	case flow.Unknown:
		c.unknown |= 1 << rules.FieldHTTPHost
	}
	switch own := f.Domain.Status(); {
	case own != flow.Unknown:
		if c.modes[1] = modeOf(own, unknown); own == flow.Known {
			c.ask(1)
		}
	case sni == flow.Known:
		c.askToo(1, 0)
	case host == flow.Known:
		c.askToo(1, 2)
	case sni == flow.Unknown || host == flow.Unknown:
		c.modes[1] = unknown
		c.unknown |= 1 << rules.FieldDomain
	case !f.DNS.Empty():
		c.modes[1] = nameDNS
	default:
		c.modes[1] = nameNone
	}
	if unknown != nameHints && c.modes[1] != nameDNS {
		return
	}
	for i, m := range c.modes {
		if m == nameHints || m == nameDNS {
			c.dns = m // never both: nameDNS needs both names to be absent
			c.dnsFields |= 1 << i
			c.dnsReads |= 1 << nameField3[i]
		}
	}
}

// modeOf returns how a name field takes part by what is known of it; unknown is
// for one that is not.
func modeOf(s flow.Status, unknown nameMode) nameMode {
	switch s {
	case flow.Known:
		return nameKnown
	case flow.Unknown:
		return unknown
	default:
		return nameNone
	}
}

// ask makes the known name of a field a query, or finds the query that it is.
func (c *facts) ask(field uint8) {
	n := c.nQueries
	c.queries[n] = query{field, 1 << field}
	for i := range n {
		if c.text(i) == c.text(n) {
			c.asked[field] = i
			c.queries[i].fields |= 1 << field
			return
		}
	}
	c.asked[field] = n
	c.nQueries++
}

// askToo gives a field the name of another one.
func (c *facts) askToo(field, other int) {
	c.modes[field] = nameKnown
	c.asked[field] = c.asked[other]
	c.queries[c.asked[other]].fields |= 1 << field
}

// unknownOf returns the fields, of those given, that a decision can be waiting for;
// setNames has found the names.
func (c *facts) unknownOf(fields FieldSet) FieldSet {
	f := c.flow
	u := c.unknown // names
	if f.Dst.Unknown() {
		u |= 1 << rules.FieldDstIP
	}
	if f.Src.Unknown() {
		u |= 1 << rules.FieldSrcIP
	}
	if f.DstPort.Unknown() {
		u |= 1 << rules.FieldPort
	}
	if f.SrcPort.Unknown() {
		u |= 1 << rules.FieldSrcPort
	}
	if f.Proto.Unknown() {
		u |= 1 << rules.FieldProto
	}
	if c.latency.Unknown() {
		u |= 1 << rules.FieldLatency
	}
	u &= fields
	for left := fields &^ (nameFields | tupleFields | 1<<rules.FieldLatency); left != 0; left &= left - 1 {
		if field := rules.Field(bits.TrailingZeros64(uint64(left))); c.isUnknown(field) {
			u |= 1 << field
		}
	}
	return u
}

// isUnknown reports whether a decision can be waiting for the field, which is
// none of those that unknownOf looks at itself.
func (c *facts) isUnknown(field rules.Field) bool {
	f := c.flow
	switch field {
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
	case rules.FieldErrorRate:
		return c.errorRate.Unknown()
	default:
		return c.isUnknownRare(field)
	}
}

// isUnknownRare is isUnknown for what few rules read. Of metrics it tells whether
// any uplink lacks one that any rule reads: a rule of another uplink is then looked
// at without need.
func (c *facts) isUnknownRare(field rules.Field) bool {
	f, w := c.flow, c.world
	switch field {
	case rules.FieldApp:
		return f.App.Unknown()
	case rules.FieldALPN:
		return f.ALPN.Unknown()
	case rules.FieldGroup:
		return f.Group.Unknown()
	case rules.FieldIfaceOut:
		return f.IfaceOut.Unknown()
	case rules.FieldCountry:
		return f.Country.Unknown()
	case rules.FieldASN:
		return f.ASN.Unknown()
	case rules.FieldConnBytes:
		return f.ConnBytes.Unknown()
	case rules.FieldConnAge:
		return f.ConnAge.Unknown()
	case rules.FieldUplink, rules.FieldRoute:
		for i := range c.prog.policy.Uplinks {
			for m := c.prog.metrics; m != 0; m &= m - 1 {
				if v := metric(w, i, rules.Metric(bits.TrailingZeros8(m))); v.Unknown() {
					return true
				}
			}
		}
		return false
	case rules.FieldSchedule:
		return anyUnset(w.Schedules, len(c.prog.policy.Schedules))
	case rules.FieldQuota:
		return anyUnset(w.Quotas, len(c.prog.policy.Quotas))
	case rules.FieldCondition:
		return anyUnset(w.Conditions, len(c.prog.policy.Conditions))
	default:
		return false
	}
}

// anyUnset reports whether one of n bits is not known.
func anyUnset(list []state.Truth, n int) bool {
	for i := range n {
		if bit(list, i) == isUnknown {
			return true
		}
	}
	return false
}

// bit is a fact of the world as a truth value; what the world does not have is not known.
func bit(list []state.Truth, i int) tri {
	if i < 0 || i >= len(list) || list[i] == state.Unset {
		return isUnknown
	}
	return truth(list[i] == state.True)
}

// metric returns what is measured of an uplink, in the unit of the metric; -1, no
// uplink, has none. Whether the link is up, and the state, are always known.
func metric(w *state.World, uplink int, m rules.Metric) flow.Value[int64] {
	if uplink < 0 {
		return flow.Absent[int64]()
	}
	if uplink >= len(w.Uplinks) {
		return flow.Value[int64]{}
	}
	l := &w.Uplinks[uplink]
	n := int64(-1)
	switch m {
	case rules.MetricRTT:
		n = micros(l.RTT)
	case rules.MetricP90:
		n = micros(l.P90)
	case rules.MetricJitter:
		n = micros(l.Jitter)
	case rules.MetricLoss:
		n = l.Loss
	case rules.MetricErrorRate:
		n = l.ErrorRate
	case rules.MetricUsage:
		n = l.Usage
	case rules.MetricState:
		n = int64(l.State)
	case rules.MetricUp:
		if n = 0; l.Up {
			n = 1
		}
	}
	if n < 0 {
		return flow.Value[int64]{}
	}
	return flow.Some(n)
}

// micros keeps what is not measured negative.
func micros(d time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return d.Microseconds()
}
