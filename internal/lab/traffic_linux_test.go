package lab

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
)

// TestHousehold: the client's connections are of several kinds, which the policy of the
// demo tells apart, and their bytes are counted; with the context they end.
func TestHousehold(t *testing.T) {
	l, _ := daemonLab(t)
	if err := l.StartDaemon(t.Context(), "../../examples/demo/policy.npl"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Traffic(ctx) }()
	want := map[string]bool{"calls": true, "downloads": true, "no_trackers": true, "no_telnet": true, "bytes": true}
	for deadline := time.Now().Add(60 * time.Second); len(want) > 0 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		s, err := l.API().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range s.Hits {
			delete(want, h.Rule)
		}
		flows, err := l.API().Flows(t.Context(), api.FlowsRequest{Sort: api.ByBytes, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if len(flows.Flows) > 0 && flows.Flows[0].BytesUp > 0 && flows.Flows[0].BytesDown > 0 {
			delete(want, "bytes")
		}
	}
	if len(want) > 0 {
		t.Errorf("never seen: %v", want)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNamesAreAskedForAnew: a name is asked for once while its answer holds, and again
// before the gateway, which saw the answer later, has forgotten whose the address is.
func TestNamesAreAskedForAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := map[string]int{}
		n := &names{known: map[string]knownName{}}
		n.ask = func(_ context.Context, name string, v6 bool) (netip.Addr, error) {
			if v6 {
				name += " v6"
			}
			asked[name]++
			time.Sleep(time.Second) // the answer's way
			return netip.AddrFrom4([4]byte{192, 0, 2, byte(asked[name])}), nil
		}
		want := func(name string, v6 bool, last byte) {
			t.Helper()
			addr, err := n.resolve(t.Context(), name, v6)
			if err != nil || addr != netip.AddrFrom4([4]byte{192, 0, 2, last}) {
				t.Errorf("%s resolves to %v, %v", name, addr, err)
			}
		}
		start := time.Now()
		want("a.example", false, 1)
		want("a.example", true, 1)
		time.Sleep(time.Until(start.Add(dnsTTL*time.Second - 1)))
		want("a.example", false, 1)
		time.Sleep(time.Nanosecond)
		want("a.example", false, 2)
		want("a.example", false, 2)
		if asked["a.example"] != 2 || asked["a.example v6"] != 1 {
			t.Errorf("asked %v", asked)
		}
	})
}
