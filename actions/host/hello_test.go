package host

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/first"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/inspector/packet"
	"netpolicy.dev/netpolicy/inspector/quic/quictest"
	"netpolicy.dev/netpolicy/inspector/sniff"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// holdingLines is lines with two names that are blocked, and hellos that wait.
func holdingLines(onCrash rules.OnCrash) *rules.Policy {
	p := lines(onCrash)
	named := func(name string) rules.Expr {
		return rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldSNI, Names: []rules.NamePattern{{Kind: rules.Exact, Name: name}}}}
	}
	p.Hash, p.Daemon.Hello = [32]byte{9}, rules.Hold
	p.Rules = append(p.Rules,
		rules.Rule{Name: "refuse", Priority: 50, Active: state.AllStates, Match: named("refused.example"), Do: rules.Outcome{Kind: rules.ActBlock, Reject: true}},
		rules.Rule{Name: "drop", Priority: 50, Active: state.AllStates, Match: named("dropped.example"), Do: rules.Outcome{Kind: rules.ActBlock}})
	return p
}

// hear answers for held packets by the engine, until stop.
func hear(t testing.TB, plan *actions.Plan, w *state.World) (asked *atomic.Int64, stop func()) {
	t.Helper()
	asked = &atomic.Int64{}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for i := range plan.Hello.Queues {
		holder := sniff.NewHolder(func(f *flow.Flow, x first.Facts, final bool) (uint32, bool) {
			now := *f
			x.Fill(&now, final)
			d := plan.Program().Decide(&now, w)
			return plan.HelloCode(&d), final || x.SNI != ""
		})
		holder.Again, holder.Full = actions.HelloAgain, actions.HelloPass
		answers := func(list []sniff.Release) (out []nfqueue.Answer) {
			for _, r := range list {
				out = append(out, nfqueue.Answer{ID: r.ID, Priority: r.Answer})
			}
			return out
		}
		q, err := nfqueue.Open(nfqueue.Options{
			Queue: plan.Hello.First + i, Copy: 65535, FailOpen: !plan.Hello.Strict,
			Tick: func() ([]nfqueue.Answer, bool) { return answers(holder.Tick(time.Now())), holder.Waits() },
		})
		if err != nil {
			cancel()
			t.Fatal(err)
		}
		group.Go(func() {
			err := q.Run(ctx, func(p *nfqueue.Packet, v *nfqueue.Verdict) {
				asked.Add(1)
				seen, _ := packet.DecodeIP(p.Payload, packet.Options{})
				v.Hold, v.Before = true, answers(holder.Packet(seen, p.ID, time.Now(), func() *flow.Flow {
					var f flow.Flow
					p.Describe(&f)
					return &f
				}))
				if n := len(v.Before); n > 0 && v.Before[n-1].ID == p.ID {
					v.Hold, v.Priority, v.Before = false, v.Before[n-1].Priority, v.Before[:n-1]
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(stop)
	return asked, stop
}

// helloLab is a lab in which the client's own connections reach an echo server
// behind wan1, at port 443 of both families.
func helloLab(t testing.TB) *lab {
	l := newLab(t)
	client, far := l.namespaces[1], l.namespaces[3]
	client.Run(t, "", "sh", "-ec", "ip route add default via 10.0.0.1; ip -6 route add default via 2001:db8:10::1")
	far.Run(t, "", "sh", "-ec", "ip route add 10.0.0.0/24 via 192.0.2.65; ip -6 route add 2001:db8:10::/64 via 2001:db8:1::1")
	for _, a := range helloAddrs {
		echo(t, far, a)
	}
	return l
}

// echo answers any number of connections at a time until the test ends. What is
// blocked stays half open here.
func echo(t testing.TB, ns *nstest.NS, addr string) {
	t.Helper()
	var listener net.Listener
	var err error
	ns.Do(t, func() { listener, err = net.Listen("tcp", addr) })
	must(t, err)
	var group sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	group.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			group.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		group.Wait()
	})
}

const (
	// plenty is for what arrives, on a slow machine too; enough for what does not.
	plenty = 20 * time.Second
	enough = 700 * time.Millisecond
)

var helloAddrs = []string{"192.0.2.66:443", "[2001:db8:1::2]:443"}

// clientHello is a ClientHello as crypto/tls writes it: post-quantum, more than one
// segment of Ethernet.
func clientHello(t testing.TB, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		_ = tls.Client(b, &tls.Config{ServerName: name}).Handshake()
		b.Close()
	}()
	head := make([]byte, 5)
	_, err := io.ReadFull(a, head)
	must(t, err)
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	_, err = io.ReadFull(a, body)
	must(t, err)
	return append(head, body...)
}

// talk sends parts from the client, each after the pause, and reads back as much
// within limit.
func (l *lab) talk(addr string, limit, pause time.Duration, parts ...[]byte) (took time.Duration, err error) {
	l.t.Helper()
	l.namespaces[1].Do(l.t, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", addr, 5*time.Second); err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(limit))
		begin := time.Now()
		for i, p := range parts {
			if i > 0 {
				time.Sleep(pause)
			}
			if _, err = c.Write(p); err != nil {
				return
			}
		}
		want := bytes.Join(parts, nil)
		got := make([]byte, len(want))
		if _, err = io.ReadFull(c, got); err == nil && !bytes.Equal(got, want) {
			err = errors.New("not what was sent comes back")
		}
		took = time.Since(begin)
	})
	return took, err
}

// leaked reads all that has come to the far end of wan1, and reports whether it
// holds the text.
func (l *lab) leaked(text string) (found bool) {
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(l.sinks["wan1"], buf, unix.MSG_DONTWAIT)
		if err != nil {
			return found
		}
		found = found || bytes.Contains(buf[:n], []byte(text))
	}
}

func cut(b []byte, n int) (parts [][]byte) {
	for part := range slices.Chunk(b, n) {
		parts = append(parts, part)
	}
	return parts
}

// TestHelloHeld: a hello with a blocked name never gets to the far end, however it is
// cut; one with another name does, unchanged and by the way of its first packet.
func TestHelloHeld(t *testing.T) {
	needQueue(t)
	l := helloLab(t)
	e := enforcer(t, t.TempDir())
	p := holdingLines(rules.Last)
	w := engine.OfflineWorld(p, state.Normal)
	plan := planFor(t, e, p, w)
	must(t, e.Apply(t.Context(), plan))
	asked, stop := hear(t, plan, w)
	for _, addr := range helloAddrs {
		for _, c := range []struct {
			name  string
			size  int
			pause time.Duration
		}{{"whole", 1 << 16, 0}, {"two segments", 1400, 0}, {"ten segments", 160, time.Millisecond}, {"sent again in between", 900, 250 * time.Millisecond}} {
			for name, refused := range map[string]bool{"refused.example": true, "dropped.example": false} {
				limit := plenty
				if !refused {
					limit = enough
				}
				_, err := l.talk(addr, limit, c.pause, cut(clientHello(t, name), c.size)...)
				if err == nil || refused != errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s at %s, %s: %v", name, addr, c.name, err)
				}
				if l.leaked(name) {
					t.Errorf("%s at %s, %s: the name left", name, addr, c.name)
				}
			}
			const name = "allowed.example"
			if _, err := l.talk(addr, plenty, c.pause, cut(clientHello(t, name), c.size)...); err != nil {
				t.Errorf("%s at %s, %s: %v", name, addr, c.name, err)
			}
			if c.size > 1000 && !l.leaked(name) {
				t.Errorf("%s at %s, %s: not seen at the far end", name, addr, c.name)
			}
		}
		asked.Store(0)
		for what, first := range map[string][]byte{"no protocol that is known": []byte("\x00\x01\x02 something"), "one byte": []byte("G")} {
			took, err := l.talk(addr, plenty, 0, first)
			if err != nil {
				t.Errorf("%s at %s: %v after %v", what, addr, err, took)
			}
			t.Logf("%s at %s: answered after %v", what, addr, took)
		}
		if _, err := l.talk(addr, plenty, 0, append(clientHello(t, "long.example"), make([]byte, 1<<20)...)); err != nil {
			t.Error(err)
		}
		if n := asked.Load(); n > 40 {
			t.Errorf("asked %d times for three connections", n)
		}
	}
	stop()
	for _, addr := range helloAddrs {
		if _, err := l.talk(addr, plenty, 0, clientHello(t, "refused.example")); err != nil {
			t.Errorf("nobody answers, on_crash last: %v", err)
		}
	}
}

