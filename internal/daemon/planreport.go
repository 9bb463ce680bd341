package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

const (
	// maxShown bounds the connections that a report prints.
	maxShown = 1000
	// maxElems bounds the element updates that it prints of one step.
	maxElems = 100
)

// PlanReport tells what a policy would do to the host: `netpolicyd --dry-run` and
// `netpolicy plan` print it.
type PlanReport struct {
	File     string // the policy as the user named it; "" is the policy's own file
	Program  *engine.Program
	World    *state.World
	State    state.State
	Plan     *actions.Plan
	Previous *actions.Plan // what is in force, nil for nothing
	// Live are connections, to be decided by the policy; Problems says which could
	// not be asked for.
	Live     []flow.Flow
	Problems []string
	Xray     []string // what would run for the routes via xray
}

// String returns the report as text, or as JSON.
func (r *PlanReport) String(asJSON bool) (string, error) {
	if asJSON {
		return r.json()
	}
	return r.text(), nil
}

func (r *PlanReport) file() string {
	if r.File != "" {
		return r.File
	}
	return r.Program.Policy().File
}

func (r *PlanReport) text() string {
	p := r.Program.Policy()
	var b strings.Builder
	fmt.Fprintf(&b, "# the plan for %s (%s) in state %s; nothing was touched\n%s", r.file(), r.Plan.PolicyHash[:12], r.State, r.Plan)
	steps := actions.Diff(r.Previous, r.Plan)
	fmt.Fprintf(&b, "\n# what would be done, %s: %s\n", r.from(), counted(len(steps), "step"))
	for _, s := range steps {
		fmt.Fprintln(&b, s)
		for _, u := range s.Updates[:min(len(s.Updates), maxElems)] {
			fmt.Fprintf(&b, "    %s\n", u)
		}
		if more := len(s.Updates) - maxElems; more > 0 {
			fmt.Fprintf(&b, "    ... and %d more\n", more)
		}
	}
	fmt.Fprintf(&b, "\n# %s\n", r.Plan.Stats())
	if len(r.Xray) > 0 {
		fmt.Fprintf(&b, "\n# what xray would carry: %s\n%s\n", counted(len(r.Xray), "route"), strings.Join(r.Xray, "\n"))
	}
	fmt.Fprintf(&b, "\n# the connections now alive: %d\n", len(r.Live))
	for _, problem := range r.Problems {
		fmt.Fprintf(&b, "# not asked: %s\n", problem)
	}
	for _, f := range r.Live[:min(len(r.Live), maxShown)] {
		d := r.Program.Decide(&f, r.World)
		fmt.Fprintf(&b, "%s\n    %s (%s)\n", f, r.Program.ActionText(&d), decidedBy(p, r.Program, &d))
	}
	if more := len(r.Live) - maxShown; more > 0 {
		fmt.Fprintf(&b, "... and %d more\n", more)
	}
	return b.String()
}

// from names what is in force.
func (r *PlanReport) from() string {
	if r.Previous == nil {
		return "from nothing"
	}
	return "from the plan for " + r.Previous.PolicyHash[:min(12, len(r.Previous.PolicyHash))]
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func decidedBy(p *rules.Policy, prog *engine.Program, d *engine.Decision) string {
	switch {
	case d.Rule >= 0:
		return "by " + p.Rules[d.Rule].Name + ": " + prog.Why(d)
	case d.Kind == rules.ActNone:
		return "no rule, no default: left to the kernel"
	default:
		return "by default"
	}
}

// json is {"plan": text, "steps": [...], "stats": {...}, "connections": [{"flow", "decision"}]}.
func (r *PlanReport) json() (string, error) {
	type decided struct {
		Flow     json.RawMessage `json:"flow"`
		Decision json.RawMessage `json:"decision"`
	}
	type step struct {
		Step    string   `json:"step"`
		Updates []string `json:"updates,omitempty"`
	}
	out := struct {
		File        string        `json:"file"`
		Hash        string        `json:"hash"`
		State       string        `json:"state"`
		From        string        `json:"from"` // the hash of the policy in force, "" for none
		Plan        string        `json:"plan"`
		Steps       []step        `json:"steps"`
		Stats       actions.Stats `json:"stats"`
		Xray        []string      `json:"xray,omitempty"`
		Connections []decided     `json:"connections"`
	}{
		File: r.file(), Hash: r.Plan.PolicyHash, State: r.State.String(), Plan: r.Plan.String(), Steps: []step{}, Stats: r.Plan.Stats(), Xray: r.Xray,
		Connections: []decided{},
	}
	if r.Previous != nil {
		out.From = r.Previous.PolicyHash
	}
	for _, s := range actions.Diff(r.Previous, r.Plan) {
		t := step{Step: s.String()}
		for _, u := range s.Updates {
			t.Updates = append(t.Updates, u.String())
		}
		out.Steps = append(out.Steps, t)
	}
	for _, f := range r.Live {
		d := r.Program.Decide(&f, r.World)
		out.Connections = append(out.Connections, decided{f.AppendJSON(nil), r.Program.AppendDecision(nil, f.ID, &d)})
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(out)
	return b.String(), err
}
