package oracle

import (
	"math"
	"net/netip"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// Near returns a random flow that fulfils, or nearly fulfils, conditions of the
// policy's rules; some of its facts are unknown, absent or invalid.
func Near(c Chance, p *rules.Policy) flow.Flow {
	g := gen{c}
	var f flow.Flow
	f.Proto = flow.Some(flow.Proto(one(g, numbersOf[rules.FieldProto])))
	f.Src, f.Dst = flow.Some(g.addr()), flow.Some(g.addr())
	f.SrcPort, f.DstPort = flow.Some(g.anyPort()), flow.Some(g.anyPort())
	f.SNI, f.HTTPHost = flow.Some(g.name()), flow.Absent[string]()
	f.Process, f.ProcessPath, f.User = flow.Some(one(g, programNames)), flow.Some(one(g, programNames)), flow.Some(one(g, programNames))
	f.Cgroup, f.IfaceIn = flow.Some(one(g, programNames)), flow.Some(one(g, programNames))
	f.SrcMAC = flow.Some(flow.MAC{2, 0, 0, 0, byte(c.IntN(2)), byte(c.IntN(256))})
	f.DSCP, f.Mark = flow.Some(uint8(c.IntN(64))), flow.Some(uint32(c.IntN(4)))
	f.RTT, f.Latency, f.ErrorRate = flow.Some(one(g, bounds)), flow.Some(one(g, bounds)), flow.Some(one(g, bounds))
	f.App, f.ALPN, f.Group = flow.Some(one(g, words)), flow.Some(g.offered()), flow.Some(one(g, programNames))
	f.IfaceOut, f.Country, f.ASN = flow.Some(one(g, words)), flow.Some(g.country()), flow.Some(g.asn())
	f.ConnBytes, f.ConnAge = flow.Some(one(g, bounds)), flow.Some(one(g, bounds))
	if g.chance(20) {
		f.State = one(g, stateIDs).String()
	}
	for range 1 + c.IntN(2) {
		if len(p.Rules) > 0 {
			g.fulfil(&f, &p.Rules[c.IntN(len(p.Rules))].Match, true)
		}
	}
	if g.chance(40) {
		f.DNS = g.hints(p)
	}
	g.forget(&f)
	if n, known := f.Proto.Get(); known && !n.HasPorts() {
		f.SrcPort, f.DstPort = flow.Absent[uint16](), flow.Absent[uint16]()
	}
	return f
}

func (g gen) anyPort() uint16 {
	if g.chance(50) {
		return one(g, singlePorts)
	}
	return uint16(g.c.IntN(1 << 16))
}

// hints are up to eight names near the policy's.
func (g gen) hints(p *rules.Policy) flow.Names {
	var list []string
	for range g.c.IntN(9) {
		s := g.name()
		if len(p.Rules) > 0 && g.chance(60) {
			var f flow.Flow
			g.fulfil(&f, &p.Rules[g.c.IntN(len(p.Rules))].Match, true)
			for _, v := range []flow.Value[string]{f.SNI, f.Domain, f.HTTPHost} {
				if n, known := v.Get(); known {
					s = n
				}
			}
		}
		list = append(list, s)
	}
	return flow.NewNames(list...)
}

// forget makes facts unknown, absent or invalid.
func (g gen) forget(f *flow.Flow) {
	lost := 0 // percent
	names := false
	switch g.c.IntN(8) {
	case 0, 1, 2:
	case 3, 4:
		names = true
	case 5, 6:
		lost = 20
	default:
		lost, names = 80, true
	}
	if names {
		f.SNI, f.HTTPHost, f.Domain = flow.Value[string]{}, flow.Value[string]{}, flow.Value[string]{}
		if g.chance(40) {
			f.SNI = flow.Absent[string]()
		}
		if g.chance(40) {
			f.HTTPHost = flow.Absent[string]()
		}
	}
	if lost == 0 {
		return
	}
	for _, v := range []*flow.Value[string]{&f.SNI, &f.HTTPHost, &f.Domain, &f.Process, &f.ProcessPath, &f.User, &f.Cgroup, &f.IfaceIn} {
		lose(g, lost, v)
	}
	for _, v := range []*flow.Value[string]{&f.App, &f.ALPN, &f.Group, &f.IfaceOut, &f.Country} {
		lose(g, lost, v)
	}
	lose(g, lost, &f.ASN)
	lose(g, lost, &f.ConnBytes)
	lose(g, lost, &f.ConnAge)
	lose(g, lost, &f.Proto)
	lose(g, lost, &f.Src)
	lose(g, lost, &f.Dst)
	lose(g, lost, &f.SrcPort)
	lose(g, lost, &f.DstPort)
	lose(g, lost, &f.SrcMAC)
	lose(g, lost, &f.DSCP)
	lose(g, lost, &f.Mark)
	lose(g, lost, &f.RTT)
	lose(g, lost, &f.Latency)
	lose(g, lost, &f.ErrorRate)
}

func lose[T comparable](g gen, percent int, v *flow.Value[T]) {
	if !g.chance(percent) {
		return
	}
	switch g.c.IntN(8) {
	case 0:
		*v = flow.Bad[T]()
	case 1, 2:
		*v = flow.Absent[T]()
	default:
		*v = flow.Value[T]{}
	}
}

// fulfil makes the condition hold, or not, as far as its parts do not
// contradict one another.
func (g gen) fulfil(f *flow.Flow, e *rules.Expr, want bool) {
	switch {
	case e.Op == rules.OpPred && want:
		g.hit(f, &e.Pred)
	case len(e.Kids) == 0:
	case e.Op == rules.OpNot:
		g.fulfil(f, &e.Kids[0], !want)
	case (e.Op == rules.OpAnd) == want:
		for i := range e.Kids {
			g.fulfil(f, &e.Kids[i], want)
		}
	default:
		g.fulfil(f, &e.Kids[g.c.IntN(len(e.Kids))], want)
	}
}

// hit gives the flow the fact that a predicate looks for, or one beside it.
func (g gen) hit(f *flow.Flow, p *rules.Pred) {
	switch p.Field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		if len(p.Names) > 0 {
			g.hitName(f, p.Field, g.matching(one(g, p.Names)))
		}
	case rules.FieldDstIP:
		f.Dst = g.inside(p.Prefixes, f.Dst)
	case rules.FieldSrcIP:
		f.Src = g.inside(p.Prefixes, f.Src)
	case rules.FieldPort:
		f.DstPort = g.within(p.Ports, f.DstPort)
	case rules.FieldSrcPort:
		f.SrcPort = g.within(p.Ports, f.SrcPort)
	case rules.FieldProto:
		f.Proto = flow.Some(flow.Proto(one(g, p.Numbers)))
	case rules.FieldDSCP:
		f.DSCP = flow.Some(uint8(one(g, p.Numbers)))
	case rules.FieldMark:
		f.Mark = flow.Some(one(g, p.Numbers))
	case rules.FieldSrcMAC:
		if len(p.MACs) > 0 {
			f.SrcMAC = flow.Some(one(g, p.MACs))
		}
	case rules.FieldProcess:
		f.Process = g.globbed(p.Globs)
	case rules.FieldProcessPath:
		f.ProcessPath = g.globbed(p.Globs)
	case rules.FieldUser:
		f.User = g.globbed(p.Globs)
	case rules.FieldCgroup:
		f.Cgroup = g.globbed(p.Globs)
	case rules.FieldIfaceIn:
		f.IfaceIn = flow.Some(string(one(g, p.Globs)))
	case rules.FieldRTT:
		f.RTT = flow.Some(max(0, p.Bound+int64(g.c.IntN(3)-1)))
	case rules.FieldLatency:
		f.Latency = flow.Some(max(0, p.Bound+int64(g.c.IntN(3)-1)))
	case rules.FieldErrorRate:
		f.ErrorRate = flow.Some(max(0, p.Bound+int64(g.c.IntN(3)-1)))
	case rules.FieldApp:
		f.App = g.word(p.Globs)
	case rules.FieldALPN:
		if len(p.Globs) > 0 {
			f.ALPN = flow.Some(one(g, []string{"", "h2,", "x,"}) + string(one(g, p.Globs)) + one(g, []string{"", ",h3", "x"}))
		}
	case rules.FieldGroup:
		f.Group = g.globbed(p.Globs)
	case rules.FieldIfaceOut:
		f.IfaceOut = g.word(p.Globs)
	case rules.FieldCountry:
		f.Country = g.word(p.Globs)
	case rules.FieldASN:
		if len(p.Numbers) > 0 {
			f.ASN = flow.Some(one(g, p.Numbers))
		}
	case rules.FieldConnBytes:
		f.ConnBytes = flow.Some(max(0, p.Bound+int64(g.c.IntN(3)-1)))
	case rules.FieldConnAge:
		f.ConnAge = flow.Some(max(0, p.Bound+int64(g.c.IntN(3)-1)))
	case rules.FieldState:
		if s := one(g, stateIDs); p.States.Has(s) {
			f.State = s.String()
		}
	}
}

