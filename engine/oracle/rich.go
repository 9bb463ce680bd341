package oracle

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// The sizes of lists: most are short, some are beyond every limit at which the
// engine files a list or a crowd of rules otherwise (8 and 16).
const (
	fewElements  = 3
	someElements = 20
	manyElements = 200
)

var (
	labelsOf     = []string{"a", "b", "ab", "zoom", "zoom-1", "us", "example", "x_y", "7"}
	lastOf       = []string{"us", "example", "a"}
	programNames = []string{
		"zoom", "zoom.real", "transmission-gtk", "sh", "", "a", "/usr/bin/zoom", "/usr/bin/sh", "/opt/a/b", "user.slice/x",
	}
	numbersOf = map[rules.Field][]uint32{
		rules.FieldProto: {0, 1, 6, 17, 47, 58, 255},
		rules.FieldDSCP:  {0, 1, 46, 63},
		rules.FieldMark:  {0, 1, 2, 1 << 31, math.MaxUint32},
		rules.FieldASN:   {0, 13335, 64496, 64497, math.MaxUint32},
	}
	singlePorts = []uint16{0, 1, 22, 80, 443, 8080, 65534, 65535}
)

// rich generates policies with every kind of field and element. What it makes
// for one policy is made of few names, addresses, programs and MACs, so that
// rules overlap.
type rich struct {
	gen
	names    []string
	addrs    []netip.Addr
	programs []string
	macs     []flow.MAC
	sets     []*rules.Set
	longest  int // elements of a list
	mods     int // percent of rules with modifiers only
}

func newRich(c Chance) *rich {
	g := &rich{gen: gen{c}, longest: manyElements, mods: 20}
	for range 2 + c.IntN(6) {
		g.names = append(g.names, g.name())
	}
	for range 2 + c.IntN(5) {
		g.addrs = append(g.addrs, g.addr())
		g.macs = append(g.macs, flow.MAC{2, 0, 0, 0, byte(c.IntN(2)), byte(c.IntN(256))})
		g.programs = append(g.programs, one(g.gen, programNames))
	}
	if g.chance(15) {
		g.mods = 80
	}
	return g
}

// Rich returns a random policy of up to eight rules with every kind of field,
// pattern and set.
func Rich(c Chance) *rules.Policy {
	g := newRich(c)
	p := g.frame()
	for range c.IntN(8) {
		g.sets = append(g.sets, g.set(len(g.sets)))
	}
	p.Sets = g.sets
	for i := range 1 + c.IntN(8) {
		p.Rules = append(p.Rules, g.rule(i, g.expr(3)))
	}
	return p
}

