package state

import (
	"cmp"
	"slices"
	"time"
)

const (
	// betterFor is how long a member must be better before a group switches.
	betterFor = 30 * time.Second
	// betterPart: better by at least a fifth (20 %) of the chosen member's RTT.
	betterPart = 5
	// never marks a member that is not better now.
	never = time.Duration(-1)
)

// choice is what a lowest_latency group has chosen.
type choice struct {
	member      int // index into GroupConfig.Members, -1: no members, or does not select
	since       time.Duration
	provisional bool            // chosen before there was anything to compare: min_hold does not bind
	betterSince []time.Duration // for each member: since when it is better, or never
}

func newChoice(g GroupConfig) choice {
	c := choice{member: -1, provisional: true}
	if g.Select && len(g.Members) > 0 {
		c.member = 0
		c.betterSince = slices.Repeat([]time.Duration{never}, len(g.Members))
	}
	return c
}

// carry brings the choice over to another policy: the same uplink stays chosen
// if it still is a member. Timers begin anew.
func (c choice) carry(old Config, from GroupConfig, cfg Config, to GroupConfig) choice {
	next := newChoice(to)
	if c.member < 0 || next.member < 0 {
		return next
	}
	name := memberName(old, from, c.member)
	for i := range to.Members {
		if memberName(cfg, to, i) == name {
			next.member, next.since, next.provisional = i, c.since, c.provisional
			return next
		}
	}
	return next
}

func memberName(cfg Config, g GroupConfig, i int) string {
	if u := g.Members[i]; u >= 0 && u < len(cfg.Uplinks) {
		return cfg.Uplinks[u].Name
	}
	return ""
}

// candidate is a member as a group compares it.
type candidate struct {
	rank int // 0: may be chosen; 1: recovering; 2: failed with the link up; 3: failed
	lost int64
	rtt  int64 // microseconds; the largest number when not measured
	shy  bool  // the link is down or its last round was dead: leave it when a dial fails
}

const unmeasured = int64(^uint64(0) >> 1)

func (m Machine) candidate(cfg Config, i int) candidate {
	if i < 0 || i >= len(m.uplinks) {
		return candidate{rtt: unmeasured} // a route without an uplink is always usable
	}
	u := &m.uplinks[i]
	s, forced := m.output(cfg, i)
	c := candidate{rtt: unmeasured, shy: u.down || u.dead > 0}
	if u.nRTT > 0 {
		c.rtt = u.ewma
	}
	switch {
	case s == Failover || !forced && !u.known && u.down:
		t, _ := u.totals(u.n)
		c.rank, c.lost = 2, t.lost
		if u.down {
			c.rank = 3
		}
	case s == Recovery:
		c.rank = 1
	}
	return c
}

func compareCandidates(a, b candidate) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.lost, b.lost), cmp.Compare(a.rtt, b.rtt))
}

// choose lets every group that selects look at its members. failed is the
// uplink on which a dial has just failed, -1 for none.
func (m *Machine) choose(cfg Config, failed int) {
	for i, g := range cfg.Groups {
		if c := &m.groups[i]; c.member >= 0 {
			m.chooseMember(cfg, g, c, failed)
		}
	}
}

func (m *Machine) chooseMember(cfg Config, g GroupConfig, c *choice, failed int) {
	all := make([]candidate, len(g.Members))
	unknown := true
	for i, u := range g.Members {
		all[i] = m.candidate(cfg, u)
		unknown = unknown && (u < 0 || !m.uplinks[u].known)
	}
	now, best := all[c.member], 0
	for i := range all {
		if compareCandidates(all[i], all[best]) < 0 {
			best = i
		}
	}
	dialFailed := failed >= 0 && g.Members[c.member] == failed
	switch {
	case unknown:
		// Nothing to compare yet: the first whose link is up.
		if i := slices.IndexFunc(all, func(o candidate) bool { return o.rank == 0 }); i >= 0 {
			c.set(i, m.now, true)
		}
		return
	case now.rank >= 2:
		// The chosen one has failed: leave at once for one that has not. Among
		// failed ones only a link that is up is worth a move: no flapping.
		if all[best].rank < 2 || all[best].rank < now.rank {
			c.set(best, m.now, false)
		}
		return
	case now.shy && dialFailed:
		if i := bestOther(all, c.member); i >= 0 {
			c.set(i, m.now, false)
			return
		}
	}
	m.compareTimes(g, c, all, dialFailed)
}

// bestOther is the best healthy member besides the chosen one whose last round was answered.
func bestOther(all []candidate, chosen int) int {
	best := -1
	for i, o := range all {
		if i == chosen || o.rank != 0 || o.shy {
			continue
		}
		if best < 0 || compareCandidates(o, all[best]) < 0 {
			best = i
		}
	}
	return best
}

// compareTimes moves to the fastest of the members that have been better for
// long enough. urgent waives the waiting.
func (m *Machine) compareTimes(g GroupConfig, c *choice, all []candidate, urgent bool) {
	now := all[c.member]
	to := -1
	for i, o := range all {
		better := o.rank == 0 && now.rtt != unmeasured && o.rtt != unmeasured &&
			o.rtt+max(g.Tolerance.Microseconds(), now.rtt/betterPart) < now.rtt
		switch {
		case !better:
			c.betterSince[i] = never
			continue
		case c.betterSince[i] == never:
			c.betterSince[i] = m.now
		}
		held := c.provisional || m.now-c.since >= g.MinHold
		if !urgent && (!held || m.now-c.betterSince[i] < betterFor) {
			continue
		}
		if to < 0 || o.rtt < all[to].rtt {
			to = i
		}
	}
	if to >= 0 {
		c.set(to, m.now, false)
	}
}

// set chooses a member and starts the timers anew.
func (c *choice) set(member int, now time.Duration, provisional bool) {
	if c.member == member && c.provisional == provisional {
		return
	}
	if c.member != member {
		c.since = now
	}
	c.member, c.provisional = member, provisional
	for i := range c.betterSince {
		c.betterSince[i] = never
	}
}
