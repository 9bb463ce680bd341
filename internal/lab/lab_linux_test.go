package lab

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"
)

// newLab builds a lab for a test and removes it in the end; it skips where none can be.
func newLab(t *testing.T, opts Options) *Lab {
	t.Helper()
	l, err := New(t.Context(), opts)
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// pingpong measures the round trip of single datagrams n times; lost ones are left out.
func pingpong(t *testing.T, conn net.Conn, n int, wait time.Duration) []time.Duration {
	t.Helper()
	var trips []time.Duration
	buf := make([]byte, 64)
	for range n {
		start := time.Now()
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(start.Add(wait))
		if _, err := conn.Read(buf); err == nil {
			trips = append(trips, time.Since(start))
		}
	}
	slices.Sort(trips)
	return trips
}

func dialUDP(t *testing.T, l *Lab, addr string) net.Conn {
	t.Helper()
	conn, err := l.Client().Dial(t.Context(), "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestTraffic(t *testing.T) {
	l := newLab(t, Options{Main: Wan2})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := l.Client()
	for _, v6 := range []bool{false, true} {
		a, err := c.Resolve(ctx, "us01.zoom.us", v6)
		if err != nil {
			t.Fatal(err)
		}
		if a.Is6() != v6 {
			t.Errorf("Resolve(v6=%v) = %v", v6, a)
		}
		for _, network := range []string{"tcp", "tls", "udp"} {
			before, err := l.Counters()
			if err != nil {
				t.Fatal(err)
			}
			dial := network
			if network == "tls" {
				dial = "tcp"
			}
			port := "7"
			if network == "tls" {
				port = "443"
			}
			conn, err := c.Dial(ctx, dial, net.JoinHostPort(a.String(), port))
			if err != nil {
				t.Fatalf("%s %v: %v", network, a, err)
			}
			defer conn.Close()
			if network == "tls" {
				if conn, err = c.TLS(ctx, conn, "us01.zoom.us"); err != nil {
					t.Fatal(err)
				}
			}
			if err := exchange(conn, payload, time.Now().Add(5*time.Second)); err != nil {
				t.Fatalf("%s %v: %v", network, a, err)
			}
			after, err := l.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if left := after.Since(before).LeftBy(payload); left != Wan2 {
				t.Errorf("%s %v left by %q: %v", network, a, left, after.Since(before))
			}
		}
	}
	if _, err := c.Resolve(ctx, "no.such.example", false); err == nil {
		t.Error("an unknown name has an address")
	}
}

func TestDelay(t *testing.T) {
	l := newLab(t, Options{})
	for _, addr := range []string{"198.51.100.41:7", "[2001:db8:cafe::41]:7"} {
		conn := dialUDP(t, l, addr)
		plain := pingpong(t, conn, 11, time.Second)
		if err := l.Fault(t.Context(), Wan1, Fault{Delay: 200 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		slow := pingpong(t, conn, 11, 2*time.Second)
		if err := l.Fault(t.Context(), Wan1, Fault{}); err != nil {
			t.Fatal(err)
		}
		healed := pingpong(t, conn, 11, time.Second)
		if len(plain) != 11 || len(slow) != 11 || len(healed) < 10 {
			t.Fatalf("answers: %d, %d, %d of 11", len(plain), len(slow), len(healed))
		}
		t.Logf("%s: median %v, with 200ms asked %v, healed %v", addr, plain[5], slow[5], healed[5])
		// The lower bound is exact; the upper one allows for a busy machine.
		if d := slow[0]; d < 200*time.Millisecond {
			t.Errorf("%s: %v with 200ms asked", addr, d)
		}
		if d := slow[5] - plain[5]; d > 300*time.Millisecond {
			t.Errorf("%s: %v added, 200ms asked", addr, d)
		}
		if healed[5] > 100*time.Millisecond {
			t.Errorf("%s: still %v after healing", addr, healed[5])
		}
	}
}

func TestLoss(t *testing.T) {
	l := newLab(t, Options{Seed: 7})
	conn := dialUDP(t, l, "198.51.100.41:7")
	if err := l.Fault(t.Context(), Wan1, Fault{Loss: 300_000}); err != nil {
		t.Fatal(err)
	}
	// All answers wait in the socket until they are counted.
	if err := conn.(*net.UDPConn).SetReadBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	const n = 1000
	for range n {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Microsecond)
	}
	got := 0
	buf := make([]byte, 64)
	for {
		conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := conn.Read(buf); err != nil {
			break
		}
		got++
	}
	dropped, over := l.Held(Wan1)
	t.Logf("%d of %d came back with 30%% loss each way; %d dropped, %d too many", got, n, dropped, over)
	// 0.7 squared of 1000 is 490, with a standard deviation of 16.
	if got < 390 || got > 590 {
		t.Errorf("%d of %d came back with 30%% loss each way", got, n)
	}
	if int(dropped)+got < n*9/10 {
		t.Errorf("%d dropped and %d back of %d", dropped, got, n)
	}
}

func TestDead(t *testing.T) {
	l := newLab(t, Options{})
	for _, f := range []Fault{{Blackhole: true}, {Down: true}} {
		for _, addr := range []string{"198.51.100.41:7", "[2001:db8:cafe::41]:7"} {
			ask := func() int { return len(pingpong(t, dialUDP(t, l, addr), 3, 300*time.Millisecond)) }
			if n := ask(); n == 0 {
				t.Errorf("%s: no answer over a healthy line", addr)
			}
			if err := l.Fault(t.Context(), Wan1, f); err != nil {
				t.Fatal(err)
			}
			if n := ask(); n != 0 {
				t.Errorf("%s: %d answers over a line that is %v", addr, n, f)
			}
			if err := l.Fault(t.Context(), Wan1, Fault{}); err != nil {
				t.Fatal(err)
			}
			back := 0
			for range 20 {
				if back = ask(); back > 0 {
					break
				}
			}
			if back == 0 {
				t.Errorf("%s: no answer after healing %v", addr, f)
			}
		}
	}
	if err := l.Fault(t.Context(), "wan9", Fault{}); err == nil {
		t.Error("an uplink that is not there was faulted")
	}
}
