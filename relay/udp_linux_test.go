package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/socks"
)

// associateWith makes an association and returns a socket for its datagrams.
func associateWith(t *testing.T, server netip.AddrPort) (control *net.TCPConn, c *net.UDPConn) {
	t.Helper()
	control, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(server))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = control.Close() })
	bound, err := socks.Ask(control, "", "", socks.Associate, target{Addr: netip.IPv4Unspecified()})
	if err != nil {
		t.Fatal(err)
	}
	c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(bound.AddrPort()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return control, c
}

// ask sends a payload to a target and wants it back.
func ask(t *testing.T, c *net.UDPConn, to target, payload string) {
	t.Helper()
	if _, err := c.Write(append(socks.AppendHead(nil, to), payload...)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	from, got, err := socks.CutDatagram(buf[:n])
	if err != nil || string(got) != payload || from.Port != to.Port {
		t.Errorf("got %q from %s, %v; want %q", got, from, err, payload)
	}
}

func TestAssociate(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := echoUDP(t, pc)
	var h heard
	r, server := mixed(t, direct, func(c *Config) {
		c.Reporter = &h
		c.Resolver = names{"echo.example": {at.Addr()}}
		c.Limits.UDPIdle = 2 * time.Second
	})
	control, c := associateWith(t, server)
	for i := range 50 {
		ask(t, c, socks.TargetOf(at), fmt.Sprint("datagram ", i))
	}
	ask(t, c, target{Name: "echo.example", Port: at.Port()}, "by name")
	if n := len(r.Conns()); n != 3 { // the association and two sessions
		t.Errorf("%d in the table: %+v", n, r.Conns())
	}
	eventually(t, "idle sessions end", func() bool { return len(r.Conns()) == 1 })
	if _, end := h.end(t, 2); end.Why != Idled {
		t.Errorf("reported: %s", end.Why)
	}
	ask(t, c, socks.TargetOf(at), "again")
	_ = control.Close()
	eventually(t, "all ends with the association", func() bool { return len(r.Conns()) == 0 })
}

// TestThroughServer goes through another relay as SOCKS server, TCP and UDP.
func TestThroughServer(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	atUDP := echoUDP(t, pc)
	at := serveTCP(t, "127.0.0.1:0", echo)
	var far, near heard
	_, second := mixed(t, direct, func(c *Config) {
		c.Reporter = &far
		c.Inbounds[0].Users = map[string]string{"ada": "secret"}
		c.Resolver = names{"echo.example": {at.Addr()}}
	})
	_, server := mixed(t, func(a *Ask, v *Verdict) {
		v.Sniff = a.Flow.HTTPHost.Unknown()
		v.Way = Way{Route: "server", Server: second, User: "ada", Password: "secret", SendName: true}
	}, func(c *Config) {
		c.Reporter = &near
		c.Limits.Sniff = time.Minute
	})
	c := mustSOCKS(t, server, at)
	if err := say(c, "GET / HTTP/1.1\r\nHost: echo.example\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	far.mu.Lock()
	if len(far.opened) != 1 || far.opened[0].Name != "echo.example" {
		t.Errorf("the server was asked for %+v", far.opened)
	}
	far.mu.Unlock()
	_, udp := associateWith(t, server)
	ask(t, udp, socks.TargetOf(atUDP), "one")
	ask(t, udp, socks.TargetOf(atUDP), "two")
	for _, o := range near.dials() {
		if o.Failure != None || o.RTT != 0 {
			t.Errorf("%+v", o)
		}
	}
	// Its refusal comes after the sniff: as a reset.
	c = mustSOCKS(t, server, closedPort(t))
	if err := say(c, "GET / HTTP/1.1\r\nHost: refused.example\r\n\r\n"); !wasReset(err) {
		t.Errorf("refused by the server: %v", err)
	}
}

// TestBlockedDatagrams are not answered, and the policy is asked once.
func TestBlockedDatagrams(t *testing.T) {
	asked := make(chan struct{}, 1000)
	r, server := mixed(t, func(_ *Ask, v *Verdict) { v.Do = Drop; asked <- struct{}{} }, nil)
	_, c := associateWith(t, server)
	for range 20 {
		if _, err := c.Write(append(socks.AppendHead(nil, target{Addr: netip.MustParseAddr("192.0.2.1"), Port: 9}), "x"...)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the session is there", func() bool { return len(r.Conns()) == 2 })
	eventually(t, "it is asked for", func() bool { return len(asked) >= 2 })
	time.Sleep(50 * time.Millisecond)
	if n := len(asked); n != 2 { // before and after the session has left the loop
		t.Errorf("asked %d times", n)
	}
}

// resolverFunc is a Resolver.
type resolverFunc func(name string, way *Way) ([]netip.Addr, error)

func (f resolverFunc) Resolve(_ context.Context, _ netip.Addr, name string, way *Way) ([]netip.Addr, error) {
	return f(name, way)
}

// TestAddressThroughServer: where a decision waits for the address of a name, the name
// is resolved by the way through the server, and the server is asked for the address
// that was allowed; it gets no chance to find another one.
func TestAddressThroughServer(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	atUDP := echoUDP(t, pc)
	at := serveTCP(t, "127.0.0.1:0", echo)
	var far heard
	_, second := mixed(t, direct, func(c *Config) { c.Reporter = &far })
	dead := closedPort(t)
	blocked := netip.MustParseAddr("192.0.2.66")
	_, server := mixed(t, func(a *Ask, v *Verdict) {
		v.Way = Way{Route: "tunnel", Server: second}
		if len(a.Failed) == 0 {
			v.Way = Way{Route: "dead", Server: dead}
		}
		dst, known := a.Flow.Dst.Get()
		switch {
		case !known && !a.Resolved:
			v.Do = Resolve
		case dst == blocked:
			v.Do = Reject
		}
	}, func(c *Config) {
		c.Resolver = resolverFunc(func(name string, way *Way) ([]netip.Addr, error) {
			switch {
			case way.Server == dead:
				return nil, errors.New("the server is dead")
			case way.Server != second:
				t.Errorf("%s is looked up by %+v", name, way)
			case name == "bad.example":
				return []netip.Addr{blocked}, nil
			case name == "some.example": // one is blocked, one refuses, one serves
				return []netip.Addr{blocked, netip.MustParseAddr("127.0.0.9"), at.Addr()}, nil
			}
			return []netip.Addr{at.Addr()}, nil
		})
	})
	for _, name := range []string{"good.example", "some.example"} {
		c, err := socksTo(server, target{Name: name, Port: at.Port()})
		if err != nil {
			t.Fatal(err)
		}
		if err := say(c, "hello"); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	var said socks.ServerError
	if _, err := socksTo(server, target{Name: "bad.example", Port: at.Port()}); !errors.As(err, &said) {
		t.Errorf("a name with a blocked address: %v", err)
	}
	_, udp := associateWith(t, server)
	if _, err := udp.Write(append(socks.AppendHead(nil, target{Name: "good.example", Port: atUDP.Port()}), "x"...)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	_ = udp.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := udp.Read(buf); err != nil {
		t.Fatal(err)
	}
	far.mu.Lock()
	defer far.mu.Unlock()
	if len(far.opened) != 3 {
		t.Errorf("the server made %d connections: %+v", len(far.opened), far.opened)
	}
	for _, c := range far.opened {
		if c.Name != "" || c.Dst.Addr() != at.Addr() {
			t.Errorf("the server was asked for %+v", c)
		}
	}
}
