package analysis

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

var (
	policies = flag.Int("policies", 1500, "random policies of each test that makes some")
	seed     = flag.Uint64("seed", 1, "of the random policies")
)

// wanted is how many policies to make; -short is for the race detector.
func wanted() int {
	if testing.Short() {
		return *policies / 10
	}
	return *policies
}

// A topic is one fact of small policies: what rules ask of it, and all that it can be.
type topic struct {
	field rules.Field
	preds []rules.Pred
	n     int
	set   func(f *flow.Flow, w *state.World, i int)
	// fuzzy topics have more than the analysis looks into.
	fuzzy bool
}

// facts gives a fact all of its values: not known, absent, and the known ones.
func facts[T comparable](of func(*flow.Flow) *flow.Value[T], list ...T) (int, func(*flow.Flow, *state.World, int)) {
	return len(list) + 2, func(f *flow.Flow, _ *state.World, i int) {
		switch i {
		case 0:
		case 1:
			*of(f) = flow.Absent[T]()
		default:
			*of(f) = flow.Some(list[i-2])
		}
	}
}

func truths(of func(*state.World) []state.Truth, at int) (int, func(*flow.Flow, *state.World, int)) {
	return 3, func(_ *flow.Flow, w *state.World, i int) { of(w)[at] = state.Truth(i) }
}

func names(list ...string) (out []rules.NamePattern) {
	for _, s := range list {
		p, ok := rules.ParseNamePattern(s)
		if text, keyword := strings.CutPrefix(s, "keyword "); keyword {
			p, ok = rules.NewKeyword(text)
		}
		if !ok {
			panic(s)
		}
		out = append(out, p)
	}
	return out
}

var (
	someNames   = []string{"z.us", "a.z.us", "b.a.z.us", "z-1.us", "c.z.us", "q.org"}
	plainNames  = [][]string{{"z.us"}, {".z.us"}, {"*.z.us"}, {"a.z.us", "q.org"}, {".us"}, {".a.z.us", "z-1.us"}, {"c.z.us"}, {"a.z.us", "*.a.z.us"}}
	fuzzyNames  = [][]string{{"z-*.us"}, {"keyword z"}, {".z.us"}, {"z-1.us"}, {"keyword a.z"}, {"*a.z.us", "q.org"}, {"z.us", "keyword q"}}
	offerLists  = []string{"h2", "h3", "h2,h3", "x", "h2,x", "h3,x", "h2,h3,x", "y"}
	webList     = &rules.Set{Name: "web", Type: rules.DomainSet, List: rules.ListRef{URL: "https://lists.example/"}, Elements: rules.Elements{Names: names("z.us", ".a.z.us")}}
	comparisons = []rules.Cmp{rules.Eq, rules.Lt, rules.Le, rules.Gt, rules.Ge}
)

