package state

import (
	"fmt"
	"slices"
	"time"
)

const (
	// maxProbes is how many answers of a round are looked at: more targets than
	// this say nothing more about a line.
	maxProbes = 64
	// minSilence is how long an uplink may go without a finished round, however
	// short its interval: a busy host is not a dead line.
	minSilence = 5 * time.Second
	// maxPause is how far apart two Ticks may be. After a longer gap whoever calls
	// Tick was stopped himself (suspended, starved, SIGSTOP): that he heard
	// nothing meanwhile says nothing about the lines.
	maxPause = 3 * time.Second
	// maxCatchUp bounds how many missing rounds one Tick accounts for: within
	// maxPause only very short intervals miss more, and FAILOVER needs fewer.
	maxCatchUp = 16
)

// Round is one finished probe round of an uplink (Down, or at least one
// Answer), or a passive report (neither). At is on the machine's logical clock;
// a time before one that was seen already counts as that one.
type Round struct {
	Uplink int // index into Config.Uplinks; others are ignored
	At     time.Duration
	Probes []Answer
	// Down says that the link is down or gone: the round is dead whatever was
	// answered. Report it with each round while it lasts; Link tells at once.
	Down bool
	// Dials were made since the last report, Failures of them failed or were
	// reset before the first byte. They join the next finished round.
	Dials, Failures int
}

// Answer is what one probe got. The RTT counts in whole microseconds.
type Answer struct {
	RTT  time.Duration
	Lost bool
}

// Transition is a change of a state as everyone sees it, overrides included.
type Transition struct {
	At       time.Duration
	Uplink   int // -1: the global state
	From, To State
	Why      string
}

// Machine is the health of every uplink, the choice of every group, and the
// global state, at one moment. It is a value: methods return a changed copy
// and never modify their receiver, so copies may be shared freely between
// goroutines. The zero Machine has no uplinks.
//
// Every method takes the Config the machine was made for; after a change of
// policy call Reconfigure first. Time is a duration since an epoch of the
// caller's choice and never runs backward inside.
type Machine struct {
	now         time.Duration
	started     bool
	ticked      time.Duration // the last Tick, if ticks
	ticks       bool
	uplinks     []uplink
	groups      []choice
	global      State
	globalSince time.Duration
	forced      override
}

// uplink is one uplink's record. It has no pointers.
type uplink struct {
	core
	window
	known   bool // there was a verdict
	down    bool // the link is down
	started bool // heard is set
	heard   time.Duration
	missed  int // missing rounds accounted for since heard

	last      verdict // the last one, if known
	lastSince time.Duration
	lastWhy   string
	forced    override
}

// New returns a machine at the beginning: every uplink NORMAL and unknown, its
// link up, nothing chosen but the first members.
func New(cfg Config) Machine {
	m := Machine{uplinks: make([]uplink, len(cfg.Uplinks)), groups: make([]choice, len(cfg.Groups))}
	for i, g := range cfg.Groups {
		m.groups[i] = newChoice(g)
	}
	return m
}

// clone returns a copy that shares nothing that is written to.
func (m Machine) clone(cfg Config) Machine {
	if len(m.uplinks) != len(cfg.Uplinks) || len(m.groups) != len(cfg.Groups) {
		// The caller forgot Reconfigure: a fresh start beats a wrong index.
		m = New(cfg)
	}
	m.uplinks = slices.Clone(m.uplinks)
	m.groups = slices.Clone(m.groups)
	for i := range m.groups {
		m.groups[i].betterSince = slices.Clone(m.groups[i].betterSince)
	}
	return m
}

// begin clones the machine and moves its clock.
func (m Machine) begin(cfg Config, now time.Duration) Machine {
	m = m.clone(cfg)
	if !m.started {
		m.started, m.now, m.globalSince = true, now, now
		for i := range m.uplinks {
			m.uplinks[i].since = now
		}
	}
	m.now = max(m.now, now)
	for i := range m.uplinks {
		if u := &m.uplinks[i]; !u.started {
			u.started, u.heard = true, m.now
		}
	}
	return m
}

