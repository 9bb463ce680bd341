package relay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/socks"
)

// TestTransfer moves much both ways at once, by splice and by copies.
func TestTransfer(t *testing.T) {
	size := 8 << 20
	if full {
		size = 256 << 20
	}
	for _, c := range []struct {
		name  string
		pipes int
		slow  bool
	}{{"splice", maxPipes, false}, {"splice/slow receiver", maxPipes, true}, {"copy", 0, false}, {"copy/slow receiver", 0, true}} {
		t.Run(c.name, func(t *testing.T) {
			both := func(conn *net.TCPConn, seed uint64) (sent, got [32]byte, err error) {
				done := make(chan error, 1)
				go func() {
					h := sha256.New()
					_, err := io.Copy(io.MultiWriter(conn, h), io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), int64(size)))
					sent = [32]byte(h.Sum(nil))
					_ = conn.CloseWrite()
					done <- err
				}()
				h := sha256.New()
				buf := make([]byte, 200_000)
				for n := 0; ; n++ {
					if c.slow && n%16 == 0 {
						time.Sleep(time.Millisecond)
					}
					k, err := conn.Read(buf)
					h.Write(buf[:k])
					if err != nil {
						break
					}
				}
				err = <-done
				return sent, [32]byte(h.Sum(nil)), err
			}
			type result struct {
				sent, got [32]byte
				err       error
			}
			there := make(chan result, 1)
			at := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
				var r result
				r.sent, r.got, r.err = both(conn, 2)
				there <- r
			})
			var h heard
			r, err := New(Config{
				Inbounds: []Inbound{{Kind: SOCKS, Listen: netip.MustParseAddrPort("127.0.0.1:0")}},
				Decider:  deciderFunc(direct), Reporter: &h,
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range r.loops {
				l.pipes.max = c.pipes
			}
			run(t, r)
			conn := mustSOCKS(t, r.Addrs()[0], at)
			sent, got, err := both(conn, 1)
			other := <-there
			if err != nil || other.err != nil {
				t.Fatal(err, other.err)
			}
			if sent != other.got || got != other.sent {
				t.Error("what arrived is not what was sent")
			}
			closed, end := h.end(t, 1)
			if closed.Up != uint64(size) || closed.Down != uint64(size) || end.Why != Finished {
				t.Errorf("up %d, down %d, %s; want %d each", closed.Up, closed.Down, end.Why, size)
			}
		})
	}
}

func TestHalfClose(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c) // until the client has finished
		time.Sleep(50 * time.Millisecond)
		_, _ = c.Write(b)
	})
	_, server := mixed(t, direct, nil)
	c := mustSOCKS(t, server, at)
	_, _ = io.WriteString(c, "question")
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "question" {
		t.Errorf("got %q, %v", b, err)
	}
}

// A reset goes through, whatever came before it.
func TestReset(t *testing.T) {
	for _, c := range []struct {
		name       string
		halfClosed bool
		byServer   bool
		why        Why
	}{
		{"client", false, false, ClientReset},
		{"server", false, true, ServerReset},
		{"client after its end", true, false, ClientReset},
		{"server after the client's end", true, true, ServerReset},
	} {
		t.Run(c.name, func(t *testing.T) {
			far := make(chan *net.TCPConn, 1)
			let := make(chan struct{})
			at := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) { far <- conn; <-let })
			defer close(let)
			var h heard
			_, server := mixed(t, direct, func(c *Config) { c.Reporter = &h })
			near := mustSOCKS(t, server, at)
			one, other := near, <-far
			if c.halfClosed {
				_ = near.CloseWrite()
				_, _ = io.ReadAll(other)
			}
			if c.byServer {
				one, other = other, one
			}
			refuse(one)
			if _, err := other.Read(make([]byte, 1)); !wasReset(err) && !(c.halfClosed && !c.byServer && errors.Is(err, io.EOF)) {
				t.Errorf("the other side sees %v", err)
			}
			if _, end := h.end(t, 1); end.Why != c.why || end.EarlyReset != c.byServer {
				t.Errorf("reported: %s, early %v", end.Why, end.EarlyReset)
			}
		})
	}
}