// Crowded returns a policy of n rules in few shapes over few names, prefixes
// and ports, so that many rules stand under each.
func Crowded(c Chance, n int) *rules.Policy {
	g := newRich(c)
	g.names, g.addrs = g.names[:1+c.IntN(2)], g.addrs[:1+c.IntN(2)]
	g.longest = someElements
	p := g.frame()
	for range 1 + c.IntN(2) {
		g.sets = append(g.sets, g.set(len(g.sets)))
	}
	p.Sets = g.sets
	shapes := make([][]rules.Field, 1+c.IntN(3))
	for i := range shapes {
		shapes[i] = one(g.gen, [][]rules.Field{
			{rules.FieldDomain, rules.FieldPort},
			{rules.FieldSNI, rules.FieldPort, rules.FieldProto},
			{rules.FieldDomain},
			{rules.FieldDstIP, rules.FieldSrcIP, rules.FieldPort, rules.FieldSrcPort, rules.FieldProto},
			{rules.FieldDstIP, rules.FieldPort},
			{rules.FieldPort, rules.FieldSrcPort},
			{rules.FieldProcess, rules.FieldPort},
			{rules.FieldSrcMAC, rules.FieldDomain},
			{rules.FieldHTTPHost, rules.FieldDstIP},
			{rules.FieldUser, rules.FieldCgroup, rules.FieldIfaceIn},
			{rules.FieldSrcIP, rules.FieldRTT},
			{rules.FieldDSCP, rules.FieldMark, rules.FieldProto},
			{rules.FieldProto},
			{rules.FieldProcessPath, rules.FieldSrcPort, rules.FieldState},
			{rules.FieldApp, rules.FieldGroup},
			{rules.FieldALPN, rules.FieldDomain},
			{rules.FieldCountry, rules.FieldASN, rules.FieldIfaceOut},
			{rules.FieldASN, rules.FieldConnBytes},
			{rules.FieldDomain, rules.FieldSchedule},
			{rules.FieldDstIP, rules.FieldUplink, rules.FieldCondition},
		})
	}
	dos := make([]rules.Outcome, 1+c.IntN(6))
	for i := range dos {
		dos[i] = g.outcome()
	}
	for i := range n {
		e := rules.Expr{Op: rules.OpAnd}
		for _, f := range one(g.gen, shapes) {
			e.Kids = append(e.Kids, rules.Expr{Op: rules.OpPred, Pred: g.predOf(f)})
		}
		switch k := c.IntN(20); {
		case k == 0:
			e.Op = rules.OpOr
		case k == 1:
			e.Kids[0] = rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{e.Kids[0]}}
		case k == 2:
			e = g.expr(2)
		}
		r := g.rule(i, e)
		if !g.chance(10) {
			r.Do = one(g.gen, dos)
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

// Mixed returns a policy of n rules that have nothing in common but eight by
// eight: those of many Rich ones.
func Mixed(c Chance, n int) *rules.Policy {
	p := Rich(c)
	for len(p.Rules) < n {
		q := Rich(c)
		p.Sets = append(p.Sets, q.Sets...)
		for _, r := range q.Rules {
			r.Name = fmt.Sprintf("r%d", len(p.Rules))
			p.Rules = append(p.Rules, r)
		}
	}
	return p
}

// Alike returns a policy of n rules whose patterns are texts of two letters, so
// that many begin alike and stand in each other.
func Alike(c Chance, n int) *rules.Policy {
	g := newRich(c)
	p := g.frame()
	for i := range n {
		e := rules.Expr{Op: rules.OpAnd}
		for _, f := range one(g.gen, [][]rules.Field{{rules.FieldDomain}, {rules.FieldDomain, rules.FieldPort}, {rules.FieldSNI}, {rules.FieldProcess}}) {
			pred := g.predOf(f)
			switch f {
			case rules.FieldDomain, rules.FieldSNI:
				pred = rules.Pred{Field: f, Names: []rules.NamePattern{g.alike()}}
			case rules.FieldProcess:
				pred = rules.Pred{Field: f, Globs: []rules.Glob{"*" + rules.Glob(g.letters(9)) + "*"}}
			}
			e.Kids = append(e.Kids, rules.Expr{Op: rules.OpPred, Pred: pred})
		}
		p.Rules = append(p.Rules, g.rule(i, e))
	}
	return p
}

func (g gen) alike() rules.NamePattern {
	s := g.letters(9)
	p, ok := rules.NewKeyword(s)
	switch g.c.IntN(6) {
	case 0:
		p, ok = g.regex(s)
	case 1:
		p, ok = rules.ParseNamePattern("*" + s + "*." + one(g, lastOf))
	}
	if !ok {
		p, _ = rules.NewKeyword(s)
	}
	return p
}

// Listed returns a policy of n rules over different long lists that have elements
// in common, some with sets.
func Listed(c Chance, n int) *rules.Policy {
	g := newRich(c)
	g.names, g.addrs, g.programs = g.names[:1], g.addrs[:1], g.programs[:1]
	p := g.frame()
	for range c.IntN(3) {
		g.sets = append(g.sets, g.set(len(g.sets)))
	}
	p.Sets = g.sets
	field := rules.FieldDomain // which alone has hints
	if g.chance(60) {
		field = one(g.gen, []rules.Field{rules.FieldDstIP, rules.FieldPort, rules.FieldProcess, rules.FieldSrcMAC})
	}
	other := one(g.gen, []rules.Field{rules.FieldSrcPort, rules.FieldSNI, rules.FieldRTT, rules.FieldProto})
	t, _ := typeOf(field)
	for i := range n {
		e := rules.Expr{Op: rules.OpAnd}
		pred := rules.Pred{Field: field}
		use(&pred, &rules.Set{Type: t, Elements: g.elements(t, 9+c.IntN(5))})
		pred.Set = nil
		e.Kids = append(e.Kids, rules.Expr{Op: rules.OpPred, Pred: pred})
		if g.chance(70) {
			e.Kids = append(e.Kids, rules.Expr{Op: rules.OpPred, Pred: g.predOf(other)})
		}
		p.Rules = append(p.Rules, g.rule(i, e))
	}
	return p
}

// Nested returns a policy of n rules that ask for little, so that one of the first
// is true: for prefixes of two addresses, or for a pattern around one literal, and
// for wide ranges of ports.
func Nested(c Chance, n int) *rules.Policy {
	g := newRich(c)
	p := g.frame()
	g.addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, byte(c.IntN(2)), 2, 3}), g.addr()}
	patterns, src, dst := g.chance(25), 90, 40 // percent of the rules
	if g.chance(50) {
		src, dst = dst, src
	}
	for i := range n {
		e := rules.Expr{Op: rules.OpAnd}
		ask := func(percent int, pred rules.Pred) {
			if g.chance(percent) {
				e.Kids = append(e.Kids, rules.Expr{Op: rules.OpPred, Pred: pred})
			}
		}
		wide := func() []rules.PortRange {
			return []rules.PortRange{{Lo: uint16(c.IntN(20_000)), Hi: uint16(40_000 + c.IntN(20_000))}}
		}
		nested := func() []netip.Prefix {
			a := one(g.gen, g.addrs)
			return []netip.Prefix{netip.PrefixFrom(a, c.IntN(a.BitLen()+1)).Masked()}
		}
		if patterns {
			glob := one(g.gen, []rules.Glob{"zoom*", "*zoom", "z*zoom", "zoom*s"})
			ask(100, rules.Pred{Field: rules.FieldProcess, Globs: []rules.Glob{glob}})
		} else {
			ask(src, rules.Pred{Field: rules.FieldSrcIP, Prefixes: nested()})
			ask(dst, rules.Pred{Field: rules.FieldDstIP, Prefixes: nested()})
		}
		ask(50, rules.Pred{Field: rules.FieldPort, Ports: wide()})
		ask(40, rules.Pred{Field: rules.FieldSrcPort, Ports: wide()})
		ask(10, g.predOf(rules.FieldProto))
		ask(10, g.predOf(rules.FieldLatency))
		ask(15, g.predOf(rules.FieldDomain))
		p.Rules = append(p.Rules, g.rule(i, e))
	}
	return p
}

