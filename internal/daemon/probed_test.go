package daemon

import (
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/inspector"
)

// TestFormerProbes: probes that are under way when their uplink leaves the policy are still
// the daemon's own.
func TestFormerProbes(t *testing.T) {
	c, _ := newTestCore(t, strings.Replace(zoomPolicy, "kind: icmp, targets: [9.9.9.9]", "kind: tcp, targets: [\"9.9.9.9:853\"]", 1))
	next, _ := newTestCore(t, "version: 1\nroutes: {direct: {via: main}}\ndefault: {route: direct}\n")
	sent := func() (records int) {
		for _, text := range []string{"icmp 192.0.2.2 > 1.1.1.1", "tcp 198.51.100.2:40000 > 9.9.9.9:853"} {
			e := event(t, inspector.Open, text)
			c.event(&e, 0, wall)
		}
		return len(c.take().records)
	}
	if n := sent(); n != 0 {
		t.Errorf("%d records of probes", n)
	}
	c.replace(next.live, time.Hour)
	c.expire(time.Hour + probeMemory - 1)
	if n := sent(); n != 0 {
		t.Errorf("%d records of former probes", n)
	}
	c.expire(time.Hour + probeMemory)
	if n := sent(); n != 2 {
		t.Errorf("%d records of what is nobody's probe any more", n)
	}
}