// TestHelloQUIC: so is a QUIC Initial, in two datagrams.
func TestHelloQUIC(t *testing.T) {
	needQueue(t)
	l := helloLab(t)
	e := enforcer(t, t.TempDir())
	p := holdingLines(rules.Last)
	w := engine.OfflineWorld(p, state.Normal)
	plan := planFor(t, e, p, w)
	must(t, e.Apply(t.Context(), plan))
	_, stop := hear(t, plan, w)
	defer stop()
	id := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	for name, want := range map[string]bool{"dropped.example": false, "allowed.example": true} {
		hello, err := quictest.Hello(&tls.Config{ServerName: name, NextProtos: []string{"h3"}, MinVersion: tls.VersionTLS13})
		must(t, err)
		l.leaked("")
		l.namespaces[1].Do(t, func() {
			c, err := net.ListenUDP("udp4", nil) // not connected: nobody listens, and the far end says so before the second
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(helloAddrs[0]))
			for i, part := range [][]byte{hello[:1000], hello[1000:]} {
				frames := append(quictest.Crypto(i*1000, part), make([]byte, 1100-len(part))...)
				if _, err := c.WriteTo(quictest.V1.Initial(id, id, byte(i), frames), to); err != nil {
					t.Error(err)
				}
			}
		})
		arrived, limit := false, enough // the connection id is in the clear
		if want {
			limit = plenty
		}
		for end := time.Now().Add(limit); !arrived && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			arrived = l.leaked(string(id))
		}
		if arrived != want {
			t.Errorf("%s: at the far end %v, want %v", name, arrived, want)
		}
	}
}

