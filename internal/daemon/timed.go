package daemon

import (
	"slices"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// timed is the part of the world that depends on time and traffic: schedules,
// conditions that have to hold for some time, quotas.
type timed struct {
	clock *engine.Clock
	usage *engine.Usage
}

func newTimed(l *live) timed {
	return timed{engine.NewClock(l.policy, time.Local), engine.NewUsage(l.prog, time.Local)}
}

// over returns the same for another policy.
func (t timed) over(l *live) timed {
	next := newTimed(l)
	next.clock.Carry(t.clock)
	next.usage.Carry(t.usage)
	return next
}

// complete sets what the machine does not know of a world. It is done at every
// input and every tick, so that a schedule is late by a tick at most.
func (t timed) complete(w *state.World, wall time.Time) {
	w.Quotas = t.usage.Exceeded(wall)
	t.clock.Step(wall, w)
}

// sameTimed reports whether two worlds of one policy agree in what complete sets.
func sameTimed(a, b *state.World) bool {
	return slices.Equal(a.Schedules, b.Schedules) && slices.Equal(a.Conditions, b.Conditions) && slices.Equal(a.Quotas, b.Quotas) &&
		slices.EqualFunc(a.Meets, b.Meets, slices.Equal[[]state.Truth])
}

// guess completes the world that a plan is made for, before the policy is live:
// what it has to count first is told to the kernel when it is.
func guess(w *state.World, prog *engine.Program, b *base) {
	p, l := prog.Policy(), &b.live
	if l.policy == p && l.world != nil {
		w.Alive = l.world.Alive
		w.Schedules, w.Conditions, w.Quotas, w.Meets = l.world.Schedules, l.world.Conditions, l.world.Quotas, l.world.Meets
		return
	}
	usage := engine.NewUsage(prog, time.Local)
	if b.usage != nil {
		_ = usage.Decode(b.usage) // begin reports it
	}
	w.Quotas = usage.Exceeded(b.wall)
	for i := range p.Quotas {
		if l.policy == nil || l.world == nil {
			continue
		}
		j := slices.IndexFunc(l.policy.Quotas, func(q rules.Quota) bool { return q.Name == p.Quotas[i].Name })
		if j >= 0 && j < len(l.world.Quotas) {
			w.Quotas[i] = l.world.Quotas[j]
		}
	}
	engine.NewClock(p, time.Local).Step(b.wall, w)
}

// carried takes what an event tells of a flow's size and age: it counts what the
// flow has carried since it was last counted, and learns what rules read.
func (c *core) carried(t *tracked, e *inspector.Event, wall time.Time) {
	t.traffic.take(e, wall)
	total := e.Stats.BytesUp + e.Stats.BytesDown
	if total > 0 && c.live.prog.Reads(rules.FieldConnBytes) {
		t.flow.ConnBytes = flow.Some(int64(total))
	}
	if !t.began.IsZero() && c.live.prog.Reads(rules.FieldConnAge) {
		t.flow.ConnAge = flow.Some(wall.Sub(t.began).Microseconds())
	}
	if len(c.live.policy.Quotas) == 0 || total <= t.carried {
		return
	}
	c.hint(t, wall)
	c.timed.usage.Add(&t.flow, int64(total-t.carried), wall)
	t.carried = total
}

// quotas returns the quotas as status shows them.
func (c *core) quotas(wall time.Time) []api.Quota {
	list := make([]api.Quota, 0, len(c.live.policy.Quotas))
	for i := range c.live.policy.Quotas {
		q := &c.live.policy.Quotas[i]
		used, since := c.timed.usage.Used(i, wall)
		list = append(list, api.Quota{Name: q.Name, Used: used, Limit: q.Limit, Per: q.Per.String(), Since: since, Exceeded: used >= q.Limit})
	}
	return list
}

// named pairs the names of schedules or conditions with what they are now.
func named(names []string, list []state.Truth) []api.Truth {
	out := make([]api.Truth, 0, len(names))
	for i, n := range names {
		if n != "" && i < len(list) {
			out = append(out, api.Truth{Name: n, Value: [...]string{"unknown", "false", "true"}[list[i]]})
		}
	}
	return out
}
