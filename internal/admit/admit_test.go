package admit

import (
	"net/netip"
	"testing"
)

func TestGate(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("2001:db8::1")
	g := Gate{Max: 3, MaxEach: 2}
	for _, s := range []struct {
		leave  bool
		client netip.Addr
		ok     bool
	}{
		{false, a, true},
		{false, a, true},
		{false, a, false}, // its own bound
		{false, b, true},
		{false, c, false}, // the bound of all
		{true, a, false},
		{false, a, true},
		{true, b, false},
		{false, c, true},
	} {
		if s.leave {
			g.Leave(s.client)
		} else if ok := g.Enter(s.client); ok != s.ok {
			t.Errorf("%v: %v, want %v: %+v", s.client, ok, s.ok, g.each)
		}
	}
	for _, x := range []netip.Addr{a, a, c} {
		g.Leave(x)
	}
	if len(g.each) != 0 || g.all != 0 {
		t.Errorf("left behind: %d, %v", g.all, g.each)
	}
	free := Gate{MaxEach: 1}
	if !free.Enter(a) || !free.Enter(b) || free.Enter(b) {
		t.Error("without a bound of all, each has its own")
	}
}
