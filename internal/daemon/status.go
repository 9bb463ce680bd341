package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/ebpf"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// maxForce bounds an override: a day is longer than any works on a line, and a
// forgotten one ends by itself.
const maxForce = 24 * time.Hour

// queues are the bounded queues whose losses status shows.
var queues = []string{"events", "answers", "flows", "names", "marks", "forget", "journal", recordingName, recordingName + api.OnDisk}

// Status returns what the daemon does now. It waits for nobody.
func (d *Daemon) Status() api.Status {
	out := api.Status{
		Version: d.opts.Version, PID: d.opts.PID, Started: d.started, Now: time.Now(), Mode: d.mode(),
		StateDir: d.opts.StateDir,
		Uplinks:  []api.Uplink{}, Sources: []api.Source{}, Drops: map[string]uint64{},
	}
	for _, q := range queues {
		out.Drops[q] = d.metrics.Drops(q)
	}
	out.Drops[decisionsName] = d.metrics.DecisionDrops(telemetry.DropQueue)
	out.Drops[decisionsName+api.OnDisk] = d.metrics.DecisionDrops(telemetry.DropDisk)
	out.Drops[consultName] = d.questions.Missed.Load()
	out.Drops[helloName] = d.hellos.Missed.Load() + d.held.Full.Load()
	d.mu.Lock()
	out.Sources = append(out.Sources, d.sources...)
	d.facts(out.Sources)
	out.Error = d.lastErr
	out.Confirm, out.Reverted = d.confirmStatus(), d.reverted
	d.mu.Unlock()
	out.Drift = d.drift.status()
	out.Xray = d.xrayStatus()
	s := d.snap.Load()
	if s == nil {
		return out
	}
	host := s.machine.Host()
	out.Policy = policyStatus(s)
	out.Enforcement, out.State = s.broken, host.State.String()
	if len(s.live.policy.Uplinks) > 0 {
		out.Since = s.at(host.Since)
	}
	out.Flows, out.Names, out.Decisions = s.flows, s.names, s.decided
	out.Hits, out.Quotas = hits(&s.live), s.quotas
	var schedules, conditions []string
	for i := range s.live.policy.Schedules {
		schedules = append(schedules, s.live.policy.Schedules[i].Name)
	}
	for i := range s.live.policy.Conditions {
		conditions = append(conditions, s.live.policy.Conditions[i].Name)
	}
	out.Schedules, out.Conditions = named(schedules, s.live.world.Schedules), named(conditions, s.live.world.Conditions)
	for i, u := range s.machine.Status(s.live.health) {
		out.Uplinks = append(out.Uplinks, s.uplink(i, &u))
	}
	return out
}

// maxHits is how many rules status names.
const maxHits = 10

// hits lists the rules that have decided most often since the policy became live.
func hits(l *live) []api.Hits {
	out := []api.Hits{}
	if l.hits == nil {
		return out
	}
	_, byRule := l.hits.Sum()
	for i, n := range byRule {
		if n > 0 {
			out = append(out, api.Hits{Rule: l.policy.Rules[i].Name, Decisions: n})
		}
	}
	slices.SortStableFunc(out, func(a, b api.Hits) int { return cmp.Compare(b.Decisions, a.Decisions) })
	return out[:min(len(out), maxHits)]
}

// at turns a moment of the logical clock into one of the wall clock.
func (s *snapshot) at(t time.Duration) time.Time { return s.wall.Add(t - s.clock) }

func policyStatus(s *snapshot) api.Policy {
	if s == nil {
		return api.Policy{}
	}
	p := s.live.policy
	return api.Policy{
		File: p.File, Hash: shortHash(p.Hash), Since: s.live.since, Rules: len(p.Rules), Routes: len(p.Routes),
	}
}

func (s *snapshot) uplink(i int, u *state.UplinkStatus) api.Uplink {
	out := api.Uplink{
		Name: u.Name, Dev: s.live.policy.Uplinks[i].Dev, Primary: i == s.live.policy.Primary,
		State: u.State.String(), Since: s.at(u.Since), Unknown: u.Unknown, Up: u.Up, Share: u.Share,
		RTTms: milliseconds(u.RTT), P90ms: milliseconds(u.P90), Loss: ratio(u.Loss), Errors: ratio(u.ErrorRate),
		Penalty: u.Penalty, Suppressed: u.Suppressed,
	}
	h := &s.live.health.Uplinks[i]
	out.Thresholds = &api.Thresholds{
		RTTms:  api.Threshold{Enter: float64(h.RTT.Enter) / 1e3, Exit: float64(h.RTT.Exit) / 1e3},
		Loss:   api.Threshold{Enter: float64(h.Loss.Enter) / 1e6, Exit: float64(h.Loss.Exit) / 1e6},
		Errors: api.Threshold{Enter: float64(h.Errors.Enter) / 1e6, Exit: float64(h.Errors.Exit) / 1e6},
	}
	if u.Verdict != "" {
		out.Verdict, out.VerdictSince, out.Why = u.Verdict, s.at(u.VerdictSince), u.VerdictWhy
	}
	if u.HoldUntil > s.clock {
		out.HoldUntil = s.at(u.HoldUntil)
	}
	if u.Suppressed && u.LiftAt > s.clock {
		out.HoldUntil = s.at(max(u.LiftAt, u.HoldUntil))
	}
	if u.Forced.On {
		out.Forced = &api.Forced{
			State: u.Forced.To.String(), Shadow: u.Under.String(), Until: s.at(u.Forced.Until), Reason: u.Forced.Reason,
		}
	}
	return out
}