// letters is a text of up to most letters, half of which begin alike.
func (g gen) letters(most int) string {
	b := []byte(one(g, []string{"", "aaaa"}))
	for range 1 + g.c.IntN(most) {
		b = append(b, "ab"[g.c.IntN(2)])
	}
	return string(b)
}

// NearAlike is Near for the policies of Alike.
func NearAlike(c Chance, p *rules.Policy) flow.Flow {
	f, g := Near(c, p), gen{c}
	switch name := g.letters(50) + "." + one(g, lastOf); g.c.IntN(5) {
	case 0:
	case 1:
		f.SNI, f.HTTPHost, f.Domain = flow.Value[string]{}, flow.Absent[string](), flow.Value[string]{}
		f.DNS = flow.NewNames(name, g.letters(20)+".us")
	default:
		f.SNI = flow.Some(name)
	}
	if g.chance(50) {
		f.Process = flow.Some(g.letters(12) + strings.Repeat("b", 250*c.IntN(2)) + g.letters(12)) // names are shorter, paths are not
	}
	return f
}

func (g *rich) rule(i int, match rules.Expr) rules.Rule {
	r := rules.Rule{Name: fmt.Sprintf("r%d", i), Priority: g.c.IntN(4) - 1, Active: state.AllStates, Match: match, Do: g.outcome()}
	if g.chance(5) {
		r.Priority = one(g.gen, []int{math.MinInt32, math.MaxInt32})
	}
	if g.chance(g.mods) {
		r.Do.Kind, r.Do.Route, r.Do.Routes, r.Do.Reject = rules.ActNone, -1, nil, false
		if r.Do.Mods == (rules.Modifiers{}) {
			r.Do.Mods.Mark = flow.Some(uint32(g.c.IntN(3)))
		}
	}
	if g.chance(20) {
		r.Active = state.Set(g.c.IntN(16))
	}
	if g.chance(40) {
		r.OnUnknown = rules.OnUnknown(g.c.IntN(4))
	}
	g.when(&r)
	return r
}

