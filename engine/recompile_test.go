package engine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// TestRecompile edits policies again and again: what Recompile makes of the last
// program decides as what Compile makes of the policy, and the older programs
// decide as they did.
func TestRecompile(t *testing.T) {
	const edits, flows = 20, 8
	chains := max(1, wanted()/6/edits/flows) // a sixth as many decisions as TestOracle compares
	rng := rand.New(rand.NewPCG(*seed, 6))
	compared, hit := 0, 0
	for range chains {
		k := kinds[1+rng.IntN(len(kinds)-1)]
		p := k.policy(rng)
		prog := engine.Compile(p)
		var before []memory
		for range edits {
			q, what := edit(rng, p, k.policy)
			next := engine.Recompile(prog, q)
			whole := engine.Compile(q)
			if !slices.Equal(next.Order(), whole.Order()) {
				t.Fatalf("%s: order %v, want %v", what, next.Order(), whole.Order())
			}
			for i := range flows {
				f, w := k.flow(rng, q), oracle.World(rng, q)
				got, want := next.Decide(&f, w), whole.Decide(&f, w)
				if !equal(got, want) || next.Why(&got) != whole.Why(&want) {
					t.Fatalf("%s, %d rules\n got %+v\nwant %+v\nflow %+v", what, len(q.Rules), got, want, f)
				}
				if i == 0 {
					compare(t, next, q, &f, w)
					before = append(before, memory{next, f, w, got})
				}
				compared++
				count(&hit, got.Rule >= 0)
			}
			if t.Failed() {
				return
			}
			p, prog = q, next
		}
		for _, m := range before {
			if d := m.prog.Decide(&m.flow, m.world); !equal(d, m.was) {
				t.Fatalf("an old program has changed: %+v, was %+v", d, m.was)
			}
		}
	}
	t.Logf("recompile: %d edits, %d decisions as after compiling anew, %d by a rule", chains*edits, compared, hit)
	if hit < compared/4 {
		t.Errorf("only %d of %d decisions are by a rule", hit, compared)
	}
}

// memory is what a program decided once.
type memory struct {
	prog  *engine.Program
	flow  flow.Flow
	world *state.World
	was   engine.Decision
}

// edit returns a changed copy of the policy, which shares no list with it, and
// what was done. New rules come from other policies of the kind.
func edit(rng *rand.Rand, p *rules.Policy, fresh func(oracle.Chance) *rules.Policy) (*rules.Policy, string) {
	q := clone(p)
	what := ""
	for range 1 + rng.IntN(3) {
		how := edits[rng.IntN(len(edits))]
		what += how.name + ", "
		how.do(rng, q, fresh)
	}
	return q, what
}

type change func(rng *rand.Rand, p *rules.Policy, fresh func(oracle.Chance) *rules.Policy)

var edits = []struct {
	name string
	do   change
}{
	{"nothing", func(*rand.Rand, *rules.Policy, func(oracle.Chance) *rules.Policy) {}},
	{"change", editRule},
	{"change", editRule},
	{"insert", insertRules},
	{"delete", deleteRules},
	{"swap", swapRules},
	{"reverse", func(_ *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) { slices.Reverse(p.Rules) }},
	{"rename", func(rng *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) {
		if len(p.Rules) > 0 {
			p.Rules[rng.IntN(len(p.Rules))].Name = fmt.Sprintf("n%d", rng.Uint64())
		}
	}},
	{"set", editSet},
	{"list", editListed},
	{"group", func(rng *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) {
		g := &p.Groups[rng.IntN(2)]
		g.Members, g.BlockWhenNone = []int{2 + rng.IntN(2)}, !g.BlockWhenNone
	}},
	{"route", insertRoute},
	{"throttles", swapThrottles},
	{"default", func(rng *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) {
		if p.Default = nil; rng.IntN(2) == 0 {
			p.Default = &rules.Outcome{Kind: rules.ActRoute, Route: rng.IntN(len(p.Routes))}
		}
	}},
}

func editRule(rng *rand.Rand, p *rules.Policy, fresh func(oracle.Chance) *rules.Policy) {
	if len(p.Rules) == 0 {
		return
	}
	r := &p.Rules[rng.IntN(len(p.Rules))]
	other := fresh(rng)
	from := &other.Rules[rng.IntN(len(other.Rules))]
	switch rng.IntN(6) {
	case 5:
		r.When = from.When
	case 0:
		r.Priority = from.Priority
	case 1:
		r.Active = from.Active
	case 2:
		r.OnUnknown = from.OnUnknown
	case 3:
		r.Do = from.Do
	default:
		r.Match = from.Match
		p.Sets = append(p.Sets, other.Sets...)
	}
}

