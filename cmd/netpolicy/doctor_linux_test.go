package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/doctor"
	"netpolicy.dev/netpolicy/internal/nstest"
)

const doctorPolicy = `version: 1
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1, probe: {kind: icmp, targets: [192.0.2.1]}}
  wan2: {dev: eth2, gateway: 198.51.100.1, probe: {kind: icmp, targets: [198.51.100.1]}}
groups: {ha: {fallback: [wan1, wan2]}}
default: {route: ha}
`

// runDoctor runs the real command in the namespace.
func runDoctor(t *testing.T, ns *nstest.NS, args ...string) (doctor.Report, int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := &exec.Cmd{Path: exe, Args: append([]string{"netpolicy", "doctor", "--json"}, args...), Stdout: &out, Stderr: &stderr}
	ns.Do(t, func() { err = cmd.Run() })
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r doctor.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s%s", err, out.Bytes(), stderr.Bytes())
	}
	return r, cmd.ProcessState.ExitCode()
}

// counted are the packets that iptables has seen of a chain's policy.
var counted = regexp.MustCompile(`\[\d+:\d+\]|(?m)^#.*\n`)

// TestDoctor builds what Docker, tailscale and mwan3 make on a host, and some
// mistakes, and looks with the real command. Nothing may change by that.
func TestDoctor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, command := range []string{"nft", "ip", "tc", "sysctl", "iptables-nft", "iptables-legacy"} {
		if _, err := exec.LookPath(command); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(doctorPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	ns, isp1, isp2 := nstest.New(t), nstest.New(t), nstest.New(t)
	nstest.Link(t, ns, "eth1", isp1, "peer", "192.0.2.2/24", "192.0.2.1/24")
	nstest.Link(t, ns, "eth2", isp2, "peer", "198.51.100.2/24", "198.51.100.1/24")
	ns.Run(t, "", "ip", "route", "add", "default", "via", "192.0.2.1")
	for _, dev := range []string{"all", "eth1", "eth2"} {
		ns.Set(t, "net/ipv4/conf/"+dev+"/rp_filter", "0")
	}

	args := []string{"--config", policy, "--state-dir", filepath.Join(dir, "state")}
	clean, code := runDoctor(t, ns, args...)
	if code != 0 || clean.Counts.Errors != 0 {
		t.Errorf("a clean host: exit code %d, %+v", code, clean.Counts)
	}
	severities := map[string]doctor.Severity{}
	for _, f := range clean.Findings {
		severities[f.ID] = f.Severity
		if f.Area == doctor.AreaConflict && f.Severity != doctor.OK {
			t.Errorf("a clean host: %s %s: %s %q", f.Severity, f.ID, f.Message, f.Details)
		}
	}
	for _, id := range []string{"mark-mask-free", "ct-mask-free", "table-block-free", "rule-priority-free", "rp-filter-strict", "kernel-nf-tables", "uplink-ok"} {
		if s, ok := severities[id]; !ok || s != doctor.OK {
			t.Errorf("a clean host: %s is not found in order", id)
		}
	}

	ns.Run(t, `table ip nat {
	chain DOCKER { }
	chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local jump DOCKER; }
	chain POSTROUTING { type nat hook postrouting priority srcnat; oifname != "docker0" ip saddr 172.17.0.0/16 masquerade; }
}
table ip filter {
	chain DOCKER-USER { return; }
	chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
	chain ts-forward { meta mark set meta mark & 0xff00ffff | 0x40000; }
}
table inet qos {
	chain pre { type filter hook prerouting priority -149; meta mark set meta mark & 0xcfffffff | 0x20000000; ct label set 70; }
}
`, "nft", "-f", "-")
	for _, c := range []string{
		"iptables-legacy -t mangle -N mwan3_hook",
		"iptables-legacy -t mangle -A PREROUTING -j mwan3_hook",
		"iptables-legacy -t mangle -A mwan3_hook -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00",
		"iptables-legacy -t mangle -A mwan3_hook -m mark --mark 0x0/0x3f00 -j MARK --set-xmark 0x100/0x3f00",
		"iptables-legacy -t mangle -A PREROUTING -i eth9 -j CONNMARK --save-mark",
		"iptables-nft -t mangle -A OUTPUT -d 203.0.113.9 -j MARK --set-mark 0x1",
		"ip rule add priority 1001 iif eth1 lookup 1",
		"ip rule add priority 1254 iif eth2 lookup 2",
		"ip rule add priority 2001 fwmark 0x100/0x3f00 lookup 1",
		"ip rule add priority 2254 fwmark 0x3f00/0x3f00 unreachable",
		"ip rule add priority 5210 fwmark 0x80000/0xff0000 lookup 52",
		"ip rule add priority 5270 lookup 52",
		"ip rule add priority 20001 from 10.0.0.0/8 lookup 3",
		"ip route add 100.64.0.9 dev eth1 table 52",
		"ip route add 10.99.0.0/24 dev eth1 table 20002",
		"ip route add default via 192.0.2.1 table 40",
		"ip rule add priority 900 lookup 40",
		"ip link set eth2 down",
	} {
		words := strings.Fields(c)
		ns.Run(t, "", words[0], words[1:]...)
	}
	ns.Set(t, "net/ipv4/conf/eth2/rp_filter", "1")
	ns.Set(t, "net/ipv4/conf/eth2/src_valid_mark", "1")

	state := func() string {
		var all strings.Builder
		for _, c := range []string{
			"nft list ruleset", "iptables-legacy-save", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all",
			"ip link", "tc qdisc", "sysctl net.ipv4.conf net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
		} {
			words := strings.Fields(c)
			all.WriteString("$ " + c + "\n" + ns.Run(t, "", words[0], words[1:]...))
		}
		return counted.ReplaceAllString(all.String(), "")
	}
	before := state()
	r, code := runDoctor(t, ns, args...)
	if diff := cmp.Diff(before, state()); diff != "" {
		t.Errorf("doctor has changed something (-before +after):\n%s", diff)
	}
	if code != 1 {
		t.Errorf("exit code %d with errors, want 1", code)
	}
	for _, want := range []struct {
		id       string
		severity doctor.Severity
		says     string // in the message or a detail
	}{
		{"table-block-used", doctor.Error, "ip -4 route table 20002: 10.99.0.0/24, protocol boot"},
		{"mark-mask-used", doctor.Error, "nft inet qos pre: sets packet mark 0x20000000/0x30000000"},
		{"ct-label-used", doctor.Info, "nft inet qos pre: sets connection label 70"},
		{"mark-mask-overwritten", doctor.Warning, "nft ip mangle OUTPUT: sets packet mark 0x1/0xffffffff"},
		{"ct-mask-overwritten", doctor.Warning, "iptables-legacy ip mangle PREROUTING: sets connection mark under 0xffffffff from the packet mark"},
		{"marks-of-others", doctor.Info, "iptables-legacy ip mangle mwan3_hook: sets packet mark 0x100/0x3f00 (mwan3)"},
		{"marks-of-others", doctor.Info, "ip -4 rule 5210: from all fwmark 0x80000/0xff0000 lookup 52 (tailscale)"},
		{"rule-priority-used", doctor.Warning, "ip -4 rule 20001: from 10.0.0.0/8 lookup 3"},
		{"rule-before", doctor.Warning, "ip -4 rule 900: from all lookup 40"},
		{"hook-order", doctor.Info, "nft inet qos pre: prerouting, priority -149, after"},
		{"hook-order", doctor.Info, "iptables-legacy ip mangle PREROUTING: prerouting, priority -150, at the same priority"},
		{"rp-filter-strict", doctor.Error, "eth2"},
		{"src-valid-mark-on", doctor.Warning, "eth2"},
		{"manager-docker", doctor.Info, "chain nft ip nat DOCKER"},
		{"manager-tailscale", doctor.Info, "ip rules 5210 to 5270"},
		{"manager-mwan3", doctor.Warning, "ip rules 2001 to 2254"},
		{"uplink-down", doctor.Warning, "uplink wan2: eth2 is down"},
		{"uplink-ok", doctor.OK, "uplink wan1: eth1 is up, with IPv4"},
	} {
		found := false
		for _, f := range r.Findings {
			if f.ID == want.id && f.Severity == want.severity {
				found = found || strings.Contains(f.Message+"\n"+strings.Join(f.Details, "\n"), want.says)
			}
		}
		if !found {
			t.Errorf("not found: %s %s: %s", want.severity, want.id, want.says)
		}
	}
	if t.Failed() {
		for _, f := range r.Findings {
			t.Logf("%s %s: %s %q", f.Severity, f.ID, f.Message, f.Details)
		}
	}
}