func (g *rich) expr(depth int) rules.Expr {
	n := g.c.IntN(24)
	switch {
	case n == 0:
		return rules.Expr{}
	case n == 1:
		return rules.Expr{Op: one(g.gen, []rules.Op{rules.OpAnd, rules.OpOr})}
	case n < 9 && depth > 0:
		return rules.Expr{Op: rules.OpAnd, Kids: g.exprs(depth - 1)}
	case n < 13 && depth > 0:
		return rules.Expr{Op: rules.OpOr, Kids: g.exprs(depth - 1)}
	case n < 15 && depth > 0:
		return rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{g.expr(depth - 1)}}
	}
	f := rules.Field(g.c.IntN(3)) // names are where the difficult semantics lie
	if g.chance(70) {
		f = rules.Field(g.c.IntN(int(rules.FieldCondition) + 1))
	}
	return rules.Expr{Op: rules.OpPred, Pred: g.predOf(f)}
}

func (g *rich) exprs(depth int) []rules.Expr {
	var out []rules.Expr
	for range 1 + g.c.IntN(3) {
		out = append(out, g.expr(depth))
	}
	return out
}

// typeOf is the set type that a field can name.
func typeOf(f rules.Field) (rules.SetType, bool) {
	switch f {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		return rules.DomainSet, true
	case rules.FieldDstIP, rules.FieldSrcIP:
		return rules.CIDRSet, true
	case rules.FieldPort, rules.FieldSrcPort:
		return rules.PortSet, true
	case rules.FieldSrcMAC:
		return rules.MACSet, true
	case rules.FieldProcess, rules.FieldProcessPath:
		return rules.ProcessSet, true
	case rules.FieldUser:
		return rules.UserSet, true
	case rules.FieldASN:
		return rules.ASNSet, true
	case rules.FieldCountry:
		return rules.CountrySet, true
	default:
		return 0, false
	}
}

func (g *rich) set(i int) *rules.Set {
	s := &rules.Set{Name: fmt.Sprintf("s%d", i), Type: rules.SetType(g.c.IntN(int(rules.CountrySet) + 1))}
	if g.chance(40) {
		s.Type = rules.SetType(g.c.IntN(2)) // names and prefixes can be named by several fields
	}
	if g.chance(20) {
		s.List = rules.ListRef{File: "list"}
	}
	if !g.chance(5) { // a list that can't be had is empty
		s.Elements = g.elements(s.Type, g.size())
	}
	return s
}

// use makes the predicate read the set.
func use(p *rules.Pred, s *rules.Set) {
	p.Set, p.Names, p.Prefixes, p.Ports, p.MACs, p.Globs = s, s.Names, s.Prefixes, s.Ports, s.MACs, s.Globs
	p.Numbers = s.Numbers
}

func (g *rich) size() int {
	switch n := g.c.IntN(20); {
	case n == 0:
		return 1 + g.c.IntN(g.longest)
	case n < 4:
		return 1 + g.c.IntN(someElements)
	default:
		return 1 + g.c.IntN(fewElements)
	}
}

func (g *rich) predOf(f rules.Field) rules.Pred {
	p := rules.Pred{Field: f}
	if t, ok := typeOf(f); ok {
		if g.chance(30) {
			for _, s := range g.sets {
				if s.Type == t {
					use(&p, s)
					return p
				}
			}
		}
		e := g.elements(t, g.size())
		p.Names, p.Prefixes, p.Ports, p.MACs, p.Globs = e.Names, e.Prefixes, e.Ports, e.MACs, e.Globs
		p.Numbers = e.Numbers
		return p
	}
	if f.OfWorld() {
		return g.worldPred(f)
	}
	switch f {
	case rules.FieldCgroup, rules.FieldGroup:
		p.Globs = g.elements(rules.ProcessSet, g.size()).Globs
	case rules.FieldApp, rules.FieldALPN, rules.FieldIfaceOut:
		for range g.size() {
			p.Globs = append(p.Globs, rules.Glob(one(g.gen, words)))
		}
	case rules.FieldIfaceIn:
		for range g.size() {
			p.Globs = append(p.Globs, rules.Glob(one(g.gen, g.programs)))
		}
	case rules.FieldProto, rules.FieldDSCP, rules.FieldMark:
		p.Numbers = some(g.gen, fewElements, numbersOf[f])
		slices.Sort(p.Numbers)
		p.Numbers = slices.Compact(p.Numbers)
	default:
		p.Cmp, p.Bound = rules.Cmp(g.c.IntN(5)), one(g.gen, bounds)
	}
	return p
}

