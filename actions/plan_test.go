package actions_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"

	"netpolicy.dev/netpolicy/flow"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// twoLines is a gateway with a LAN and two uplinks.
func twoLines() actions.Host {
	link := func(i int, name string, addrs ...string) actions.Link {
		l := actions.Link{Name: name, Index: i, Up: true}
		for _, a := range addrs {
			l.Addrs = append(l.Addrs, netip.MustParsePrefix(a))
		}
		return l
	}
	conn := func(p, dev string) actions.Connected {
		return actions.Connected{Prefix: netip.MustParsePrefix(p), Dev: dev}
	}
	return actions.Host{
		Links: []actions.Link{
			link(2, "lan0", "10.0.0.1/24", "2001:db8:10::1/64"),
			link(3, "wan1", "192.0.2.2/24", "2001:db8:1::2/64"),
			link(4, "wan2", "198.51.100.2/24"),
		},
		Defaults: []actions.DefaultRoute{
			{Dev: "wan1", Family: actions.IPv4, Gateway: netip.MustParseAddr("192.0.2.1")},
			{Dev: "wan1", Family: actions.IPv6, Gateway: netip.MustParseAddr("2001:db8:1::1")},
		},
		Connected: []actions.Connected{
			conn("10.0.0.0/24", "lan0"), conn("192.0.2.0/24", "wan1"), conn("198.51.100.0/24", "wan2"),
			conn("2001:db8:10::/64", "lan0"), conn("2001:db8:1::/64", "wan1"),
		},
		Users: map[string]uint32{"alice": 1000, "root": 0},
	}
}

func pred(p rules.Pred) rules.Expr { return rules.Expr{Op: rules.OpPred, Pred: p} }

func both(kids ...rules.Expr) rules.Expr { return rules.Expr{Op: rules.OpAnd, Kids: kids} }

// zoom is the classic policy: two uplinks, a group, names, states, modifiers.
func zoom() *rules.Policy {
	return &rules.Policy{
		Hash: [32]byte{1},
		Uplinks: []rules.Uplink{
			{Name: "wan1", Dev: "wan1"},
			{Name: "wan2", Dev: "wan2", Gateway: [2]netip.Addr{netip.MustParseAddr("198.51.100.1")}},
		},
		Routes: []rules.Route{
			{Name: "direct", Kind: rules.RouteMain},
			{Name: "fast", Kind: rules.RouteUplink, Uplink: 0},
			{Name: "backup", Kind: rules.RouteUplink, Uplink: 1},
			{Name: "ha", Kind: rules.RouteGroup, Group: 0},
		},
		Groups: []rules.Group{{Name: "ha", Strategy: rules.Fallback, Members: []int{1, 2}}},
		Rules: []rules.Rule{
			{
				Name: "watch", Priority: 300, Active: state.AllStates,
				Match: pred(rules.Pred{Field: rules.FieldPort, Ports: []rules.PortRange{{Lo: 22, Hi: 22}}}),
				Do:    rules.Outcome{Mods: rules.Modifiers{Log: flow.Some("ssh")}},
			},
			{
				Name: "zoom", Priority: 200, Active: state.AllStates.With(state.Normal) &^ state.Set(0).With(state.Failover),
				Match: both(
					pred(rules.Pred{Field: rules.FieldSNI, Names: []rules.NamePattern{{Kind: rules.Suffix, Name: "zoom.us"}}}),
					pred(rules.Pred{Field: rules.FieldProto, Numbers: []uint32{6, 17}})),
				Do: rules.Outcome{Kind: rules.ActRoute, Route: 1, Mods: rules.Modifiers{Log: flow.Some(""), DSCP: flow.Some(uint8(46))}},
			},
			{
				Name: "no_dns", Priority: 100, Active: state.AllStates,
				Match: both(
					pred(rules.Pred{Field: rules.FieldPort, Ports: []rules.PortRange{{Lo: 53, Hi: 53}, {Lo: 5000, Hi: 5010}}}),
					rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{pred(rules.Pred{
						Field:    rules.FieldDstIP,
						Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16")},
					})}}),
				Do: rules.Outcome{Kind: rules.ActBlock, Reject: true},
			},
		},
		Default: &rules.Outcome{Kind: rules.ActSwitchRoute, Route: 3},
		Primary: 0,
		Daemon:  rules.Daemon{OnCrash: rules.Closed, Masquerade: []int{0, 1}},
	}
}

func plan(t testing.TB, p *rules.Policy, h actions.Host, w *state.World, prev *actions.Plan) *actions.Plan {
	t.Helper()
	got, diags := actions.PlanFor(engine.Compile(p), h, w, prev)
	if got == nil {
		t.Fatalf("no plan: %v", diags)
	}
	return got
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (run with -update to accept):\n%s", file, d)
	}
}

func TestPlanText(t *testing.T) {
	p := zoom()
	golden(t, "zoom.plan", plan(t, p, twoLines(), engine.OfflineWorld(p, state.Normal), nil).String())
	golden(t, "zoom-recovery.plan", plan(t, p, twoLines(), engine.OfflineWorld(p, state.Recovery), nil).String())
}

func TestPlanDiagnostics(t *testing.T) {
	p := zoom()
	p.Rules[0].Match = pred(rules.Pred{Field: rules.FieldProcess, Globs: []rules.Glob{"zoom"}})
	h := twoLines()
	h.Links[2].Up = false
	_, diags := actions.PlanFor(engine.Compile(p), h, nil, nil)
	var got []string
	for _, d := range diags {
		if d.Code != "NP502" || d.Severity == diag.Error {
			t.Errorf("unexpected %v", d)
		}
		got = append(got, d.Message)
	}
	want := []string{
		`route backup: device "wan2" is down or not there: its flows are unreachable until it comes up`,
		"rule watch: the kernel does not know process when a connection begins: until the daemon does, the rule counts as not matching",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
