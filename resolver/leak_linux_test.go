package resolver

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/internal/nstest"
)

// TestNoLeak has two uplinks with a server of the same address behind each. Names
// of one uplink are asked for there alone, over each transport; also when its server
// fails, and over TCP what was truncated.
func TestNoLeak(t *testing.T) {
	nstest.Need(t)
	here := nstest.Here(t)
	devs := []string{"upa", "upb"}
	peers, servers := make([]*nstest.NS, 2), make([]*fakeServer, 2)
	for i, dev := range devs {
		peers[i] = nstest.New(t)
		// The same network on both: only the device tells them apart.
		unlink(t, dev)
		nstest.Link(t, here, dev, peers[i], "eth0", fmt.Sprintf("198.51.100.%d/24", 10+i), "198.51.100.1/24")
		peers[i].Do(t, func() {
			servers[i] = serve(t, "198.51.100.1", func(proto string, m dnsmessage.Message) *dnsmessage.Message {
				r := addressed(300, fmt.Sprintf("192.0.2.%d", i))("", m)
				switch name := m.Questions[0].Name.String(); {
				case strings.HasPrefix(name, "truncated") && proto == "udp":
					r.Truncated, r.Answers = true, nil
				case strings.HasPrefix(name, "failing"):
					r.RCode, r.Answers = dnsmessage.RCodeServerFailure, nil
				}
				return r
			})
		})
	}
	routes := []Route{{Device: "upa"}, {Device: "upb", Source: netip.MustParseAddr("198.51.100.11"), Mark: 7}}
	// B first: until then nothing at all may have come to A.
	for _, i := range []int{1, 0} {
		before := received(t, peers[1])
		for _, scheme := range []string{"udp", "tcp", "tls", "https"} {
			// The servers' ports differ: for each uplink one upstream answers, and the
			// other, which is tried first, does not.
			_, addr := start(t, Config{
				Upstreams: []Upstream{servers[1-i].upstream(scheme), servers[i].upstream(scheme)},
				Choose:    func(string, uint16, netip.Addr) Choice { return Choice{Route: routes[i]} },
			})
			for _, name := range []string{"x.example.", "y.example.", "truncated.example."} {
				if m := askUDP(t, addr, question(t, name, dnsmessage.TypeA, 1232)); addresses(m) != fmt.Sprintf("192.0.2.%d", i) {
					t.Errorf("%s over %s by %s: %+v", name, scheme, devs[i], m)
				}
			}
			if m := askUDP(t, addr, question(t, "failing.example.", dnsmessage.TypeA, 1232)); m.RCode != dnsmessage.RCodeServerFailure {
				t.Errorf("failing: %v", m.RCode)
			}
		}
		a, b := received(t, peers[0]), received(t, peers[1])
		t.Logf("names of %s: %d packets arrived behind upa so far, %d behind upb", devs[i], a, b-before)
		if i == 1 && (a != 0 || b-before < 16) {
			t.Errorf("names of upb: %d packets left by upa, %d by upb", a, b-before)
		}
		if i == 0 && a < 16 {
			t.Errorf("names of upa: %d packets left by upa", a)
		}
	}
}

// unlink removes an interface when the test ends: that of its peer's namespace goes
// some time later.
func unlink(t *testing.T, dev string) {
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(dev); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
}

// received returns how many IPv4 packets came to a namespace.
func received(t *testing.T, ns *nstest.NS) int {
	t.Helper()
	var b []byte
	var err error
	ns.Do(t, func() { b, err = os.ReadFile("/proc/thread-self/net/snmp") })
	if err != nil {
		t.Fatal(err)
	}
	var ip [][]string
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); fields[0] == "Ip:" {
			ip = append(ip, fields)
		}
	}
	n, err := strconv.Atoi(ip[1][slices.Index(ip[0], "InReceives")])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAnswersFrom: a resolver on every address answers from the one asked.
func TestAnswersFrom(t *testing.T) {
	nstest.Need(t)
	here, client := nstest.Here(t), nstest.New(t)
	unlink(t, "lan0")
	nstest.Link(t, here, "lan0", client, "eth0", "10.0.0.1/24 10.0.0.2/24 2001:db8::1/64 2001:db8::2/64", "10.0.0.5/24 2001:db8::5/64")
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	for _, listen := range []string{"0.0.0.0:0", "[::]:0"} {
		_, bound := start(t, Config{Listen: []netip.AddrPort{netip.MustParseAddrPort(listen)}, Upstreams: []Upstream{s.upstream("udp")}})
		for _, a := range []string{"10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"} {
			addr := netip.AddrPortFrom(netip.MustParseAddr(a), bound.Port())
			if addr.Addr().Is4() != bound.Addr().Is4() {
				continue
			}
			client.Do(t, func() {
				// A connected socket takes answers from there alone.
				for range 2 { // not cached, cached
					if m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeA, 0)); addresses(m) != "192.0.2.7" {
						t.Errorf("%v: %+v", addr, m)
					}
				}
			})
		}
	}
}
