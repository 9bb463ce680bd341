package lab

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/socks"
	"netpolicy.dev/netpolicy/internal/sockstest"
)

// serveTunnel is a SOCKS server at an address of s, which is also where its connections come from.
func serveTunnel(t *testing.T, s *space, at string) *sockstest.Server {
	t.Helper()
	var l net.Listener
	err := s.do(func() (err error) { l, err = net.Listen("tcp", at); return err })
	if err != nil {
		t.Fatal(err)
	}
	from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddrPort(at).Addr(), 0))
	return sockstest.Serve(t, l, func(to socks.Target) (far net.Conn, err error) {
		err = s.do(func() (err error) {
			far, err = (&net.Dialer{LocalAddr: from, Timeout: 5 * time.Second}).Dial("tcp", to.String())
			return err
		})
		return far, err
	})
}

// proxied connects the lab's client to a target through a SOCKS server of the gateway.
func proxied(t *testing.T, l *Lab, server string, to socks.Target) (net.Conn, error) {
	t.Helper()
	c, err := l.Client().Dial(t.Context(), "tcp", server)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = socks.Ask(c, "", "", socks.Connect, to)
	return c, err
}

// count has the gateway count what leaves it from now on; what is "udp 53", or "tcp 53".
func count(t *testing.T, l *Lab, what ...string) (left func(uplink, what string) bool) {
	t.Helper()
	var rules strings.Builder
	for _, w := range what {
		for _, u := range []string{Wan1, Wan2} {
			proto, port, _ := strings.Cut(w, " ")
			fmt.Fprintf(&rules, "oifname %s %s dport %s counter comment \"%s %s\"\n", u, proto, port, u, w)
		}
	}
	const head = "table inet watch\ndelete table inet watch\ntable inet watch { chain out { type filter hook postrouting priority 300; policy accept;\n"
	if _, err := l.gw.run(t.Context(), head+rules.String()+"}\n}\n", "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	return func(uplink, what string) bool {
		text, err := l.gw.run(t.Context(), "", "nft", "list", "table", "inet", "watch")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text) {
			if strings.Contains(line, fmt.Sprintf("%q", uplink+" "+what)) {
				return !strings.Contains(line, "counter packets 0 ")
			}
		}
		t.Fatalf("no counter of %s by %s:\n%s", what, uplink, text)
		return false
	}
}

// TestTunnelNames: names whose traffic goes through a SOCKS server are asked for
// through it, by DNS clients and by proxy clients, and no question leaves otherwise;
// and rules on addresses hold for names.
func TestTunnelNames(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	server := serveTunnel(t, l.inet, "203.0.113.80:1080")
	daemon := fmt.Sprintf(`, relay: ["%s:1081"], dns_listen: ["%[1]s:53"], dns_upstreams: ["main udp://%s"]`, lanGateway4, Resolver4)
	text := string(testPolicy(daemon, "  - {name: gateway, priority: 300, match: {dst_ip: 10.77.0.1}, action: {route: direct}}\n"+
		"  - {name: evil, priority: 200, match: {dst_ip: [203.0.113.20, \"2001:db8:cafe::20\"]}, action: {block: reject}}\n"))
	text = strings.Replace(text, "default: {route: ha}", "routes: {direct: {via: main}, tunnel: {via: \"socks 203.0.113.80:1080 on wan1\"}}\ndefault: {route: tunnel}", 1)
	if err := WriteFile(policy, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	left := count(t, l, "udp 53", "tcp 53", "tcp 1080")
	eventually(t, "names are resolved", func() bool {
		a, err := l.Client().resolveAt(ctx, lanGateway4, "echo.example.net", false)
		return err == nil && a.String() == "198.51.100.41"
	})
	const proxy = lanGateway4 + ":1081"
	c, err := proxied(t, l, proxy, socks.Target{Name: "www.example.com", Port: PortEcho})
	if err != nil {
		t.Fatal(err)
	}
	if err := exchange(c, 1000, time.Now().Add(30*time.Second)); err != nil {
		t.Fatal(err)
	}
	// It is told that all is well when the decision waits for its first bytes.
	if c, err := proxied(t, l, proxy, socks.Target{Name: "evilzoom.us", Port: PortEcho}); err == nil && exchange(c, 1000, time.Now().Add(30*time.Second)) == nil {
		t.Error("a name with a blocked address is reached")
	}
	asked := map[string]bool{}
	for _, to := range server.Asked() {
		asked[to.String()] = true
	}
	if want := map[string]bool{Resolver4 + ":53": true, "198.51.100.30:7": true}; !maps.Equal(asked, want) {
		t.Errorf("the server was asked for %v", asked)
	}
	for _, u := range []string{Wan1, Wan2} {
		if left(u, "udp 53") || left(u, "tcp 53") {
			t.Errorf("questions left by %s\n%s", u, l.tail())
		}
	}
	if !left(Wan1, "tcp 1080") || left(Wan2, "tcp 1080") {
		t.Error("the tunnel is not on wan1 alone")
	}
}

// TestTunnelOnLAN: a SOCKS server behind the gateway is no loop: what it sends goes
// through the relay no second time, and leaves by the tunnel's uplink.
func TestTunnelOnLAN(t *testing.T) {
	l, policy := daemonLab(t)
	const at = "10.77.0.9"
	if err := l.client.address("eth0", at+"/24"); err != nil {
		t.Fatal(err)
	}
	server := serveTunnel(t, l.client, at+":1080")
	text := strings.Replace(string(testPolicy(", tproxy: [tcp/7]", "")), "default: {route: ha}", "routes: {tunnel: {via: \"socks "+at+":1080 on wan1\"}}\ndefault: {route: tunnel}", 1)
	if err := WriteFile(policy, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		if left, err := leaves(l, "203.0.113.30:7"); err != nil || left != Wan1 {
			t.Errorf("left by %q, %v\n%s", left, err, l.tail())
		}
		if asked := server.Asked(); len(asked) != n || asked[n-1].String() != "203.0.113.30:7" {
			t.Errorf("after %d connections the server was asked for %v", n, asked)
		}
	}
}

// TestRelayByMark: what the relay sends by a route that is a mark of the host's own is
// not decided again, as a flow of the gateway's.
func TestRelayByMark(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	for _, c := range []string{
		"ip rule add priority 100 fwmark 0x100 lookup 77", "ip route add default via 192.0.2.1 table 77",
		"ip -6 rule add priority 100 fwmark 0x100 lookup 77", "ip -6 route add default via 2001:db8:1::1 table 77",
	} {
		if _, err := l.gw.run(ctx, "", strings.Fields(c)...); err != nil {
			t.Fatal(err)
		}
	}
	text := string(testPolicy(", tproxy: [tcp/7]", "  - {name: lan, priority: 1, match: {src_ip: [10.77.0.0/24, \"2001:db8:77::/64\"]}, action: {route: vpn}}\n"))
	text = strings.Replace(text, "default: {route: ha}", "routes: {vpn: {via: mark 0x100}}\ndefault: {block: true}", 1)
	if err := WriteFile(policy, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what conntrack tells of the first must not block the next
		for _, addr := range []string{"203.0.113.30:7", "[2001:db8:cafe::30]:7"} {
			if left, err := leaves(l, addr); err != nil || left != Wan1 {
				t.Errorf("%s left by %q, %v\n%s", addr, left, err, l.tail())
			}
		}
	}
}
