package daemon

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/rules"
)

// count is one decision for the metrics.
type count struct{ rule, action, route, event string }

// record notes a decision for the tail, the log and the metrics.
func (c *core) record(t *tracked, event string, now time.Duration, wall time.Time) {
	c.tapeFlow(&t.flow, now)
	d := &t.decision
	p := c.live.policy
	text, logs := d.Mods.Log.Get()
	ctx := telemetry.Context{
		Time: wall, Event: event, Mode: "enforce", Policy: shortHash(p.Hash),
		Source: t.source, Flow: recordedFlow(&t.flow), Text: text, LogRule: t.logRule,
	}
	if c.observe {
		ctx.Mode = "observe"
	}
	ctx.Name, ctx.NameFrom = nameOf(&t.flow)
	ctx.Uplink, ctx.PinnedRoute = whereTo(p, d, t.route)
	ctx.Pinned = ctx.PinnedRoute != ""
	ctx.State = c.machine.Host().State.String()
	if d.Rule >= 0 && d.Rule < len(c.live.places) {
		ctx.RuleSrc = c.live.places[d.Rule]
	}
	r := telemetry.Record{
		Decision: decisionJSON(c.live.prog, t.flow.ID, d), Context: ctx, Log: logs, Rule: ruleName(p, d),
		Always: d.Blocked() || d.Kind == rules.ActFailover,
	}
	if c.near.take(wall, len(p.Rules)) {
		f, prog, world := t.flow, c.live.prog, c.live.world
		r.Near = func() json.RawMessage { return nearJSON(prog, prog.Near(&f, world)) }
	}
	c.out.records = append(c.out.records, r)
	c.out.counts = append(c.out.counts, count{ruleName(p, d), engine.ActionName(d.Kind), routeName(p, d.Route), event})
}

// maxNear bounds the text about one of the rules that came nearest, in bytes: it spells the rule's
// condition out, and what the flow has.
const maxNear = 1 << 10

// nearJSON spells the rules that came nearest, each in at most maxNear bytes.
func nearJSON(prog *engine.Program, list []engine.Near) json.RawMessage {
	for i, n := range list {
		if len(n.Failed) > maxNear {
			list[i].Failed = strings.ToValidUTF8(n.Failed[:maxNear], "") + "..."
		}
	}
	return prog.AppendNear(nil, list)
}

// recordedFlow spells a flow for a record, with the first of its names out of DNS.
func recordedFlow(f *flow.Flow) json.RawMessage {
	short := *f
	short.DNS = f.DNS.First(maxNamed)
	return flowJSON(&short)
}

// shortHash is how people see a policy's hash.
func shortHash(h [32]byte) string { return fmt.Sprintf("%x", h[:6]) }

func ruleName(p *rules.Policy, d *engine.Decision) string {
	if d.Rule < 0 {
		return ""
	}
	return p.Rules[d.Rule].Name
}

// deciding names the rule as the kernel's log does.
func deciding(p *rules.Policy, d *engine.Decision) string {
	if d.Rule < 0 {
		return "default"
	}
	return p.Rules[d.Rule].Name
}

func routeName(p *rules.Policy, route int) string {
	if route < 0 {
		return ""
	}
	return p.Routes[route].Name
}

// outcome is what a decision comes to for a flow, whatever it still waits for,
// in terms that outlive the policy.
type outcome struct {
	rule, asked, route string
	kind               rules.ActionKind
	reject             bool
	log                flow.Value[string]
	throttle           string
	mark               flow.Value[uint32]
	dscp               flow.Value[uint8]
}

func outcomeOf(p *rules.Policy, d *engine.Decision) outcome {
	o := outcome{
		rule: ruleName(p, d), asked: routeName(p, d.Asked), route: routeName(p, d.Route), kind: d.Kind,
		reject: d.Reject, log: d.Mods.Log, mark: d.Mods.Mark, dscp: d.Mods.DSCP,
	}
	if i, ok := d.Mods.Throttle.Get(); ok {
		o.throttle = p.Throttles[i].Name
	}
	return o
}

// uplinkOf returns the uplink that a concrete route leads over, -1 without one.
func uplinkOf(p *rules.Policy, route int) int {
	r := &p.Routes[route]
	if r.Kind == rules.RouteUplink || r.Kind == rules.RouteOther {
		return r.Uplink
	}
	return -1
}
