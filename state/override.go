package state

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// maxReason bounds the text of an override, which is kept and journaled.
const maxReason = 200

// override is a forced output. The zero override forces nothing. It has no
// pointers that are written through.
type override struct {
	on     bool
	to     State
	since  time.Duration
	until  time.Duration
	reason string
}

func (o override) over(now time.Duration) bool { return o.on && now >= o.until }

// Force makes an uplink, or with -1 the whole host, look as if it were in a
// state, until the time until. The machine goes on underneath. Forcing the host
// forces the primary uplink with it unless that is forced by itself, so that
// rules and groups agree. A time that is not in the future changes nothing.
func (m Machine) Force(cfg Config, uplink int, to State, until time.Duration, reason string, now time.Duration) (Machine, []Transition) {
	m = m.begin(cfg, now)
	if uplink < -1 || uplink >= len(m.uplinks) || to > Recovery || until <= m.now {
		return m, nil
	}
	before := m.look(cfg)
	o := override{on: true, to: to, since: m.now, until: min(until, maxTime), reason: clip(reason)}
	if uplink < 0 {
		m.forced = o
	} else {
		m.uplinks[uplink].forced = o
	}
	m.choose(cfg, -1)
	return m, m.settle(cfg, before, func(int) string { return fmt.Sprintf("forced: %s", o.reason) })
}

// Clear ends the override of an uplink, or with -1 that of the whole host.
func (m Machine) Clear(cfg Config, uplink int, now time.Duration) (Machine, []Transition) {
	m = m.begin(cfg, now)
	if uplink < -1 || uplink >= len(m.uplinks) {
		return m, nil
	}
	before := m.look(cfg)
	if uplink < 0 {
		m.forced = override{}
	} else {
		m.uplinks[uplink].forced = override{}
	}
	m.choose(cfg, -1)
	return m, m.settle(cfg, before, func(int) string { return "the override was cleared" })
}

// override returns what is forced on an uplink, its own or the host's.
func (m Machine) override(cfg Config, i int) override {
	if o := m.uplinks[i].forced; o.on || i != cfg.Primary {
		return o
	}
	return m.forced
}

// output is an uplink's state as everyone sees it, and whether it is forced.
func (m Machine) output(cfg Config, i int) (State, bool) {
	if o := m.override(cfg, i); o.on {
		return o.to, true
	}
	return m.uplinks[i].state, false
}

// globalState is what `when: state` reads.
func (m Machine) globalState(cfg Config) State {
	if m.forced.on {
		return m.forced.to
	}
	global := Normal
	for i := range m.uplinks {
		s, _ := m.output(cfg, i)
		switch {
		case i == cfg.Primary && (s == Failover || s == Recovery):
			return s
		case i == cfg.Primary && s == Degraded, cfg.Uplinks[i].Required && s != Normal:
			global = Degraded
		}
	}
	return global
}

// clip bounds a reason without cutting a character.
func clip(s string) string {
	if len(s) <= maxReason {
		return s
	}
	n := maxReason
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
