package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/lsp"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/sim"
	"netpolicy.dev/netpolicy/state"
)

const (
	// maxMissing is how long the loop may be silent before the daemon counts as dead.
	maxMissing = 10 * tickEvery
	// mostChanges is how many differences a replay lists where the caller does not say.
	mostChanges = 100
)

// book is what is known of the text of the policy that decides; made once for each.
type book struct {
	mu     sync.Mutex
	of     *rules.Policy
	bundle policyfile.Bundle
	loaded load.Result
}

// maxAnalysed bounds the policies of which it is found out which rules never decide: on
// a small router these take some seconds.
const maxAnalysed = 20_000

// graves are the rules of a policy that never decide; made once for each policy, by
// whoever asks first.
type graves struct {
	mu  sync.Mutex
	of  *rules.Policy
	are analysis.DeadRules
}

// deadRules returns the rules of a policy that never decide.
func (d *Daemon) deadRules(p *rules.Policy) analysis.DeadRules {
	d.graves.mu.Lock()
	defer d.graves.mu.Unlock()
	if d.graves.of != p {
		d.graves.of, d.graves.are = p, analysis.DeadRules{Dead: make([]bool, len(p.Rules))}
		if len(p.Rules) <= maxAnalysed {
			d.graves.are = analysis.Dead(p, analysis.Thorough)
		}
	}
	return d.graves.are
}

// text returns what is known of the text of the policy that decides.
func (d *Daemon) text(ctx context.Context, p *rules.Policy) (policyfile.Bundle, load.Result, error) {
	d.book.mu.Lock()
	defer d.book.mu.Unlock()
	if d.book.of == p {
		return d.book.bundle, d.book.loaded, nil
	}
	e, err := d.Present(ctx)
	if err != nil {
		return policyfile.Bundle{}, load.Result{}, err
	}
	d.book.of, d.book.bundle = p, e.Policy
	files := lent(d.opts.Config, &e.Policy, p)
	d.book.loaded = load.Policy(d.opts.Config, e.Policy.Main, load.Options{Read: files.Read, Lists: files})
	return d.book.bundle, d.book.loaded, nil
}

// Present returns the policy that decides with its text: as the history has it, else as its file says now.
func (d *Daemon) Present(context.Context) (api.EntryText, error) {
	s := d.snap.Load()
	if s == nil {
		return api.EntryText{}, fmt.Errorf("no policy is live yet: %w", api.ErrConflict)
	}
	if n := int(d.live.Load()); d.history != nil && n > 0 {
		if e, err := d.history.text(n, n); err == nil && e.Hash == shortHash(s.live.policy.Hash) {
			return e, nil
		}
	}
	r, err := LoadPolicy(d.opts.Config, "")
	if err != nil {
		return api.EntryText{}, err
	}
	if r.Policy == nil || r.Policy.Hash != s.live.policy.Hash {
		return api.EntryText{}, fmt.Errorf("the text of the policy that decides is not kept, and its file says something else by now: %w", api.ErrConflict)
	}
	return api.EntryText{Entry: api.Entry{Hash: shortHash(r.Policy.Hash), Time: s.live.since, Live: true, Rules: len(r.Policy.Rules)}, Policy: policyfile.Of(d.opts.Config, r)}, nil
}

// lent is what a text in the place of the policy's may refer to: what that policy has.
func lent(config string, b *policyfile.Bundle, p *rules.Policy) *lsp.Files {
	f := &lsp.Files{Texts: map[string][]byte{}, From: held{p}}
	for rel, text := range b.Files {
		f.Texts[filepath.Join(filepath.Dir(config), filepath.FromSlash(rel))] = text
	}
	for _, s := range p.Sets {
		f.Refs = append(f.Refs, s.List, maskedRef(s.List))
	}
	return f
}

// maskedRef is a reference as texts have it that are shown to the role read.
func maskedRef(r rules.ListRef) rules.ListRef {
	r.URL = string(api.Masked([]byte(r.URL)))
	return r
}

