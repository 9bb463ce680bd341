package doctor

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
)

var update = flag.Bool("update", false, "rewrite testdata and docs/doctor.md")

const twoUplinks = `
version: 1
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1, probe: {kind: icmp, targets: [192.0.2.1]}}
  wan2: {dev: eth2, probe: {kind: icmp, targets: [198.51.100.9, "2001:db8::9"]}}
default: {route: wan1}
`

// everything names what doctor looks for in a policy.
const everything = twoUplinks + `
routes:
  tun: {via: dev tun9}
  other: {via: table 700}
  away: {via: xray proxy-fast}
throttles:
  slow: {down: 2mbit}
quotas:
  month: {match: {protocol: tcp}, limit: 1GiB per month}
daemon: {masquerade: [wan1]}
rules:
  - name: lan
    priority: 10
    match: {iface_in: lan0, protocol: tcp}
    action: {route: tun, throttle: slow, dscp: 46}
`

func policy(t testing.TB, text string) *rules.Policy {
	t.Helper()
	r := load.Policy("policy.yaml", []byte(text), load.Options{})
	if r.Policy == nil {
		t.Fatalf("the test's policy has errors: %v", r.Diags)
	}
	return r.Policy
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// healthy is a machine on which nothing is in the way of twoUplinks.
func healthy() *Facts {
	f := &Facts{
		Kernel: "6.18.0", User: User{Caps: 1<<capNetAdmin | 1<<capNetRaw | 1<<capBPF | 1<<capPerfmon},
		Host: actions.Host{
			Links: []actions.Link{
				{Name: "lo", Index: 1, Up: true, Addrs: prefixes("127.0.0.1/8", "::1/128")},
				{Name: "eth1", Index: 2, Up: true, Addrs: prefixes("192.0.2.2/24", "fe80::2/64")},
				{Name: "eth2", Index: 3, Up: true, Addrs: prefixes("198.51.100.2/24", "2001:db8::2/64")},
			},
			Defaults: []actions.DefaultRoute{
				{Dev: "eth1", Family: actions.IPv4, Gateway: netip.MustParseAddr("192.0.2.1")},
				{Dev: "eth2", Family: actions.IPv4, Gateway: netip.MustParseAddr("198.51.100.1")},
			},
		},
		Rules: []Rule{
			{Family: actions.IPv4, Priority: 0, Broad: true, Table: 255, Protocol: 2, Text: "from all lookup 255"},
			{Family: actions.IPv4, Priority: 32766, Broad: true, Table: 254, Protocol: 2, Text: "from all lookup 254"},
		},
		Tables:  []RouteTable{{Family: actions.IPv4, Table: 254, Routes: 4, Others: 4, Default: true}},
		Qdiscs:  []Qdisc{{Dev: "eth1", Kind: "fq_codel"}, {Dev: "eth2", Kind: "mq"}},
		Learned: map[string]bool{},
		Sysctls: map[string]string{
			"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv4/conf/all/rp_filter": "0",
			"net/ipv4/conf/eth1/rp_filter": "2", "net/ipv4/conf/eth2/rp_filter": "0",
			"net/netfilter/nf_conntrack_count": "1200", "net/netfilter/nf_conntrack_max": "262144", "net/netfilter/nf_conntrack_acct": "1",
		},
		Own: Own{Known: true, Folder: "/var/lib/netpolicy"},
	}
	for _, e := range Catalogue() {
		if featureNames[e.ID] != "" {
			f.Features = append(f.Features, Feature{ID: e.ID, Answer: Yes, How: "tried"})
		}
	}
	return f
}

// base is a base chain of the family, and plain one without a hook.
func base(family, table, name, hook string, priority int) Chain {
	return Chain{Family: family, Table: table, Name: name, Hook: hook, Type: "filter", Priority: priority}
}

func plainChain(family, table, name string) Chain {
	return Chain{Family: family, Table: table, Name: name}
}

// cases are machines with something to say about each; text "" is no policy.
var cases = []struct {
	name   string
	policy string
	change func(f *Facts)
}{
	{"healthy", twoUplinks, func(*Facts) {}},
	{"no policy", "", func(*Facts) {}},
	{"no rights", twoUplinks, func(f *Facts) {
		f.User = User{UID: 1000}
		f.NotKnown = []NotKnown{{WhatNft, "list nft tables: operation not permitted"}, {WhatLedger, "permission denied"}}
		f.Own = Own{}
		for i := range f.Features {
			f.Features[i] = Feature{ID: f.Features[i].ID, Why: "no network namespace could be made to try it in: operation not permitted"}
		}
	}},
	{"old kernel", everything, func(f *Facts) {
		for i := range f.Features {
			f.Features[i] = Feature{ID: f.Features[i].ID, Answer: No, How: "tried", Why: "no such file or directory"}
		}
	}},
	{"old kernel, little wanted", twoUplinks, func(f *Facts) {
		for i := range f.Features {
			f.Features[i] = Feature{ID: f.Features[i].ID, Answer: No, How: "configuration", Why: "CONFIG_X is not set"}
		}
	}},
	{"foreign table", twoUplinks, func(f *Facts) {
		f.Nft = []NftTable{{Family: "inet", Name: "netpolicy"}}
		f.Chains = []Chain{base("inet", "netpolicy", "pre", "prerouting", -150)}
		f.Rules = append(f.Rules, Rule{
			Family: actions.IPv4, Priority: 20000, Mark: 0x10000000, Mask: 0x70000000, Marked: true, Table: 20000,
			Protocol: actions.RouteProto, Text: "from all fwmark 0x10000000/0x70000000 lookup 20000",
		})
		f.Tables = append(f.Tables, RouteTable{Family: actions.IPv4, Table: 20000, Routes: 3, Default: true})
	}},
	{"table not known", twoUplinks, func(f *Facts) {
		f.Nft = []NftTable{{Family: "inet", Name: "netpolicy"}}
		f.Own = Own{Folder: "/var/lib/netpolicy"}
	}},
	{"our own", twoUplinks, func(f *Facts) {
		own := actions.IPRule{Family: actions.IPv4, Priority: 20000, Mark: 0x10000000, Mask: 0x70000000, Table: 20000}
		f.Nft = []NftTable{{Family: "inet", Name: "netpolicy"}}
		f.Chains = []Chain{base("inet", "netpolicy", "pre", "prerouting", -150)}
		f.Marks = []MarkUse{
			{Set: true, Mask: 0x70000000, Value: 0x10000000, Chain: plainChain("inet", "netpolicy", "r_2")},
			{Kind: ConnLabel, Set: true, Value: 70, Chain: plainChain("inet", "netpolicy", "r_2")},
		}
		f.Rules = append(f.Rules, Rule{
			Family: own.Family, Priority: own.Priority, Mark: own.Mark, Mask: own.Mask, Marked: true, Table: own.Table,
			Protocol: actions.RouteProto, Text: "from all fwmark 0x10000000/0x70000000 lookup 20000",
		})
		f.Tables = append(f.Tables, RouteTable{Family: actions.IPv4, Table: 20000, Routes: 1, Default: true})
		f.Own.Table, f.Own.Rules = "netpolicy", []actions.IPRule{own}
		f.Own.Routes = []actions.IPRoute{{Family: actions.IPv4, Table: 20000}}
	}},
	{"marks", everything, func(f *Facts) {
		forward := base("inet", "fw", "forward", "forward", 0)
		f.Chains = []Chain{base("ip", "mangle", "PREROUTING", "prerouting", -150), base("inet", "fw", "early", "prerouting", -180), forward}
		f.Rules = append(
			f.Rules,
			Rule{Family: actions.IPv4, Priority: 100, Mark: 0x20000000, Mask: 0x30000000, Marked: true, Table: 7, Text: "from all fwmark 0x20000000/0x30000000 lookup 7"},
			Rule{Family: actions.IPv4, Priority: 101, Mark: 1, Mask: 0xffffffff, Marked: true, Table: 8, Text: "from all fwmark 0x1/0xffffffff lookup 8"},
		)
		f.Marks = []MarkUse{
			{Set: true, Mask: 0xffffffff, Value: 0x40, Chain: f.Chains[0]},
			{Set: true, Any: true, Copy: true, Mask: 0xffffffff, Chain: f.Chains[1]},
			{Set: true, Mask: 0x30000000, Value: 0x20000000, Chain: f.Chains[0]},
			{Set: true, Mask: 0xffffffff, Value: 0x10000000, Chain: forward},
			{Mask: 0xffffffff, Chain: f.Chains[0]},
			{Set: true, Mask: 0xff0000, Value: 0x40000, Chain: plainChain("ip", "filter", "ts-forward")},
			{Kind: ConnMark, Set: true, Mask: 0xff000000, Value: 0x3000000, Chain: f.Chains[0]},
			{Kind: ConnMark, Set: true, Any: true, Copy: true, Mask: 0xffffffff, Chain: f.Chains[0]},
			{Kind: ConnMark, Set: true, Any: true, Copy: true, Mask: 0x3f00, Chain: plainChain("ip", "mangle", "mwan3_hook")},
			{Kind: ConnLabel, Set: true, Value: 100, Chain: f.Chains[0]},
			{Kind: ConnLabel, Value: 3, Chain: f.Chains[0]},
		}
	}},
	{"tables, priorities, queueing", everything, func(f *Facts) {
		f.Tables = append(
			f.Tables,
			RouteTable{Family: actions.IPv4, Table: 20002, Routes: 7, Others: 7, Foreign: []string{"10.9.0.0/16 via 192.0.2.7, protocol static"}},
			RouteTable{Family: actions.IPv4, Table: 51, Routes: 1, Others: 1, Default: true},
		)
		f.Rules = append(
			f.Rules,
			Rule{Family: actions.IPv6, Priority: 20003, Table: 9, Broad: true, Text: "from all lookup 9"},
			Rule{Family: actions.IPv4, Priority: 500, Table: 51, Broad: true, Text: "from all lookup 51"},
			Rule{Family: actions.IPv4, Priority: 501, Table: 50, Broad: true, Text: "from all lookup 50"},
		)
		f.Qdiscs = []Qdisc{{Dev: "eth1", Kind: "cake"}, {Dev: "eth1", Kind: "ingress", Ingress: true}, {Dev: "lo", Kind: "htb"}}
	}},
	{"sysctls", everything, func(f *Facts) {
		f.Host.Defaults = append(f.Host.Defaults, actions.DefaultRoute{Dev: "eth2", Family: actions.IPv6, Gateway: netip.MustParseAddr("fe80::1")})
		f.Learned["eth2"] = true
		maps.Copy(f.Sysctls, map[string]string{
			"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/eth2/forwarding": "1", "net/ipv6/conf/eth2/accept_ra": "1",
			"net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/eth1/rp_filter": "0", "net/ipv4/conf/eth1/src_valid_mark": "1", "net/netfilter/nf_conntrack_count": "250000", "net/netfilter/nf_conntrack_acct": "0",
		})
	}},
	{"conntrack at 85 percent, strict without a policy", "", func(f *Facts) {
		f.Sysctls["net/netfilter/nf_conntrack_count"] = "222822"
		f.Sysctls["net/ipv4/conf/eth1/rp_filter"] = "1"
		f.Sysctls["net/ipv4/conf/eth2/rp_filter"] = "1"
	}},
	{"managers", twoUplinks, func(f *Facts) {
		f.Processes = []string{"NetworkManager", "dockerd", "fail2ban-server", "kubelet", "mihomo", "systemd-network", "tailscaled"}
		f.UFW = true
		f.Host.Links = append(f.Host.Links, actions.Link{Name: "docker0"}, actions.Link{Name: "dae0"}, actions.Link{Name: "tailscale0"})
		f.Chains = []Chain{
			plainChain("ip", "nat", "DOCKER"), plainChain("ip", "nat", "KUBE-SERVICES"), plainChain("ip", "filter", "cali-FORWARD"),
			plainChain("ip", "filter", "ufw-user-input"), plainChain("inet", "firewalld", "filter_INPUT"), plainChain("ip", "filter", "ts-input"),
			plainChain("ip", "mangle", "mwan3_hook"), plainChain("ip", "filter", "f2b-sshd"), base("ip", "wg-quick-wg0", "preraw", "prerouting", -300),
		}
		f.Rules = append(
			f.Rules,
			Rule{Family: actions.IPv4, Priority: 5210, Mark: 0x80000, Mask: 0xff0000, Marked: true, Table: 254, Text: "from all fwmark 0x80000/0xff0000 lookup 254"},
			Rule{Family: actions.IPv4, Priority: 5270, Table: 52, Broad: true, Text: "from all lookup 52"},
			Rule{Family: actions.IPv4, Priority: 2001, Mark: 0x100, Mask: 0x3f00, Marked: true, Table: 1, Text: "from all fwmark 0x100/0x3f00 lookup 1"},
			Rule{Family: actions.IPv4, Priority: 9001, Table: 2022, Broad: true, Text: "from all lookup 2022"},
			Rule{Family: actions.IPv4, Priority: 32764, Mark: 0xca6c, Mask: 0xffffffff, Marked: true, Not: true, Broad: true, Table: 51820, Text: "not from all fwmark 0xca6c/0xffffffff lookup 51820"},
		)
		f.Tables = append(f.Tables, RouteTable{Family: actions.IPv4, Table: 2022, Routes: 1, Others: 1, Default: true})
	}},
	{"a proxy without rules, networkd told", twoUplinks, func(f *Facts) {
		f.Processes = []string{"sing-box", "systemd-network"}
		f.ForeignRules, f.ForeignRoutes = "no", "no"
	}},
	{"broken uplinks", everything, func(f *Facts) {
		f.Host.Links = f.Host.Links[:1]
		f.Host.Links = append(f.Host.Links, actions.Link{Name: "eth2", Index: 3, Addrs: prefixes("fe80::3/64")})
		f.Host.Defaults = nil
	}},
	{"default route elsewhere", twoUplinks, func(f *Facts) {
		f.Host.Links = append(f.Host.Links, actions.Link{Name: "eth0", Index: 4, Up: true})
		f.Host.Defaults = append(f.Host.Defaults[1:], actions.DefaultRoute{Dev: "eth0", Family: actions.IPv4})
	}},
}

// TestDiagnose compares what is said of each machine with testdata/findings.txt.
// What is in order is left out, but for the first.
func TestDiagnose(t *testing.T) {
	var b bytes.Buffer
	shown := map[string]bool{}
	worst := map[string]Severity{}
	for i, c := range cases {
		f := healthy()
		c.change(f)
		var p *rules.Policy
		if c.policy != "" {
			p = policy(t, c.policy)
		}
		r := Diagnose(f, WantOf(p))
		again := Diagnose(f, WantOf(p))
		if diff := cmp.Diff(r, again); diff != "" {
			t.Errorf("%s: not the same twice (-first +second):\n%s", c.name, diff)
		}
		for _, fd := range r.Findings {
			shown[fd.ID] = true
			worst[fd.ID] = max(worst[fd.ID], fd.Severity)
			if fd.Severity != OK && fd.Means == "" {
				t.Errorf("%s: %s says not what it means", c.name, fd.ID)
			}
		}
		if i > 0 {
			r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool { return f.Severity == OK })
		}
		fmt.Fprintf(&b, "-- %s --\n", c.name)
		if err := r.Text(&b); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range Catalogue() {
		if e.ID == "not-in-use" { // no fact of the machine: see TestNotInUse
			continue
		}
		if !shown[e.ID] {
			t.Errorf("no case finds %s", e.ID)
		}
		if worst[e.ID] != e.Worst {
			t.Errorf("%s: found as %s at worst, the catalogue says %s", e.ID, worst[e.ID], e.Worst)
		}
	}
	const golden = "testdata/findings.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", golden, diff)
	}
}

