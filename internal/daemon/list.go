package daemon

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/rules"
)

// portion is how many flows the loop looks at in one go for a list: with a text
// to look for, one or two milliseconds, as for a full page (BenchmarkList).
const portion = 4096

// rateLife is how long a rate is believed without a new reading; the slowest
// source reads every ten seconds, and tells nothing of a flow that rests.
const rateLife = 12 * time.Second

// maxNamed is how many names out of DNS stand for one address in lists and records: it may have
// dozens, and whoever has a domain gives it as many.
const maxNamed = 4

// traffic is what a flow has carried, and how fast. Sources count differently
// (payload, or packets with their headers): one at a time is believed, and
// sockdiag, which reads every second, before others.
type traffic struct {
	up, down         uint64
	upRate, downRate uint64 // bytes a second, between the last two readings
	retrans          uint64
	at               int64 // when it was read last, in nanoseconds of the wall clock; 0: never
	sockets          bool  // sockdiag reads it
}

func (m *traffic) take(e *inspector.Event, wall time.Time) {
	s, sockets := &e.Stats, e.Source == "sockdiag"
	m.retrans = max(m.retrans, s.Retrans)
	if s.BytesUp+s.BytesDown == 0 || m.sockets && !sockets {
		return
	}
	at := wall.UnixNano()
	since := time.Duration(at - m.at)
	switch {
	case m.at == 0 || sockets != m.sockets:
		*m = traffic{up: s.BytesUp, down: s.BytesDown, retrans: m.retrans, at: at, sockets: sockets}
	case since > 0:
		m.upRate, m.downRate = rate(m.up, s.BytesUp, since), rate(m.down, s.BytesDown, since)
		m.up, m.down, m.at = max(m.up, s.BytesUp), max(m.down, s.BytesDown), at
	}
}

// rate returns the bytes a second from one reading to the next.
func rate(from, to uint64, since time.Duration) uint64 {
	if to <= from {
		return 0
	}
	return uint64(float64(to-from) / since.Seconds())
}

// rates returns bytes a second as of now.
func (m *traffic) rates(wall time.Time) (up, down uint64) {
	if wall.UnixNano()-m.at > int64(rateLife) {
		return 0, 0
	}
	return m.upRate, m.downRate
}

// follow begins to follow a flow.
func (c *core) follow(t *tracked) {
	t.place = len(c.roster)
	c.roster = append(c.roster, t)
	c.flows[t.key] = t
}

// forget ends that, for a reason of the API's; an unknown key is nothing to forget.
func (c *core) forget(k flowKey, reason string) {
	t := c.flows[k]
	if t == nil {
		return
	}
	c.out.ended = append(c.out.ended, ended{t.n, t.traffic.up, t.traffic.down, t.began, t.flow.RTT, reason})
	delete(c.flows, k)
	last := len(c.roster) - 1
	c.roster[t.place] = c.roster[last]
	c.roster[t.place].place = t.place
	c.roster[last] = nil
	c.roster = c.roster[:last]
}

// listed is a flow in a list that is being made. Only the loop looks into it.
type listed struct {
	flow *tracked
	n    uint64
	by   int64
}

// scan adds to list the flows of the roster from place on that match, one
// portion, and to total all that may be listed, and returns the place to go on from, -1 at the end.
func (c *core) scan(list []listed, total *int, place int, q *api.FlowsRequest, wall time.Time) ([]listed, int) {
	end := min(place+portion, len(c.roster))
	for _, t := range c.roster[min(place, end):end] {
		if c.ours(t) {
			continue
		}
		*total++
		if q.Match == "" || t.contains(q.Match) {
			list = append(list, listed{t, t.n, t.rank(q.Sort, wall)})
		}
	}
	if end == len(c.roster) {
		end = -1
	}
	return list, end
}

// rank is what a flow is listed by: the largest stands first.
func (t *tracked) rank(order string, wall time.Time) int64 {
	switch order {
	case api.ByRate:
		up, down := t.traffic.rates(wall)
		return int64(up + down)
	case api.ByRTT:
		if rtt, ok := t.flow.RTT.Get(); ok {
			return rtt
		}
		return -1
	case api.ByAge:
		if t.began.IsZero() {
			return int64(1) << 62
		}
		return int64(wall.Sub(t.began))
	default:
		return int64(t.traffic.up + t.traffic.down)
	}
}

