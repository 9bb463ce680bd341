package engine_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// `make nightly` asks for a million cases, and for another seed each time.
var (
	cases = flag.Int("cases", 100_000, "decisions that TestOracle compares")
	seed  = flag.Uint64("seed", 1, "of the random policies and flows")
)

// kinds are the policies on which engine and oracle are compared.
var kinds = []struct {
	name    string
	percent int // of the cases
	flows   int // of one policy
	policy  func(oracle.Chance) *rules.Policy
	flow    func(oracle.Chance, *rules.Policy) flow.Flow
}{
	{"small", 30, 50, oracle.Policy, func(c oracle.Chance, _ *rules.Policy) flow.Flow { return oracle.Flow(c) }},
	{"rich", 38, 25, oracle.Rich, oracle.Near},
	{"crowded", 15, 50, func(c oracle.Chance) *rules.Policy { return oracle.Crowded(c, 17+c.IntN(70)) }, oracle.Near},
	{"large", 3, 50, func(c oracle.Chance) *rules.Policy { return oracle.Crowded(c, 100+c.IntN(300)) }, oracle.Near},
	{"alike", 5, 25, func(c oracle.Chance) *rules.Policy { return oracle.Alike(c, 30+c.IntN(120)) }, oracle.NearAlike},
	{"listed", 3, 50, func(c oracle.Chance) *rules.Policy { return oracle.Listed(c, 10+c.IntN(90)) }, oracle.Near},
	{"mixed", 2, 50, func(c oracle.Chance) *rules.Policy { return oracle.Mixed(c, 100+c.IntN(300)) }, oracle.Near},
	{"nested", 4, 50, func(c oracle.Chance) *rules.Policy { return oracle.Nested(c, 100+c.IntN(300)) }, oracle.Near},
}

// drawn lets rapid choose, and so shrink, what the generators ask for.
type drawn struct{ t *rapid.T }

func (d drawn) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(d.t, "") }

// shrinkFlows is how many flows rapid draws for a policy: drawing them costs
// less than another policy.
const shrinkFlows = 5

// TestOracleShrinks compares as many decisions again that rapid has drawn, which likes
// small policies and shrinks the one that differs.
func TestOracleShrinks(t *testing.T) {
	was := flag.Lookup("rapid.checks").Value.String()
	defer flag.Set("rapid.checks", was)
	for i, percent := range []int{45, 45, 10} { // large policies take long to draw, and rapid does not make them smaller
		k := kinds[i]
		checks := wanted() * percent / 100 / shrinkFlows
		if err := flag.Set("rapid.checks", strconv.Itoa(checks)); err != nil {
			t.Fatal(err)
		}
		t.Run(k.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				c := drawn{t}
				p := k.policy(c)
				prog := engine.Compile(p)
				for range shrinkFlows {
					w := oracle.World(c, p)
					f := k.flow(c, p)
					compare(t, prog, p, &f, w)
				}
			})
		})
	}
}

// wanted is how many decisions to compare; -short is for the race detector.
func wanted() int {
	if testing.Short() {
		return *cases / 50
	}
	return *cases
}

// TestOracle compares decisions with the oracle's, and that explaining decides
// the same. It makes sure that the cases are of every kind.
func TestOracle(t *testing.T) {
	n := wanted()
	t.Logf("seed %d", *seed)
	total := 0
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(*seed, 2))
			s := seen{}
			for s.total < n*k.percent/100 {
				p := k.policy(rng)
				prog := engine.Compile(p)
				for range k.flows {
					f, w := k.flow(rng, p), oracle.World(rng, p)
					d := compare(t, prog, p, &f, w)
					if t.Failed() {
						return
					}
					if e := prog.Explain(&f, w); !equal(e.Decision, d) || e.Why != prog.Why(&d) {
						t.Fatalf("explain tells %+v, decide %+v", e.Decision, d)
					}
					s.add(p, &f, &d)
				}
			}
			total += s.total
			t.Logf("%d decisions: %s", s.total, s.String())
			if wanted() >= 100_000 { // fewer may be alike by chance
				s.assert(t, k.name)
			}
		})
	}
	t.Logf("%d decisions as the oracle's", total)
}

