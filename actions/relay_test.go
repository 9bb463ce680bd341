package actions_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/fake"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// TestRelay: new forwarded flows to the ports that the relay takes go to it, and
// what follows of them; where nobody listens, new ones are decided as ever.
func TestRelay(t *testing.T) {
	p := zoom()
	p.Daemon.Relay = rules.Relay{TCP: []rules.PortRange{{Lo: 443, Hi: 443}, {Lo: 8000, Hi: 8100}}, UDP: []rules.PortRange{{Lo: 443, Hi: 443}}}
	got := plan(t, p, twoLines(), nil, nil)
	golden(t, "relay.plan", got.String())
	var k fake.Kernel
	if err := k.Apply(context.Background(), actions.Diff(nil, got)); err != nil {
		t.Fatal(err)
	}
	packet := func(change func(*fake.Packet)) fake.Result {
		x := fake.Packet{
			In: "lan0", Proto: 6, Src: netip.MustParseAddr("10.0.0.5"), Dst: netip.MustParseAddr("203.0.113.7"), Sport: 5000, Dport: 443, New: true,
		}
		if change != nil {
			change(&x)
		}
		return k.Send(x)
	}
	taken := func(r fake.Result) bool {
		return r.Verdict == fake.Accept && r.Mark == got.Relay.Mark && r.CTMark == got.Relay.CTMark && r.Dev == "lo"
	}
	for _, listening := range []bool{true, false} {
		k.Listening = listening
		for _, c := range []struct {
			name   string
			change func(*fake.Packet)
			taken  bool
		}{
			{"TLS", nil, true},
			{"QUIC", func(x *fake.Packet) { x.Proto = 17 }, true},
			{"IPv6", func(x *fake.Packet) {
				x.Src, x.Dst = netip.MustParseAddr("2001:db8:10::5"), netip.MustParseAddr("2001:db8::7")
			}, true},
			{"a port within a range", func(x *fake.Packet) { x.Dport = 8050 }, true},
			{"another port", func(x *fake.Packet) { x.Dport = 22 }, false},
			{"to this host", func(x *fake.Packet) { x.Local = true }, false},
			{"of this host", func(x *fake.Packet) { x.In, x.Out = "", "wan1" }, false},
			{"from an uplink", func(x *fake.Packet) { x.In = "wan1" }, false},
			{"the relay's own", func(x *fake.Packet) { x.In, x.Out, x.Mark = "", "wan1", got.Bypass() }, false},
		} {
			r := packet(c.change)
			if want := c.taken && listening; taken(r) != want {
				t.Errorf("%s, listening %v: %+v", c.name, listening, r)
			}
			if r.CTMark == got.Relay.CTMark && !listening {
				t.Errorf("%s: marked as taken by a relay that is not there", c.name)
			}
		}
		later := func(x *fake.Packet) { x.New, x.CTMark = false, got.Relay.CTMark }
		if r := packet(later); listening && !taken(r) || !listening && r.Verdict != fake.Drop {
			t.Errorf("a later packet, listening %v: %+v", listening, r)
		}
	}
}

// TestRelayNumbers: what the relay is known by is nobody else's.
func TestRelayNumbers(t *testing.T) {
	p := zoom()
	p.Daemon.Relay.TCP = []rules.PortRange{{Lo: 1, Hi: 65535}}
	got := plan(t, p, twoLines(), nil, nil)
	if got.Relay.Mark == got.Bypass() || got.Relay.Mark == 0 || got.Relay.CTMark == got.BlockMark(true) || got.Relay.CTMark == got.BlockMark(false) {
		t.Errorf("%+v", got.Relay)
	}
	for i := range p.Uplinks {
		if m, ok := got.UplinkMark(p.Uplinks[i].Name); ok && m == got.Relay.Mark {
			t.Errorf("uplink %s has the relay's mark", p.Uplinks[i].Name)
		}
	}
	for i := range p.Routes {
		if m, ok := got.CTMark(i); ok && m == got.Relay.CTMark {
			t.Errorf("route %s has the relay's connection mark", p.Routes[i].Name)
		}
		if m, ok := got.RouteMark(p, i); ok && m == got.Relay.Mark {
			t.Errorf("route %s has the relay's mark", p.Routes[i].Name)
		}
	}
	h := twoLines()
	h.NoNFTables, h.XTables = true, true
	xt, diags := actions.PlanFor(engine.Compile(p), h, nil, nil)
	if xt == nil || xt.Relay != (actions.Relay{}) || !slices.ContainsFunc(diags, func(d diag.Diagnostic) bool { return strings.Contains(d.Message, "daemon.tproxy") }) {
		t.Errorf("with iptables: %v", diags)
	}
}

// tunnelled is zoom with a default that is a SOCKS server on the LAN, another on this
// host, and a route by a mark of the user's own.
func tunnelled() *rules.Policy {
	p := zoom()
	p.Routes = append(p.Routes,
		rules.Route{Name: "tunnel", Kind: rules.RouteOther, Other: "socks 10.0.0.9:1080", Uplink: 1, Group: -1},
		rules.Route{Name: "tunnel6", Kind: rules.RouteOther, Other: "socks [2001:db8:10::9]:1080", Uplink: -1, Group: -1},
		rules.Route{Name: "here", Kind: rules.RouteOther, Other: "socks 10.0.0.1:1080", Uplink: -1, Group: -1},
		rules.Route{Name: "vpn", Kind: rules.RouteMark, Mark: 0x100, Uplink: -1, Group: -1},
	)
	p.Rules = append(p.Rules, rules.Rule{
		Name: "six", Priority: 50, Active: state.AllStates,
		Match: pred(rules.Pred{Field: rules.FieldDstIP, Prefixes: []netip.Prefix{netip.MustParsePrefix("::/0")}}),
		Do:    rules.Outcome{Kind: rules.ActRoute, Route: 5},
	})
	p.Default = &rules.Outcome{Kind: rules.ActRoute, Route: 4}
	p.Daemon.OnCrash = rules.Last
	p.Daemon.Relay = rules.Relay{TCP: []rules.PortRange{{Lo: 443, Hi: 443}}}
	return p
}

