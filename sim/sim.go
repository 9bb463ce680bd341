// Package sim runs scenarios: a policy, lines that get better and worse on a
// virtual clock, flows, and what is expected of them. It drives the same state
// machine and engine as the daemon, one probe round every interval, so what a
// scenario proves holds for the daemon. An hour takes a few milliseconds.
//
//	s, diags := sim.Parse("zoom.sim", text)
//	result, failed := sim.Run(s, policy)
//
// The package is pure: texts come in, values go out; the same texts give the
// same result on every machine. The language is described in docs/states.md.
package sim

import (
	"fmt"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Entry is something that happened: a change of state, or a flow's decision.
type Entry struct {
	At time.Duration
	// Transition is set for a change of state, Decided for a decision.
	Transition *state.Transition
	Decided    *Decided
}

// Decided is a decision with the flow it is for.
type Decided struct {
	Flow     flow.Flow
	Decision engine.Decision
}

// driver is a machine and a program on a virtual clock.
type driver struct {
	policy  *rules.Policy
	program *engine.Program
	config  state.Config
	machine state.Machine
	start   time.Time // when 0 s is
	dated   bool      // whether anybody said so: else schedules are not known
	clock   *engine.Clock
	usage   *engine.Usage
	log     []Entry
}

// someday is when a scenario begins that does not say: a Monday.
var someday = time.Date(2026, time.January, 5, 0, 0, 0, 0, time.UTC)

func newDriver(p *rules.Policy, start time.Time) *driver {
	d := &driver{policy: p, program: engine.Compile(p), config: p.Health(), start: start, dated: true}
	d.machine = state.New(d.config)
	if start.IsZero() {
		d.start, d.dated = someday, false
	}
	d.usage = engine.NewUsage(d.program, d.start.Location())
	d.newClock()
	return d
}

// newClock begins to look at schedules and conditions, as the daemon does when it starts.
func (d *driver) newClock() {
	p := *d.policy
	if !d.dated {
		p.Schedules = nil
	}
	d.clock = engine.NewClock(&p, d.start.Location())
}

// world is the whole world at a moment. The clock sees each one that inputs bring
// about, and between them nothing changes.
func (d *driver) world(at time.Duration) *state.World {
	w := d.machine.World(d.config)
	now := d.start.Add(at)
	w.Quotas = d.usage.Exceeded(now)
	d.clock.Step(now, &w)
	if !d.dated {
		w.Schedules = make([]state.Truth, len(d.policy.Schedules))
	}
	return &w
}

// apply gives the machine an event and logs what follows.
func (d *driver) apply(e state.Event) {
	var ts []state.Transition
	d.machine, ts = d.machine.Apply(d.config, e)
	for i := range ts {
		d.log = append(d.log, Entry{At: ts[i].At, Transition: &ts[i]})
	}
	d.world(e.At)
}

// flow decides a flow and carries the decision out as the daemon would: a
// `failover` asks the machine.
func (d *driver) flow(at time.Duration, f flow.Flow) Decided {
	done := Decided{Flow: f, Decision: d.program.Decide(&f, d.world(at))}
	d.log = append(d.log, Entry{At: at, Decided: &done})
	if done.Decision.Kind == rules.ActFailover {
		d.apply(state.Event{Kind: state.EventFailover, At: at, Uplink: -1})
	}
	return done
}

// Describe writes an entry in one line, without its time.
func Describe(p *rules.Policy, e Entry) string {
	switch {
	case e.Transition != nil:
		who := "state"
		if i := e.Transition.Uplink; i >= 0 && i < len(p.Uplinks) {
			who = "uplink " + p.Uplinks[i].Name
		}
		return who + " " + e.Transition.String()
	case e.Decided != nil:
		return fmt.Sprintf("flow %s: %s", e.Decided.Flow, DescribeDecision(p, e.Decided.Decision))
	}
	return ""
}

// actionNames are the primary actions as policies spell them.
var actionNames = [...]string{"none", "route", "switch_route", "fallback", "failover", "block"}

// DescribeDecision writes a decision as a scenario expects it.
func DescribeDecision(p *rules.Policy, d engine.Decision) string {
	return describe(p, d, " by "+winner(p, d))
}

// Outcome writes what a decision does, without who decided: what a user would
// notice if it changed.
func Outcome(p *rules.Policy, d engine.Decision) string { return describe(p, d, "") }

func describe(p *rules.Policy, d engine.Decision, by string) string {
	var b strings.Builder
	b.WriteString(actionNames[d.Kind])
	switch {
	case d.Kind == rules.ActBlock && d.Reject:
		b.WriteString(" reject")
	case d.Kind == rules.ActBlock:
		b.WriteString(" drop")
	case d.Kind != rules.ActNone:
		b.WriteString(" " + target(p, d))
		if given := routeName(p, d.Route); given != target(p, d) {
			b.WriteString(" -> " + given)
		}
	}
	b.WriteString(by)
	if text, ok := d.Mods.Log.Get(); ok {
		b.WriteString(", log")
		if text != "" {
			fmt.Fprintf(&b, " %q", text)
		}
	}
	if i, ok := d.Mods.Throttle.Get(); ok {
		b.WriteString(", throttle " + p.Throttles[i].Name)
	}
	if n, ok := d.Mods.Mark.Get(); ok {
		fmt.Fprintf(&b, ", mark %d", n)
	}
	if n, ok := d.Mods.DSCP.Get(); ok {
		fmt.Fprintf(&b, ", dscp %d", n)
	}
	if pending := pendingNames(d); len(pending) > 0 {
		b.WriteString(", pending " + strings.Join(pending, ","))
	}
	return b.String()
}

// target is what the rule asked for: a route, or the list of fallback.
func target(p *rules.Policy, d engine.Decision) string {
	if d.Kind != rules.ActFallback {
		return routeName(p, d.Asked)
	}
	var names []string
	for _, r := range d.AskedList {
		names = append(names, routeName(p, r))
	}
	return strings.Join(names, ",")
}

func routeName(p *rules.Policy, i int) string {
	if i < 0 || i >= len(p.Routes) {
		return "blocked"
	}
	return p.Routes[i].Name
}

// winner is the rule that decided, or "default".
func winner(p *rules.Policy, d engine.Decision) string {
	if d.Rule < 0 {
		return "default"
	}
	return p.Rules[d.Rule].Name
}

func pendingNames(d engine.Decision) []string {
	var names []string
	for f := rules.FieldSNI; f <= rules.FieldCondition; f++ {
		if d.Pending.Has(f) {
			names = append(names, f.String())
		}
	}
	return names
}