// seen counts what the cases are.
type seen struct {
	total, rule, final, hinted, pending, runnerUp, blocked, mods, when int
	fields                                                             [rules.FieldCondition + 1]int // of winners
	patterns                                                           [rules.Regex + 1]int
	sets, long                                                         int
}

func (s *seen) add(p *rules.Policy, f *flow.Flow, d *engine.Decision) {
	s.total++
	count(&s.rule, d.Rule >= 0)
	count(&s.final, d.Final)
	count(&s.hinted, d.Hinted)
	count(&s.pending, d.Pending != 0)
	count(&s.runnerUp, d.RunnerUp >= 0)
	count(&s.blocked, d.Kind == rules.ActBlock)
	count(&s.mods, d.Mods != (rules.Modifiers{}))
	if d.Rule >= 0 {
		r := &p.Rules[d.Rule]
		s.winner(&r.Match, f)
		count(&s.when, r.When != nil)
	}
}

func (s *seen) winner(e *rules.Expr, f *flow.Flow) {
	for i := range e.Kids {
		s.winner(&e.Kids[i], f)
	}
	if e.Op != rules.OpPred {
		return
	}
	p := &e.Pred
	s.fields[p.Field]++
	count(&s.sets, p.Set != nil)
	count(&s.long, len(p.Names)+len(p.Prefixes)+len(p.Ports)+len(p.MACs)+len(p.Globs)+len(p.Numbers) > 16)
	for _, v := range []flow.Value[string]{f.SNI, f.HTTPHost, f.Domain} {
		if name, known := v.Get(); known {
			for _, n := range p.Names {
				count(&s.patterns[n.Kind], n.Match(name))
			}
		}
	}
}

func (s *seen) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rule %d, final %d, hinted %d, pending %d, runner-up %d, block %d, modifiers %d, when %d; set %d, long list %d; ",
		s.rule, s.final, s.hinted, s.pending, s.runnerUp, s.blocked, s.mods, s.when, s.sets, s.long)
	fmt.Fprintf(&b, "patterns exact, suffix, subdomain, glob, keyword, regex %d;", s.patterns)
	for f, n := range s.fields {
		fmt.Fprintf(&b, " %v %d", rules.Field(f), n)
	}
	return b.String()
}

// assert fails when a kind is rarer than one in so many cases.
func (s *seen) assert(t *testing.T, kind string) {
	t.Helper()
	least := func(what string, n, oneIn int) {
		if n < s.total/oneIn {
			t.Errorf("the cases are too alike: %s only %d of %d", what, n, s.total)
		}
	}
	least("rule", s.rule, 4)
	least("final", s.final, 10)
	least("hinted", s.hinted, 50)
	least("pending", s.pending, 10)
	least("runner-up", s.runnerUp, 10)
	if kind != "rich" {
		return
	}
	least("when", s.when, 50)
	least("set", s.sets, 20)
	least("long list", s.long, 50)
	for f, n := range s.fields {
		least(rules.Field(f).String(), n, 100)
	}
	for k, n := range s.patterns {
		least([]string{"exact", "suffix", "subdomain", "glob", "keyword", "regex"}[k], n, 100)
	}
}

func count(n *int, yes bool) {
	if yes {
		*n++
	}
}

type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

func compare(t failer, prog *engine.Program, p *rules.Policy, f *flow.Flow, w *state.World) engine.Decision {
	t.Helper()
	got := engine.Decision{Rule: 7, Hinted: true, Pending: 1, RunnerUp: 3, AskedList: []int{1}} // what was there before must not show
	prog.DecideInto(&got, f, w)
	want := oracle.Decide(p, f, w)
	if !equal(got, want) {
		t.Errorf("of %d rules these are needed:\n%s", len(p.Rules), smallest(p, f, w))
	}
	return got
}

func equal(a, b engine.Decision) bool {
	return a.Rule == b.Rule && a.Kind == b.Kind && a.Asked == b.Asked && slices.Equal(a.AskedList, b.AskedList) &&
		a.Route == b.Route && a.Reject == b.Reject && a.Mods == b.Mods && a.Default == b.Default && a.Final == b.Final &&
		a.Pending == b.Pending && a.Hinted == b.Hinted && a.RunnerUp == b.RunnerUp
}
