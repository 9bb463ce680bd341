package host

import (
	"context"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// TestDrift lets another process change what is ours, one thing after the other:
// each is noticed, and the next Apply puts it back.
func TestDrift(t *testing.T) {
	newLab(t)
	e, err := New(Config{StateDir: t.TempDir(), Shared: true})
	must(t, err)
	defer e.Close()
	p := lines(rules.Last)
	plan := planFor(t, e, p, engine.OfflineWorld(p, state.Normal))
	must(t, e.Apply(t.Context(), plan))

	found := make(chan string, 64)
	here := nstest.Here(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { // sockets belong to the namespace of the thread that makes them
		here.Do(t, func() { done <- e.nft.Watch(ctx, e.tableChanged(func(what string) { found <- what })) })
	}()
	go func() {
		here.Do(t, func() { done <- e.watchRoutes(ctx, func(what string) { found <- what }) })
	}()
	defer func() {
		cancel()
		must(t, <-done)
		must(t, <-done)
	}()
	// told reads until it is told what is wanted, or nothing is for so long.
	told := func(do, want string, patience time.Duration) bool {
		for {
			select {
			case what := <-found:
				if strings.Contains(what, want) {
					return true
				}
				t.Logf("%s: also %q", do, what)
			case <-time.After(patience):
				return false
			}
		}
	}
	seen := func(do, want string) {
		t.Helper()
		if !told(do, want, time.Minute) {
			t.Fatalf("%s: not noticed, want %q", do, want)
		}
	}
	// Until both watch, a change may go unseen.
	for do, want := range map[string]string{
		"nft add chain inet netpolicy probe; nft delete chain inet netpolicy probe": "chain probe removed",
		"ip -6 rule del priority 20000":                                             "gone: ip -6 rule add priority 20000",
	} {
		for sh(t, "%s", do); !told(do, want, 20*time.Millisecond); sh(t, "%s", do) {
			must(t, e.Apply(t.Context(), plan))
		}
	}
	for len(found) > 0 {
		<-found
	}
	must(t, e.Apply(t.Context(), plan))
	before := snapshot(t)
	for _, c := range []struct{ do, want string }{
		{"nft flush chain inet netpolicy pre", "rule of chain pre removed"},
		{"nft add rule inet netpolicy refuse drop", "rule of chain refuse added by nft"},
		{"nft delete element inet netpolicy fw { 0x1 }", "element of set fw removed"},
		{"nft delete table inet netpolicy", "table removed by nft"},
		{"ip rule del priority 20000", "gone: ip -4 rule add priority 20000"},
		{"ip -6 rule del priority 20001", "gone: ip -6 rule add priority 20001"},
		{"ip route flush table 20000", "gone: ip -4 route add"},
		{"ip -6 route del unreachable default table 20001 metric 4278198272", "gone: ip -6 route add unreachable default"},
		{"ip route replace default via 192.0.2.130 dev wan2 table 20000", "gone: ip -4 route add default"},
	} {
		sh(t, "%s", c.do)
		seen(c.do, c.want)
		must(t, e.Apply(t.Context(), plan))
		if after := snapshot(t); after != before {
			t.Errorf("%s: not put back:\n%s\nwas:\n%s", c.do, after, before)
		}
	}
	for len(found) > 0 {
		<-found
	}
	// The route that was replaced was one of others, and may have been told of as that.
	sh(t, "ip route add 198.51.100.0/24 dev lan0 table 20000; ip route add 203.0.113.0/24 dev lan0 table 20000")
	seen("routes of others", "2 routes of others in our tables, which stay")
	must(t, e.Apply(t.Context(), plan))
	if !strings.Contains(sh(t, "ip route show table 20000"), "198.51.100.0/24") {
		t.Error("the route of others is gone")
	}
}
