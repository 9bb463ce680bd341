package analysis

import (
	"net/netip"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// maxTries bounds the flows that are tried for one region.
const maxTries = 64

// witness looks for a flow and a world at the sample of a region, for which confirm
// holds. A region may have none: facts that the space takes as independent can
// contradict one another, and a text that matches what is not compared may not be found.
func (s *space) witness(region box, confirm func(*flow.Flow, *state.World) bool) (*flow.Flow, *state.World, bool) {
	value := map[dimKey]int32{}
	var asked []rules.Field // that something which is not compared is to match
	for _, d := range region {
		key := s.keys[d.dim]
		value[key] = d.sample()
		if key.open() && value[key] == isMatch {
			asked = append(asked, key.field)
		}
	}
	f, w := &flow.Flow{}, s.unmeasured()
	s.setNumbers(f, w, value)
	s.setAddresses(f, value)
	// Where names and texts are not told by their values, several are tried.
	tries := []func(*flow.Flow){func(*flow.Flow) {}}
	for _, t := range s.texts(value, asked) {
		var next []func(*flow.Flow)
		for _, before := range tries {
			for _, set := range t {
				next = append(next, func(f *flow.Flow) { before(f); set(f) })
			}
		}
		tries = next[:min(len(next), maxTries)]
	}
	for _, set := range tries {
		g := *f
		set(&g)
		if confirm(&g, w) {
			return &g, w, true
		}
	}
	return nil, nil, false
}

// unmeasured is a world in which nothing is known.
func (s *space) unmeasured() *state.World {
	p := s.policy
	w := &state.World{
		Primary: p.Primary, Uplinks: make([]state.Link, len(p.Uplinks)), Selected: make([]int, len(p.Groups)), Meets: make([][]state.Truth, len(p.Groups)),
		Schedules: make([]state.Truth, len(p.Schedules)), Quotas: make([]state.Truth, len(p.Quotas)), Conditions: make([]state.Truth, len(p.Conditions)),
	}
	for i := range w.Selected {
		w.Selected[i] = -1
		w.Meets[i] = make([]state.Truth, len(p.Groups[i].Members))
	}
	for i := range w.Uplinks {
		w.Uplinks[i] = state.Link{RTT: -1, P90: -1, Jitter: -1, Loss: -1, ErrorRate: -1, Usage: -1}
	}
	return w
}

// setNumbers sets what is a number, or one of a few words.
func (s *space) setNumbers(f *flow.Flow, w *state.World, value map[dimKey]int32) {
	for key, v := range value {
		n := int64(-1)
		if a := s.numbers[key]; a != nil && v >= key.first() {
			n = int64(a.cuts[v-key.first()])
		}
		switch key.field {
		case rules.FieldState:
			w.Global = state.State(v)
		case rules.FieldSchedule:
			w.Schedules[key.ref] = state.Truth(v)
		case rules.FieldQuota:
			w.Quotas[key.ref] = state.Truth(v)
		case rules.FieldCondition:
			w.Conditions[key.ref] = state.Truth(v)
		case rules.FieldUplink:
			setMetric(&w.Uplinks[key.ref], key.metric, n)
		case rules.FieldProto:
			f.Proto = valueOf(v, flow.Proto(n))
		case rules.FieldPort:
			f.DstPort = valueOf(v, uint16(n))
		case rules.FieldSrcPort:
			f.SrcPort = valueOf(v, uint16(n))
		case rules.FieldDSCP:
			f.DSCP = valueOf(v, uint8(n))
		case rules.FieldMark:
			f.Mark = valueOf(v, uint32(n))
		case rules.FieldASN:
			f.ASN = valueOf(v, uint32(n))
		case rules.FieldSrcMAC:
			f.SrcMAC = valueOf(v, flow.MAC{byte(n >> 40), byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		case rules.FieldRTT:
			f.RTT = valueOf(v, n)
		case rules.FieldLatency:
			f.Latency = valueOf(v, n)
		case rules.FieldErrorRate:
			f.ErrorRate = valueOf(v, n)
		case rules.FieldConnBytes:
			f.ConnBytes = valueOf(v, n)
		case rules.FieldConnAge:
			f.ConnAge = valueOf(v, n)
		}
	}
	if n, known := f.Proto.Get(); known && !n.HasPorts() {
		f.SrcPort, f.DstPort = flow.Absent[uint16](), flow.Absent[uint16]()
	}
}

func valueOf[T comparable](v int32, known T) flow.Value[T] {
	switch v {
	case unknown:
		return flow.Value[T]{}
	case absent:
		return flow.Absent[T]()
	default:
		return flow.Some(known)
	}
}

func setMetric(l *state.Link, m rules.Metric, n int64) {
	us := time.Duration(n) * time.Microsecond
	switch m {
	case rules.MetricRTT:
		l.RTT = us
	case rules.MetricP90:
		l.P90 = us
	case rules.MetricJitter:
		l.Jitter = us
	case rules.MetricLoss:
		l.Loss = n
	case rules.MetricErrorRate:
		l.ErrorRate = n
	case rules.MetricUsage:
		l.Usage = n
	case rules.MetricState:
		l.State = state.State(n)
	case rules.MetricUp:
		l.Up = n == 1
	}
}

func (s *space) setAddresses(f *flow.Flow, value map[dimKey]int32) {
	for i, to := range []*flow.Value[netip.Addr]{&f.Dst, &f.Src} {
		if v, ok := value[dimKey{field: rules.FieldDstIP + rules.Field(i)}]; ok {
			*to = valueOf(v, s.addresses[i].cuts[max(v-known, 0)].addr())
		}
	}
}

// textFacts are the facts that are texts, but for names.
var textFacts = []struct {
	field rules.Field
	of    func(*flow.Flow) *flow.Value[string]
}{
	{rules.FieldApp, func(f *flow.Flow) *flow.Value[string] { return &f.App }},
	{rules.FieldALPN, func(f *flow.Flow) *flow.Value[string] { return &f.ALPN }},
	{rules.FieldProcess, func(f *flow.Flow) *flow.Value[string] { return &f.Process }},
	{rules.FieldProcessPath, func(f *flow.Flow) *flow.Value[string] { return &f.ProcessPath }},
	{rules.FieldUser, func(f *flow.Flow) *flow.Value[string] { return &f.User }},
	{rules.FieldGroup, func(f *flow.Flow) *flow.Value[string] { return &f.Group }},
	{rules.FieldCgroup, func(f *flow.Flow) *flow.Value[string] { return &f.Cgroup }},
	{rules.FieldIfaceIn, func(f *flow.Flow) *flow.Value[string] { return &f.IfaceIn }},
	{rules.FieldIfaceOut, func(f *flow.Flow) *flow.Value[string] { return &f.IfaceOut }},
	{rules.FieldCountry, func(f *flow.Flow) *flow.Value[string] { return &f.Country }},
}

// texts returns, for each fact that is a text, the ways to set it.
func (s *space) texts(value map[dimKey]int32, asked []rules.Field) [][]func(*flow.Flow) {
	var out [][]func(*flow.Flow)
	for i, field := range nameFields {
		v, limited := value[dimKey{field: field}]
		if !limited {
			if field == rules.FieldDomain { // else it follows from the others
				out = append(out, []func(*flow.Flow){func(*flow.Flow) {}, func(f *flow.Flow) { f.Domain = flow.Absent[string]() }})
			}
			continue
		}
		out = append(out, s.nameSetters(i, v, slices.Contains(asked, field)))
	}
	for _, t := range textFacts {
		field, to := t.field, t.of
		v, limited := value[dimKey{field: field}]
		if !limited {
			continue
		}
		texts := []string{""}
		if v >= known {
			texts = s.textsAt(field, v, value)
		}
		var set []func(*flow.Flow)
		for _, text := range texts {
			set = append(set, func(f *flow.Flow) { *to(f) = valueOf(v, text) })
		}
		out = append(out, set)
	}
	return out
}

// textsAt returns texts that a fact can be at a known value.
func (s *space) textsAt(field rules.Field, v int32, value map[dimKey]int32) []string {
	var matching []string
	for key, m := range value {
		if key.field == field && key.match != "" && m == isMatch {
			matching = append(matching, s.examples[key]...)
		}
	}
	slices.Sort(matching)
	words := s.words[field]
	switch {
	case field == rules.FieldALPN && len(matching) > 0:
		return []string{strings.Join(matching, ",")}
	case field != rules.FieldALPN && int(v-known) < len(words):
		return []string{words[v-known]}
	case len(matching) > 0:
		return matching
	default:
		return []string{"zz", "z-9", "z/9"} // that they are none of the words is confirmed
	}
}

// nameSetters returns ways to make a name what the value says.
func (s *space) nameSetters(at int, v int32, asked bool) []func(*flow.Flow) {
	own := func(f *flow.Flow) *flow.Value[string] {
		return [...]*flow.Value[string]{&f.SNI, &f.Domain, &f.HTTPHost}[at]
	}
	if v < known {
		return []func(*flow.Flow){func(f *flow.Flow) { *own(f) = valueOf(v, "") }}
	}
	n := int32(len(s.names[at].cuts) - 1)
	piece, form := (v-known)%n, (v-known)/n
	names := s.namesIn(at, piece)
	if asked {
		for key, list := range s.examples {
			if key.field == nameFields[at] {
				names = append(names, list...)
			}
		}
		slices.Sort(names)
	}
	var out []func(*flow.Flow)
	for _, name := range slices.Compact(names) {
		out = append(out, func(f *flow.Flow) {
			if form == asKnown {
				*own(f) = flow.Some(name)
				return
			}
			f.DNS = flow.NewNames(append(slices.Collect(f.DNS.All()), name)...)
			if form == asAll {
				f.SNI, f.HTTPHost = flow.Absent[string](), flow.Absent[string]()
			}
		})
	}
	return out
}

// namesIn returns names in a piece of the axis.
func (s *space) namesIn(at int, piece int32) []string {
	a := s.names[at]
	from, to := a.cuts[piece], a.cuts[piece+1]
	base := strings.TrimRight(from, afterKey+afterLabel+labelEnd)
	// What begins there itself, what is under it, what stands beside it.
	var out []string
	for _, key := range []string{
		from, from + labelEnd, base + labelEnd + "x9" + labelEnd, base + labelEnd + "zz9" + labelEnd, base + labelEnd + "0" + labelEnd,
		base + "9x" + labelEnd, base + "-9" + labelEnd, base + "zz" + labelEnd, "0x" + labelEnd, "zz9" + labelEnd,
	} {
		if name, ok := nameOf(key); ok && from <= key && key < to {
			if canonical, err := flow.CanonicalName(name); err == nil && canonical == name {
				out = append(out, name)
			}
		}
	}
	return out
}

// examplesOf returns names that the pattern may match.
func examplesOf(p *rules.NamePattern) []string {
	var bare []string
	switch p.Kind {
	case rules.GlobName:
		bare = starless(p.Name)
	case rules.Regex:
		if re, err := syntax.Parse(p.Name, syntax.Perl); err == nil {
			bare = append(bare, strings.ToLower(exampleOf(re.Simplify())))
		}
	default:
		bare = []string{p.Name}
	}
	var out []string
	for _, b := range bare {
		for _, text := range []string{b, b + "x.example", b + ".example", "x" + b, "x." + b, "x" + b + "x.example"} {
			if name, err := flow.CanonicalName(text); err == nil && p.Match(name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// starless puts texts in the place of stars.
func starless(glob string) []string {
	return []string{strings.ReplaceAll(glob, "*", "x9"), strings.ReplaceAll(glob, "*", "")}
}

// exampleOf returns a text that the expression matches, more or less.
func exampleOf(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		return string(re.Rune)
	case syntax.OpCharClass:
		if len(re.Rune) == 0 {
			return ""
		}
		for _, want := range "x0-" {
			for i := 0; i < len(re.Rune); i += 2 {
				if re.Rune[i] <= want && want <= re.Rune[i+1] {
					return string(want)
				}
			}
		}
		return string(re.Rune[0])
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return "x"
	case syntax.OpCapture, syntax.OpPlus, syntax.OpAlternate:
		return exampleOf(re.Sub[0])
	case syntax.OpRepeat:
		return strings.Repeat(exampleOf(re.Sub[0]), max(re.Min, 0))
	case syntax.OpConcat:
		var b strings.Builder
		for _, sub := range re.Sub {
			b.WriteString(exampleOf(sub))
		}
		return b.String()
	default:
		return ""
	}
}
