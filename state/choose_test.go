package state

import (
	"testing"
	"time"
)

// twoUplinks has a group that selects between a, b and, if plain, a route
// without an uplink.
func twoUplinks(plain bool) Config {
	cfg := Config{
		Uplinks: []UplinkConfig{DefaultUplink("a"), DefaultUplink("b")},
		Groups:  []GroupConfig{{Name: "best", Select: true, Members: []int{0, 1}, Tolerance: 30 * time.Millisecond, MinHold: 60 * sec}},
	}
	if plain {
		cfg.Groups[0].Members = append(cfg.Groups[0].Members, -1)
	}
	return cfg
}

// pair runs n rounds in which a and b answer in the given milliseconds, with a tick each.
func (l *driver) pair(n, a, b int) *driver {
	for range n {
		l.step(Round{Uplink: 0, At: l.now, Probes: ms(a)})
		l.step(Round{Uplink: 1, At: l.now, Probes: ms(b)})
		l.tick()
		l.now += sec
	}
	return l
}

func (l *driver) chosen() int { return l.m.World(l.cfg).Selected[0] }

// untilChosen is how many seconds of rounds it takes until the member is chosen.
func (l *driver) untilChosen(member, a, b int) int {
	for n := range 300 {
		if l.chosen() == member {
			return n
		}
		l.pair(1, a, b)
	}
	return -1
}

func TestSelection(t *testing.T) {
	for _, c := range []struct {
		name             string
		a, b, then, also int // milliseconds of a and b, first for 100 s, then on
		seconds          int // until b is chosen after the change; -1: never
	}{
		{"equal", 20, 20, 20, 20, -1},
		{"29 ms better is not enough", 20, 20, 49, 20, -1},
		{"30 ms better is not enough", 20, 20, 50, 20, -1},
		{"60 ms better", 20, 20, 80, 20, 33}, // 31 rounds, after two until the EWMA has gone 30 ms up
	} {
		t.Run(c.name, func(t *testing.T) {
			l := drive(t, twoUplinks(false)).pair(100, c.a, c.b)
			if l.chosen() != 0 {
				t.Fatalf("chose %d", l.chosen())
			}
			n := l.untilChosen(1, c.then, c.also)
			if n != c.seconds {
				t.Errorf("chosen after %d s, want %d", n, c.seconds)
			}
		})
	}
}

func TestTwentyPerCent(t *testing.T) {
	// With 500 ms (and DEGRADED far away), 20 % is 100 ms: 90 is not enough.
	cfg := twoUplinks(false)
	for i := range cfg.Uplinks {
		cfg.Uplinks[i].RTT = Threshold{Enter: 900_000, Exit: 800_000}
	}
	if n := drive(t, cfg).untilChosen(1, 500, 410); n >= 0 {
		t.Errorf("chosen after %d s", n)
	}
	if n := drive(t, cfg).untilChosen(1, 500, 399); n != 31 {
		t.Errorf("chosen after %d s, want 31 rounds", n)
	}
}

func TestMinHold(t *testing.T) {
	l := drive(t, twoUplinks(false))
	if n := l.untilChosen(1, 100, 20); n != 31 {
		t.Fatalf("the first choice is provisional: %d s", n)
	}
	since := l.now - sec
	l.untilChosen(0, 20, 100)
	if held := l.now - sec - since; held < 60*sec || held > 61*sec {
		t.Errorf("held for %v", held)
	}
}

func TestSelectionLeavesAtOnce(t *testing.T) {
	l := drive(t, twoUplinks(true)).pair(5, 10, 10)
	l.pair(2, lost, 10)
	if l.chosen() != 0 {
		t.Error("left before FAILOVER")
	}
	l.pair(1, lost, 10)
	if l.chosen() != 1 {
		t.Error("did not leave at FAILOVER")
	}
	// Both gone: the route without an uplink is always usable.
	l.pair(3, lost, lost)
	if l.chosen() != 2 {
		t.Errorf("chose %d", l.chosen())
	}
	// A recovering member is no candidate, and an unmeasured one is not left for speed.
	if n := l.untilChosen(0, 10, 10); n >= 0 {
		t.Errorf("left the plain route after %d s", n)
	}
}

func TestBestOfBad(t *testing.T) {
	l := drive(t, twoUplinks(false)).pair(5, 10, 10)
	l.pair(3, lost, 10).pair(3, lost, lost)
	if l.chosen() != 1 {
		t.Errorf("chose %d, want the one that lost fewer", l.chosen())
	}
	// Its link goes: the other one's is up.
	l.m, _ = l.m.Link(l.cfg, 1, false, l.now)
	if l.chosen() != 0 {
		t.Error("a link that is up comes first")
	}
}

func TestSelectionBeforeVerdicts(t *testing.T) {
	l := drive(t, twoUplinks(false))
	if l.chosen() != 0 {
		t.Fatalf("chose %d", l.chosen())
	}
	l.m, _ = l.m.Link(l.cfg, 0, false, 0)
	if l.chosen() != 1 {
		t.Errorf("chose %d, want the first whose link is up", l.chosen())
	}
	l.m, _ = l.m.Link(l.cfg, 0, true, 0)
	if l.chosen() != 0 {
		t.Errorf("chose %d", l.chosen())
	}
}

func TestFailedDial(t *testing.T) {
	dial := func(l *driver) { l.step(Round{Uplink: 0, At: l.now, Dials: 1, Failures: 1}) }
	l := drive(t, twoUplinks(false)).pair(5, 20, 20)
	dial(l)
	if l.chosen() != 0 {
		t.Error("left for an equal one")
	}
	l.pair(1, lost, 20)
	dial(l)
	if l.chosen() != 1 {
		t.Error("a dial failed and the last round was lost")
	}
	l = drive(t, twoUplinks(false)).pair(5, 80, 20)
	dial(l)
	if l.chosen() != 1 {
		t.Error("a dial failed and another is faster")
	}
}

func TestSelectionSurvivesReload(t *testing.T) {
	old := twoUplinks(false)
	l := drive(t, old)
	l.untilChosen(1, 100, 20)
	cfg := twoUplinks(true)
	cfg.Groups[0].Members = []int{-1, 1, 0}
	if got := l.m.Reconfigure(old, cfg).World(cfg).Selected[0]; got != 1 {
		t.Errorf("chose %d", got)
	}
	cfg.Groups[0].Members = []int{-1, 0}
	if got := l.m.Reconfigure(old, cfg).World(cfg).Selected[0]; got != 0 {
		t.Errorf("chose %d", got)
	}
	cfg.Groups[0].Select = false
	if got := l.m.Reconfigure(old, cfg).World(cfg).Selected[0]; got != -1 {
		t.Errorf("chose %d", got)
	}
}
