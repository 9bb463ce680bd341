package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// maxTold bounds how many transitions a failure recounts.
const maxTold = 8

// checkTime looks at the machine as it is now.
func (r *runner) checkTime(e *expectation) {
	w := r.world(e.at)
	uplink := r.uplink(e.uplink)
	switch e.kind {
	case wantState:
		got, who := w.Global, "the state"
		if uplink >= 0 {
			got, who = w.Uplinks[uplink].State, "uplink "+e.uplink.text
		}
		if got != e.state {
			r.fail(e, "NP320", "at %s %s was %s, not %s", e.at, who, got, e.state).Help = r.told(uplink)
		}
	case wantSchedule, wantQuota, wantCondition:
		list := map[expectKind][]state.Truth{wantSchedule: w.Schedules, wantQuota: w.Quotas, wantCondition: w.Conditions}[e.kind]
		if got := list[r.timed(e.kind, e.name)]; int64(got) != e.number {
			d := r.fail(e, "NP320", "at %s %s was %s, not %s", e.at, e.name.text, answers[e.kind][got], answers[e.kind][e.number])
			if got == state.Unset && !r.dated {
				d.Help = "say when the scenario starts: `start 2026-11-27 20:00`"
			}
		}
	case wantShare:
		if uplink < 0 {
			uplink = r.config.Primary
		}
		if uplink < 0 {
			r.fail(e, "NP320", "there is no uplink whose share could be expected")
			return
		}
		if got := w.Uplinks[uplink].Share; int64(got)*10_000 != e.number {
			r.fail(e, "NP320", "at %s the share of new flows was %d %%, not %d %%", e.at, got, e.number/10_000).Help = r.told(uplink)
		}
	}
}

// told recounts how an uplink's state (-1: the global one) went so far.
func (r *runner) told(uplink int) string {
	var parts []string
	for _, t := range r.transitions(uplink) {
		parts = append(parts, fmt.Sprintf("%s at %s", t.To, t.At))
	}
	switch n := len(parts); {
	case n == 0:
		return "there was no transition"
	case n > maxTold:
		parts = append([]string{"..."}, parts[n-maxTold:]...)
	}
	return "the transitions: " + strings.Join(parts, ", ")
}

func (r *runner) transitions(uplink int) []state.Transition {
	var list []state.Transition
	for _, e := range r.log {
		if e.Transition != nil && e.Transition.Uplink == uplink {
			list = append(list, *e.Transition)
		}
	}
	return list
}

// checkCount counts transitions: at most N in any stretch that long, or
// exactly N from the start on.
func (r *runner) checkCount(e *expectation) {
	uplink := r.uplink(e.uplink)
	list := r.transitions(uplink)
	worst, from := 0, time.Duration(0)
	if e.exactly {
		for _, t := range list {
			if t.At <= e.within {
				worst++
			}
		}
	} else {
		for i, first := range list {
			n := 0
			for _, t := range list[i:] {
				if t.At-first.At < e.within {
					n++
				}
			}
			if n > worst {
				worst, from = n, first.At
			}
		}
	}
	if e.exactly && int64(worst) != e.number || int64(worst) > e.number {
		r.fail(e, "NP320", "there were %d transitions within %s from %s on", worst, e.within, from).Help = r.told(uplink)
	}
}

// checkFlow compares one clause with the decision for its flow.
func (r *runner) checkFlow(e *expectation, got Decided) {
	holds, why := r.holds(e, got)
	if holds != e.not {
		return
	}
	asked := DescribeDecision(r.policy, got.Decision)
	message := "the flow got: " + asked
	if why != "" {
		message = why + "; the flow got: " + asked
	}
	d := r.fail(e, "NP320", "%s", message)
	d.Notes = append(d.Notes, diag.Note{Span: r.s.flows[e.flow].span, Message: "the flow, decided at " + r.s.flows[e.flow].at.String()})
}

// holds reports whether the clause, without its `not`, is true, and what more
// there is to say if it is not.
func (r *runner) holds(e *expectation, got Decided) (holds bool, why string) {
	p, d := r.policy, got.Decision
	switch e.kind {
	case wantRoute:
		return d.Route >= 0 && routeName(p, d.Route) == e.name.text, ""
	case wantTarget:
		return target(p, d) == e.name.text, ""
	case wantUplink:
		if d.Route >= 0 && p.Routes[d.Route].Kind == rules.RouteUplink {
			name := p.Uplinks[p.Routes[d.Route].Uplink].Name
			return name == e.name.text, "it leaves by uplink " + name
		}
		return false, "it leaves by no uplink of the policy"
	case wantAction:
		return actionNames[d.Kind] == e.name.text, ""
	case wantBlock:
		return d.Kind == rules.ActBlock && (e.name.text == "" || (e.name.text == "reject") == d.Reject), ""
	case wantRule:
		return winner(p, d) == e.name.text, ""
	case wantFinal:
		return d.Final, fmt.Sprintf("final is %v", d.Final)
	case wantPending:
		want := strings.Split(e.name.text, ",")
		slices.Sort(want)
		have := pendingNames(d)
		slices.Sort(have)
		return slices.Equal(want, have), ""
	case wantLog:
		text, ok := d.Mods.Log.Get()
		return ok && (!e.name.quoted || e.name.text == text), ""
	case wantThrottle:
		i, ok := d.Mods.Throttle.Get()
		return ok && p.Throttles[i].Name == e.name.text, ""
	case wantMark:
		n, ok := d.Mods.Mark.Get()
		return ok && int64(n) == e.number, ""
	default: // wantDSCP
		n, ok := d.Mods.DSCP.Get()
		return ok && int64(n) == e.number, ""
	}
}