// TestRelayProxies: what a SOCKS server on the LAN sends for the relay is not taken by
// the relay again, and leaves by the tunnel's uplink; rules hold for it as for others.
// Those of this host are not known by their addresses.
func TestRelayProxies(t *testing.T) {
	p := tunnelled()
	got := plan(t, p, twoLines(), nil, nil)
	golden(t, "tunnel.plan", got.String())
	var k fake.Kernel
	if err := k.Apply(context.Background(), actions.Diff(nil, got)); err != nil {
		t.Fatal(err)
	}
	k.Listening = true
	wan2, _ := got.UplinkMark("wan2")
	for _, c := range []struct {
		name, src, dst string
		port           uint16
		local          bool
		want           fake.Verdict
		mark           uint32
	}{
		{"a client's", "10.0.0.5", "203.0.113.7", 443, false, fake.Accept, got.Relay.Mark},
		{"the server's", "10.0.0.9", "203.0.113.7", 443, false, fake.Accept, wan2},
		{"the server's, IPv6", "2001:db8:10::9", "2001:db8::7", 443, false, fake.Accept, 0},
		{"a client's, not through the relay", "10.0.0.5", "203.0.113.7", 444, false, fake.Reject, 0},
		{"the server's, what a rule rejects", "10.0.0.9", "203.0.113.7", 5001, false, fake.Reject, 0},
		{"a program's of this host", "10.0.0.1", "203.0.113.7", 443, true, fake.Reject, 0},
	} {
		x := fake.Packet{In: "lan0", Proto: 6, Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst), Sport: 5000, Dport: c.port, New: true}
		if c.local {
			x.In, x.Out = "", "wan1"
		}
		if r := k.Send(x); r.Verdict != c.want || r.Verdict == fake.Accept && r.Mark != c.mark {
			t.Errorf("%s: %+v, want %v with mark %#x", c.name, r, c.want, c.mark)
		}
	}
	h := twoLines()
	h.NoNFTables, h.XTables = true, true
	xt, diags := actions.PlanFor(engine.Compile(p), h, nil, nil)
	if xt == nil {
		t.Fatal(diags)
	}
	golden(t, "tunnel-iptables.plan", xt.String())
}

// TestOwnMarks: a socket that leaves by a route's own mark is not decided again, where
// there is a relay or a forwarder that makes such; at connect neither.
func TestOwnMarks(t *testing.T) {
	for _, with := range []string{"nothing", "relay", "forwarder"} {
		p := tunnelled()
		p.Default = &rules.Outcome{Kind: rules.ActBlock}
		p.Daemon.Relay = rules.Relay{}
		switch with {
		case "relay":
			p.Daemon.Relay.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1080")}
		case "forwarder":
			p.Daemon.DNS.Listen = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}
		}
		got := plan(t, p, twoLines(), nil, nil)
		var k fake.Kernel
		if err := k.Apply(context.Background(), actions.Diff(nil, got)); err != nil {
			t.Fatal(err)
		}
		for mark, exempt := range map[uint32]bool{0: false, 0x100: with != "nothing", 0x101: false, got.Bypass(): true} {
			r := k.Send(fake.Packet{Out: "wan1", Proto: 6, Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("203.0.113.7"), Sport: 5000, Dport: 9, New: true, Mark: mark})
			if want := map[bool]fake.Verdict{true: fake.Accept, false: fake.Drop}[exempt]; r.Verdict != want {
				t.Errorf("with %s, mark %#x: %+v, want %v", with, mark, r, want)
			}
		}
		c := actions.ConnectFor(engine.Compile(p), &actions.Host{}, &state.World{Primary: -1})
		if want := map[bool][]uint32{true: {0x100}}[with != "nothing"]; !slices.Equal(c.Marks, want) {
			t.Errorf("with %s: marks at connect %x, want %x", with, c.Marks, want)
		}
	}
}

// TestOnUplink: what the relay or Xray sends for a route `on` an uplink has a mark and
// a table, also where no other route leads over that uplink.
func TestOnUplink(t *testing.T) {
	for _, other := range []string{"xray Home", "socks 192.0.2.9:1080"} {
		p := &rules.Policy{
			Uplinks: []rules.Uplink{{Name: "wan1", Dev: "wan1"}, {Name: "wan2", Dev: "wan2"}},
			Routes:  []rules.Route{{Name: "tunnel", Kind: rules.RouteOther, Other: other, Uplink: 1, Group: -1}},
			Default: &rules.Outcome{Kind: rules.ActRoute, Route: 0},
			Daemon:  rules.Daemon{Relay: rules.Relay{TCP: []rules.PortRange{{Lo: 443, Hi: 443}}}},
		}
		got := plan(t, p, twoLines(), nil, nil)
		mark, ok := got.UplinkMark("wan2")
		if !ok || mark == 0 || mark == got.Bypass() {
			t.Fatalf("%s: mark %#x, %v", other, mark, ok)
		}
		if !slices.ContainsFunc(got.IPRules, func(r actions.IPRule) bool { return r.Mark == mark }) ||
			!slices.ContainsFunc(got.IPRoutes, func(r actions.IPRoute) bool { return r.Dev == "wan2" && !r.Unreachable }) {
			t.Errorf("%s: %v\n%v", other, got.IPRules, got.IPRoutes)
		}
	}
}
