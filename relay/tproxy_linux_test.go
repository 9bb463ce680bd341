package relay

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/nstest"
)

// The marks of the test's network: two uplinks, and what goes through the relay.
const (
	markMask  = 0x70000000
	markWan0  = 0x10000000
	markWan1  = 0x20000000
	markRelay = 0x30000000
)

// network is a client, the router on which the relay runs, and servers behind
// two uplinks.
type network struct {
	client, servers *nstest.NS
	needs           needs
}

// newNetwork makes it, with everything from the client, and what local programs
// send to the servers, going through the relay.
func newNetwork(t *testing.T) *network {
	nstest.Need(t)
	n := &network{client: nstest.New(t), servers: nstest.New(t)}
	here := nstest.Here(t)
	nstest.Link(t, here, "lan0", n.client, "eth0", "10.1.0.1/24 2001:db8:1::1/64", "10.1.0.2/24 2001:db8:1::2/64")
	nstest.Link(t, here, "wan0", n.servers, "if0", "192.0.2.1/24 2001:db8:a::1/64", "192.0.2.2/24 2001:db8:a::2/64")
	nstest.Link(t, here, "wan1", n.servers, "if1", "198.51.100.1/24 2001:db8:b::1/64", "198.51.100.2/24 2001:db8:b::2/64")
	t.Cleanup(func() {
		for _, dev := range []string{"lan0", "wan0", "wan1"} {
			here.Run(t, "", "ip", "link", "del", dev)
		}
	})
	n.needs = needs{
		mark: markRelay, mask: markMask, table: 203, priority: 100,
		ipv4: netip.MustParseAddrPort("127.0.0.1:7893"), ipv6: netip.MustParseAddrPort("[::1]:7893"),
	}
	n.client.Run(t, "", "sh", "-ec", `ip route add default via 10.1.0.1; ip -6 route add default via 2001:db8:1::1`)
	n.servers.Address(t, "lo", "203.0.113.10/32 2001:db8:f::10/128")
	ways := `ip %[1]s rule add priority 10 fwmark 0x10000000/0x70000000 lookup 201
ip %[1]s rule add priority 11 fwmark 0x20000000/0x70000000 lookup 202
ip %[1]s route add default via %[2]s table 201
ip %[1]s route add default via %[3]s table 202
ip %[1]s route add default via %[2]s
`
	script := fmt.Sprintf(ways, "-4", "192.0.2.2", "198.51.100.2") + fmt.Sprintf(ways, "-6", "2001:db8:a::2", "2001:db8:b::2") + n.needs.ip()
	here.Run(t, script, "sh", "-e")
	undo := `for f in -4 -6; do for p in 10 11 100; do ip $f rule del priority $p; done
for t in 201 202 203; do ip $f route flush table $t; done; done`
	t.Cleanup(func() { here.Run(t, undo, "sh") })
	n.nft(t, here)
	return n
}

func (n *network) nft(t *testing.T, here *nstest.NS) {
	here.Run(t, `table inet relaytest {
	chain decide { type filter hook prerouting priority mangle; iifname "lan0" fib daddr type unicast meta mark set `+fmt.Sprint(markRelay)+`; }
	chain local { type route hook output priority mangle;
		meta mark & `+fmt.Sprint(markMask)+` == 0 ip daddr 203.0.113.0/24 meta mark set `+fmt.Sprint(markRelay)+`
		meta mark & `+fmt.Sprint(markMask)+` == 0 ip6 daddr 2001:db8:f::/64 meta mark set `+fmt.Sprint(markRelay)+`
	}
	chain relay { type filter hook prerouting priority mangle + 1; `+n.needs.nft()+` }
}`, "nft", "-f", "-")
	t.Cleanup(func() { here.Run(t, "", "nft", "delete", "table", "inet", "relaytest") })
}

