package state

import "time"

// UplinkStatus is everything `status` shows of one uplink. Times are on the
// machine's clock.
type UplinkStatus struct {
	Name  string
	State State         // as everyone sees it
	Under State         // what the machine itself says; differs from State only when forced
	Since time.Duration // when State began; while forced, when that began
	// Unknown is true until the first verdict, Up false when the link is down.
	Unknown, Up     bool
	Good, Bad, Dead int // rounds in a row
	Penalty         int
	Suppressed      bool
	LiftAt          time.Duration // when suppression ends; set when Suppressed
	HoldUntil       time.Duration // before this the state does not get better
	Share           int           // per cent of new flows that groups give it
	RTT, P90        time.Duration // negative until measured
	Jitter          time.Duration // negative until there were two round-trip times
	Loss, ErrorRate int64         // parts per million; negative until measured
	// Verdict is the last round's: "good", "grey", "bad" or "dead", and "" before
	// the first; the same since VerdictSince. VerdictWhy names what kept it from
	// being better: "rtt 400 ms, enter 120 ms", "no answer".
	Verdict, VerdictWhy string
	VerdictSince        time.Duration
	// Grey is VerdictWhy while the verdict is grey, else "": what keeps the
	// uplink where it is, "rtt 104 ms, exit 90 ms".
	Grey      string
	GreySince time.Duration
	Forced    Forced
}

// Forced is an override. The zero Forced is none.
type Forced struct {
	On     bool
	To     State
	Until  time.Duration
	Reason string
}

// HostStatus is what `status` shows of the whole host.
type HostStatus struct {
	State  State
	Since  time.Duration
	Forced Forced
}

// Status returns every uplink's status, in the order of the policy.
func (m Machine) Status(cfg Config) []UplinkStatus {
	m = m.clone(cfg)
	w := m.World(cfg)
	out := make([]UplinkStatus, len(m.uplinks))
	for i := range m.uplinks {
		u, l := &m.uplinks[i], w.Uplinks[i]
		s := UplinkStatus{
			Name: cfg.Uplinks[i].Name, State: l.State, Under: u.state, Since: u.since,
			Unknown: !u.known, Up: l.Up, Good: u.good, Bad: u.bad, Dead: u.dead,
			Penalty: u.penalty, Suppressed: u.suppressed, HoldUntil: u.holdUntil, Share: l.Share,
			RTT: l.RTT, P90: l.P90, Jitter: l.Jitter, Loss: l.Loss, ErrorRate: l.ErrorRate,
			Forced: m.override(cfg, i).public(),
		}
		if o := m.override(cfg, i); o.on {
			s.Since = o.since
		}
		if u.lastWhy != "" {
			s.Verdict, s.VerdictWhy, s.VerdictSince = u.last.String(), u.lastWhy, u.lastSince
			if u.last == grey {
				s.Grey, s.GreySince = u.lastWhy, u.lastSince
			}
		}
		if u.suppressed {
			s.LiftAt = u.liftAt(standard())
		}
		out[i] = s
	}
	return out
}

// Host returns the whole host's status.
func (m Machine) Host() HostStatus {
	return HostStatus{m.global, m.globalSince, m.forced.public()}
}

func (o override) public() Forced { return Forced{o.on, o.to, o.until, o.reason} }

// World returns the snapshot that decisions read.
func (m Machine) World(cfg Config) World {
	m = m.clone(cfg)
	w := World{
		Global: m.global, Primary: cfg.Primary,
		Uplinks: make([]Link, len(m.uplinks)), Selected: make([]int, len(m.groups)),
	}
	for i := range m.uplinks {
		w.Uplinks[i] = m.link(cfg, i)
	}
	for i := range m.groups {
		w.Selected[i] = m.groups[i].member
	}
	return w
}

func (m Machine) link(cfg Config, i int) Link {
	u := &m.uplinks[i]
	s, forced := m.output(cfg, i)
	l := Link{State: s, Unknown: !u.known && !forced, Up: !u.down, RTT: -1, P90: -1, Jitter: -1, Loss: -1, ErrorRate: -1, Usage: -1}
	switch {
	case l.Unknown && u.down, s == Failover:
		l.Share = 0
	case s == Recovery && forced:
		l.Share = recoveryShare(0)
	case s == Recovery:
		l.Share = recoveryShare(u.good)
	default:
		l.Share = 100
	}
	if u.nRTT > 0 {
		l.RTT = time.Duration(u.ewma) * time.Microsecond
		l.P90 = time.Duration(u.p90()) * time.Microsecond
	}
	if u.nRTT > 1 {
		l.Jitter = time.Duration(u.jitter/16) * time.Microsecond
	}
	t, _ := u.totals(u.n)
	l.Lost = int(t.lost)
	if t.probes > 0 {
		l.Loss = perMillion(t.lost, t.probes)
	}
	if t.dials > 0 {
		l.ErrorRate = perMillion(t.failures, t.dials)
	}
	return l
}
