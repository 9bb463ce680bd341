package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"netpolicy.dev/netpolicy/flow"
)

// hash is the SHA-256 of the policy's meaning. References are hashed as names
// and lists whose order means nothing are sorted, so that re-ordering routes or
// writing a list differently changes nothing. The daemon section is left out.
func (p *Policy) hash() [32]byte {
	h := hasher{p: p, memo: &memo{sets: map[*Set][32]byte{}, conditions: map[int][32]byte{}}}
	h.text("netpolicy 1")
	h.number(int64(p.Primary))
	for i := range p.Uplinks {
		h.uplink(&p.Uplinks[i])
	}
	h.number(int64(len(p.Uplinks)), int64(len(p.Groups)))
	for i := range p.Groups {
		h.group(&p.Groups[i])
	}
	h.sorted(len(p.Routes), func(h *hasher, i int) { h.route(&p.Routes[i]) })
	h.sorted(len(p.Throttles), func(h *hasher, i int) {
		t := &p.Throttles[i]
		h.text(t.Name, t.Per)
		h.number(t.Down, t.Up, t.Burst)
	})
	h.sorted(len(p.Quotas), func(h *hasher, i int) {
		q := &p.Quotas[i]
		h.text(q.Name)
		h.number(q.Limit, int64(q.Per), int64(q.Reset))
		h.expr(&q.Match)
	})
	h.number(int64(len(p.Rules)))
	for i := range p.Rules {
		r := &p.Rules[i]
		h.text(r.Name)
		h.number(int64(r.Priority), int64(r.Active), int64(r.OnUnknown), int64(r.Hold))
		h.expr(&r.Match)
		h.bool(r.When != nil)
		if r.When != nil {
			h.expr(r.When)
		}
		h.outcome(&r.Do)
	}
	h.bool(p.Default != nil)
	if p.Default != nil {
		h.outcome(p.Default)
	}
	return sha256.Sum256(h.b)
}

// hasher gathers an unambiguous encoding: every text has its length, every
// number eight bytes, every list its count.
type hasher struct {
	p    *Policy
	b    []byte
	memo *memo
}

// memo has what is referred to, by its hash: each is hashed once, however often and
// through however many others it is named.
type memo struct {
	sets       map[*Set][32]byte // by elements
	conditions map[int][32]byte  // by index
}

func (h *hasher) text(list ...string) {
	for _, s := range list {
		h.b = binary.AppendUvarint(h.b, uint64(len(s)))
		h.b = append(h.b, s...)
	}
}

func (h *hasher) number(list ...int64) {
	for _, n := range list {
		h.b = binary.BigEndian.AppendUint64(h.b, uint64(n))
	}
}

func (h *hasher) bool(b bool) {
	if b {
		h.b = append(h.b, 1)
	} else {
		h.b = append(h.b, 0)
	}
}

// sorted writes n parts in the order of their encodings.
func (h *hasher) sorted(n int, part func(*hasher, int)) {
	h.number(int64(n))
	if n == 1 {
		part(h, 0)
		return
	}
	parts := make([]string, n)
	for i := range parts {
		one := hasher{p: h.p, memo: h.memo}
		part(&one, i)
		parts[i] = string(one.b)
	}
	slices.Sort(parts)
	h.text(parts...)
}

func (h *hasher) routeName(i int) {
	if i < 0 {
		h.text("")
		return
	}
	h.text(h.p.Routes[i].Name)
}

func (h *hasher) uplink(u *Uplink) {
	h.text(u.Name, u.Dev, u.Gateway[0].String(), u.Gateway[1].String())
	h.number(int64(u.Probe.Kind), int64(u.Probe.Every), int64(len(u.Probe.Targets)))
	for _, t := range u.Probe.Targets {
		h.text(t.String())
	}
	h.bool(u.Metered)
	c := &u.Health
	h.bool(c.Required)
	h.number(int64(u.Weight), int64(c.Every), int64(c.DegradeAfter), int64(c.FailoverAfter), int64(c.DeadAfter), int64(c.ClearAfter),
		int64(c.ReviveAfter), int64(c.StableAfter), int64(c.RelapseAfter), int64(c.HoldDegraded), int64(c.HoldFailover),
		c.RTT.Enter, c.RTT.Exit, c.Loss.Enter, c.Loss.Exit, c.Errors.Enter, c.Errors.Exit)
}

func (h *hasher) group(g *Group) {
	h.text(g.Name)
	h.number(int64(g.Strategy), int64(g.Tolerance), int64(g.MinHold), int64(len(g.Members)))
	h.number(int64(g.Sticky))
	h.bool(g.SLA >= 0)
	if g.SLA >= 0 {
		h.condition(g.SLA)
	}
	h.bool(g.BlockWhenNone)
	h.bool(g.Interrupt)
	for _, m := range g.Members {
		h.routeName(m)
	}
}

