package relay

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/internal/socks"
)

// TestHappyEyeballs: an address that does not answer costs a quarter of a second,
// one that refuses costs nothing.
func TestHappyEyeballs(t *testing.T) {
	nstest.Need(t)
	here, peer := nstest.Here(t), nstest.New(t)
	nstest.Link(t, here, "he0", peer, "eth0", "192.0.2.1/24 2001:db8::1/64", "192.0.2.2/24 2001:db8::2/64")
	t.Cleanup(func() { here.Run(t, "", "ip", "link", "del", "he0") })
	peer.Run(t, "table inet x { chain i { type filter hook input priority 0; ip6 daddr 2001:db8::2 tcp dport 81 drop\n}\n}", "nft", "-f", "-")
	for _, c := range []struct {
		name        string
		port        string
		least, most time.Duration
	}{{"refuses", "80", 0, attemptDelay}, {"silent", "81", attemptDelay, 3 * time.Second}} {
		t.Run(c.name, func(t *testing.T) {
			var l net.Listener
			peer.Do(t, func() { l, _ = net.Listen("tcp4", "192.0.2.2:"+c.port) })
			at := serveOn(t, l, echo)
			var h heard
			_, server := mixed(t, direct, func(c *Config) {
				c.Reporter = &h
				c.Resolver = names{"both.example": {netip.MustParseAddr("2001:db8::2"), at.Addr()}}
			})
			conn, err := socksTo(server, target{Name: "both.example", Port: at.Port()})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := say(conn, "hello"); err != nil {
				t.Fatal(err)
			}
			if o := h.dials()[0]; o.Dst != at || o.Took < c.least || c.name == "silent" && o.Took > c.most {
				t.Errorf("%+v", o)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	nstest.Need(t)
	r, err := New(Config{Decider: deciderFunc(direct), Mark: bypass, Limits: Limits{Dial: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.closeAll()
	here := nstest.Here(t)
	nstest.Link(t, here, "hole0", nstest.New(t), "eth0", "192.0.2.1/24", "")
	t.Cleanup(func() { here.Run(t, "", "ip", "link", "del", "hole0") })
	here.Run(t, "", "ip", "neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "hole0")
	refused := closedPort(t)
	for _, c := range []struct {
		name string
		way  Way
		to   netip.AddrPort
		want Failure
	}{
		{"refused", Way{}, refused, Refused},
		{"no route", Way{}, netip.MustParseAddrPort("203.0.113.1:80"), Unreachable},
		{"no route, IPv6", Way{}, netip.MustParseAddrPort("[2001:db8::1]:80"), Unreachable},
		{"silent", Way{}, netip.MustParseAddrPort("192.0.2.9:80"), TimedOut},
		{"no such device", Way{Dev: "none0"}, refused, Local},
		{"no such source", Way{Src4: netip.MustParseAddr("198.51.100.1")}, refused, Local},
		{"through a server that refuses", Way{Server: refused}, netip.MustParseAddrPort("192.0.2.9:80"), Refused},
	} {
		limit := r.limits.Dial
		if c.want == TimedOut {
			limit = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		d := dialer{r, netip.Addr{}, &c.way}
		conn, err := d.connect(ctx, socks.TargetOf(c.to), nil, &Outcome{})
		if err == nil {
			_ = conn.Close()
		}
		if got := failureOf(err); err == nil || got != c.want {
			t.Errorf("%s: %v is %s, want %s", c.name, err, got, c.want)
		}
		cancel()
	}
}

// TestSocketOptions: all sockets have the mark, and find out about dead peers.
func TestSocketOptions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mark sockets")
	}
	at := serveTCP(t, "127.0.0.1:0", echo)
	r, server := mixed(t, func(_ *Ask, v *Verdict) { v.Way.Mark = 0x10000000 }, nil)
	c := mustSOCKS(t, server, at)
	if err := say(c, "hello"); err != nil {
		t.Fatal(err)
	}
	found := make(chan [4]int, 2*len(r.loops))
	for _, l := range r.loops {
		l.post(func(l *loop) {
			for _, h := range l.handlers {
				if p, ok := h.(*pair); ok {
					var got [4]int
					for i := range p.halves {
						fd := int(p.halves[i].from)
						got[2*i], _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
						got[2*i+1], _ = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
						if on, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE); on == 0 {
							got[2*i+1] = -1
						}
					}
					found <- got
				}
			}
		})
	}
	if got, want := <-found, [4]int{bypass, 120, 0x10000000, 120}; got != want {
		t.Errorf("mark and keep-alive of client and far end: %x, want %x", got, want)
	}
}