func topics() []topic {
	var all []topic
	add := func(t topic, n int, set func(*flow.Flow, *state.World, int)) {
		for i := range t.preds {
			t.preds[i].Field = t.field
		}
		t.n, t.set = n, set
		all = append(all, t)
	}
	ofNames := func(lists [][]string) (out []rules.Pred) {
		for _, l := range lists {
			out = append(out, rules.Pred{Names: names(l...)})
		}
		return out
	}
	for _, f := range []struct {
		field rules.Field
		of    func(*flow.Flow) *flow.Value[string]
	}{
		{rules.FieldSNI, func(f *flow.Flow) *flow.Value[string] { return &f.SNI }},
		{rules.FieldHTTPHost, func(f *flow.Flow) *flow.Value[string] { return &f.HTTPHost }},
		{rules.FieldDomain, func(f *flow.Flow) *flow.Value[string] { return &f.Domain }},
	} {
		n, set := facts(f.of, someNames...)
		add(topic{field: f.field, preds: ofNames(plainNames)}, n, set)
		if f.field != rules.FieldHTTPHost {
			add(topic{field: f.field, fuzzy: true, preds: append(ofNames(fuzzyNames), rules.Pred{Set: webList, Names: webList.Names})}, n, set)
		}
	}
	var prefixes []rules.Pred
	for _, l := range [][]string{{"10.0.0.0/8"}, {"10.0.0.0/9"}, {"10.128.0.0/9", "2001:db8::/32"}, {"0.0.0.0/0"}, {"::/0"}, {"10.0.0.1/32"}, {"0.0.0.0/0", "::/0"}} {
		var p rules.Pred
		for _, s := range l {
			p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(s))
		}
		prefixes = append(prefixes, p)
	}
	n, set := facts(func(f *flow.Flow) *flow.Value[netip.Addr] { return &f.Dst },
		netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("192.0.2.1"),
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fc00::1"))
	add(topic{field: rules.FieldDstIP, preds: prefixes}, n, set)

	ports := [][]rules.PortRange{{{Lo: 80, Hi: 80}}, {{Lo: 0, Hi: 443}}, {{Lo: 444, Hi: 65535}}, {{Lo: 1, Hi: 80}, {Lo: 443, Hi: 500}}, {{Lo: 0, Hi: 65535}}, {{Lo: 65535, Hi: 65535}}}
	var portPreds []rules.Pred
	for _, l := range ports {
		portPreds = append(portPreds, rules.Pred{Ports: l})
	}
	n, set = facts(func(f *flow.Flow) *flow.Value[uint16] { return &f.DstPort }, 0, 1, 80, 81, 443, 444, 501, 65535)
	add(topic{field: rules.FieldPort, preds: portPreds}, n, set)

	var protos []rules.Pred
	for _, l := range [][]uint32{{6}, {17}, {1, 58}, {6, 17}, {47}, {6, 17, 33, 132, 136}} {
		protos = append(protos, rules.Pred{Numbers: l})
	}
	n, set = facts(func(f *flow.Flow) *flow.Value[flow.Proto] { return &f.Proto }, 1, 6, 17, 33, 47, 58, 132, 136, 255)
	add(topic{field: rules.FieldProto, preds: protos}, n, set)

	globs := func(lists ...[]rules.Glob) (out []rules.Pred) {
		for _, l := range lists {
			out = append(out, rules.Pred{Globs: l})
		}
		return out
	}
	n, set = facts(func(f *flow.Flow) *flow.Value[string] { return &f.Process }, "a", "ab", "b", "x/y", "")
	add(topic{field: rules.FieldProcess, preds: globs([]rules.Glob{"a"}, []rules.Glob{"b", "a"}, []rules.Glob{"ab"})}, n, set)
	add(topic{field: rules.FieldProcess, fuzzy: true, preds: globs([]rules.Glob{"a"}, []rules.Glob{"a*"}, []rules.Glob{"*"}, []rules.Glob{"b", "*b"})}, n, set)
	n, set = facts(func(f *flow.Flow) *flow.Value[string] { return &f.ALPN }, offerLists...)
	add(topic{field: rules.FieldALPN, preds: globs([]rules.Glob{"h2"}, []rules.Glob{"h3"}, []rules.Glob{"h2", "h3"}, []rules.Glob{"h2", "x"})}, n, set)

	var bounds []rules.Pred
	for _, c := range comparisons {
		bounds = append(bounds, rules.Pred{Cmp: c, Bound: 100}, rules.Pred{Cmp: c, Bound: 200})
	}
	n, set = facts(func(f *flow.Flow) *flow.Value[int64] { return &f.Latency }, 0, 99, 100, 101, 150, 200, 201)
	add(topic{field: rules.FieldLatency, preds: slices.Clone(bounds)}, n, set)

	add(topic{field: rules.FieldUplink, preds: slices.Clone(bounds)}, 7, func(_ *flow.Flow, w *state.World, i int) {
		w.Uplinks[0].RTT = time.Duration([]int{-1, 0, 100, 101, 150, 200, 201}[i]) * time.Microsecond
	})
	add(topic{field: rules.FieldRoute, preds: []rules.Pred{
		{Metric: rules.MetricUp, Bound: 1}, {Metric: rules.MetricUp, Bound: 0}, {Metric: rules.MetricUp, Ref: -1},
	}}, 2, func(_ *flow.Flow, w *state.World, i int) { w.Uplinks[0].Up = i == 1 })
	var states []rules.Pred
	for set := range state.AllStates {
		states = append(states, rules.Pred{States: set})
	}
	add(topic{field: rules.FieldState, preds: states}, 1, func(*flow.Flow, *state.World, int) {})
	n, set = truths(func(w *state.World) []state.Truth { return w.Schedules }, 0)
	add(topic{field: rules.FieldSchedule, preds: []rules.Pred{{}}}, n, set)
	n, set = truths(func(w *state.World) []state.Truth { return w.Conditions }, 0)
	add(topic{field: rules.FieldCondition, preds: []rules.Pred{{}}}, n, set)
	return all
}

// small is a random policy about few facts.
type small struct {
	rng    *rand.Rand
	about  []topic
	policy *rules.Policy
	hints  bool
}