// contains reports whether the text, in lower case, is part of what people know
// the flow by.
func (t *tracked) contains(text string) bool {
	name, _ := nameOf(&t.flow)
	process, _ := t.flow.Process.Get()
	for _, s := range []string{name, process, t.outcome.rule, t.outcome.route, t.outcome.asked} {
		if strings.Contains(strings.ToLower(s), text) {
			return true
		}
	}
	var buf [64]byte
	for _, a := range []netip.AddrPort{t.key.dst, t.key.src} {
		if strings.Contains(string(a.AppendTo(buf[:0])), text) {
			return true
		}
	}
	return false
}

// copies returns copies of those of the flows that are still followed. While
// flows wait to be decided again their decisions may be another policy's: then
// the copies are decided by the present one.
func (c *core) copies(list []listed) []tracked {
	out := make([]tracked, 0, len(list))
	for _, x := range list {
		if c.flows[x.flow.key] != x.flow {
			continue
		}
		t := *x.flow
		if c.waits() {
			c.live.prog.DecideInto(&t.decision, &t.flow, c.live.world)
		}
		out = append(out, t)
	}
	return out
}

// Flows lists the connections that are followed, in portions, so that the loop
// is held for a millisecond or two at a time. With more flows than one portion has, a
// few may be left out when others end meanwhile.
func (d *Daemon) Flows(ctx context.Context, q api.FlowsRequest) (api.Flows, error) {
	q.Match = strings.ToLower(q.Match)
	out := api.Flows{Now: time.Now(), Flows: []api.Flow{}}
	var list []listed
	for place := 0; place >= 0; {
		err := d.call(ctx, func(l *loop) error {
			list, place = l.core.scan(list, &out.Total, place, &q, out.Now)
			return nil
		})
		if err != nil {
			return api.Flows{}, err
		}
	}
	slices.SortFunc(list, func(a, b listed) int { return cmp.Or(cmp.Compare(b.by, a.by), cmp.Compare(a.n, b.n)) })
	out.Matched = len(list)
	from := min(q.Offset, len(list))
	list = list[from:min(from+q.Limit, len(list))]

	var flows []tracked
	var by live
	err := d.call(ctx, func(l *loop) error {
		flows, by = l.core.copies(list), l.core.live
		return nil
	})
	if err != nil {
		return api.Flows{}, err
	}
	for i := range flows {
		out.Flows = append(out.Flows, flows[i].describe(&by, out.Now))
	}
	return out, nil
}

// describe returns the flow as the API spells it; l must be what it was decided by.
func (t *tracked) describe(l *live, wall time.Time) api.Flow {
	out := api.Flow{
		ID: strconv.FormatUint(t.n, 10), Flow: flowJSON(&t.flow), Decision: decisionJSON(l.prog, "", &t.decision), Source: t.source, Age: -1, RTTms: -1,
		Retransmits: t.traffic.retrans, BytesUp: t.traffic.up, BytesDown: t.traffic.down,
	}
	out.Name, out.NameFrom = nameOf(&t.flow)
	out.Uplink, out.PinnedRoute = whereTo(l.policy, &t.decision, t.route)
	out.Pinned, out.Killed = out.PinnedRoute != "", t.killed
	out.UpRate, out.DownRate = t.traffic.rates(wall)
	if !t.began.IsZero() {
		out.Age = max(wall.Sub(t.began), 0).Round(time.Millisecond).Seconds()
	}
	if rtt, ok := t.flow.RTT.Get(); ok {
		out.RTTms = float64(rtt) / 1000
	}
	return out
}

// whereTo returns the line that a flow with this decision leaves by, "" for none,
// and the route that it stays on where that is another one than it is given now.
// on is the route in its mark, -1 when that is not known.
func whereTo(p *rules.Policy, d *engine.Decision, on int) (uplink, pinned string) {
	route := d.Route
	if on >= 0 && route >= 0 && on != route && !d.Blocked() {
		pinned, route = p.Routes[on].Name, on
	}
	if route >= 0 {
		if u := uplinkOf(p, route); u >= 0 {
			uplink = p.Uplinks[u].Name
		}
	}
	return uplink, pinned
}

// nameOf returns the best name that is known of a flow's far end, and the fact
// that it comes from.
func nameOf(f *flow.Flow) (name, from string) {
	if n, ok := f.SNI.Get(); ok {
		return n, "sni"
	}
	if n, ok := f.HTTPHost.Get(); ok {
		return n, "http_host"
	}
	var names []string
	for n := range f.DNS.All() {
		if names = append(names, n); len(names) == maxNamed {
			break
		}
	}
	if len(names) > 0 {
		return strings.Join(names, ","), "dns"
	}
	return "", ""
}
