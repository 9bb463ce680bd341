package sockdiag

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func start(t *testing.T, s *Source) <-chan inspector.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan inspector.Event, 10_000)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(e inspector.Event) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return events
}

func wait(t *testing.T, events <-chan inspector.Event, ok func(inspector.Event) bool) inspector.Event {
	t.Helper()
	for {
		select {
		case e := <-events:
			if ok(e) {
				return e
			}
		case <-time.After(time.Minute):
			t.Fatal("the event does not come")
		}
	}
}

func between(e inspector.Event, src, dst net.Addr) bool {
	a, b := netip.MustParseAddrPort(src.String()), netip.MustParseAddrPort(dst.String())
	f := e.Flow
	return f.Src == flow.Some(a.Addr()) && f.SrcPort == flow.Some(a.Port()) && f.Dst == flow.Some(b.Addr()) && f.DstPort == flow.Some(b.Port())
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestSockets(t *testing.T) {
	nstest.Need(t)
	here, peer := nstest.Here(t), nstest.New(t)
	nstest.Link(t, here, "veth", peer, "eth0", "192.0.2.1/24 2001:db8::1/64", "192.0.2.2/24 2001:db8::2/64")
	t.Cleanup(func() { here.Run(t, "", "ip", "link", "delete", "veth") })
	events := start(t, New(Options{Every: 10 * time.Millisecond}))
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, addr string
		accepted   bool // the other side dials
	}{
		{"dialled, IPv4", "192.0.2.2:0", false},
		{"dialled, IPv6", "[2001:db8::2]:0", false},
		{"accepted, on both families", "[::]:0", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l net.Listener
			var dialled net.Conn
			var err error
			if c.accepted {
				l = listen(t, "tcp", c.addr)
				_, port, _ := strings.Cut(l.Addr().String(), "]:")
				peer.Do(t, func() { dialled, err = net.Dial("tcp", "192.0.2.1:"+port) })
			} else {
				peer.Do(t, func() { l = listen(t, "tcp", c.addr) })
				dialled, err = net.Dial("tcp", l.Addr().String())
			}
			if err != nil {
				t.Fatal(err)
			}
			is := func(k inspector.Kind) func(inspector.Event) bool {
				return func(e inspector.Event) bool {
					return e.Kind == k && between(e, dialled.LocalAddr(), dialled.RemoteAddr())
				}
			}
			e := wait(t, events, is(inspector.Open))
			if c.accepted && !(e.Flow.Process.Unknown() && e.Flow.User.Unknown()) {
				t.Errorf("whose is it before it is accepted? %+v", e.Flow)
			}
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			for c.accepted && e.Flow.Process.Unknown() {
				e = wait(t, events, is(inspector.Update))
			}
			if e.Flow.Process.Unknown() || e.Flow.ProcessPath != flow.Some(exe) || e.Flow.User != flow.Some("root") || e.Flow.Proto != flow.Some(flow.TCP) {
				t.Errorf("open: %+v", e.Flow)
			}
			if _, err := dialled.Write(make([]byte, 3000)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(accepted, make([]byte, 3000)); err != nil {
				t.Fatal(err)
			}
			for e.Stats.BytesUp < 3000 || e.Stats.RTT == 0 {
				e = wait(t, events, is(inspector.Update))
			}
			if !e.Stats.Replied || e.Stats.BytesDown != 0 || e.Stats.MinRTT == 0 || e.Flow.RTT.Unknown() {
				t.Errorf("update: %+v", e)
			}
			_, _ = accepted.Close(), dialled.Close()
			wait(t, events, is(inspector.Close))
		})
	}
}

func TestUDP(t *testing.T) {
	nstest.Need(t)
	events := start(t, New(Options{Every: 10 * time.Millisecond}))
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	e := wait(t, events, func(e inspector.Event) bool { return between(e, c.LocalAddr(), c.RemoteAddr()) })
	if e.Kind != inspector.Open || e.Flow.Process.Unknown() || e.Flow.Proto != flow.Some(flow.UDP) {
		t.Errorf("%+v", e)
	}
	_ = c.Close()
	wait(t, events, func(e inspector.Event) bool {
		return e.Kind == inspector.Close && e.Flow.Proto == flow.Some(flow.UDP)
	})
}

func TestFull(t *testing.T) {
	nstest.Need(t)
	s := New(Options{Every: time.Millisecond, MaxSockets: 1})
	for range 3 {
		c, err := net.Dial("udp", "127.0.0.1:9")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	events := start(t, s)
	wait(t, events, func(inspector.Event) bool { return true })
	for s.Counters.Polls.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	if len(events) != 0 || s.Counters.Full.Load() < 2 {
		t.Errorf("%d more events, %s", len(events), &s.Counters)
	}
}

// TestOwnerFoundLater uses a /proc of its own, empty at first.
func TestOwnerFoundLater(t *testing.T) {
	nstest.Need(t)
	proc := t.TempDir()
	s := New(Options{Every: time.Second, Proc: proc}) // it looks three times
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	fd, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	later := filepath.Join(proc, "later")
	if err := os.MkdirAll(filepath.Join(later, "fd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(later, "comm"), []byte("browser\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, f := range fd {
		if link, err := os.Readlink(f); err == nil && strings.HasPrefix(link, "socket:") {
			if err := os.Symlink(link, filepath.Join(later, "fd", filepath.Base(f))); err != nil {
				t.Fatal(err)
			}
		}
	}
	events := start(t, s)
	wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Open && e.Flow.Process.Unknown() })
	if err := os.Rename(later, filepath.Join(proc, "77")); err != nil {
		t.Fatal(err)
	}
	if e := wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Update }); e.Flow.Process != flow.Some("browser") {
		t.Errorf("%+v", e.Flow)
	}
}