// held is a rules.Lists of what a policy has loaded.
type held struct{ p *rules.Policy }

// Load returns the elements of a set of the policy.
func (h held) Load(ref rules.ListRef, t rules.SetType) (rules.Elements, []string, error) {
	for _, s := range h.p.Sets {
		if (s.List == ref || maskedRef(s.List) == ref) && s.Type == t {
			return s.Elements, nil, nil
		}
	}
	return rules.Elements{}, nil, errors.New("the policy in force has no such list")
}

// Lent is where a text is said to stand, and what it may refer to.
func (d *Daemon) Lent() (name string, o lsp.Options) {
	s := d.snap.Load()
	if s == nil {
		return d.opts.Config, lsp.Options{}
	}
	b, _, err := d.text(context.Background(), s.live.policy)
	if err != nil {
		d.log.Debug("text of the policy not at hand", "error", err)
	}
	files := lent(d.opts.Config, &b, s.live.policy)
	return d.opts.Config, lsp.Options{ReadFile: files.Read, Lists: func(string) rules.Lists { return files }}
}

// Rules lists the rules of the policy that decides, in the order in which they are
// looked at, the disabled ones last.
func (d *Daemon) Rules() (api.Rules, error) {
	s := d.snap.Load()
	if s == nil {
		return api.Rules{}, fmt.Errorf("no policy is live yet: %w", api.ErrConflict)
	}
	p, prog := s.live.policy, s.live.prog
	out := api.Rules{Policy: policyStatus(s), Rules: []api.Rule{}}
	if len(p.Rules) > maxAnalysed {
		out.DeadUpTo = maxAnalysed
	}
	_, loaded, err := d.text(context.Background(), p)
	if err != nil {
		d.log.Debug("places of rules not at hand", "error", err)
	}
	var byDefault uint64
	var hits []uint64
	if s.live.hits != nil {
		byDefault, hits = s.live.hits.Sum()
		out.Default.Last = s.live.last(-1)
	}
	if p.Default != nil {
		out.Default.Action = prog.OutcomeText(p.Default)
	}
	out.Default.Decisions = byDefault
	order := prog.Order()
	listed := make([]bool, len(p.Rules))
	for _, i := range order {
		listed[i] = true
	}
	for i := range p.Rules {
		if !listed[i] {
			order = append(order, i)
		}
	}
	dead := d.deadRules(p)
	findings := findingsOf(p, append(slices.Clone(loaded.Diags), dead.Diags...))
	for _, i := range order {
		r := ruleOf(prog, &p.Rules[i], loaded)
		// A rule that is never looked at, though nobody has disabled it, is as dead.
		never := slices.ContainsFunc(findings[i], func(g diag.Diagnostic) bool { return g.Code == "NP307" })
		r.Dead = dead.Dead[i] || never
		if len(findings[i]) > 0 {
			r.Findings = apiDiagnostics(diag.Sort(findings[i]), loaded.Sources, false)
		}
		if hits != nil {
			r.Decisions, r.Last = hits[i], s.live.last(i)
		}
		out.Rules = append(out.Rules, r)
	}
	return out, nil
}

// findingsOf returns the findings about each rule of a policy.
func findingsOf(p *rules.Policy, list []diag.Diagnostic) [][]diag.Diagnostic {
	at := make([]int, len(p.Rules)) // in the order of their text
	for i := range at {
		at[i] = i
	}
	before := func(a, b diag.Span) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Start, b.Start)) }
	slices.SortFunc(at, func(a, b int) int { return before(p.Rules[a].Span, p.Rules[b].Span) })
	out := make([][]diag.Diagnostic, len(p.Rules))
	for _, g := range list {
		k, found := slices.BinarySearchFunc(at, g.Span, func(i int, s diag.Span) int { return before(p.Rules[i].Span, s) })
		if !found {
			k-- // the last rule that begins before it
		}
		if k < 0 {
			continue
		}
		if s := p.Rules[at[k]].Span; s.File == g.Span.File && g.Span.Start < s.End {
			out[at[k]] = append(out[at[k]], g)
		}
	}
	return out
}

