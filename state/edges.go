package state

import (
	"fmt"
	"time"
)

// maxRun bounds the run counters: years of good rounds are no better than a day
// of them, and a state file can tell a damaged counter.
const maxRun = 1 << 20

// damping makes a line that fails again and again wait longer each time. The
// units of the penalty are arbitrary.
type damping struct {
	failover, degraded, limit int // added on entering, and the most there can be
	unit                      int // each whole unit of penalty doubles the hold
	suppress, reuse           int // suppressed from the one on, until down to the other
	maxFailover, maxDegraded  int // the most that a hold is multiplied by
	halving                   time.Duration
}

// standard is the damping of state-machine.md.
func standard() damping {
	return damping{
		failover: 1000, degraded: 500, limit: 6000, unit: 1000,
		suppress: 3000, reuse: 1000, maxFailover: 16, maxDegraded: 12, halving: 300 * time.Second,
	}
}

// core is the four-state machine of one uplink, without measurements. It has no
// pointers. The zero core is NORMAL since the epoch.
type core struct {
	state           State
	since           time.Duration
	good, bad, dead int
	penalty         int
	halvedAt        time.Duration // the last halving, or when the penalty became non-zero
	suppressed      bool
	holdUntil       time.Duration
}

// decay halves the penalty as often as time says and lifts suppression.
func (c *core) decay(d damping, now time.Duration) {
	for c.penalty > 0 && now-c.halvedAt >= d.halving {
		c.penalty /= 2
		c.halvedAt += d.halving
	}
	if c.penalty <= d.reuse {
		c.suppressed = false
	}
}

// step takes one verdict and at most one edge; moved says whether it did, and
// why tells what the counters said.
func (c *core) step(u UplinkConfig, d damping, v verdict, now time.Duration) (moved bool, why string) {
	c.decay(d, now)
	c.count(v)
	to, why := c.edge(u, now)
	if to == c.state {
		return false, ""
	}
	c.enter(to, u, d, now)
	return true, why
}

func (c *core) count(v verdict) {
	switch v {
	case good:
		c.good, c.bad, c.dead = c.good+1, 0, 0
	case grey:
		c.good, c.bad, c.dead = 0, max(0, c.bad-1), 0
	case bad:
		c.good, c.bad, c.dead = 0, c.bad+1, 0
	case dead:
		c.good, c.bad, c.dead = 0, c.bad+1, c.dead+1
	}
	c.good, c.bad, c.dead = min(c.good, maxRun), min(c.bad, maxRun), min(c.dead, maxRun)
}

// edge is where the counters lead: FAILOVER is tried first, then DEGRADED,
// then the better state. No edge: the state itself.
func (c *core) edge(u UplinkConfig, now time.Duration) (to State, why string) {
	free := now >= c.holdUntil && !c.suppressed
	switch c.state {
	case Normal, Degraded:
		if c.dead >= u.DeadAfter {
			return Failover, fmt.Sprintf("%d dead rounds", c.dead)
		}
		if c.state == Degraded && c.bad >= u.FailoverAfter || c.state == Normal && c.bad >= u.DegradeAfter {
			return c.state + 1, fmt.Sprintf("%d bad rounds", c.bad)
		}
		if c.state == Degraded && c.good >= u.ClearAfter && free {
			return Normal, fmt.Sprintf("%d good rounds", c.good)
		}
	case Failover:
		if c.good >= u.ReviveAfter && free {
			return Recovery, fmt.Sprintf("%d good rounds", c.good)
		}
	case Recovery:
		if c.bad >= u.RelapseAfter {
			return Failover, fmt.Sprintf("relapse: %d bad rounds", c.bad)
		}
		if c.good >= u.StableAfter {
			return Normal, fmt.Sprintf("stable for %d good rounds", c.good)
		}
	}
	return c.state, ""
}

// enter goes to a state: counters start anew (dead goes on, so that three dead
// rounds in a row always mean FAILOVER), and the worse states add penalty and hold.
func (c *core) enter(to State, u UplinkConfig, d damping, now time.Duration) {
	c.state, c.since = to, now
	c.good, c.bad = 0, 0
	c.holdUntil = now
	switch to {
	case Failover:
		c.punish(d, d.failover, now)
		c.holdUntil = now + u.HoldFailover*multiplier(c.penalty/d.unit-1, d.maxFailover)
	case Degraded:
		c.punish(d, d.degraded, now)
		c.holdUntil = now + u.HoldDegraded*multiplier(c.penalty/d.unit, d.maxDegraded)
	}
}

func (c *core) punish(d damping, amount int, now time.Duration) {
	if c.penalty == 0 {
		c.halvedAt = now
	}
	c.penalty = min(d.limit, c.penalty+amount)
	if c.penalty >= d.suppress {
		c.suppressed = true
	}
}

// multiplier is min(limit, 2^exponent).
func multiplier(exponent, limit int) time.Duration {
	m := 1
	for range exponent {
		if m >= limit {
			break
		}
		m *= 2
	}
	return time.Duration(min(m, limit))
}

// liftAt is when the suppression will be lifted if nothing more happens.
func (c *core) liftAt(d damping) time.Duration {
	at := c.halvedAt
	for p := c.penalty; p > d.reuse; p /= 2 {
		at += d.halving
	}
	return at
}

// recoveryShare is the percentage of new flows for a recovering uplink.
func recoveryShare(good int) int {
	switch {
	case good >= 12:
		return 100
	case good >= 8:
		return 50
	case good >= 4:
		return 25
	}
	return 10
}