// TestCatalogue holds code and catalogue together: what is reported is described,
// once, and what is described is reported.
func TestCatalogue(t *testing.T) {
	reported := map[string]bool{}
	for _, file := range []string{"kernel.go", "conflicts.go", "managers.go", "sysctls.go", "policy.go"} {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:r\.add\(|\{)"([a-z0-9-]+)",`).FindAllStringSubmatch(string(src), -1) {
			reported[m[1]] = true
		}
	}
	seen := map[string]bool{}
	for _, e := range Catalogue() {
		if seen[e.ID] {
			t.Errorf("%s is there twice", e.ID)
		}
		seen[e.ID] = true
		if !reported[e.ID] && e.Area != AreaKernel {
			t.Errorf("%s is described and never reported", e.ID)
		}
		if _, looked := symbols[e.ID]; looked && featureNames[e.ID] == "" {
			t.Errorf("%s has no name", e.ID)
		}
		if e.Worst != OK && (e.Means == "" || e.Help == "") {
			t.Errorf("%s: it has to say what it means and what can be done", e.ID)
		}
	}
	for _, m := range []string{"privileges", "mark-mask-used", "rp-filter-strict", "manager-docker", "uplink-missing"} {
		if !reported[m] {
			t.Errorf("the search for ids misses %s", m)
		}
	}
}

// TestDoc keeps the table of docs/doctor.md equal to the catalogue; -update writes it.
func TestDoc(t *testing.T) {
	const file = "../../docs/doctor.md"
	const begin, end = "<!-- findings -->\n", "<!-- end of findings -->\n"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the findings", file)
	}
	var b strings.Builder
	area := Area("")
	for _, e := range Catalogue() {
		if e.Area != area {
			area = e.Area
			fmt.Fprintf(&b, "\n### %s\n\n| id | at worst | what it means | what netpolicy does | what you can do |\n|---|---|---|---|---|\n", area)
		}
		means := e.Means
		if e.Worst == OK {
			means = "In order."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", e.ID, e.Worst, cell(means), cell(e.Netpolicy), cell(e.Help))
	}
	b.WriteByte('\n')
	want := head + begin + b.String() + end + tail
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(page)); diff != "" {
		t.Errorf("%s is not what the catalogue says (-want +got); run with -update:\n%s", file, diff)
	}
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// TestJSON reads what is written.
func TestJSON(t *testing.T) {
	f := healthy()
	f.Host.Links = f.Host.Links[:1]
	r := Diagnose(f, WantOf(policy(t, twoUplinks)))
	var b bytes.Buffer
	if err := r.JSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	if err := d.Decode(&back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back); diff != "" {
		t.Errorf("-written +read:\n%s", diff)
	}
	if back.Counts.Errors != 2 || back.Findings[0].ID != "uplink-missing" || back.Findings[0].Severity != Error {
		t.Errorf("counts %+v, first %+v", back.Counts, back.Findings[0])
	}
}

func TestWant(t *testing.T) {
	w := WantOf(nil)
	if w.MarkMask != actions.DefaultMarkMask || w.CTMask != actions.DefaultCTMask || w.Block != 6 || w.lastTable() != 20005 {
		t.Errorf("defaults: %+v", w)
	}
	w = WantOf(policy(t, everything))
	if !w.Forwards || !w.Bytes || !w.Labels || !w.Throttles || !w.Masquerade || len(w.Uplinks) != 2 || len(w.Devices) != 1 || len(w.TableOf) != 1 || len(w.Others) != 1 {
		t.Errorf("everything: %+v", w)
	}
}

func TestReadIptables(t *testing.T) {
	const saved = `# Generated by iptables-save
*mangle
:PREROUTING ACCEPT [0:0]
:mwan3_hook - [0:0]
-A PREROUTING -m comment --comment "a \"quoted\" -j MARK --set-xmark 0x7/0x7" -j mwan3_hook
-A PREROUTING -i eth0 -j MARK --set-xmark 0x1/0xffffffff
-A mwan3_hook -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00
-A mwan3_hook -m mark ! --mark 0x0/0x3f00 -j RETURN
-A mwan3_hook -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A mwan3_hook -m connmark --mark 0x2000000/0x3000000 -m connlabel --label 66 --set -j CONNMARK --set-xmark 0x0/0xf
COMMIT
*nat
:OUTPUT ACCEPT [0:0]
COMMIT
`
	chains, marks := ReadIptables("ip", saved)
	var got []string
	for _, c := range chains {
		got = append(got, fmt.Sprintf("%s %s %d", c.where(), c.Hook, c.Priority))
	}
	for _, m := range marks {
		got = append(got, m.String())
	}
	want := []string{
		"iptables-legacy ip mangle PREROUTING prerouting -150",
		"iptables-legacy ip mangle mwan3_hook  0",
		"iptables-legacy ip nat OUTPUT output -100",
		"iptables-legacy ip mangle PREROUTING: sets packet mark 0x1/0xffffffff",
		"iptables-legacy ip mangle mwan3_hook: sets packet mark under 0x3f00 from the connection mark",
		"iptables-legacy ip mangle mwan3_hook: asks for packet mark 0x0/0x3f00",
		"iptables-legacy ip mangle mwan3_hook: sets connection mark under 0xffffffff from the packet mark",
		"iptables-legacy ip mangle mwan3_hook: asks for connection mark 0x2000000/0x3000000",
		"iptables-legacy ip mangle mwan3_hook: sets connection label 66",
		"iptables-legacy ip mangle mwan3_hook: sets connection mark 0x0/0xf",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestConfig(t *testing.T) {
	config := readConfig(strings.NewReader("# CONFIG_NFT_QUEUE is not set\nCONFIG_NF_TABLES=m\nCONFIG_NFT_CT=y\nCONFIG_NF_CONNTRACK_MARK=y\n" +
		"CONFIG_NETFILTER_XT_TARGET_NFQUEUE=y\nCONFIG_IP_NF_IPTABLES=m\nCONFIG_NR_CPUS=64\n"))
	for _, c := range []struct {
		id   string
		want Feature
	}{
		{"kernel-nf-tables", Feature{ID: "kernel-nf-tables", Answer: Yes, How: "configuration, as a module", Why: "no"}},
		{"kernel-ct-mark", Feature{ID: "kernel-ct-mark", Answer: Yes, How: "configuration", Why: "no"}},
		{"kernel-nft-queue", Feature{ID: "kernel-nft-queue", Answer: No, How: "configuration", Why: "CONFIG_NFT_QUEUE is not set"}},
		{"kernel-xt-nfqueue", Feature{ID: "kernel-xt-nfqueue", Answer: Yes, How: "configuration, as a module", Why: "no"}},
	} {
		if diff := cmp.Diff(c.want, fromConfig(c.id, config, "no")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.id, diff)
		}
	}
	if f := fromConfig("kernel-nf-tables", nil, "no"); f.Answer != Unknown || f.Why != "no" {
		t.Errorf("without a configuration: %+v", f)
	}
}

// TestNotInUse: what a running daemon does without is reported.
func TestNotInUse(t *testing.T) {
	w := WantOf(policy(t, twoUplinks))
	w.NotInUse = []NotInUse{{"web", "listen tcp 10.0.0.1:8443: bind: cannot assign requested address"}}
	r := Diagnose(healthy(), w)
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.ID == "not-in-use" })
	if i < 0 || r.Findings[i].Severity != Warning || !strings.HasPrefix(r.Findings[i].Message, "web: listen tcp 10.0.0.1:8443") {
		t.Errorf("%+v", r.Findings)
	}
}