func newSmall(rng *rand.Rand, all []topic) *small {
	s := &small{rng: rng}
	for _, i := range rng.Perm(len(all))[:1+rng.IntN(3)] {
		if !slices.ContainsFunc(s.about, func(t topic) bool { return t.field == all[i].field }) {
			s.about = append(s.about, all[i])
		}
	}
	p := &rules.Policy{
		Uplinks: []rules.Uplink{{Name: "wan"}}, Routes: []rules.Route{{Name: "direct", Uplink: -1, Group: -1}},
		Schedules: []rules.Schedule{{Name: "night"}}, Conditions: []rules.Condition{{Name: "busy"}}, Sets: []*rules.Set{webList},
		Default: &rules.Outcome{Kind: rules.ActRoute},
	}
	for i := range 3 + rng.IntN(6) {
		r := rules.Rule{Name: string(rune('a' + i)), NameSpan: diag.Span{Start: i, End: i + 1}, Priority: rng.IntN(3), Active: state.AllStates, Match: s.expr(2)}
		r.Do = rules.Outcome{Kind: rules.ActBlock, Route: -1, Reject: rng.IntN(2) == 0}
		if rng.IntN(5) == 0 {
			r.Do = rules.Outcome{Route: -1, Mods: rules.Modifiers{Log: flow.Some("x")}}
		}
		if rng.IntN(4) == 0 {
			r.Active = state.Set(1 + rng.IntN(15))
		}
		if rng.IntN(8) == 0 {
			e := s.expr(1)
			r.When = &e
		}
		p.Rules = append(p.Rules, r)
	}
	s.policy = p
	for _, t := range s.about {
		s.hints = s.hints || t.field <= rules.FieldHTTPHost
	}
	return s
}

func (s *small) expr(depth int) rules.Expr {
	if s.rng.IntN(25) == 0 {
		return rules.Expr{}
	}
	if depth > 0 && s.rng.IntN(3) > 0 {
		e := rules.Expr{Op: []rules.Op{rules.OpAnd, rules.OpAnd, rules.OpAnd, rules.OpOr, rules.OpNot}[s.rng.IntN(5)]}
		for range 1 + s.rng.IntN(2) {
			e.Kids = append(e.Kids, s.expr(depth-1))
		}
		if e.Op == rules.OpNot {
			e.Kids = e.Kids[:1]
		}
		return e
	}
	t := s.about[s.rng.IntN(len(s.about))]
	return rules.Expr{Op: rules.OpPred, Pred: t.preds[s.rng.IntN(len(t.preds))]}
}

// dnsNames are the sets of up to three names that a destination can have.
func dnsNames() []flow.Names {
	out := []flow.Names{{}}
	for i := range someNames {
		out = append(out, flow.NewNames(someNames[i]))
		for j := range i {
			out = append(out, flow.NewNames(someNames[i], someNames[j]))
			for k := range j {
				out = append(out, flow.NewNames(someNames[i], someNames[j], someNames[k]))
			}
		}
	}
	return out
}

const mostFlows = 20_000

// flows calls f with every flow and world, and reports whether there are few enough.
func (s *small) flows(f func(*flow.Flow, *state.World)) bool {
	dns := []flow.Names{{}}
	if s.hints {
		dns = dnsNames()
	}
	total := 4 * len(dns)
	for _, t := range s.about {
		total *= t.n
	}
	// Where only domain is asked for, the other names still say whether it can come.
	var others []rules.Field
	if s.hints {
		for _, n := range []rules.Field{rules.FieldSNI, rules.FieldHTTPHost} {
			if !slices.ContainsFunc(s.about, func(t topic) bool { return t.field == n }) {
				others = append(others, n)
				total *= 2
			}
		}
	}
	if total > mostFlows {
		return false
	}
	w := &state.World{Primary: -1, Uplinks: make([]state.Link, 1), Schedules: make([]state.Truth, 1), Conditions: make([]state.Truth, 1)}
	for st := state.Normal; st <= state.Recovery; st++ {
		w.Global = st
		for _, names := range dns {
			for gone := range 1 << len(others) {
				base := flow.Flow{DNS: names}
				for i, o := range others {
					if gone>>i&1 == 1 && o == rules.FieldSNI {
						base.SNI = flow.Absent[string]()
					} else if gone>>i&1 == 1 {
						base.HTTPHost = flow.Absent[string]()
					}
				}
				s.each(s.about, base, w, f)
			}
		}
	}
	return true
}

