package lab

import (
	"context"
	"net"
	"testing"
	"time"
)

// leavesTLS makes a TLS session with a name, and returns the uplink by which it went.
func leavesTLS(t *testing.T, l *Lab, addr, sni string) string {
	t.Helper()
	var left string
	l.quiet.measure(func() {
		before, err := l.Counters()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		raw, err := l.Client().Dial(ctx, "tcp", addr)
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		defer raw.Close()
		var conn net.Conn
		if conn, err = l.Client().TLS(ctx, raw, sni); err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		if err := exchange(conn, payload, time.Now().Add(5*time.Second)); err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		after, err := l.Counters()
		if err != nil {
			t.Fatal(err)
		}
		left = after.Since(before).LeftBy(payload)
	})
	return left
}

// tlsAt are servers that speak TLS, of both families.
var tlsAt = []string{"203.0.113.10:443", "[2001:db8:cafe::10]:443"}

// TestRelayFirst: a name that nobody has seen before steers the very first
// connection when it goes through the relay, and does not without it.
func TestRelayFirst(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	for _, c := range []struct{ daemon, zoom string }{{"", Wan2}, {", tproxy: [tcp/443]", Wan1}} {
		if err := WriteFile(policy, testPolicy(c.daemon, "")); err != nil {
			t.Fatal(err)
		}
		if err := l.StartDaemon(ctx, policy); err != nil {
			t.Fatal(err)
		}
		for _, addr := range tlsAt {
			if left := leavesTLS(t, l, addr, "api.zoom.us"); left != c.zoom {
				t.Errorf("daemon {%s}: api.zoom.us at %s left by %q, want %s\n%s", c.daemon, addr, left, c.zoom, l.tail())
			}
			if left := leavesTLS(t, l, addr, "www.other.example"); left != Wan2 {
				t.Errorf("daemon {%s}: another name at %s left by %q, want %s", c.daemon, addr, left, Wan2)
			}
		}
		if err := l.StopDaemon(); err != nil {
			t.Fatal(err)
		}
	}
}