// decide sends b.example over wan1, resets reject.example, and all else over wan0.
func (n *network) decide(a *Ask, v *Verdict) {
	host, known := a.Flow.HTTPHost.Get()
	v.Sniff = a.Flow.HTTPHost.Unknown()
	v.Way = Way{Route: "zero", Uplink: 0, Mark: markWan0}
	switch {
	case known && host == "b.example":
		v.Way = Way{Route: "one", Uplink: 1, Mark: markWan1, Dev: "wan1"}
	case known && host == "reject.example":
		v.Do = Reject
	case known && host == "drop.example":
		v.Do = Drop
	}
}

func (n *network) start(t *testing.T, h *heard) *Relay {
	return start(t, Config{
		Inbounds: []Inbound{{Kind: TProxy, Listen: n.needs.ipv4}, {Kind: TProxy, Listen: n.needs.ipv6}},
		Decider:  deciderFunc(n.decide), Reporter: h, Mark: bypass, Limits: Limits{Sniff: 100 * time.Millisecond},
	})
}

func TestTProxyTCP(t *testing.T) {
	n := newNetwork(t)
	n.start(t, &heard{})
	n.tcp(t)
}

// tcp connects from the client, IPv4 and IPv6.
func (n *network) tcp(t *testing.T) {
	greet := func(c *net.TCPConn) { // the server speaks first, and says whom it sees
		_, _ = fmt.Fprintf(c, "%s\n", c.RemoteAddr().(*net.TCPAddr).IP)
		echo(c)
	}
	for _, server := range []struct {
		addr, zero, one string
	}{
		{"203.0.113.10", "192.0.2.1", "198.51.100.1"},
		{"2001:db8:f::10", "2001:db8:a::1", "2001:db8:b::1"},
	} {
		var l net.Listener
		n.servers.Do(t, func() {
			var err error
			if l, err = net.Listen("tcp", net.JoinHostPort(server.addr, "80")); err != nil {
				t.Error(err)
			}
		})
		at := serveOn(t, l, greet)
		for _, c := range []struct {
			first string // what the client says first
			sees  string // the address that the server sees
		}{
			{"", server.zero},
			{"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", server.zero},
			{"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n", server.one},
			{"GET / HTTP/1.1\r\nHost: reject.example\r\n\r\n", "reset"},
			{"GET / HTTP/1.1\r\nHost: drop.example\r\n\r\n", "end"},
		} {
			var conn net.Conn
			n.client.Do(t, func() {
				var err error
				if conn, err = net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at)); err != nil {
					t.Error(err)
				}
			})
			_, _ = io.WriteString(conn, c.first)
			b := bufio.NewReader(conn)
			line, err := b.ReadString('\n')
			switch {
			case wasReset(err):
				line = "reset"
			case err != nil:
				line = "end"
			}
			if got := strings.TrimSpace(line); got != c.sees {
				t.Errorf("%s, %q: the server sees %s, want %s", at, c.first, got, c.sees)
			}
			if err == nil {
				if _, err := io.ReadFull(b, make([]byte, len(c.first))); err != nil {
					t.Error("sniffed bytes don't arrive:", err)
				}
			}
			_ = conn.Close()
		}
	}
}

// TestNoLoop: what local programs send goes through the relay, and what the relay
// sends does not come back to it.
func TestNoLoop(t *testing.T) {
	n := newNetwork(t)
	var h heard
	r := n.start(t, &h)
	for _, addr := range []string{"203.0.113.10", "2001:db8:f::10"} {
		var l net.Listener
		n.servers.Do(t, func() { l, _ = net.Listen("tcp", net.JoinHostPort(addr, "80")) })
		at := serveOn(t, l, echo)
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		if err := say(c, "from here"); err != nil {
			t.Error(err)
		}
		if list := r.Conns(); len(list) != 1 || list[0].Dst != at {
			t.Errorf("%s: table %+v", addr, list)
		}
		_ = c.Close()
		eventually(t, "the table is empty", func() bool { return len(r.Conns()) == 0 })
	}
	if len(h.dials()) != 2 {
		t.Errorf("%d dials, want 2", len(h.dials()))
	}
	// And straight to the listener's own address.
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(n.needs.ipv4))
	if err == nil {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Error("the relay serves itself:", err)
		}
		_ = c.Close()
	}
	if r.Stats().Self == 0 {
		t.Error("not counted")
	}
}