// milliseconds keeps "not measured" negative.
func milliseconds(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return float64(d.Microseconds()) / 1000
}

func ratio(ppm int64) float64 {
	if ppm < 0 {
		return -1
	}
	return float64(ppm) / 1e6
}

// Plan returns the host state that is wanted, as text.
func (d *Daemon) Plan() string {
	s := d.snap.Load()
	if s == nil {
		return ""
	}
	return s.text
}

// flowOf reads the flow that is asked about.
func flowOf(q *api.ExplainRequest) (flow.Flow, error) {
	f, err := parseFlow(q.Flow)
	if err != nil {
		return f, fmt.Errorf("flow: %w: %w", err, api.ErrBadRequest)
	}
	if q.State != "" {
		st, ok := state.Parse(q.State)
		if !ok {
			return f, fmt.Errorf("state %q: want NORMAL, DEGRADED, FAILOVER or RECOVERY: %w", q.State, api.ErrBadRequest)
		}
		f.State = st.String()
	}
	return f, nil
}

// Explain answers how a flow would be decided now; it waits for nobody.
func (d *Daemon) Explain(q api.ExplainRequest) (json.RawMessage, error) {
	f, err := flowOf(&q)
	if err != nil {
		return nil, err
	}
	s := d.snap.Load()
	if s == nil {
		return nil, fmt.Errorf("no policy is live yet: %w", api.ErrBadRequest)
	}
	return explainJSON(&s.live, &f)
}

// Force overrides the state of an uplink for a while.
func (d *Daemon) Force(ctx context.Context, q api.ForceRequest) error {
	to, ok := state.Parse(q.State)
	if !ok {
		return fmt.Errorf("state %q: want NORMAL, DEGRADED, FAILOVER or RECOVERY: %w", q.State, api.ErrBadRequest)
	}
	span, err := time.ParseDuration(q.For)
	if err != nil || span <= 0 || span > maxForce {
		return fmt.Errorf("for %q: want a time above zero and at most %s: %w", q.For, maxForce, api.ErrBadRequest)
	}
	if q.Reason == "" {
		return fmt.Errorf("a reason is required: %w", api.ErrBadRequest)
	}
	return d.call(ctx, func(l *loop) error {
		i, err := l.uplink(q.Uplink)
		if err != nil {
			return err
		}
		now := l.d.parts.Now()
		l.core.apply(state.Event{Kind: state.EventForce, At: now, Uplink: i, To: to, Until: now + span, Reason: q.Reason}, time.Now())
		l.d.log.Info("state forced", "uplink", q.Uplink, "state", to.String(), "for", span.String(), "reason", q.Reason)
		l.settle()
		return nil
	})
}

// Clear ends an override. "" is the primary uplink's and the whole host's.
func (d *Daemon) Clear(ctx context.Context, uplink string) error {
	return d.call(ctx, func(l *loop) error {
		i, err := l.uplink(uplink)
		if err != nil {
			return err
		}
		l.core.apply(state.Event{Kind: state.EventClear, At: l.d.parts.Now(), Uplink: i}, time.Now())
		l.d.log.Info("state override cleared", "uplink", uplink)
		l.settle()
		return nil
	})
}

// uplink finds an uplink by name; "" is the whole host, which takes the primary with it.
func (l *loop) uplink(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	uplinks := l.core.live.health.Uplinks
	i := slices.IndexFunc(uplinks, func(u state.UplinkConfig) bool { return u.Name == name })
	if i < 0 {
		return 0, fmt.Errorf("uplink %q is not declared: %w", name, api.ErrBadRequest)
	}
	return i, nil
}

// facts fills in what sources say of themselves.
func (d *Daemon) facts(list []api.Source) {
	for _, s := range d.parts.Sources {
		f, ok := s.(interface{ Features() []ebpf.Feature })
		i := slices.IndexFunc(list, func(a api.Source) bool { return a.Name == s.Name() })
		if !ok || i < 0 {
			continue
		}
		for _, x := range f.Features() {
			fact := api.Fact{Fact: x.Fact, Hook: x.Hook}
			if x.Err != nil {
				fact.Error = x.Err.Error()
			}
			list[i].Facts = append(list[i].Facts, fact)
		}
	}
}

// countPolicy has the metrics know what a policy has.
func (d *Daemon) countPolicy(p *rules.Policy) {
	var names, uplinks []string
	for i := range p.Rules {
		names = append(names, p.Rules[i].Name)
	}
	for i := range p.Uplinks {
		uplinks = append(uplinks, p.Uplinks[i].Name)
	}
	d.metrics.Policy(names, uplinks)
}

// sourceGauges writes which sources are in use, and what they have lost.
func (d *Daemon) sourceGauges(w io.Writer) {
	d.mu.Lock()
	for _, s := range d.sources {
		fmt.Fprintf(w, "netpolicy_source_up{source=%q} %d\n", s.Name, toInt(s.Error == ""))
	}
	d.mu.Unlock()
	for _, s := range d.parts.Sources {
		c, ok := s.(inspector.Counted)
		if !ok {
			continue
		}
		lost := c.Losses()
		for _, why := range slices.Sorted(maps.Keys(lost)) {
			fmt.Fprintf(w, "netpolicy_source_lost_total{source=%q,why=%q} %d\n", s.Name(), why, lost[why])
		}
	}
}
