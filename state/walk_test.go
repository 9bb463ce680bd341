package state

import (
	"testing"
	"time"
)

// reduced are the small parameters of state-machine.md: a tick is a nanosecond.
func reduced() (UplinkConfig, damping) {
	return UplinkConfig{
			DegradeAfter: 2, FailoverAfter: 2, DeadAfter: 2, ClearAfter: 2, ReviveAfter: 2, StableAfter: 3, RelapseAfter: 1,
			HoldDegraded: 2, HoldFailover: 2,
		}, damping{
			failover: 2, degraded: 1, limit: 8, unit: 2, suppress: 5, reuse: 2,
			maxFailover: 4, maxDegraded: 2, halving: 12,
		}
}

// normalise makes a core that behaves the same one tick later have the same
// value: times relative to now, counters no higher than any threshold.
func normalise(c core, now time.Duration) core {
	c.since = 0
	c.good, c.bad, c.dead = min(c.good, 3), min(c.bad, 3), min(c.dead, 3)
	c.holdUntil = max(0, c.holdUntil-now)
	if c.penalty == 0 {
		c.halvedAt = 0
	} else {
		c.halvedAt -= now
	}
	return c
}

func legal(from, to State) bool {
	switch from {
	case Normal:
		return to == Degraded || to == Failover
	case Degraded:
		return to == Normal || to == Failover
	case Failover:
		return to == Recovery
	default:
		return to == Normal || to == Failover
	}
}

// walked is what the exhaustive walk found.
type walked struct{ states, toNormal, toFailover, maxHoldFailover, maxHoldDegraded int }

// walk visits every state that any sequence of verdicts can reach.
func walk(t *testing.T) walked {
	u, d := reduced()
	seen := map[core]bool{{}: true}
	todo := []core{{}}
	w := walked{}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		w.states++
		if at.penalty < 0 || at.penalty > d.limit {
			t.Fatalf("penalty %d", at.penalty)
		}
		if at.suppressed && at.penalty <= d.reuse {
			t.Fatalf("suppressed at penalty %d", at.penalty)
		}
		w.toNormal = max(w.toNormal, ticksTo(t, at, good, Normal))
		w.toFailover = max(w.toFailover, ticksTo(t, at, dead, Failover))
		for v := good; v <= dead; v++ {
			next := at
			moved, _ := next.step(u, d, v, 1)
			if moved {
				if !legal(at.state, next.state) {
					t.Fatalf("%v -> %v on %v from %+v", at.state, next.state, v, at)
				}
				hold := int(next.holdUntil - 1)
				switch next.state {
				case Failover:
					w.maxHoldFailover = max(w.maxHoldFailover, hold)
				case Degraded:
					w.maxHoldDegraded = max(w.maxHoldDegraded, hold)
				}
				better := next.state == Normal && at.state == Degraded || next.state == Recovery
				if better && (v != good || at.holdUntil > 1) {
					t.Fatalf("%v -> %v on %v while held from %+v", at.state, next.state, v, at)
				}
			}
			next = normalise(next, 1)
			if !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	return w
}

// ticksTo is how many ticks of one verdict lead from c to a state.
func ticksTo(t *testing.T, c core, v verdict, to State) int {
	u, d := reduced()
	start := c
	for n := range 200 {
		if c.state == to {
			return n
		}
		c.step(u, d, v, time.Duration(n+1))
	}
	t.Fatalf("never %v with %v input from %+v", to, v, start)
	return 0
}

func TestWalk(t *testing.T) {
	w := walk(t)
	t.Logf("%+v", w)
	if w.states < 3000 || w.toNormal > 22 || w.toFailover > 3 || w.maxHoldFailover != 8 || w.maxHoldDegraded != 4 {
		t.Errorf("the walk saw too little: %+v", w)
	}
}

// flapping is the worst periodic input found: bad rounds, then good ones.
type flapping struct{ transitions, bad, good, plain int }

// searchFlapping tries every period of up to 20 bad (or dead) and 400 good rounds over
// an hour of seconds.
func searchFlapping(v verdict) flapping {
	u, d := DefaultUplink("u"), standard()
	worst := flapping{}
	for b := 1; b <= 20; b++ {
		for g := 1; g <= 400; g++ {
			var c core
			n := 0
			for s := range 3600 {
				in := v
				if s%(b+g) >= b {
					in = good
				}
				if moved, _ := c.step(u, d, in, time.Duration(s)*time.Second); moved {
					n++
				}
			}
			if n > worst.transitions {
				worst = flapping{transitions: n, bad: b, good: g}
			}
		}
	}
	// A plain threshold machine changes on every change of the verdict.
	last := good
	for s := range 3600 {
		in := good
		if s%2 == 1 {
			in = v
		}
		if in != last {
			worst.plain++
		}
		last = in
	}
	return worst
}

func TestPeriodicInput(t *testing.T) {
	for _, v := range []verdict{bad, dead} {
		if w := searchFlapping(v); w.transitions > 74 || w.transitions < 20 {
			t.Errorf("%v input: %+v", v, w)
		}
	}
}