// TestHelloStrict: with on_crash closed, here with consult, nothing that says a name passes while nobody answers.
func TestHelloStrict(t *testing.T) {
	needQueue(t)
	l := helloLab(t)
	e := enforcer(t, t.TempDir())
	p := holdingLines(rules.Closed)
	p.Daemon.Enforce = rules.Consult
	w := engine.OfflineWorld(p, state.Normal)
	plan := planFor(t, e, p, w)
	must(t, e.Apply(t.Context(), plan))
	defer judging(plan, w).listen(t)()
	_, stop := hear(t, plan, w)
	must(t, e.KeepAlive(t.Context()))
	if _, err := l.talk(helloAddrs[0], plenty, 0, clientHello(t, "allowed.example")); err != nil {
		t.Error(err)
	}
	stop()
	l.leaked("")
	must(t, e.KeepAlive(t.Context()))
	if _, err := l.talk(helloAddrs[0], enough, 0, clientHello(t, "late.example")); err == nil || l.leaked("late.example") {
		t.Errorf("nobody answers, on_crash closed: %v", err)
	}
	_, stop = hear(t, plan, w)
	defer stop()
	must(t, e.KeepAlive(t.Context()))
	if _, err := l.talk(helloAddrs[0], plenty, 0, clientHello(t, "allowed.example")); err != nil {
		t.Error(err)
	}
}

// TestHelloRate reports how many connections with a hello a second the gateway takes,
// watched and held, in turns.
func TestHelloRate(t *testing.T) {
	needQueue(t)
	l := helloLab(t)
	e := enforcer(t, t.TempDir())
	p := holdingLines(rules.Last)
	w := engine.OfflineWorld(p, state.Normal)
	hello := clientHello(t, "allowed.example")
	const rounds, conns, side = 4, 150, 4
	rates := map[rules.Hello][]int{}
	for i := range 2 * rounds {
		p.Daemon.Hello = rules.Hello(i % 2)
		plan := planFor(t, e, p, w)
		must(t, e.Apply(t.Context(), plan))
		stop := func() {}
		if p.Daemon.Hello == rules.Hold {
			_, stop = hear(t, plan, w)
		}
		begin := time.Now()
		var group sync.WaitGroup
		for range side {
			group.Go(func() {
				l.namespaces[1].Do(t, func() {
					for range conns {
						if err := once(hello); err != nil {
							t.Error(err)
							return
						}
					}
				})
			})
		}
		group.Wait()
		rates[p.Daemon.Hello] = append(rates[p.Daemon.Hello], int(float64(side*conns)/time.Since(begin).Seconds()))
		stop()
	}
	for mode, list := range rates {
		slices.Sort(list)
		t.Logf("%s: %d connections a second (median of %d; %d to %d)", []string{"watch", "hold"}[mode], list[rounds/2], rounds, list[0], list[rounds-1])
	}
}

func once(hello []byte) error {
	c, err := net.Dial("tcp", helloAddrs[0])
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err = c.Write(hello); err == nil {
		_, err = io.ReadFull(c, make([]byte, len(hello)))
	}
	return err
}
