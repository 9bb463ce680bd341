package nft

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/internal/policyrand"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// blocks are the sets and chains of a ruleset, in order of their names.
func blocks(text string) string {
	list := regexp.MustCompile(`(?s)\t(set|map|chain) .*?\n\t}`).FindAllString(text, -1)
	slices.Sort(list)
	return strings.Join(list, "\n")
}

// TestChanges changes one rule of random policies: what the kernel has after the
// changes must be what it has when the new table is put as a whole.
func TestChanges(t *testing.T) {
	need(t, "nft")
	ours, theirs := nstest.New(t), nstest.New(t)
	a := open(t, ours, Options{})
	type drawn struct {
		policy *rules.Policy
		world  *state.World
		other  rules.Rule
		at     int
	}
	gen := rapid.Custom(func(t *rapid.T) drawn {
		d := drawn{policy: policyrand.Policy(t, 40), world: policyrand.World(t)}
		if more := policyrand.Policy(t, 40); len(more.Rules) > 0 {
			d.other = more.Rules[0]
			d.other.Name = "other"
		}
		d.at = rapid.IntRange(0, max(0, len(d.policy.Rules)-1)).Draw(t, "at")
		return d
	})
	changed := 0
	for seed := range 2 * rounds() {
		d := gen.Example(seed)
		if len(d.policy.Rules) < 10 || d.other.Name == "" {
			continue
		}
		old, diags := actions.PlanFor(engine.Compile(d.policy), actions.Host{}, d.world, nil)
		if old == nil {
			t.Fatalf("seed %d: %v", seed, diags)
		}
		next := *d.policy
		next.Hash[0]++
		next.Rules = slices.Clone(next.Rules)
		next.Rules[d.at] = d.other
		plan, diags := actions.PlanFor(engine.Recompile(old.Program(), &next), actions.Host{}, d.world, old)
		if plan == nil {
			t.Fatalf("seed %d: %v", seed, diags)
		}
		lasting(&old.Table)
		lasting(&plan.Table)
		must(t, a.Replace(context.Background(), &old.Table))
		var steps []actions.Step
		for _, s := range actions.Diff(old, plan) {
			if s.Table != nil {
				steps = append(steps, s)
			}
		}
		for _, s := range steps {
			if s.Kind == actions.PutChanges {
				changed++
				if err := a.Change(t.Context(), s.Table, s.Changes); err != nil {
					t.Fatalf("seed %d: %s: %v", seed, s, err)
				}
				continue
			}
			must(t, a.Apply(t.Context(), []actions.Step{s}))
		}
		theirs.Run(t, replaceText(&plan.Table), "nft", "-f", "-")
		if diff := gocmp.Diff(blocks(list(t, theirs)), blocks(list(t, ours))); diff != "" {
			t.Fatalf("seed %d: %v (-whole +changes):\n%s", seed, steps, diff)
		}
	}
	t.Logf("%d tables changed in part", changed)
	if changed == 0 {
		t.Error("none was changed in part")
	}
}