func insertRules(rng *rand.Rand, p *rules.Policy, fresh func(oracle.Chance) *rules.Policy) {
	other := fresh(rng)
	p.Sets = append(p.Sets, other.Sets...)
	for range 1 + rng.IntN(3) {
		r := other.Rules[rng.IntN(len(other.Rules))]
		r.Name = fmt.Sprintf("n%d", rng.Uint64())
		p.Rules = slices.Insert(p.Rules, rng.IntN(len(p.Rules)+1), r)
	}
}

func deleteRules(rng *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) {
	for range min(len(p.Rules), 1+rng.IntN(3)) {
		i := rng.IntN(len(p.Rules))
		p.Rules = slices.Delete(p.Rules, i, i+1)
	}
}

func swapRules(rng *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) {
	if n := len(p.Rules); n > 0 {
		i, j := rng.IntN(n), rng.IntN(n)
		p.Rules[i], p.Rules[j] = p.Rules[j], p.Rules[i]
	}
}

// editSet takes an element out of a set, or makes it a list outside the policy,
// or one no longer: that changes the specificity of all rules that name it.
func editSet(rng *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) {
	if len(p.Sets) == 0 {
		return
	}
	s := p.Sets[rng.IntN(len(p.Sets))]
	if rng.IntN(2) == 0 {
		s.List = rules.ListRef{File: map[bool]string{true: "list"}[s.List.File == ""]}
		return
	}
	s.Names, s.Prefixes, s.Globs = fewer(rng, s.Names), fewer(rng, s.Prefixes), fewer(rng, s.Globs)
	s.Ports, s.MACs, s.Numbers = fewer(rng, s.Ports), fewer(rng, s.MACs), fewer(rng, s.Numbers)
	for i := range p.Rules {
		reuse(&p.Rules[i].Match, s)
	}
}

func fewer[T any](rng *rand.Rand, list []T) []T {
	if len(list) == 0 {
		return list
	}
	i := rng.IntN(len(list))
	return slices.Delete(list, i, i+1)
}

// editListed takes an element out of a list that a rule has for itself.
func editListed(rng *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) {
	if len(p.Rules) == 0 {
		return
	}
	e := &p.Rules[rng.IntN(len(p.Rules))].Match
	for len(e.Kids) > 0 {
		e = &e.Kids[rng.IntN(len(e.Kids))]
	}
	if q := &e.Pred; e.Op == rules.OpPred && q.Set == nil {
		q.Names, q.Prefixes, q.Ports, q.MACs = fewer(rng, q.Names), fewer(rng, q.Prefixes), fewer(rng, q.Ports), fewer(rng, q.MACs)
	}
}

// insertRoute puts a route before all others, or after them.
func insertRoute(rng *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) {
	r := rules.Route{Name: fmt.Sprintf("n%d", rng.Uint64()), Kind: rules.RouteMain, Uplink: -1, Group: -1}
	if rng.IntN(2) == 0 {
		p.Routes = append(p.Routes, r)
		return
	}
	p.Routes = slices.Insert(p.Routes, 0, r)
	for i := range p.Groups {
		p.Groups[i].Members = shifted(p.Groups[i].Members)
	}
	renumber(p, func(o *rules.Outcome) {
		if o.Route >= 0 {
			o.Route++
		}
		o.Routes = shifted(o.Routes)
	})
}

func shifted(list []int) []int {
	var out []int
	for _, i := range list {
		out = append(out, i+1)
	}
	return out
}

func swapThrottles(_ *rand.Rand, p *rules.Policy, _ func(oracle.Chance) *rules.Policy) {
	slices.Reverse(p.Throttles)
	renumber(p, func(o *rules.Outcome) {
		if i, set := o.Mods.Throttle.Get(); set {
			o.Mods.Throttle = flow.Some(len(p.Throttles) - 1 - i)
		}
	})
}

func renumber(p *rules.Policy, do func(*rules.Outcome)) {
	for i := range p.Rules {
		do(&p.Rules[i].Do)
	}
	if p.Default != nil {
		o := *p.Default
		do(&o)
		p.Default = &o
	}
}

// TestTables: the tables of both layers are among those that are yielded.
func TestTables(t *testing.T) {
	p := oracle.Alike(rand.New(rand.NewPCG(1, 1)), 100)
	q := *p
	q.Rules = slices.Clone(p.Rules)
	q.Rules[0].Priority++
	count := func(prog *engine.Program) (tables, bytes int) {
		for table := range prog.Tables() {
			tables, bytes = tables+1, bytes+len(table)
		}
		return tables, bytes
	}
	prog := engine.Compile(p)
	one, size := count(prog)
	const record = 16
	if one < 2 || size < record*len(p.Rules) {
		t.Errorf("%d tables of %d bytes for %d rules", one, size, len(p.Rules))
	}
	if two, _ := count(engine.Recompile(prog, &q)); two <= one {
		t.Errorf("%d tables with a second layer, %d without", two, one)
	}
	for range prog.Tables() {
		break // the rest is not asked for
	}
}
