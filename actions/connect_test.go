package actions_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/policyrand"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/yaml"
	"netpolicy.dev/netpolicy/state"
)

// connecting draws a flow of a local program of which everything is known.
func connecting(t *rapid.T) (f flow.Flow, uid uint32) {
	src := rapid.SampledFrom(policyrand.Clients).Draw(t, "src")
	dst := rapid.SampledFrom(policyrand.Servers).Draw(t, "dst")
	for src.Is4() != dst.Is4() {
		src = rapid.SampledFrom(policyrand.Clients).Draw(t, "src")
	}
	user := rapid.SampledFrom([]string{"alice", "bob", "4242", "77"}).Draw(t, "user")
	var ok bool
	if uid, ok = uids[user]; !ok {
		uid = 77
	}
	name := func(label string) flow.Value[string] {
		if rapid.Bool().Draw(t, label) {
			return flow.Some(rapid.SampledFrom(policyrand.Names).Draw(t, label))
		}
		return flow.Absent[string]()
	}
	return flow.Flow{
		Proto: flow.Some(rapid.SampledFrom([]flow.Proto{flow.TCP, flow.UDP}).Draw(t, "proto")),
		Src:   flow.Some(src), Dst: flow.Some(dst),
		SrcPort: flow.Some(rapid.Uint16Range(1024, 65535).Draw(t, "sport")),
		DstPort: flow.Some(rapid.SampledFrom([]uint16{0, 22, 53, 80, 443, 1079, 1080, 5060, 5061, 8080, 65535}).Draw(t, "dport")),
		DSCP:    flow.Some(rapid.SampledFrom([]uint8{0, 10, 46}).Draw(t, "dscp")),
		Mark:    flow.Some(rapid.SampledFrom([]uint32{0, 5}).Draw(t, "mark")),
		IfaceIn: flow.Absent[string](),
		Process: flow.Some(rapid.SampledFrom([]string{"zoom", "curl"}).Draw(t, "process")),
		User:    flow.Some(user), SNI: name("sni"), HTTPHost: name("host"),
		RTT: flow.Some(rapid.SampledFrom([]int64{10_000, 30_000, 150_000}).Draw(t, "rtt")),
	}, uid
}

// TestConnectNeverContradicts compares with the engine, which knows everything.
func TestConnectNeverContradicts(t *testing.T) {
	refused := 0
	rapid.Check(t, func(t *rapid.T) {
		p := policyrand.Policy(t, 8)
		prog, w := engine.Compile(p), policyrand.World(t)
		h := threeLines()
		c := actions.ConnectFor(prog, &h, w)
		names := policyrand.DNS(t)
		for range 16 {
			f, uid := connecting(t)
			dst, _ := f.Dst.Get()
			port, _ := f.DstPort.Get()
			proto, _ := f.Proto.Get()
			comm, _ := f.Process.Get()
			f.DNS = names[dst]
			if !c.Refuses(uint8(proto), dst, port, comm, uid) {
				continue
			}
			refused++
			if d := prog.Decide(&f, w); !d.Final || d.Kind != rules.ActBlock {
				t.Fatalf("refused, and the engine says %s (final %v) of %+v", engine.ActionName(d.Kind), d.Final, f)
			}
		}
	})
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

// local is a policy of facts alone that are known when a program connects.
const local = `
version: 1
rules:
  - {name: games, priority: 50, match: {process: [steam, "steam-long-name-of-a-program"]}, action: {block: true, log: true}}
  - {name: pass, priority: 40, match: {dst_ip: 203.0.113.0/28}, action: {route: direct}}
  - {name: lan, priority: 30, match: {dst_ip: [203.0.113.0/24, "2001:db8:5::/48"], port: "1000-2000,443", proto: tcp}, action: {block: true}}
  - {name: alice, priority: 20, match: {user: alice, dst_ip: 198.51.100.0/24, not: {port: 443}}, action: {block: reject}}
  - {name: named, priority: 15, match: {sni: bad.example, dst_ip: 198.51.100.0/24}, action: {block: true}}
routes:
  direct: {via: main}
default: {route: direct}
`

func TestConnect(t *testing.T) {
	p, diags := yaml.Load("local.yaml", []byte(strings.TrimPrefix(local, "\n")))
	if p == nil {
		t.Fatal(diags)
	}
	h := threeLines()
	h.Links = append(h.Links, actions.Link{Name: "lan9", Addrs: []netip.Prefix{netip.MustParsePrefix("203.0.113.77/24")}})
	c := actions.ConnectFor(engine.Compile(p), &h, &state.World{Primary: -1})
	ask := func(proto uint8, dst string, port uint16, comm string, uid uint32) bool {
		return c.Refuses(proto, netip.MustParseAddr(dst), port, comm, uid)
	}
	for _, q := range []struct {
		proto uint8
		dst   string
		port  uint16
		comm  string
		uid   uint32
		want  bool
	}{
		{6, "192.0.2.1", 80, "steam", 0, true},
		{17, "2001:db8::1", 80, "steam", 0, true},
		{6, "127.0.0.1", 80, "steam", 0, false},
		{6, "203.0.113.77", 80, "steam", 0, false}, // this host itself
		{17, "203.0.113.255", 80, "steam", 0, false},
		{6, "192.0.2.1", 80, "curl", 0, false},
		{6, "203.0.113.100", 443, "steam", 0, true},
		{6, "203.0.113.3", 443, "curl", 0, false},
		{6, "203.0.113.100", 443, "curl", 0, true},
		{17, "203.0.113.100", 443, "curl", 0, false},
		{6, "203.0.113.100", 2000, "curl", 0, true},
		{6, "203.0.113.100", 2001, "curl", 0, false},
		{6, "2001:db8:5::7", 1500, "curl", 0, true},
		{6, "198.51.100.9", 80, "curl", 1000, true},
		{17, "198.51.100.9", 80, "curl", 1000, true},
		{17, "198.51.100.9", 443, "curl", 1000, false}, // its name has to be learned
		{6, "198.51.100.9", 80, "curl", 1001, false},   // likewise
	} {
		if got := ask(q.proto, q.dst, q.port, q.comm, q.uid); got != q.want {
			t.Errorf("%+v: %v", q, got)
		}
	}
	if diff := cmp.Diff([]string{"steam"}, c.Programs); diff != "" {
		t.Error(diff)
	}
	if got := fmt.Sprint(c.Lists[1]); !strings.Contains(got, "np:games") {
		t.Error(got)
	}
}