func (s *small) each(about []topic, fl flow.Flow, w *state.World, f func(*flow.Flow, *state.World)) {
	if len(about) == 0 {
		if proto, known := fl.Proto.Get(); known && !proto.HasPorts() {
			if !slices.ContainsFunc(s.about, func(t topic) bool { return t.field == rules.FieldPort }) {
				fl.DstPort = flow.Absent[uint16]()
			}
			if fl.DstPort.Status() != flow.None {
				return // no flow is so
			}
		}
		f(&fl, w)
		return
	}
	for i := range about[0].n {
		next := fl
		about[0].set(&next, w, i)
		s.each(about[1:], next, w, f)
	}
}

// alive decides every flow and returns which rules decide some, and whether the
// default does. What only sets modifiers counts as deciding where it would if it had a
// primary action.
func (s *small) alive() (list []bool, byDefault, ok bool) {
	list = make([]bool, len(s.policy.Rules))
	prog := engine.Compile(s.policy)
	var variants []*engine.Program
	var of []int
	for i := range s.policy.Rules {
		if s.policy.Rules[i].Do.Kind == rules.ActNone {
			v := *s.policy
			v.Rules = slices.Clone(v.Rules)
			v.Rules[i].Do.Kind = rules.ActBlock
			variants, of = append(variants, engine.Compile(&v)), append(of, i)
		}
	}
	ok = s.flows(func(f *flow.Flow, w *state.World) {
		if d := prog.Decide(f, w); d.Rule >= 0 {
			list[d.Rule] = true
		} else {
			byDefault = true
		}
		for k, v := range variants {
			if d := v.Decide(f, w); d.Rule == of[k] {
				list[of[k]] = true
			}
		}
	})
	return list, byDefault, ok
}

// TestDeadOracle decides all flows that small random policies can tell apart, and
// compares which rules decide none of them with what the analysis says: never that one
// is dead which decides, and of the others nearly all.
func TestDeadOracle(t *testing.T) {
	all := topics()
	rng := rand.New(rand.NewPCG(*seed, 3))
	n := wanted()
	type count struct{ found, dead, rules int }
	var plain, fuzzy count
	codes := map[diag.Code]int{}
	defaults := count{}
	for tried := 0; tried < n; {
		s := newSmall(rng, all)
		alive, byDefault, ok := s.alive()
		if !ok {
			continue
		}
		tried++
		got := Dead(s.policy, Thorough)
		c := &plain
		if slices.ContainsFunc(s.about, func(t topic) bool { return t.fuzzy }) {
			c = &fuzzy
		}
		for i := range s.policy.Rules {
			c.rules++
			if !alive[i] {
				c.dead++
			}
			switch {
			case got.Dead[i] && alive[i]:
				t.Fatalf("rule %s decides, and counts as dead:\n%s", s.policy.Rules[i].Name, tell(s.policy))
			case got.Dead[i]:
				c.found++
			case testing.Verbose() && !alive[i] && c == &plain:
				t.Logf("missed: %s of\n%s", s.policy.Rules[i].Name, tell(s.policy))
			}
		}
		for _, d := range got.Diags {
			codes[d.Code]++
		}
		if !byDefault {
			defaults.dead++
		}
		if slices.ContainsFunc(got.Diags, func(d diag.Diagnostic) bool { return d.Code == "NP308" }) {
			defaults.found++
			if byDefault {
				t.Fatalf("the default decides, and counts as never asked:\n%s", tell(s.policy))
			}
		}
	}
	t.Logf("seed %d: of %d rules %d of %d dead ones found; with patterns of %d rules %d of %d; of the defaults %d of %d; findings %v",
		*seed, plain.rules, plain.found, plain.dead, fuzzy.rules, fuzzy.found, fuzzy.dead, defaults.found, defaults.dead, codes)
	if 100*plain.found < 95*plain.dead || 100*fuzzy.found < 60*fuzzy.dead || 100*defaults.found < 95*defaults.dead {
		t.Error("too few of the dead are found")
	}
	if plain.dead < n || fuzzy.dead < n/4 {
		t.Error("the policies have too few dead rules to show anything")
	}
}