func (g *rich) elements(t rules.SetType, n int) rules.Elements {
	var e rules.Elements
	for range n {
		switch t {
		case rules.DomainSet:
			e.Names = append(e.Names, g.pattern())
		case rules.CIDRSet:
			e.Prefixes = append(e.Prefixes, g.prefix())
		case rules.PortSet:
			e.Ports = append(e.Ports, g.portRange(n))
		case rules.MACSet:
			e.MACs = append(e.MACs, g.mac())
		case rules.ASNSet:
			e.Numbers = append(e.Numbers, g.asn())
		case rules.CountrySet:
			e.Globs = append(e.Globs, rules.Glob(g.country()))
		default:
			e.Globs = append(e.Globs, g.glob())
		}
	}
	e.Ports = disjoint(e.Ports)
	slices.SortFunc(e.MACs, func(a, b flow.MAC) int { return bytes.Compare(a[:], b[:]) })
	e.MACs = slices.Compact(e.MACs)
	slices.Sort(e.Numbers)
	e.Numbers = slices.Compact(e.Numbers)
	return e
}

// disjoint sorts ranges and joins those that overlap.
func disjoint(list []rules.PortRange) []rules.PortRange {
	slices.SortFunc(list, func(a, b rules.PortRange) int { return cmp.Compare(a.Lo, b.Lo) })
	var out []rules.PortRange
	for _, r := range list {
		if n := len(out); n > 0 && r.Lo <= out[n-1].Hi {
			out[n-1].Hi = max(out[n-1].Hi, r.Hi)
			continue
		}
		out = append(out, r)
	}
	return out
}

func (g *rich) mac() flow.MAC {
	m := one(g.gen, g.macs)
	if g.chance(50) {
		m[5] = byte(g.c.IntN(256))
	}
	return m
}

func (g gen) asn() uint32 {
	if g.chance(50) {
		return one(g, numbersOf[rules.FieldASN])
	}
	return uint32(g.c.IntN(300))
}

func (g gen) country() string {
	if g.chance(50) {
		return one(g, countries)
	}
	return string([]byte{byte('A' + g.c.IntN(3)), byte('A' + g.c.IntN(26))})
}

// portRange is one of n: of many all are narrow, so that they stay apart.
func (g *rich) portRange(n int) rules.PortRange {
	if n > fewElements {
		lo := g.c.IntN(1 << 16)
		return rules.PortRange{Lo: uint16(lo), Hi: uint16(min(lo+g.c.IntN(100), math.MaxUint16))}
	}
	switch g.c.IntN(8) {
	case 0:
		return rules.PortRange{Hi: math.MaxUint16}
	case 1, 2:
		lo := g.c.IntN(1 << 16)
		return rules.PortRange{Lo: uint16(lo), Hi: uint16(lo + g.c.IntN(1<<16-lo))}
	case 3, 4:
		lo := 1000 + g.c.IntN(200)
		return rules.PortRange{Lo: uint16(lo), Hi: uint16(lo + g.c.IntN(50))}
	default:
		n := one(g.gen, singlePorts)
		return rules.PortRange{Lo: n, Hi: n}
	}
}

func (g gen) addr() netip.Addr {
	if g.chance(50) {
		return netip.MustParseAddr(one(g, addresses))
	}
	if g.chance(50) {
		return netip.AddrFrom4([4]byte{10, byte(g.c.IntN(2)), byte(g.c.IntN(256)), byte(g.c.IntN(256))})
	}
	a := [16]byte{0: 0x20, 1: 1, 2: 0x0d, 3: 0xb8, 5: byte(g.c.IntN(2)), 9: byte(g.c.IntN(256)), 15: byte(g.c.IntN(256))}
	return netip.AddrFrom16(a)
}