// ruleOf describes a rule by the policy's text.
func ruleOf(prog *engine.Program, r *rules.Rule, loaded load.Result) api.Rule {
	spec := r.Specificity()
	out := api.Rule{
		Name: r.Name, File: r.Span.File, Priority: r.Priority, Specificity: spec.String(), Action: prog.OutcomeText(&r.Do),
		States: []string{}, Disabled: r.Active == 0,
	}
	for st := state.Normal; st <= state.Recovery; st++ {
		if r.Active.Has(st) {
			out.States = append(out.States, st.String())
		}
	}
	for _, src := range loaded.Sources {
		if src.Name == r.Span.File && r.Span.Start <= len(src.Text) {
			out.Line, _ = src.Position(r.Span.Start)
		}
	}
	return out
}

// Healthy says what keeps the daemon from being well, or from being ready.
func (d *Daemon) Healthy() (alive, ready error) {
	s := d.snap.Load()
	switch {
	case s == nil:
		return nil, errors.New("no policy is live yet")
	case d.parts.Now()-time.Duration(d.beat.Load()) > maxMissing:
		alive = errors.New("the loop stands still")
	}
	if s.broken != "" && !d.opts.Observe {
		ready = errors.New("the kernel does not hold the plan: " + s.broken)
	}
	return alive, ready
}

// worldFor is the world of now for another policy.
func worldFor(s *snapshot, prog *engine.Program) *state.World {
	p := prog.Policy()
	health := p.Health()
	w := s.machine.Reconfigure(s.live.health, health).World(health)
	guess(&w, prog, &base{live: s.live, machine: s.machine, wall: time.Now()})
	return &w
}

// Decide explains a flow by another policy in the world of now.
func (d *Daemon) Decide(q api.ExplainRequest, prog *engine.Program) ([]byte, error) {
	f, err := flowOf(&q)
	if err != nil {
		return nil, err
	}
	s := d.snap.Load()
	if s == nil {
		return nil, fmt.Errorf("no policy is live yet: %w", api.ErrConflict)
	}
	return explainJSON(&live{prog: prog, world: worldFor(s, prog)}, &f)
}

// Replay decides the flows of the decision records that are kept by another policy,
// in the world of now, and tells which would be treated otherwise.
func (d *Daemon) Replay(ctx context.Context, q api.ReplayRequest, prog *engine.Program) (api.Replay, error) {
	out := api.Replay{Changes: []api.ReplayChange{}, Rules: map[string]int{}}
	s := d.snap.Load()
	if s == nil {
		return out, fmt.Errorf("no policy is live yet: %w", api.ErrConflict)
	}
	kept := d.records.Read(0, 1<<30).Lines
	if q.Last > 0 {
		kept = kept[max(len(kept)-q.Last, 0):]
	}
	most := cmp.Or(q.Most, mostChanges)
	w := worldFor(s, prog)
	old, now := s.live.policy, prog.Policy()
	seen := map[string]bool{}
	for _, line := range slices.Backward(kept) {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		var r struct {
			ID   string          `json:"id"`
			Flow json.RawMessage `json:"flow"`
			Name string          `json:"name"`
		}
		if json.Unmarshal(line, &r) != nil || seen[r.ID] {
			continue // what was decided several times is known best in its last record
		}
		seen[r.ID] = true
		f, err := flow.ParseJSON(r.Flow)
		if err != nil {
			continue
		}
		was, is := s.live.prog.Decide(&f, s.live.world), prog.Decide(&f, w)
		out.Flows++
		out.Rules[ruleName(now, &is)]++
		if sim.Outcome(old, was) == sim.Outcome(now, is) {
			continue
		}
		if out.Changed++; len(out.Changes) < most {
			out.Changes = append(out.Changes, api.ReplayChange{
				ID: r.ID, Flow: r.Flow, Name: r.Name, Was: sim.DescribeDecision(old, was), Is: sim.DescribeDecision(now, is),
			})
		}
	}
	return out, nil
}
