package actions_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// xzoom is zoom for iptables, and its host.
func xzoom() (*rules.Policy, actions.Host) {
	p, h := zoom(), twoLines()
	p.Daemon.Backend = rules.IPTables
	h.XTables = true
	return p, h
}

func TestXtablesText(t *testing.T) {
	p, h := xzoom()
	golden(t, "zoom-iptables.plan", plan(t, p, h, engine.OfflineWorld(p, state.Normal), nil).String())
}

// TestXtablesShapes has one rule for each form that a condition takes.
func TestXtablesShapes(t *testing.T) {
	p, h := xzoom()
	ports := func(list ...uint16) []rules.PortRange {
		var out []rules.PortRange
		for i := 0; i < len(list); i += 2 {
			out = append(out, rules.PortRange{Lo: list[i], Hi: list[i+1]})
		}
		return out
	}
	prefixes := func(list ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	not := func(e rules.Expr) rules.Expr { return rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{e}} }
	names := func(list ...string) rules.Expr {
		var out []rules.NamePattern
		for _, s := range list {
			out = append(out, rules.NamePattern{Kind: rules.Suffix, Name: s})
		}
		return pred(rules.Pred{Field: rules.FieldSNI, Names: out})
	}
	p.Rules = nil
	add := func(do rules.Outcome, exprs ...rules.Expr) {
		for _, e := range exprs {
			p.Rules = append(p.Rules, rules.Rule{
				Name: fmt.Sprint("r", len(p.Rules)), Priority: 1000 - len(p.Rules), Active: state.AllStates, Match: e, Do: do,
			})
		}
	}
	group, fast, drop := rules.Outcome{Kind: rules.ActRoute, Route: 3}, rules.Outcome{Kind: rules.ActRoute, Route: 1}, rules.Outcome{Kind: rules.ActBlock}
	// Each run becomes one set: between its rules stands none that leads elsewhere.
	add(group, names("a.example"), names("b.example", "c.example"))
	add(fast, pred(rules.Pred{Field: rules.FieldDstIP, Prefixes: prefixes("203.0.113.0/24")}),
		pred(rules.Pred{Field: rules.FieldDstIP, Prefixes: prefixes("198.51.100.0/24", "2001:db8::/32")}))
	add(drop, pred(rules.Pred{Field: rules.FieldPort, Ports: ports(1, 1)}), pred(rules.Pred{Field: rules.FieldPort, Ports: ports(5, 9)}))
	// Two lists are two sets, not their product.
	add(fast, both(
		pred(rules.Pred{Field: rules.FieldSrcIP, Prefixes: prefixes("10.0.0.0/24", "10.0.2.0/24")}),
		pred(rules.Pred{Field: rules.FieldDstIP, Prefixes: prefixes("203.0.113.0/25", "198.51.100.7/32")})))
	// iptables takes -d, -s and -i once.
	dst := func(list ...string) rules.Expr {
		return pred(rules.Pred{Field: rules.FieldDstIP, Prefixes: prefixes(list...)})
	}
	lan := pred(rules.Pred{Field: rules.FieldIfaceIn, Globs: []rules.Glob{"lan0"}})
	add(drop, both(dst("203.0.113.0/25"), not(dst("203.0.113.7/32")), lan, not(pred(rules.Pred{Field: rules.FieldIfaceIn, Globs: []rules.Glob{"lan1"}}))))
	tcp := pred(rules.Pred{Field: rules.FieldProto, Numbers: []uint32{6}})
	add(drop, both(tcp, pred(rules.Pred{Field: rules.FieldPort, Ports: ports(80, 80)})),
		both(tcp, not(pred(rules.Pred{Field: rules.FieldSrcPort, Ports: ports(80, 80, 90, 99)}))))
	add(fast, not(pred(rules.Pred{Field: rules.FieldPort, Ports: ports(443, 443)})))
	add(drop, pred(rules.Pred{Field: rules.FieldProto, Numbers: []uint32{1, 47}}), not(pred(rules.Pred{Field: rules.FieldProto, Numbers: []uint32{6, 58}})))
	add(fast, pred(rules.Pred{Field: rules.FieldDSCP, Numbers: []uint32{10, 46}}), not(pred(rules.Pred{Field: rules.FieldMark, Numbers: []uint32{1, 2}})))
	add(drop, lan,
		not(pred(rules.Pred{Field: rules.FieldIfaceIn, Globs: []rules.Glob{"lan1", "lan0"}})))
	add(rules.Outcome{Mods: rules.Modifiers{Log: flow.Some(`a "quoted" name`), DSCP: flow.Some(uint8(10)), Mark: flow.Some(uint32(4))}},
		rules.Expr{Op: rules.OpOr, Kids: []rules.Expr{tcp, names("a.example")}})
	add(rules.Outcome{Kind: rules.ActBlock, Reject: true, Mods: rules.Modifiers{Log: flow.Some("")}}, both(tcp, names("d.example"), names("e.example")))
	// The last holds for all forwarded flows: in their walks nothing comes after it.
	add(group, pred(rules.Pred{Field: rules.FieldUser, Globs: []rules.Glob{"alice"}}), not(pred(rules.Pred{Field: rules.FieldUser, Globs: []rules.Glob{"root"}})))
	golden(t, "shapes-iptables.plan", plan(t, p, h, engine.OfflineWorld(p, state.Normal), nil).Table.Text())
}

