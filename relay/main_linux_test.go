package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/internal/socks"
)

// TestMain lets the test's own program be the far ends of TestIdleConns.
func TestMain(m *testing.M) {
	server, number, ok := strings.Cut(os.Getenv(endsVar), " ")
	if !ok {
		nstest.Main(m)
		return
	}
	count, _ := strconv.Atoi(number)
	if err := helpEnds(netip.MustParseAddrPort(server), count); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// full is for heavier runs than those of every day.
var full = os.Getenv("FULL") != ""

// bypass is the mark of the relay's own sockets in tests.
const bypass = 0x70000000

type deciderFunc func(a *Ask, v *Verdict)

func (f deciderFunc) Decide(a *Ask, v *Verdict) { f(a, v) }

// direct dials whatever is asked for.
func direct(_ *Ask, v *Verdict) { v.Way = Way{Route: "direct", Uplink: -1} }

// heard is a Reporter that keeps what it hears.
type heard struct {
	mu      sync.Mutex
	dialled []Outcome
	opened  []Conn
	closed  []Conn
	ends    []End
}

func (h *heard) Dialled(o *Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dialled = append(h.dialled, *o)
}

func (h *heard) Opened(c *Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened = append(h.opened, *c)
}

func (h *heard) Closed(c *Conn, e *End) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed, h.ends = append(h.closed, *c), append(h.ends, *e)
}

// end waits for the n-th connection to end.
func (h *heard) end(t *testing.T, n int) (Conn, End) {
	t.Helper()
	eventually(t, fmt.Sprint("the end of connection ", n), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.ends) >= n
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed[n-1], h.ends[n-1]
}

func (h *heard) dials() []Outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Outcome(nil), h.dialled...)
}

// start runs a relay until the test ends.
func start(t testing.TB, cfg Config) *Relay {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, r)
	return r
}

func run(t testing.TB, r *Relay) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error("run:", err)
		}
		if n := r.table.len(); n != 0 {
			t.Errorf("%d connections left in the table", n)
		}
	})
}

// mixed is a relay with one mixed inbound on loopback.
func mixed(t testing.TB, d deciderFunc, with func(*Config)) (*Relay, netip.AddrPort) {
	t.Helper()
	cfg := Config{
		Inbounds: []Inbound{{Kind: Mixed, Listen: netip.MustParseAddrPort("127.0.0.1:0")}},
		Decider:  d, Mark: markIfRoot(),
	}
	if with != nil {
		with(&cfg)
	}
	r := start(t, cfg)
	return r, r.Addrs()[0]
}

func markIfRoot() uint32 {
	if os.Geteuid() == 0 {
		return bypass
	}
	return 0
}

// serveTCP accepts on addr until the test ends; each connection has a goroutine.
func serveTCP(t testing.TB, addr string, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, handle)
}

func serveOn(t testing.TB, l net.Listener, handle func(*net.TCPConn)) netip.AddrPort {
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			all.Go(func() {
				handle(c.(*net.TCPConn))
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return unmap(l.Addr().(*net.TCPAddr).AddrPort())
}

func echo(c *net.TCPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// echoUDP answers each datagram with itself until the test ends.
func echoUDP(t testing.TB, pc net.PacketConn) netip.AddrPort {
	done := make(chan struct{})
	t.Cleanup(func() { _ = pc.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	return unmap(pc.LocalAddr().(*net.UDPAddr).AddrPort())
}

// socksTo connects to t through a SOCKS server.
func socksTo(server netip.AddrPort, to target) (*net.TCPConn, error) {
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(server))
	if err != nil {
		return nil, err
	}
	if _, err := socks.Ask(c, "", "", socks.Connect, to); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func mustSOCKS(t testing.TB, server netip.AddrPort, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := socksTo(server, socks.TargetOf(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// say sends text and wants it back.
func say(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q, want %q", got, text)
	}
	return nil
}

// wasReset reports whether an error is a reset.
func wasReset(err error) bool { return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) }

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for i := 0; !ok(); i++ {
		if i == 30_000 {
			t.Fatal("never: ", what)
		}
		time.Sleep(time.Millisecond)
	}
}
