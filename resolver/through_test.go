package resolver

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/internal/socks"
	"netpolicy.dev/netpolicy/internal/sockstest"
)

// TestThroughServer: a question by a route with a SOCKS server goes through it, over
// each transport, and to the upstream by no other way.
func TestThroughServer(t *testing.T) {
	for _, scheme := range []string{"udp", "tcp", "tls", "https"} {
		t.Run(scheme, func(t *testing.T) {
			s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
			p := sockstest.Listen(t, sockstest.Dial)
			r, addr := start(t, Config{
				Upstreams: []Upstream{s.upstream(scheme)},
				Choose:    func(string, uint16, netip.Addr) Choice { return Choice{Route: Route{Server: p.At}} },
			})
			if m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeA, 1232)); addresses(m) != "192.0.2.7" {
				t.Errorf("%+v", m)
			}
			want := map[string]netip.AddrPort{"udp": s.udp, "tcp": s.tcp, "tls": s.tls, "https": s.https}[scheme]
			asked := p.Asked()
			if len(asked) == 0 || slices.ContainsFunc(asked, func(x socks.Target) bool { return x.AddrPort() != want }) {
				t.Errorf("the proxy was asked for %v, want %v", asked, want)
			}
			if n := s.overUDP.Load(); n != 0 {
				t.Errorf("%d questions left over UDP", n)
			}
			if n, all := s.conns.Load(), len(asked); scheme != "https" && n != int64(all) {
				t.Errorf("%d connections came to the upstream, %d through the proxy", n, all)
			}
			if n := r.Counters().UpstreamErrors.Load(); n != 0 {
				t.Errorf("%d errors", n)
			}
		})
	}
}

// TestNoServer: when the SOCKS server is not there, nothing leaves.
func TestNoServer(t *testing.T) {
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := addrPort(l.Addr())
	_ = l.Close()
	_, addr := start(t, Config{
		Upstreams: []Upstream{s.upstream("udp"), s.upstream("tls")},
		Choose:    func(string, uint16, netip.Addr) Choice { return Choice{Route: Route{Server: nobody}} },
	})
	if m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeA, 1232)); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("%+v", m)
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("%d questions left", n)
	}
}

// TestNoWay: names whose traffic has no way out are not asked for.
func TestNoWay(t *testing.T) {
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	r, addr := start(t, Config{
		Upstreams: []Upstream{s.upstream("udp")},
		Choose:    func(string, uint16, netip.Addr) Choice { return Choice{NoWay: true} },
	})
	if m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeA, 1232)); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("%+v", m)
	}
	if asked, n := s.asked.Load(), r.Counters().NoWay.Load(); asked != 0 || n != 1 {
		t.Errorf("%d questions left, %d counted", asked, n)
	}
}

// TestLookup: what is not DNS is answered like it: from the cache, by its route, and
// learned.
func TestLookup(t *testing.T) {
	s := serve(t, "127.0.0.1", func(_ string, m dnsmessage.Message) *dnsmessage.Message {
		switch q := m.Questions[0]; {
		case q.Name.String() == "none.example.":
			r := replyTo(m)
			r.RCode = dnsmessage.RCodeNameError
			return r
		case q.Type == dnsmessage.TypeA:
			return addressed(300, "192.0.2.7")("", m)
		default:
			return addressed(300, "2001:db8::7")("", m)
		}
	})
	var learned recorder
	r, _ := start(t, Config{Upstreams: []Upstream{s.upstream("udp")}, Learn: learned.learn})
	client := netip.MustParseAddr("10.0.0.5")
	for range 2 {
		got, err := r.Lookup(t.Context(), client, "A.Example", Choice{})
		if want := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v", got, err)
		}
	}
	if n := s.asked.Load(); n != 2 {
		t.Errorf("%d questions, want one for each family", n)
	}
	if list := learned.learned(); len(list) != 2 || list[0].Name != "a.example" {
		t.Errorf("learned %+v", list)
	}
	for _, name := range []string{"none.example", "", "..", string(make([]byte, 64)) + ".example"} {
		if got, err := r.Lookup(t.Context(), client, name, Choice{}); err == nil {
			t.Errorf("%q has %v", name, got)
		}
	}
	for i := range maxQueriesPerClient {
		if !r.clients.Enter(client) {
			t.Fatalf("no room for question %d", i)
		}
	}
	if _, err := r.Lookup(t.Context(), client, "b.example", Choice{}); err == nil {
		t.Error("one client has more under way than it may")
	}
}