// hitName puts the name where the field finds it.
func (g gen) hitName(f *flow.Flow, field rules.Field, name string) {
	v := flow.Name(name)
	switch {
	case field == rules.FieldHTTPHost:
		f.HTTPHost = v
	case field == rules.FieldSNI || g.chance(60):
		f.SNI = v
	case g.chance(50):
		f.SNI, f.HTTPHost = flow.Absent[string](), v
	default:
		f.Domain = v
	}
}

// matching is a name that matches the pattern, or one beside it.
func (g gen) matching(p rules.NamePattern) string {
	s := p.Name
	switch p.Kind {
	case rules.Suffix:
		if g.chance(60) {
			s = one(g, labelsOf) + "." + s
		}
	case rules.Subdomain:
		s = one(g, labelsOf) + "." + s
	case rules.GlobName:
		for strings.Contains(s, "*") {
			s = strings.Replace(s, "*", one(g, []string{"", "a", "zoom", "7-"}), 1)
		}
	case rules.Keyword:
		s = one(g, []string{"", "a", "x."}) + s + one(g, []string{"", "b", ".us"})
	case rules.Regex:
		s = strings.ToLower(strings.Map(func(r rune) rune {
			if strings.ContainsRune(`^$\()?+*|{}[]:`, r) {
				return -1
			}
			return r
		}, s))
	}
	switch g.c.IntN(12) {
	case 0:
		s = "evil" + s
	case 1:
		s = one(g, labelsOf) + "." + s
	case 2:
		_, s, _ = strings.Cut(s, ".")
	case 3:
		s += "." + one(g, lastOf)
	}
	return s
}

