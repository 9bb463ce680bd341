package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

const (
	// trialRounds is how many rounds with an answer every line needs under the new
	// policy. The first round that ends does not count: it may have begun before.
	trialRounds = 2
	// probeRounds is for how many rounds of the slowest line the answers are waited
	// for, and probeSlack what is added; maxProbeTime bounds both.
	probeRounds  = 10
	probeSlack   = 5 * time.Second
	maxProbeTime = 5 * time.Minute
)

// trial counts what the probes of lines get. The loop owns it. The nil trial counts nothing.
type trial struct{ lines []trialLine }

// trialLine is one line that has to answer.
type trialLine struct {
	uplink int // in the new policy
	name   string
	rounds int // that have ended
	good   int // with an answer, but the first
}

// round takes one finished round.
func (t *trial) round(r *state.Round) {
	if t == nil {
		return
	}
	for i := range t.lines {
		n := &t.lines[i]
		if n.uplink != r.Uplink {
			continue
		}
		n.rounds++
		if n.rounds > 1 && !r.Down && slices.ContainsFunc(r.Probes, func(a state.Answer) bool { return !a.Lost }) {
			n.good++
		}
	}
}

// probing is how a change is tried by probes.
type probing struct {
	on       bool
	asserted int      // assertions that hold
	left     []string // lines that were up, and that the new policy does not measure or use
}

// probeTime is how long probes of the policy may take to answer often enough.
func probeTime(p *rules.Policy) time.Duration {
	var every time.Duration
	for i := range p.Uplinks {
		if p.Uplinks[i].Probe.Kind != rules.ProbeNone {
			every = max(every, p.Uplinks[i].Probe.Every)
		}
	}
	return min(probeRounds*every+probeSlack, maxProbeTime)
}

// beginProbes has the loop count what the lines get that were up before the change.
func (d *Daemon) beginProbes(ctx context.Context, before *snapshot, c *candidate) probing {
	t := &trial{}
	p := probing{on: true, asserted: c.tried}
	for _, u := range before.machine.Status(before.live.health) {
		if u.Unknown || !u.Up || u.Under == state.Failover {
			continue
		}
		i := slices.IndexFunc(c.policy.Uplinks, func(n rules.Uplink) bool { return n.Name == u.Name })
		// A line that no route leads over is not in the plan: its probes take the main table.
		_, used := c.plan.UplinkMark(u.Name)
		if i < 0 || c.policy.Uplinks[i].Probe.Kind == rules.ProbeNone || !used {
			p.left = append(p.left, u.Name)
			continue
		}
		t.lines = append(t.lines, trialLine{uplink: i, name: u.Name})
	}
	// It fails only when the daemon stops.
	_ = d.call(ctx, func(l *loop) error { l.trial = t; return nil })
	return p
}

// stopProbes ends the counting.
func (d *Daemon) stopProbes(ctx context.Context, w *waiting) {
	if w.probes.on {
		w.probes.on = false
		// It fails only when the daemon stops.
		_ = d.call(ctx, func(l *loop) error { l.trial = nil; return nil })
	}
}

// lookAtProbes keeps the change when every line has answered, and takes it back when
// time is up or its caller has gone: the connection by which it came did not survive it.
func (d *Daemon) lookAtProbes(ctx context.Context, w *waiting, now time.Duration) {
	var lines []trialLine
	if d.call(ctx, func(l *loop) error { lines = slices.Clone(l.trial.lines); return nil }) != nil {
		return
	}
	missing := slices.IndexFunc(lines, func(n trialLine) bool { return n.good < trialRounds })
	w.result.Probes = w.probes.lines(lines)
	switch {
	case w.call.ctx.Err() != nil:
		d.tryAgain(d.takeBack(ctx, "the caller's connection ended while probes were under way"))
	case missing < 0:
		d.kept(ctx, w)
	case now >= w.Deadline:
		n := lines[missing]
		d.tryAgain(d.takeBack(ctx, fmt.Sprintf("uplink %s, which was up before, did not answer its probes (%d of %d rounds in %v)",
			n.name, n.good, trialRounds, (w.Deadline-w.Began).Round(time.Second))))
	}
}

// kept confirms a change whose lines have answered.
func (d *Daemon) kept(ctx context.Context, w *waiting) {
	if _, err := d.confirmed(ctx, "probes, for "+w.Who); err != nil {
		d.tryAgain(d.takeBack(ctx, "the probes were answered, but the policy could not be kept: "+err.Error()))
	}
}

// lines says what was found, a line for each thing.
func (p *probing) lines(list []trialLine) []string {
	out := []string{fmt.Sprintf("assertions: %d hold", p.asserted)}
	for _, n := range list {
		out = append(out, fmt.Sprintf("uplink %s: %d rounds answered of %d", n.name, n.good, max(0, n.rounds-1)))
	}
	for _, name := range p.left {
		out = append(out, fmt.Sprintf("uplink %s: was up, the new policy does not measure it or leads nothing over it", name))
	}
	if len(list) == 0 {
		out = append(out, "no uplink was measured as up before: none was tried")
	}
	return out
}

// controls says what a candidate would do to the connection by which the caller came, ""
// if it lets it be or there is none.
func (d *Daemon) controls(ctx context.Context, text string, c *candidate) (string, error) {
	if text == "" {
		return "", nil
	}
	raw, err := json.Marshal(text)
	if err != nil {
		return "", err
	}
	f, err := parseFlow(raw)
	if err != nil {
		return "", fmt.Errorf("control: %w: %w", err, api.ErrBadRequest)
	}
	if k, ok := keyOf(&f); ok {
		// What is known of it besides counts too.
		err := d.call(ctx, func(l *loop) error {
			if t := l.core.flows[k]; t != nil {
				f = t.flow
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	decision := c.prog.Decide(&f, &c.world)
	if !decision.Blocked() {
		return "", nil
	}
	by := "its default"
	if name := ruleName(c.policy, &decision); name != "" {
		by = "rule " + name
	}
	return fmt.Sprintf("the connection by which you came (%s) is blocked by %s", text, by), nil
}