func TestTProxyUDP(t *testing.T) {
	n := newNetwork(t)
	r := n.start(t, &heard{})
	n.udp(t, r, "203.0.113.10")
	n.udp(t, r, "2001:db8:f::10")
}

func (n *network) udp(t *testing.T, r *Relay, addr string) {
	var pc net.PacketConn
	n.servers.Do(t, func() {
		var err error
		if pc, err = net.ListenPacket("udp", net.JoinHostPort(addr, "5000")); err != nil {
			t.Error(err)
		}
	})
	at := echoUDP(t, pc)
	var conns [3]*net.UDPConn
	for i := range conns {
		n.client.Do(t, func() {
			var err error
			if conns[i], err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at)); err != nil { // connected: takes answers from there alone
				t.Error(err)
			}
		})
		defer conns[i].Close()
	}
	buf := make([]byte, 64<<10)
	for round := range 40 {
		for i, c := range conns {
			want := []int{1, 1200, 1472, 20_000, 0}[round%5]
			if _, err := c.Write(buf[:want]); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if got, err := c.Read(buf); err != nil || got != want {
				t.Fatalf("%s, client %d: %d bytes, %v; want %d", addr, i, got, err, want)
			}
		}
	}
	var up uint64
	list := r.Conns()
	for _, c := range list {
		if c.Dst == at {
			up += c.Up
		}
	}
	if len(list) < len(conns) || up != 3*8*(1+1200+1472+20_000) {
		t.Errorf("table: %d bytes up in %+v", up, list)
	}
}

// TestManyDestinations: a client that asks for more destinations than it may loses its
// own oldest sessions, and one that fills the table does not keep others out of it.
func TestManyDestinations(t *testing.T) {
	n := newNetwork(t)
	n.client.Run(t, "", "ip", "addr", "add", "10.1.0.3/24", "dev", "eth0")
	const most, each = 6, 4
	var h heard
	r, err := New(Config{
		Inbounds: []Inbound{{Kind: TProxy, Listen: n.needs.ipv4}},
		Decider:  deciderFunc(direct), Reporter: &h, Mark: bypass, Limits: Limits{Sessions: each},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.maxReplies = most
	run(t, r)
	var servers []netip.AddrPort
	for range 2*each + 2 {
		var pc net.PacketConn
		n.servers.Do(t, func() { pc, err = net.ListenPacket("udp", "203.0.113.10:0") })
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, echoUDP(t, pc))
	}
	exchange := func(from string, to netip.AddrPort) {
		t.Helper()
		var c *net.UDPConn
		n.client.Do(t, func() {
			c, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, net.UDPAddrFromAddrPort(to))
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 10)); err != nil {
			t.Errorf("%s has no answer of %s: %v", from, to, err)
		}
	}
	held := func() (list []netip.AddrPort) {
		for _, c := range r.Conns() {
			list = append(list, c.Dst)
		}
		return list
	}
	for _, s := range servers[:2*each] {
		exchange("10.1.0.2", s)
	}
	// The newest stay.
	if got, want := held(), servers[each:2*each]; !slices.Equal(got, want) {
		t.Errorf("the client has sessions with %v, want %v", got, want)
	}
	if s := r.Stats(); s.Displaced != each {
		t.Errorf("%+v", s)
	}
	exchange("10.1.0.3", servers[0])
	exchange("10.1.0.3", servers[1]) // the last free place
	exchange("10.1.0.3", servers[2*each])
	want := append(slices.Clone(servers[each+1:2*each]), servers[0], servers[1], servers[2*each])
	if got := held(); !slices.Equal(got, want) {
		t.Errorf("both have sessions with %v, want %v", got, want)
	}
	if _, end := h.end(t, 1); end.Why != Displaced {
		t.Errorf("it ended because of %s", end.Why)
	}
}