// TestWitness makes a flow and a world of the region in which a rule is found to decide,
// for the rules of small random policies, and has the engine decide them.
func TestWitness(t *testing.T) {
	all := topics()
	rng := rand.New(rand.NewPCG(*seed, 4))
	alive, seen := [2]int{}, [2]int{}
	for range wanted() {
		s := newSmall(rng, all)
		for i := range s.policy.Rules {
			if s.policy.Rules[i].Do.Kind == rules.ActNone {
				s.policy.Rules[i].Do.Kind = rules.ActBlock
			}
		}
		fuzzy := 0
		if slices.ContainsFunc(s.about, func(t topic) bool { return t.fuzzy }) {
			fuzzy = 1
		}
		prog := engine.Compile(s.policy)
		d := newDead(s.policy, Thorough)
		for place, rule := range d.order {
			left := d.rule(place)
			if left == nil {
				continue
			}
			if under, over, _ := d.cover.space.ofRule(&s.policy.Rules[rule]); fuzzy == 0 && !reflect.DeepEqual(under, over) {
				continue // it asks for two names of one field
			}
			alive[fuzzy]++
			f, w, ok := d.cover.space.witness(left, func(f *flow.Flow, w *state.World) bool { return prog.Decide(f, w).Rule == rule })
			if ok {
				seen[fuzzy]++
				if got := prog.Decide(f, w); got.Rule != rule {
					t.Fatalf("the witness of %s is decided by %d", s.policy.Rules[rule].Name, got.Rule)
				}
			} else if testing.Verbose() && fuzzy == 0 {
				t.Logf("no witness of %s in %v %v\n%s", s.policy.Rules[rule].Name, left, d.cover.space.keys, tell(s.policy))
			}
		}
	}
	t.Logf("seed %d: %d of %d rules have a witness; with patterns %d of %d", *seed, seen[0], alive[0], seen[1], alive[1])
	if 100*seen[0] < 98*alive[0] || 100*seen[1] < 80*alive[1] {
		t.Error("too few rules that decide have a witness")
	}
}

// TestDeadRich decides flows near the rules of random policies with every kind of field,
// pattern and set: no rule that counts as dead decides one.
func TestDeadRich(t *testing.T) {
	rng := rand.New(rand.NewPCG(*seed, 6))
	dead, decided := 0, 0
	for _, k := range []struct {
		policies, flows int
		policy          func() *rules.Policy
	}{
		{wanted() / 2, 60, func() *rules.Policy { return oracle.Policy(rng) }},
		{wanted() / 2, 60, func() *rules.Policy { return oracle.Rich(rng) }},
		{wanted() / 15, 300, func() *rules.Policy { return oracle.Crowded(rng, 17+rng.IntN(70)) }},
		{wanted() / 15, 300, func() *rules.Policy { return oracle.Listed(rng, 10+rng.IntN(50)) }},
	} {
		for range k.policies {
			p := k.policy()
			d := Dead(p, Quick)
			for i := range p.Rules {
				if d.Dead[i] {
					dead++
				}
			}
			prog := engine.Compile(p)
			for range k.flows {
				f, w := oracle.Near(rng, p), oracle.World(rng, p)
				if got := prog.Decide(&f, w); got.Rule >= 0 {
					if decided++; d.Dead[got.Rule] {
						t.Fatalf("seed %d: rule %d counts as dead and decides %v:\n%s", *seed, got.Rule, f, tell(p))
					}
				}
			}
		}
	}
	t.Logf("seed %d: %d rules are dead, %d decisions by others", *seed, dead, decided)
	if dead < wanted()/3 || decided < 20*wanted() {
		t.Error("the policies are too alike")
	}
}

// tell spells rules for messages.
func tell(p *rules.Policy) string {
	var b strings.Builder
	for _, r := range p.Rules {
		fmt.Fprintf(&b, "%s priority %d, states %04b, action %d: %s", r.Name, r.Priority, r.Active, r.Do.Kind, tellExpr(&r.Match))
		if r.When != nil {
			fmt.Fprintf(&b, " when %s", tellExpr(r.When))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func tellExpr(e *rules.Expr) string {
	switch e.Op {
	case rules.OpAny:
		return "any"
	case rules.OpNot:
		return "not " + tellExpr(&e.Kids[0])
	case rules.OpPred:
		p := &e.Pred
		list := fmt.Sprint(p.Names, p.Prefixes, p.Ports, p.Numbers, p.Globs, p.States)
		return fmt.Sprintf("%v %s cmp %d %d metric %d of %d", p.Field, list, p.Cmp, p.Bound, p.Metric, p.Ref)
	}
	var kids []string
	for i := range e.Kids {
		kids = append(kids, tellExpr(&e.Kids[i]))
	}
	return "(" + strings.Join(kids, map[rules.Op]string{rules.OpAnd: ") and (", rules.OpOr: ") or ("}[e.Op]) + ")"
}