func TestIdle(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", echo)
	let := make(chan struct{})
	silent := serveTCP(t, "127.0.0.1:0", func(*net.TCPConn) { <-let })
	defer close(let)
	var h heard
	r, server := mixed(t, direct, func(c *Config) {
		c.Reporter = &h
		c.Limits.Idle, c.Limits.HalfClosed = 2*time.Second, 100*time.Millisecond
	})
	busy, idle, half := mustSOCKS(t, server, at), mustSOCKS(t, server, at), mustSOCKS(t, server, silent)
	_ = half.CloseWrite()
	eventually(t, "the others have ended", func() bool {
		if err := say(busy, "still here"); err != nil {
			t.Fatal(err)
		}
		return len(r.Conns()) == 1
	})
	for name, c := range map[string]*net.TCPConn{"idle": idle, "half closed": half} {
		if _, err := c.Read(make([]byte, 1)); !wasReset(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list := r.Conns(); len(list) != 1 || list[0].Src != busy.LocalAddr().(*net.TCPAddr).AddrPort() {
		t.Errorf("left: %+v", list)
	}
	if _, end := h.end(t, 2); end.Why != Idled {
		t.Errorf("reported: %s", end.Why)
	}
}

func TestKill(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", echo)
	var h heard
	r, server := mixed(t, direct, func(c *Config) { c.Reporter = &h })
	c := mustSOCKS(t, server, at)
	if err := say(c, "hello"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bytes are counted", func() bool { return r.Conns()[0].Down == 5 })
	list := r.Conns()
	if len(list) != 1 || list[0].Dst != at || list[0].Route != "direct" || list[0].Up != 5 || list[0].Down != 5 || list[0].Inbound != Mixed {
		t.Fatalf("table: %+v", list)
	}
	if r.Kill(list[0].ID+1) || !r.Kill(list[0].ID) {
		t.Error("Kill does not say what it found")
	}
	if _, err := c.Read(make([]byte, 1)); !wasReset(err) {
		t.Errorf("killed: %v", err)
	}
	if _, end := h.end(t, 1); end.Why != Killed {
		t.Errorf("reported: %s", end.Why)
	}
	eventually(t, "the table is empty", func() bool { return len(r.Conns()) == 0 })
}

// A client that breaks off is noticed while the far end takes nothing.
func TestResetWhileFull(t *testing.T) {
	let := make(chan struct{})
	at := serveTCP(t, "127.0.0.1:0", func(*net.TCPConn) { <-let })
	defer close(let)
	var h heard
	_, server := mixed(t, direct, func(c *Config) { c.Reporter = &h })
	c := mustSOCKS(t, server, at)
	_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	_, _ = c.Write(make([]byte, 64<<20))
	refuse(c)
	if _, end := h.end(t, 1); end.Why != ClientReset {
		t.Errorf("reported: %s", end.Why)
	}
}

// A connection is killed also while it says nothing, or is dialled.
func TestKillEarly(t *testing.T) {
	hole := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }) // a SOCKS server that says nothing
	r, server := mixed(t, func(_ *Ask, v *Verdict) { v.Way.Server = hole }, nil)
	for name, begin := range map[string]func(c net.Conn){
		"says nothing": func(net.Conn) {},
		"dialled":      func(c net.Conn) { _, _ = c.Write([]byte{5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 1, 0, 80}) },
	} {
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(server))
		if err != nil {
			t.Fatal(err)
		}
		begin(c)
		eventually(t, name+": in the table", func() bool { return len(r.Conns()) == 1 })
		time.Sleep(20 * time.Millisecond)
		r.Kill(r.Conns()[0].ID)
		_, _ = io.Copy(io.Discard, c)
		eventually(t, name+": gone", func() bool { return len(r.Conns()) == 0 })
		_ = c.Close()
	}
}