// seen is every state as it looks from outside, before a change.
type seen struct {
	uplinks []State
	global  State
}

func (m Machine) look(cfg Config) seen {
	s := seen{uplinks: make([]State, len(m.uplinks)), global: m.global}
	for i := range m.uplinks {
		s.uplinks[i], _ = m.output(cfg, i)
	}
	return s
}

// settle recomputes the global state and lists what changed since before.
// why tells the cause for an uplink.
func (m *Machine) settle(cfg Config, before seen, why func(uplink int) string) []Transition {
	var out []Transition
	cause := ""
	for i := range m.uplinks {
		to, _ := m.output(cfg, i)
		if from := before.uplinks[i]; from != to {
			w := why(i)
			out = append(out, Transition{m.now, i, from, to, w})
			if cause == "" || i == cfg.Primary {
				cause = fmt.Sprintf("uplink %s: %s", cfg.Uplinks[i].Name, w)
			}
		}
	}
	if to := m.globalState(cfg); to != before.global {
		if cause == "" {
			cause = why(-1)
		}
		m.global, m.globalSince = to, m.now
		out = append(out, Transition{m.now, -1, before.global, to, cause})
	}
	return out
}

// Step takes a finished round or a passive report and returns what became of it.
func (m Machine) Step(cfg Config, r Round) (Machine, []Transition) {
	m = m.begin(cfg, r.At)
	if r.Uplink < 0 || r.Uplink >= len(m.uplinks) {
		return m, nil
	}
	before := m.look(cfg)
	u, c := &m.uplinks[r.Uplink], cfg.Uplinks[r.Uplink]
	u.addDials(r.Dials, r.Failures)
	why := ""
	switch {
	case c.Every <= 0:
		// No verdict: nothing would ever revive an uplink without probes.
		if r.Down || len(r.Probes) > 0 {
			u.down = r.Down
		}
	case r.Down || len(r.Probes) > 0:
		u.down, u.heard, u.missed = r.Down, m.now, 0
		why = u.finish(c, r, m.now)
	}
	failed := -1
	if r.Failures > 0 {
		failed = r.Uplink
	}
	m.choose(cfg, failed)
	return m, m.settle(cfg, before, func(int) string { return why })
}

// finish takes a finished round: measure, judge, move. It returns why the
// uplink moved, "" if it did not.
func (u *uplink) finish(c UplinkConfig, r Round, now time.Duration) string {
	rtt, lost := roundRTT(r.Probes)
	probes := int64(min(len(r.Probes), maxProbes))
	if r.Down {
		rtt, probes = -1, max(probes, 1)
		lost = probes
	}
	u.push(probes, lost, rtt)
	v, detail := u.judge(c, rtt)
	if r.Down {
		detail = "link down"
	}
	return u.take(c, v, detail, now)
}

// take moves by one verdict.
func (u *uplink) take(c UplinkConfig, v verdict, detail string, now time.Duration) string {
	if u.lastWhy == "" || u.last != v {
		u.lastSince = now
	}
	u.known, u.last, u.lastWhy = true, v, detail
	moved, why := u.step(c, standard(), v, now)
	if !moved {
		return ""
	}
	u.fresh = 0 // evidence is used once
	if v == good {
		return why
	}
	return why + " (" + detail + ")"
}

// Tick tells the time: rounds that are missing count as dead, penalties decay,
// overrides expire, and groups look at their timers. Call it at least once a
// second; more often changes nothing but the promptness. After a pause of more
// than three seconds the wait for rounds begins anew.
func (m Machine) Tick(cfg Config, now time.Duration) (Machine, []Transition) {
	m = m.begin(cfg, now)
	before := m.look(cfg)
	whys := make([]string, len(m.uplinks))
	paused := m.ticks && m.now-m.ticked > maxPause
	m.ticks, m.ticked = true, m.now
	for i := range m.uplinks {
		u, c := &m.uplinks[i], cfg.Uplinks[i]
		if paused {
			u.heard, u.missed = m.now, 0
		}
		if w := u.missing(c, m.now); w != "" {
			whys[i] = w
		}
		u.decay(standard(), m.now)
		if u.forced.over(m.now) {
			u.forced, whys[i] = override{}, "the override has expired"
		}
	}
	globalWhy := ""
	if m.forced.over(m.now) {
		m.forced, globalWhy = override{}, "the override has expired"
	}
	m.choose(cfg, -1)
	return m, m.settle(cfg, before, func(i int) string {
		if i < 0 || whys[i] == "" {
			return globalWhy
		}
		return whys[i]
	})
}

