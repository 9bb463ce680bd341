package doctor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/host"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/state"
)

// lookIn gathers the facts of a namespace.
func lookIn(t *testing.T, ns *nstest.NS, o Options) Facts {
	t.Helper()
	var f Facts
	ns.Do(t, func() { f = Look(context.Background(), o) })
	return f
}

// TestReadNft reads what nft and iptables-nft make of rules on marks.
func TestReadNft(t *testing.T) {
	nstest.Need(t)
	ns := nstest.New(t)
	ns.Run(t, `table inet x {
	map m { type ipv4_addr : mark; elements = { 192.0.2.1 : 0x5 } }
	chain pre {
		type filter hook prerouting priority mangle + 10; policy accept;
		meta mark set 0x1
		meta mark set meta mark & 0xffff00ff | 0x100
		meta mark & 0xff0000 == 0x80000 accept
		meta mark 0x7 accept
		meta mark != 0 accept
		meta mark { 0x3, 0x4 } accept
		meta mark 0x10-0x20 accept
		meta mark set ct mark
		ct mark set meta mark & 0xff
		ct mark set ct mark & 0xfffffff0 | 0x2
		ct mark and 0xf 0x3 accept
		meta mark set ip saddr map @m
		meta mark set jhash ip saddr mod 2
		ct label set 66
		ct label 3 accept
	}
	chain plain { }
}
`, "nft", "-f", "-")
	f := Facts{}
	var err error
	ns.Do(t, func() { err = readNft(&f) })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range f.Marks {
		got = append(got, strings.TrimPrefix(m.String(), "nft inet x pre: "))
	}
	want := []string{
		"sets packet mark 0x1/0xffffffff",
		"sets packet mark 0x100/0xff00",
		"asks for packet mark 0x80000/0xff0000",
		"asks for packet mark 0x7/0xffffffff",
		"asks for packet mark 0x0/0xffffffff",
		"asks for packet mark under 0xffffffff", // the set; the range is equal to it
		"sets packet mark under 0xffffffff from the connection mark",
		"sets connection mark under 0xffffffff from the packet mark",
		"sets connection mark 0x2/0xf",
		"asks for connection mark 0x3/0xf",
		"sets packet mark under 0xffffffff", // the map; jhash is equal to it
		"sets connection label 66",
		"asks for connection label 3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]Chain{
		{Family: "inet", Table: "x", Name: "pre", Hook: "prerouting", Type: "filter", Priority: -140},
		{Family: "inet", Table: "x", Name: "plain"},
	}, f.Chains); diff != "" {
		t.Errorf("chains (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]NftTable{{Family: "inet", Name: "x"}}, f.Nft); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}

// TestReadIptablesNft: iptables-nft keeps its extensions in nftables.
func TestReadIptablesNft(t *testing.T) {
	nstest.Need(t)
	if _, err := exec.LookPath("iptables-nft"); err != nil {
		t.Skip(err)
	}
	ns := nstest.New(t)
	for _, rule := range []string{
		"-j MARK --set-xmark 0x40000/0xff0000", "-m mark --mark 0x1/0x3 -j ACCEPT", "-m connmark --mark 0x5 -j ACCEPT",
		"-j CONNMARK --set-xmark 0x100/0x3f00", "-j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00", "-j CONNMARK --restore-mark",
	} {
		ns.Run(t, "", "iptables-nft", append([]string{"-t", "mangle", "-A", "PREROUTING"}, strings.Fields(rule)...)...)
	}
	f := Facts{}
	var err error
	ns.Do(t, func() { err = readNft(&f) })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range f.Marks {
		got = append(got, strings.TrimPrefix(m.String(), "nft ip mangle PREROUTING: "))
	}
	want := []string{
		"sets packet mark 0x40000/0xff0000",
		"asks for packet mark 0x1/0x3",
		"asks for connection mark 0x5/0xffffffff",
		"sets connection mark 0x100/0x3f00",
		"sets connection mark under 0x3f00 from the packet mark",
		"sets packet mark under 0xffffffff from the connection mark",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestReadRules reads ip rules and tables as `ip` shows them.
func TestReadRules(t *testing.T) {
	nstest.Need(t)
	ns, peer := nstest.New(t), nstest.New(t)
	nstest.Link(t, ns, "eth1", peer, "peer", "192.0.2.2/24", "192.0.2.1/24")
	for _, c := range []string{
		"rule add priority 100 fwmark 0x1 lookup 7",
		"rule add priority 101 not fwmark 0xca6c lookup 51820",
		"rule add priority 102 from 10.0.0.0/8 iif eth1 lookup 8",
		"rule add priority 103 lookup main suppress_prefixlength 0",
		"rule add priority 104 lookup 9",
		"route add 0.0.0.0/1 dev eth1 table 9",
		"route add 128.0.0.0/1 dev eth1 table 9",
		"route add 0.0.0.0/1 dev eth1 table 10",
		"route add default via 192.0.2.1 table 11 proto static",
		"route add 10.1.0.0/16 dev eth1 table 11 proto 117",
	} {
		ns.Run(t, "", "ip", strings.Fields(c)...)
	}
	f := lookIn(t, ns, Options{StateDir: t.TempDir()})
	if len(f.NotKnown) > 0 {
		t.Errorf("not known: %v", f.NotKnown)
	}
	var got []string
	for i := range f.Rules {
		if r := &f.Rules[i]; r.Family == actions.IPv4 {
			text := r.String()
			if r.Broad {
				text += " BROAD"
			}
			got = append(got, text)
		}
	}
	want := []string{
		"ip -4 rule 0: from all lookup 255 BROAD",
		"ip -4 rule 100: from all fwmark 0x1/0xffffffff lookup 7",
		"ip -4 rule 101: not from all fwmark 0xca6c/0xffffffff lookup 51820 BROAD",
		"ip -4 rule 102: from 10.0.0.0/8 iif eth1 lookup 8",
		"ip -4 rule 103: from all lookup 254 suppress_prefixlength 0",
		"ip -4 rule 104: from all lookup 9 BROAD",
		"ip -4 rule 32766: from all lookup 254 BROAD",
		"ip -4 rule 32767: from all lookup 253 BROAD",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	tables := slices.DeleteFunc(f.Tables, func(t RouteTable) bool { return t.Family == actions.IPv6 })
	if diff := cmp.Diff([]RouteTable{
		{Family: actions.IPv4, Table: 9, Routes: 2, Others: 2, Default: true, Foreign: []string{"0.0.0.0/1, protocol boot", "128.0.0.0/1, protocol boot"}},
		{Family: actions.IPv4, Table: 10, Routes: 1, Others: 1, Foreign: []string{"0.0.0.0/1, protocol boot"}},
		{Family: actions.IPv4, Table: 11, Routes: 2, Others: 1, Default: true, Foreign: []string{"default via 192.0.2.1, protocol static"}},
		{Family: actions.IPv4, Table: 254, Routes: 1, Others: 1, Foreign: []string{"192.0.2.0/24, protocol kernel"}},
	}, tables); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}

// TestTry finds the features of this kernel, and leaves the namespace that it
// was called in as it was.
func TestTry(t *testing.T) {
	nstest.Need(t)
	ns := nstest.New(t)
	state := func() string {
		var all strings.Builder
		for _, c := range []string{"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip link", "tc qdisc"} {
			args := strings.Fields(c)
			all.WriteString(ns.Run(t, "", args[0], args[1:]...))
		}
		return all.String()
	}
	before := state()
	f := lookIn(t, ns, Options{StateDir: t.TempDir(), Try: true})
	if diff := cmp.Diff(before, state()); diff != "" {
		t.Errorf("the namespace changed (-before +after):\n%s", diff)
	}
	var ids []string
	for _, ft := range f.Features {
		ids = append(ids, ft.ID)
		t.Logf("%s: %v (%s) %s", ft.ID, [...]string{"unknown", "no", "yes"}[ft.Answer], ft.How, ft.Why)
		// What the rest of the tests could not do without.
		if slices.Contains([]string{"kernel-nf-tables", "kernel-nft-inet", "kernel-ct-mark", "kernel-ct-label", "kernel-fib", "kernel-policy-routing"}, ft.ID) && ft.Answer != Yes {
			t.Errorf("%s: %s", ft.ID, ft.Why)
		}
	}
	for _, e := range Catalogue() {
		if featureNames[e.ID] != "" && !slices.Contains(ids, e.ID) {
			t.Errorf("%s is not looked for", e.ID)
		}
	}
}

func TestNetworkdSetting(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		name = dir + "/" + name
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	file := write("a.conf", "[Network]\n#ManageForeignRoutes=no\nManageForeignRoutingPolicyRules = No\n")
	if got := setting(file, "ManageForeignRoutingPolicyRules"); got != "no" {
		t.Errorf("the setting is %q", got)
	}
	if got := setting(file, "ManageForeignRoutes"); got != "" {
		t.Errorf("a comment counts: %q", got)
	}
	if got := setting(write("ufw.conf", "ENABLED=\"yes\"\n"), "ENABLED"); got != "yes" {
		t.Errorf("quotes: %q", got)
	}
	if got := setting(dir+"/none", "X"); got != "" {
		t.Errorf("no file: %q", got)
	}
}

// TestOwn enforces a policy and looks: what the ledger lists is no conflict, and
// all of it is one for a doctor that is told of another state folder.
func TestOwn(t *testing.T) {
	nstest.Need(t)
	ns, peer := nstest.New(t), nstest.New(t)
	nstest.Link(t, ns, "eth1", peer, "peer1", "192.0.2.2/24", "192.0.2.1/24")
	nstest.Link(t, ns, "eth2", peer, "peer2", "198.51.100.2/24 2001:db8::2/64", "198.51.100.1/24 2001:db8::1/64")
	dir := t.TempDir()
	p := policy(t, strings.Replace(twoUplinks, "default: {route: wan1}", "default: {fallback: [wan1, wan2]}", 1))
	ctx := context.Background()
	ns.Do(t, func() {
		e, err := host.New(host.Config{StateDir: dir})
		if err != nil {
			t.Error(err)
			return
		}
		h, err := e.ReadHost()
		if err != nil {
			t.Error(err)
			return
		}
		plan, diags := actions.PlanFor(engine.Compile(p), h, engine.OfflineWorldAt(p, state.Normal, time.Unix(0, 0), time.UTC), nil)
		if plan == nil {
			t.Error(diags)
			return
		}
		if err := errors.Join(e.Apply(ctx, plan), e.Close()); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	conflicts := func(dir string) map[string]Severity {
		f := lookIn(t, ns, Options{StateDir: dir})
		found := map[string]Severity{}
		for _, fd := range Diagnose(&f, WantOf(p)).Findings {
			if fd.Area == AreaConflict {
				found[fd.ID] = fd.Severity
			}
		}
		return found
	}
	if diff := cmp.Diff(map[string]Severity{
		"own-table": OK, "mark-mask-free": OK, "ct-mask-free": OK, "table-block-free": OK, "rule-priority-free": OK,
	}, conflicts(dir)); diff != "" {
		t.Errorf("with the ledger (-want +got):\n%s", diff)
	}
	other := conflicts(t.TempDir())
	for id, s := range map[string]Severity{"foreign-table": Error, "leftover": Warning, "mark-mask-used": Error, "ct-mask-used": Error} {
		if other[id] != s {
			t.Errorf("with another folder: %s is %s, want %s", id, other[id], s)
		}
	}
	var errs []Finding
	ns.Do(t, func() { errs = Conflicts(ctx, t.TempDir(), WantOf(p)) })
	if len(errs) == 0 || errs[0].ID != "foreign-table" {
		t.Errorf("the conflicts that a daemon logs: %v", errs)
	}
	ns.Do(t, func() {
		if err := host.Cleanup(ctx, dir); err != nil {
			t.Error(err)
		}
	})
}
