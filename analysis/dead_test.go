package analysis

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/golden"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestDeadGolden shows what is said of policies, with its places.
func TestDeadGolden(t *testing.T) {
	render := func(t testing.TB, name string, src []byte) string {
		r := load.Policy(name, src, load.Options{})
		if r.Policy == nil {
			t.Fatalf("%s is refused: %v", name, r.Diags)
		}
		var b bytes.Buffer
		if err := diag.Text(&b, Dead(r.Policy, Thorough).Diags, r.Sources...); err != nil {
			t.Fatal(err)
		}
		return cmp.Or(b.String(), "ok\n")
	}
	golden.Files(t, "testdata/dead.txtar", ".npl", *update, render)
	golden.Files(t, "testdata/dead_yaml.txtar", ".yaml", *update, render)
}

// TestEffort says what is not known when there is no effort left.
func TestEffort(t *testing.T) {
	src := "policy 1\nroute direct via main\nrule a priority 1 { match port 80; do route direct }\nrule b { match port 80 and proto tcp; do route direct }\n"
	p := load.Policy("policy.npl", []byte(src), load.Options{}).Policy
	r := Dead(p, 0)
	if len(r.Diags) != 1 || r.Diags[0].Code != "NP322" || !strings.HasPrefix(r.Diags[0].Message, "of 2 rules") || r.Dead[0] || r.Dead[1] {
		t.Errorf("without effort: %+v", r)
	}
	if r := Dead(p, Quick); len(r.Diags) != 1 || r.Diags[0].Code != "NP302" || !r.Dead[1] {
		t.Errorf("with effort: %+v", r)
	}
}

// TestLongLists: a list that is too long for the effort is equal to itself and nothing else.
func TestLongLists(t *testing.T) {
	set := &rules.Set{Name: "long", Type: rules.DomainSet, Elements: rules.Elements{Names: names("a.example")}}
	for i := range fewElements {
		set.Names = append(set.Names, names(fmt.Sprintf("n%d.example", i))...)
	}
	rule := func(priority int, p rules.Pred) rules.Rule {
		p.Field = rules.FieldSNI
		return rules.Rule{Priority: priority, Active: 15, Match: rules.Expr{Op: rules.OpPred, Pred: p}, Do: rules.Outcome{Kind: rules.ActRoute}}
	}
	in := rules.Pred{Set: set, Names: set.Names}
	p := &rules.Policy{Sets: []*rules.Set{set}, Routes: []rules.Route{{Name: "direct"}}, Rules: []rules.Rule{
		rule(3, in), rule(2, in), rule(1, rules.Pred{Names: names("a.example")}),
	}}
	if got := Dead(p, fewElements).Dead; got[0] || !got[1] || got[2] {
		t.Errorf("with little effort: %v", got)
	}
	if got := Dead(p, Quick).Dead; got[0] || !got[1] || !got[2] {
		t.Errorf("with more effort: %v", got)
	}
}

// TestManyRules are more than are looked at.
func TestManyRules(t *testing.T) {
	p := &rules.Policy{Rules: make([]rules.Rule, maxRules+1)}
	if r := Dead(p, Quick); len(r.Diags) != 1 || r.Diags[0].Code != "NP322" || slices.Contains(r.Dead, true) {
		t.Errorf("%v", r.Diags)
	}
}

// TestTangled has a rule of more boxes than are looked at: nothing is said of it, and
// what it shadows is not found.
func TestTangled(t *testing.T) {
	var match strings.Builder
	for i := range 12 {
		if i > 0 {
			match.WriteString(" and ")
		}
		match.WriteString([]string{"(port 80 or src.port 81)", "(dscp 1 or mark 2)", "(user a or group b)"}[i%3])
	}
	src := "policy 1\nroute direct via main\nrule a priority 1 { match " + match.String() + "; do route direct }\n" +
		"rule b { match port 80 and dscp 1 and user a; do route direct }\n"
	p := load.Policy("policy.npl", []byte(src), load.Options{}).Policy
	r := Dead(p, Thorough)
	if len(r.Diags) != 1 || r.Diags[0].Code != "NP322" || r.Diags[0].Span != p.Rules[0].NameSpan {
		t.Errorf("%+v", r.Diags)
	}
}

// TestUnreadSets: a set whose file is not there, or that was not fetched yet, may have
// anything, and not what another one has.
func TestUnreadSets(t *testing.T) {
	src := `policy 1
set a: domain = url "https://lists.example/a.txt" format list
set b: domain = file "b.txt" format list
set c: cidr = { }
route direct via main
rule one priority 9 { match sni in a; do route direct }
rule two priority 8 { match sni in b; do route direct }
rule three priority 7 { match sni in b and proto tcp; do route direct }
rule none priority 6 { match dst.ip in c; do route direct }
`
	for name, lists := range map[string]rules.Lists{"nothing is known of them": nil, "they could not be read": lost{}} {
		p := load.Policy("policy.npl", []byte(src), load.Options{Lists: lists}).Policy
		got := Dead(p, Thorough).Dead
		if got[0] || got[1] || !got[3] {
			t.Errorf("%s: dead are %v", name, got)
		}
	}
}

// lost has no list.
type lost struct{}

func (lost) Load(rules.ListRef, rules.SetType) (rules.Elements, []string, error) {
	return rules.Elements{}, nil, errors.New("not there")
}

// TestOpenLists: what a list from the web has now proves nothing.
func TestOpenLists(t *testing.T) {
	list := func(ref rules.ListRef) *rules.Set {
		return &rules.Set{Name: "list", Type: rules.DomainSet, List: ref, Elements: rules.Elements{Names: names("a.example")}}
	}
	for _, c := range []struct {
		ref  rules.ListRef
		dead bool
	}{
		{rules.ListRef{}, true}, {rules.ListRef{File: "list.txt", Format: "list"}, true}, {rules.ListRef{URL: "https://lists.example/", Format: "list"}, false},
	} {
		set := list(c.ref)
		in := func(p rules.Pred) rules.Expr {
			p.Field = rules.FieldSNI
			return rules.Expr{Op: rules.OpPred, Pred: p}
		}
		p := &rules.Policy{Sets: []*rules.Set{set}, Routes: []rules.Route{{Name: "direct"}}, Rules: []rules.Rule{
			{Name: "a", Priority: 1, Active: 15, Match: in(rules.Pred{Set: set, Names: set.Names}), Do: rules.Outcome{Kind: rules.ActRoute}},
			{Name: "b", Active: 15, Match: in(rules.Pred{Names: names("a.example")}), Do: rules.Outcome{Kind: rules.ActRoute}},
		}}
		if got := Dead(p, Thorough).Dead[1]; got != c.dead {
			t.Errorf("%+v: a rule on its element is dead: %v", c.ref, got)
		}
	}
}