// missing counts the rounds that should have finished by now as dead.
func (u *uplink) missing(c UplinkConfig, now time.Duration) string {
	if c.Every <= 0 {
		return ""
	}
	why := ""
	for range maxCatchUp {
		due := u.heard + max(minSilence, 3*c.Every) + time.Duration(u.missed)*c.Every
		if now < due {
			return why
		}
		u.missed++
		u.push(1, 1, -1)
		if w := u.take(c, dead, "no finished round", now); w != "" {
			why = w
		}
	}
	// More were missed than are accounted for: go on from here.
	u.missed = int((now-u.heard-max(minSilence, 3*c.Every))/c.Every) + 1
	return why
}

// Link tells at once that an uplink's link is up or down. Decisions see it
// (World.Uplinks[i].Up); the state follows with the rounds.
func (m Machine) Link(cfg Config, uplink int, up bool, now time.Duration) (Machine, []Transition) {
	m = m.begin(cfg, now)
	if uplink < 0 || uplink >= len(m.uplinks) {
		return m, nil
	}
	before := m.look(cfg)
	m.uplinks[uplink].down = !up
	m.choose(cfg, -1)
	return m, m.settle(cfg, before, func(int) string { return "" })
}

// AskFailover sends the primary uplink to FAILOVER by its legal edge, because a
// decision `failover R` was carried out. It is ignored when the primary is in
// FAILOVER or RECOVERY already, and when it has no probes: nothing would bring
// it back.
func (m Machine) AskFailover(cfg Config, now time.Duration) (Machine, []Transition) {
	m = m.begin(cfg, now)
	p := cfg.Primary
	if p < 0 || p >= len(m.uplinks) || cfg.Uplinks[p].Every <= 0 {
		return m, nil
	}
	u := &m.uplinks[p]
	if u.state != Normal && u.state != Degraded {
		return m, nil
	}
	before := m.look(cfg)
	u.decay(standard(), m.now)
	u.enter(Failover, cfg.Uplinks[p], standard(), m.now)
	u.known, u.fresh = true, 0
	m.choose(cfg, -1)
	return m, m.settle(cfg, before, func(int) string { return "a rule asked for failover" })
}

// Reconfigure carries the machine over to another policy: uplinks and groups
// of the same name keep what is known of them, the rest begins anew.
func (m Machine) Reconfigure(old, cfg Config) Machine {
	m = m.clone(old)
	next := New(cfg)
	next.now, next.started, next.ticked, next.ticks = m.now, m.started, m.ticked, m.ticks
	next.forced = m.forced
	for i, c := range cfg.Uplinks {
		next.uplinks[i].since = m.now
		if j := slices.IndexFunc(old.Uplinks, func(o UplinkConfig) bool { return o.Name == c.Name }); j >= 0 {
			next.uplinks[i] = m.uplinks[j]
			if c.Every <= 0 && old.Uplinks[j].Every > 0 {
				next.uplinks[i] = uplink{down: m.uplinks[j].down, forced: m.uplinks[j].forced}
				next.uplinks[i].since = m.now
			}
		}
	}
	for i, g := range cfg.Groups {
		if j := slices.IndexFunc(old.Groups, func(o GroupConfig) bool { return o.Name == g.Name }); j >= 0 {
			next.groups[i] = m.groups[j].carry(old, old.Groups[j], cfg, g)
		}
	}
	next.global, next.globalSince = next.globalState(cfg), m.now
	if next.global == m.global {
		next.globalSince = m.globalSince
	}
	next.choose(cfg, -1)
	return next
}