func TestFull(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", echo)
	r, server := mixed(t, direct, func(c *Config) { c.Limits.Conns = 2 })
	for range 2 {
		if err := say(mustSOCKS(t, server, at), "hello"); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := socksTo(server, socks.TargetOf(at)); err == nil {
		_ = c.Close()
		t.Error("a third connection was taken")
	}
	if s := r.Stats(); s.Full == 0 || s.Conns != 2 || s.Limit != 2 {
		t.Errorf("stats: %+v", s)
	}
}

// One client that says nothing holds its part of the handshakes, and no more.
func TestOneClient(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", echo)
	r, server := mixed(t, direct, func(c *Config) { c.Limits.Handshakes = callerPart })
	silent := func() error { // until the relay ends it
		c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, net.TCPAddrFromAddrPort(server))
		if err != nil {
			return err // the reset may be there first
		}
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
		return err
	}
	var first sync.WaitGroup
	first.Go(func() { _ = silent() })
	eventually(t, "the first is there", func() bool { return len(r.Conns()) == 1 })
	if err := silent(); !wasReset(err) {
		t.Errorf("the second of the client: %v", err)
	}
	if err := say(mustSOCKS(t, server, at), "hello"); err != nil {
		t.Error("another client:", err)
	}
	if s := r.Stats(); s.Full != 1 {
		t.Errorf("stats: %+v", s)
	}
	for _, c := range r.Conns() {
		r.Kill(c.ID)
	}
	first.Wait()
}

func TestRetry(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", echo)
	dead := closedPort(t)
	var h heard
	_, server := mixed(t, func(a *Ask, v *Verdict) {
		v.Sniff = true
		for i, name := range []string{"a", "b", "c"} {
			if len(a.Failed) <= i {
				v.Way = Way{Route: name, Uplink: i}
				break
			}
		}
		if v.Way.Route != "c" {
			v.Way.Server = dead
		}
	}, func(c *Config) { c.Reporter = &h })
	c := mustSOCKS(t, server, at)
	if err := say(c, "GET / HTTP/1.1\r\nHost: kept.example\r\n\r\n"); err != nil { // sniffed bytes survive the tries
		t.Fatal(err)
	}
	var got string
	for _, o := range h.dials() {
		got += fmt.Sprintf("%s %d %s; ", o.Route, o.Uplink, o.Failure)
	}
	if want := "a 0 refused; b 1 refused; c 2 none; "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if o := h.dials()[2]; o.RTT <= 0 || o.Dst != at {
		t.Errorf("the last: %+v", o)
	}
}

// Throttled connections keep their rate, apart and together.
func TestThrottledTransfer(t *testing.T) {
	const rate, size = 1 << 20, 300_000
	at := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = c.Write(make([]byte, size)) })
	for _, c := range []struct {
		per    Per
		atOnce bool
	}{{PerConn, true}, {PerAll, false}} {
		_, server := mixed(t, func(a *Ask, v *Verdict) {
			direct(a, v)
			v.Throttle = Throttle{Name: "slow", Down: rate, Burst: 16 << 10, Per: c.per}
		}, nil)
		start := time.Now()
		done := make(chan error, 2)
		for range 2 {
			go func() {
				conn, err := socksTo(server, socks.TargetOf(at))
				if err == nil {
					var n int64
					if n, err = io.Copy(io.Discard, conn); n != size {
						err = fmt.Errorf("%d bytes, %w", n, err)
					}
					_ = conn.Close()
				}
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		least := (size - 16<<10) * time.Second / rate
		if !c.atOnce {
			least *= 2
		}
		if took := time.Since(start); took < least*95/100 {
			t.Errorf("per %d: took %v, which is faster than the rate allows (%v)", c.per, took, least)
		} else {
			t.Logf("per %d: took %v, the rate allows %v", c.per, took, least)
		}
	}
}

func TestDrain(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", echo)
	r, err := New(Config{
		Inbounds: []Inbound{{Kind: SOCKS, Listen: netip.MustParseAddrPort("127.0.0.1:0")}},
		Decider:  deciderFunc(direct), Limits: Limits{Drain: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	c := mustSOCKS(t, r.Addrs()[0], at)
	if err := say(c, "before"); err != nil {
		t.Fatal(err)
	}
	stop()
	eventually(t, "no more connections are taken", func() bool {
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(r.Addrs()[0]))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	if err := say(c, "after"); err != nil {
		t.Error("a connection was ended while draining:", err)
	}
	_ = c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