func (g gen) inside(list []netip.Prefix, other flow.Value[netip.Addr]) flow.Value[netip.Addr] {
	if len(list) == 0 {
		return other
	}
	p := one(g, list)
	b := p.Addr().AsSlice()
	if free := len(b)*8 - p.Bits(); free > 0 {
		for range g.c.IntN(4) {
			i := p.Bits() + g.c.IntN(free)
			b[i/8] ^= 0x80 >> (i % 8)
		}
	}
	if n := p.Bits(); n > 0 && g.chance(10) {
		b[(n-1)/8] ^= 0x80 >> ((n - 1) % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return flow.Some(a.Unmap())
}

func (g gen) within(list []rules.PortRange, other flow.Value[uint16]) flow.Value[uint16] {
	if len(list) == 0 {
		return other
	}
	r := one(g, list)
	n := int(r.Lo) + g.c.IntN(int(r.Hi)-int(r.Lo)+1)
	switch g.c.IntN(8) {
	case 0:
		n = int(r.Lo) - 1
	case 1:
		n = int(r.Hi) + 1
	case 2:
		n = int(r.Hi)
	case 3:
		n = int(r.Lo)
	}
	return flow.Some(uint16(min(max(n, 0), math.MaxUint16)))
}

func (g gen) word(list []rules.Glob) flow.Value[string] {
	if len(list) == 0 {
		return flow.Value[string]{}
	}
	return flow.Some(string(one(g, list)))
}

func (g gen) globbed(list []rules.Glob) flow.Value[string] {
	if len(list) == 0 {
		return flow.Value[string]{}
	}
	s := string(one(g, list))
	for strings.Contains(s, "*") {
		s = strings.Replace(s, "*", one(g, []string{"", "a", "oo", "x", "/"}), 1)
	}
	return flow.Some(s)
}
