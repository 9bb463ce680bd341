package state

import (
	"testing"
	"time"
)

// TestJitter: the figures are by hand, in sixteenths of microseconds: 160,000; 160,000
// + 5,000 - 10,000 = 155,000; a lost round; 155,000 + 0 - 9,688 = 145,312.
func TestJitter(t *testing.T) {
	l := drive(t, oneUplink())
	want := func(us time.Duration) {
		t.Helper()
		if got := l.m.World(l.cfg).Uplinks[0].Jitter; got != us*time.Microsecond {
			t.Errorf("jitter %v, want %d us", got, us)
		}
		back, _, err := Resume(l.cfg, l.m.Encode(l.cfg, "p", "b"), "b", "p", l.now)
		if err != nil || back.World(l.cfg).Uplinks[0].Jitter >= 0 {
			t.Errorf("after a restart %v, %v: want nothing measured", back.World(l.cfg).Uplinks[0].Jitter, err)
		}
	}
	if got := l.round(20).m.World(l.cfg).Uplinks[0].Jitter; got >= 0 {
		t.Errorf("jitter %v of one answer", got)
	}
	l.round(30)
	want(10_000)
	l.round(25)
	want(155_000 / 16)
	l.round(lost)
	want(155_000 / 16)
	l.round(25)
	want(145_312 / 16)
	if got := l.m.Status(l.cfg)[0].Jitter; got != 9082*time.Microsecond {
		t.Errorf("status tells %v", got)
	}
}