func (g *rich) prefix() netip.Prefix {
	a := one(g.gen, g.addrs)
	if g.chance(20) {
		a = g.addr()
	}
	n := a.BitLen()
	size := g.c.IntN(n + 1)
	if g.chance(60) {
		size = one(g.gen, []int{0, 1, 8, n / 4, n / 2, n - 8, n - 1, n, n})
	}
	return netip.PrefixFrom(a, size).Masked()
}

func (g *rich) glob() rules.Glob {
	s := one(g.gen, g.programs)
	if g.chance(40) {
		return rules.Glob(s)
	}
	return rules.Glob(g.starred(s, '/'))
}

// starred puts one to three stars into s, each for a run without sep; no two meet.
func (g gen) starred(s string, sep byte) string {
	for range 1 + g.c.IntN(3) {
		from := g.c.IntN(len(s) + 1)
		to := min(len(s), from+g.c.IntN(4))
		if cut := s[from:to]; strings.IndexByte(cut, sep) < 0 && strings.Count(s, "*") < 3 {
			s = s[:from] + "*" + s[to:]
		}
	}
	for strings.Contains(s, "**") {
		s = strings.ReplaceAll(s, "**", "*")
	}
	return s
}

// name is a canonical name: mostly of few labels, some as long as can be.
func (g gen) name() string {
	switch g.c.IntN(40) {
	case 0:
		return strings.Repeat("a.", 126) + "a"
	case 1:
		return strings.Repeat("b", 63) + "." + one(g, lastOf)
	case 2:
		return one(g, dnsNames)
	}
	s := one(g, lastOf)
	for range g.c.IntN(5) {
		s = one(g, labelsOf) + "." + s
	}
	return s
}

// pattern is one that could be written, mostly near one of the policy's names.
func (g *rich) pattern() rules.NamePattern {
	s := one(g.gen, g.names)
	if g.chance(15) {
		s = g.name()
	}
	p, ok := rules.NamePattern{}, false
	switch g.c.IntN(10) {
	case 0, 1:
	case 2, 3:
		p, ok = rules.ParseNamePattern("." + g.parent(s))
	case 4:
		p, ok = rules.ParseNamePattern("*." + g.parent(s))
	case 5:
		p, ok = rules.ParseNamePattern(g.starred(s, '.'))
	case 6:
		p, ok = rules.ParseNamePattern("*." + g.starred(g.parent(s), '.'))
	case 7, 8:
		p, ok = rules.NewKeyword(g.part(s))
	default:
		p, ok = g.regex(s)
	}
	if !ok {
		p, _ = rules.ParseNamePattern(s)
	}
	return p
}

// parent drops leading labels, all but the last at most.
func (g gen) parent(s string) string {
	for range g.c.IntN(3) {
		if _, rest, more := strings.Cut(s, "."); more {
			s = rest
		}
	}
	return s
}

// part is a text in s, or one that is longer.
func (g gen) part(s string) string {
	if g.chance(10) {
		return s + one(g, labelsOf)
	}
	from := g.c.IntN(len(s))
	most := min(len(s)-from, one(g, []int{1, 3, 4, 12, 300}))
	return s[from : from+1+g.c.IntN(most)]
}

func (g gen) regex(s string) (rules.NamePattern, bool) {
	a, b := regexp.QuoteMeta(g.part(s)), regexp.QuoteMeta(g.part(s))
	text := one(g, []string{
		a, "^" + a, a + "$", `(^|\.)` + a + "$", "(?i)" + strings.ToUpper(a), a + "|" + b, a + ".*" + b, `^[a-z]+\.` + a,
		"(" + a + ")?" + b, "(" + a + "){0,2}", "(" + a + ")+", "[0-9]", `^[^.]+$`, "", "(?:" + a + "|" + b + ")us", "(?i:ZOOM)-?",
	})
	p, err := rules.NewRegex(text)
	return p, err == nil
}