func (h *hasher) route(r *Route) {
	h.text(r.Name, r.Dev, r.Gateway[0].String(), r.Gateway[1].String(), r.Other)
	h.number(int64(r.Kind), int64(r.Table), int64(r.Mark))
	h.bool(r.Uplink >= 0)
	if r.Uplink >= 0 {
		h.text(h.p.Uplinks[r.Uplink].Name)
	}
	h.bool(r.Group >= 0)
	if r.Group >= 0 {
		h.text(h.p.Groups[r.Group].Name)
	}
}

func (h *hasher) expr(e *Expr) {
	h.number(int64(e.Op))
	switch e.Op {
	case OpAny:
	case OpPred:
		h.pred(&e.Pred)
	default:
		h.sorted(len(e.Kids), func(h *hasher, i int) { h.expr(&e.Kids[i]) })
	}
}

func (h *hasher) pred(p *Pred) {
	h.number(int64(p.Field), int64(p.Cmp), p.Bound, int64(p.States), int64(p.For))
	h.bool(p.Unequal)
	switch p.Field {
	case FieldUplink, FieldRoute:
		h.number(int64(p.Metric))
		h.bool(p.Ref >= 0)
		if p.Ref >= 0 {
			h.text(h.p.Uplinks[p.Ref].Name)
		}
	case FieldQuota:
		h.text(h.p.Quotas[p.Ref].Name)
	case FieldCondition:
		h.condition(p.Ref)
	case FieldSchedule:
		h.schedule(&h.p.Schedules[p.Ref])
	}
	h.bool(p.Set != nil)
	if p.Set == nil {
		h.elements(&Elements{p.Names, p.Prefixes, p.Ports, p.MACs, p.Globs, p.Numbers})
		return
	}
	sum, ok := h.memo.sets[p.Set]
	if !ok {
		one := hasher{p: h.p}
		one.elements(&p.Set.Elements)
		sum = sha256.Sum256(one.b)
		h.memo.sets[p.Set] = sum
	}
	h.text(string(sum[:]))
}

// condition writes the hash of what a condition says; its name does not count.
func (h *hasher) condition(i int) {
	sum, ok := h.memo.conditions[i]
	if !ok {
		one := hasher{p: h.p, memo: h.memo}
		one.expr(&h.p.Conditions[i].Expr)
		sum = sha256.Sum256(one.b)
		h.memo.conditions[i] = sum
	}
	h.text(string(sum[:]))
}

func (h *hasher) schedule(s *Schedule) {
	h.number(int64(s.Days), int64(s.From), int64(s.To))
	for _, d := range []Date{s.First, s.Last} {
		h.number(int64(d.Year), int64(d.Month), int64(d.Day))
	}
	h.bool(s.Zone != nil)
	if s.Zone != nil {
		h.text(s.Zone.String())
	}
}

func (h *hasher) elements(p *Elements) {
	h.sorted(len(p.Names), func(h *hasher, i int) { h.text(p.Names[i].String()) })
	h.sorted(len(p.Prefixes), func(h *hasher, i int) { h.b, _ = p.Prefixes[i].AppendBinary(h.b) })
	h.sorted(len(p.Globs), func(h *hasher, i int) { h.text(string(p.Globs[i])) })
	h.number(int64(len(p.Ports)))
	for _, r := range p.Ports {
		h.number(int64(r.Lo), int64(r.Hi))
	}
	h.number(int64(len(p.MACs)))
	for _, m := range p.MACs {
		h.text(string(m[:]))
	}
	h.number(int64(len(p.Numbers)))
	for _, n := range p.Numbers {
		h.number(int64(n))
	}
}

func (h *hasher) outcome(o *Outcome) {
	h.number(int64(o.Kind), int64(len(o.Routes)))
	h.bool(o.Reject)
	h.routeName(o.Route)
	for _, r := range o.Routes {
		h.routeName(r)
	}
	hashValue(h, o.Mods.Throttle, func(i int) { h.text(h.p.Throttles[i].Name) })
	hashValue(h, o.Mods.Log, func(s string) { h.text(s) })
	hashValue(h, o.Mods.Mark, func(n uint32) { h.number(int64(n)) })
	hashValue(h, o.Mods.DSCP, func(n uint8) { h.number(int64(n)) })
}

func hashValue[T comparable](h *hasher, v flow.Value[T], write func(T)) {
	t, ok := v.Get()
	h.bool(ok)
	if ok {
		write(t)
	}
}