func TestXtablesUpdates(t *testing.T) {
	p, h := xzoom()
	normal, failed := engine.OfflineWorld(p, state.Normal), engine.OfflineWorld(p, state.Failover)
	pl := plan(t, p, h, normal, nil)
	var got []string
	for _, u := range pl.WorldUpdates(normal, failed) {
		got = append(got, u.String())
	}
	answer := func(addr string, names ...string) {
		us, err := pl.Answer(netip.MustParseAddr(addr), flow.NewNames(names...), 90*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range us {
			got = append(got, u.String())
		}
	}
	answer("203.0.113.7", "us01.zoom.us")
	answer("::ffff:203.0.113.7", "other.example")
	answer("2001:db8:f::7", "zoom.us", "b.example")
	for _, u := range pl.KeepAlive() {
		got = append(got, u.String())
	}
	tag := pl.Table.Shape[:6]
	want := []string{
		"ipset add np_T_a3_3 np_any4", "ipset add np_T_a3_3 np_any6", // ha gives backup now
		"ipset del np_T_w_f93b02f1278c7cb8 np_any4", "ipset del np_T_w_f93b02f1278c7cb8 np_any6", // the rule zoom does not hold
		"ipset del np_T_a3_2 np_any4", "ipset del np_T_a3_2 np_any6",
		"ipset add names 203.0.113.7 timeout 90000ms : np_T_n0_4",
		"ipset del names 203.0.113.7",
		"ipset add names 2001:db8:f::7 timeout 90000ms : np_T_n0_6",
		"ipset add np_T_alive np_any4 timeout 5000ms", "ipset add np_T_alive np_any6 timeout 5000ms",
	}
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], "np_"+tag+"_", "np_T_")
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestXtablesDiff(t *testing.T) {
	p, h := xzoom()
	normal, failed := engine.OfflineWorld(p, state.Normal), engine.OfflineWorld(p, state.Failover)
	a, b := plan(t, p, h, normal, nil), plan(t, p, h, failed, nil)
	kinds := func(steps []actions.Step) string {
		var list []string
		for _, s := range steps {
			switch s.Kind {
			case actions.PutTable, actions.DelTable, actions.PutUpdates:
				list = append(list, s.String())
			}
		}
		return strings.Join(list, "; ")
	}
	p.Daemon.Backend = rules.NFTables
	nft := plan(t, p, h, normal, a)
	bare := *a
	bare.Table = actions.Table{Name: a.Table.Name, Shape: a.Table.Shape, XT: &actions.Xtables{}}
	put := fmt.Sprintf("iptables replace np_* (%d sets, %d chains)", len(a.Table.XT.Sets), len(a.Table.XT.Chains))
	for _, c := range []struct {
		name     string
		old, new *actions.Plan
		want     string
	}{
		{"the same", a, a, ""},
		{"from nothing", nil, a, put},
		{"to nothing", a, nil, "iptables delete np_*"},
		{"another world", a, b, "ipset 6 element updates"},
		{"adopted", &bare, a, "ipset 8 element updates"},
		{"to nftables", a, nft, fmt.Sprintf("nft replace table inet netpolicy (%d sets, %d chains); iptables delete np_*", len(nft.Table.Sets), len(nft.Table.Chains))},
		{"from nftables", nft, a, put + "; nft delete table inet netpolicy"},
	} {
		if got := kinds(actions.Diff(c.old, c.new)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestXtablesDiagnostics(t *testing.T) {
	p, h := xzoom()
	p.Groups[0].Strategy = rules.Weighted
	messages := func() (list []string) {
		_, diags := actions.PlanFor(engine.Compile(p), h, nil, nil)
		for _, d := range diags {
			list = append(list, d.Message)
		}
		return list
	}
	want := []string{
		"group ha: iptables can't share flows out by their hash: all new flows take the member with the greatest share",
		"iptables can't share flows out by their hash: an uplink in RECOVERY gets all its new flows back at once",
	}
	if d := cmp.Diff(want, messages()); d != "" {
		t.Error(d)
	}
	h.XTables, h.NoNFTables = false, true
	for backend, want := range map[rules.Backend]string{
		rules.IPTables:    "daemon.backend iptables: iptables-restore, ip6tables-restore or ipset is not on this host",
		rules.NFTables:    "daemon.backend nftables: nftables is not on this host",
		rules.AutoBackend: "daemon.backend auto: neither nftables nor iptables-restore with ip6tables-restore and ipset are on this host",
	} {
		p.Daemon.Backend = backend
		if got := messages(); got[0] != want {
			t.Errorf("%v: got %q, want %q", backend, got, want)
		}
	}
	h.XTables, p.Daemon.Backend = true, rules.AutoBackend
	if pl := plan(t, p, h, nil, nil); pl.Table.XT == nil {
		t.Error("auto without nftables is not iptables")
	}
}
