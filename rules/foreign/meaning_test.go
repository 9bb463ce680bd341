package foreign

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/npl"
	"netpolicy.dev/netpolicy/state"
)

// conn is a connection as the judges of this file see it.
type conn struct {
	name, proto, process string
	dst, src             netip.Addr
	dport, sport         int
}

var (
	connNames = []string{"a.example", "www.a.example", "deep.www.a.example", "xa.example", "b.example", "cdn1.b.example", "ads.b.example"}
	connAddrs = []string{"192.0.2.1", "192.0.2.200", "198.51.100.7", "203.0.113.9", "2001:db8::1", "2001:db8:1::1"}
	connPorts = []int{22, 53, 80, 443, 5060, 8080, 40000}
	connProcs = []string{"ssh", "curl", "firefox"}
)

func drawConn(t *rapid.T) conn {
	addr := func(label string) netip.Addr { return netip.MustParseAddr(rapid.SampledFrom(connAddrs).Draw(t, label)) }
	return conn{
		name: rapid.SampledFrom(connNames).Draw(t, "name"), proto: rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "proto"),
		process: rapid.SampledFrom(connProcs).Draw(t, "process"), dst: addr("dst"), src: addr("src"),
		dport: rapid.SampledFrom(connPorts).Draw(t, "dport"), sport: rapid.SampledFrom(connPorts).Draw(t, "sport"),
	}
}

func (c conn) flow() *flow.Flow {
	proto := map[string]flow.Proto{"tcp": 6, "udp": 17}[c.proto]
	return &flow.Flow{
		Proto: flow.Some(proto), SrcPort: flow.Some(uint16(c.sport)), DstPort: flow.Some(uint16(c.dport)),
		SNI: flow.Some(c.name), Dst: flow.Some(c.dst), Src: flow.Some(c.src), Process: flow.Some(c.process),
	}
}

// decider compiles an imported policy; it returns what is asked for, such as
// "route P1" or "block drop".
func decider(t *rapid.T, format, src string) func(conn) string {
	r, err := Import(format, "test", []byte(src))
	if err != nil {
		t.Fatalf("%s\n%v", src, err)
	}
	ast, diags := npl.Parse("test", r.NPL)
	if ast == nil || diag.HasErrors(diags) {
		t.Fatalf("%s\n%s\n%v", src, r.NPL, diags)
	}
	policy, diags := rules.CheckWith(ast, nil)
	if policy == nil {
		t.Fatalf("%s\n%s\n%v", src, r.NPL, diags)
	}
	program, world := engine.Compile(policy), engine.OfflineWorld(policy, state.Normal)
	return func(c conn) string {
		d := program.Decide(c.flow(), world)
		switch {
		case !d.Final:
			t.Fatalf("%s\n%+v is not final", r.NPL, c)
		case d.Kind == rules.ActBlock && d.Reject:
			return "block reject"
		case d.Kind == rules.ActBlock:
			return "block drop"
		}
		return "route " + policy.Routes[d.Asked].Name
	}
}

// judged is a condition in a foreign spelling, with its meaning.
type judged struct {
	text  string
	holds func(conn) bool
}

func under(name, parent string) bool { return strings.HasSuffix(name, "."+parent) }

// drawClash draws a condition of Clash without its target.
func drawClash(t *rapid.T, depth int) judged {
	kinds := []string{"DOMAIN", "DOMAIN-SUFFIX", "DOMAIN-KEYWORD", "DOMAIN-WILDCARD", "DOMAIN-REGEX", "IP-CIDR", "SRC-IP-CIDR", "DST-PORT", "SRC-PORT", "NETWORK", "PROCESS-NAME"}
	if depth < 3 {
		kinds = append(kinds, "AND", "OR", "NOT")
	}
	name := rapid.SampledFrom(connNames).Draw(t, "value")
	port := rapid.SampledFrom(connPorts).Draw(t, "port")
	p := netip.PrefixFrom(netip.MustParseAddr(rapid.SampledFrom(connAddrs).Draw(t, "addr")), rapid.SampledFrom([]int{8, 24, 25, 32}).Draw(t, "bits")).Masked()
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case "DOMAIN":
		return judged{"DOMAIN," + name, func(c conn) bool { return c.name == name }}
	case "DOMAIN-SUFFIX":
		return judged{"DOMAIN-SUFFIX," + name, func(c conn) bool { return c.name == name || under(c.name, name) }}
	case "DOMAIN-KEYWORD":
		return judged{"DOMAIN-KEYWORD," + name[:3], func(c conn) bool { return strings.Contains(c.name, name[:3]) }}
	case "DOMAIN-WILDCARD":
		return judged{"DOMAIN-WILDCARD,*." + name, func(c conn) bool { return under(c.name, name) }}
	case "DOMAIN-REGEX":
		return judged{`DOMAIN-REGEX,^[a-z]{1,3}\.`, func(c conn) bool { return strings.IndexByte(c.name, '.') <= 3 && !strings.HasPrefix(c.name, "cdn1") }}
	case "IP-CIDR":
		return judged{"IP-CIDR," + p.String(), func(c conn) bool { return p.Contains(c.dst) }}
	case "SRC-IP-CIDR":
		return judged{"SRC-IP-CIDR," + p.String(), func(c conn) bool { return p.Contains(c.src) }}
	case "DST-PORT":
		return judged{fmt.Sprintf("DST-PORT,%d/6000-9000", port), func(c conn) bool { return c.dport == port || c.dport >= 6000 && c.dport <= 9000 }}
	case "SRC-PORT":
		return judged{fmt.Sprintf("SRC-PORT,%d", port), func(c conn) bool { return c.sport == port }}
	case "NETWORK":
		return judged{"NETWORK,UDP", func(c conn) bool { return c.proto == "udp" }}
	case "PROCESS-NAME":
		return judged{"PROCESS-NAME,curl", func(c conn) bool { return c.process == "curl" }}
	case "NOT":
		k := drawClash(t, depth+1)
		return judged{"NOT,((" + k.text + "))", func(c conn) bool { return !k.holds(c) }}
	default:
		a, b := drawClash(t, depth+1), drawClash(t, depth+1)
		text := kind + ",((" + a.text + "),(" + b.text + "))"
		if kind == "AND" {
			return judged{text, func(c conn) bool { return a.holds(c) && b.holds(c) }}
		}
		return judged{text, func(c conn) bool { return a.holds(c) || b.holds(c) }}
	}
}

// TestClashMeaning lets the first rule that holds decide, and asks the imported
// policy the same.
func TestClashMeaning(t *testing.T) {
	targets := map[string]string{"DIRECT": "route direct", "REJECT": "block reject", "REJECT-DROP": "block drop", "P1": "route P1", "G": "route G"}
	rapid.Check(t, func(t *rapid.T) {
		type rule struct {
			judged
			to string
		}
		var list, sub []rule
		draw := func(n int) (list []rule, text string) {
			for range n {
				r := rule{drawClash(t, 0), rapid.SampledFrom(sortedKeys(targets)).Draw(t, "target")}
				list = append(list, r)
				text += "  - " + strconv.Quote(r.text+","+r.to) + "\n"
			}
			return list, text
		}
		src := "proxies: [{name: P1, type: ss}]\nproxy-groups: [{name: G, type: fallback, proxies: [P1, DIRECT]}]\nsub-rules:\n  s:\n"
		sub, text := draw(2)
		gate := drawClash(t, 1)
		src += strings.ReplaceAll(text, "  - ", "    - ") + "rules:\n"
		list, text = draw(rapid.IntRange(0, 6).Draw(t, "rules"))
		src += text + "  - " + strconv.Quote("SUB-RULE,("+gate.text+"),s") + "\n"
		last, text := draw(2)
		src += text + "  - MATCH,P1\n"
		for _, r := range sub {
			inner := r.judged
			r.holds = func(c conn) bool { return gate.holds(c) && inner.holds(c) }
			list = append(list, r)
		}
		list = append(list, last...)
		decide := decider(t, "clash", src)
		for range 10 {
			c := drawConn(t)
			want := "route P1"
			if i := slices.IndexFunc(list, func(r rule) bool { return r.holds(c) }); i >= 0 {
				want = targets[list[i].to]
			}
			if got := decide(c); got != want {
				t.Fatalf("%s\n%+v: %s, want %s", src, c, got, want)
			}
		}
	})
}

func sortedKeys[V any](m map[string]V) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// drawBox draws a rule of sing-box as an object, and what it means.
func drawBox(t *rapid.T, depth int) (map[string]any, func(conn) bool) {
	invert := rapid.Bool().Draw(t, "invert")
	rule := map[string]any{}
	if invert {
		rule["invert"] = true
	}
	if depth < 2 && rapid.IntRange(0, 3).Draw(t, "logical") == 0 {
		a, holdsA := drawBox(t, depth+1)
		b, holdsB := drawBox(t, depth+1)
		mode := rapid.SampledFrom([]string{"and", "or"}).Draw(t, "mode")
		rule["type"], rule["mode"], rule["rules"] = "logical", mode, []any{a, b}
		return rule, func(c conn) bool {
			if mode == "and" {
				return (holdsA(c) && holdsB(c)) != invert
			}
			return (holdsA(c) || holdsB(c)) != invert
		}
	}
	var groups [5][]func(conn) bool // dst, port, src, source port, network
	add := func(group int, key string, value any, holds func(conn) bool) {
		rule[key] = value
		groups[group] = append(groups[group], holds)
	}
	name := rapid.SampledFrom(connNames).Draw(t, "name")
	p := netip.PrefixFrom(netip.MustParseAddr(rapid.SampledFrom(connAddrs).Draw(t, "addr")), rapid.SampledFrom([]int{24, 32}).Draw(t, "bits")).Masked()
	port := rapid.SampledFrom(connPorts).Draw(t, "port")
	fields := []func(){
		func() { add(0, "domain", name, func(c conn) bool { return c.name == name }) },
		func() {
			add(0, "domain_suffix", []string{name}, func(c conn) bool { return c.name == name || under(c.name, name) })
		},
		func() {
			add(0, "domain_keyword", name[:3], func(c conn) bool { return strings.Contains(c.name, name[:3]) })
		},
		func() { add(0, "ip_cidr", []string{p.String()}, func(c conn) bool { return p.Contains(c.dst) }) },
		func() { add(1, "port", []int{port}, func(c conn) bool { return c.dport == port }) },
		func() { add(1, "port_range", "6000:", func(c conn) bool { return c.dport >= 6000 }) },
		func() { add(2, "source_ip_cidr", p.String(), func(c conn) bool { return p.Contains(c.src) }) },
		func() { add(3, "source_port", port, func(c conn) bool { return c.sport == port }) },
		func() { add(3, "source_port_range", []string{":500"}, func(c conn) bool { return c.sport <= 500 }) },
		func() { add(4, "network", "udp", func(c conn) bool { return c.proto == "udp" }) },
	}
	first := rapid.IntRange(0, len(fields)-1).Draw(t, "first")
	for i, f := range fields {
		if i == first || rapid.IntRange(0, 3).Draw(t, "field") == 0 {
			f()
		}
	}
	return rule, func(c conn) bool {
		for _, g := range groups {
			if len(g) > 0 && !slices.ContainsFunc(g, func(holds func(conn) bool) bool { return holds(c) }) {
				return invert
			}
		}
		return !invert
	}
}

// TestSingboxMeaning is TestClashMeaning for sing-box, whose rules or together
// the destination's fields, ports, sources and source ports.
func TestSingboxMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type rule struct {
			holds func(conn) bool
			want  string
		}
		var list []rule
		var objects []any
		for range rapid.IntRange(0, 6).Draw(t, "rules") {
			object, holds := drawBox(t, 0)
			to := rapid.SampledFrom([]string{"direct", "ss", "auto", "block", "drop"}).Draw(t, "target")
			want := "route " + to
			switch to {
			case "block":
				object["outbound"], want = "block", "block reject"
			case "drop":
				object["action"], object["method"], want = "reject", "drop", "block drop"
			default:
				object["outbound"] = to
			}
			objects = append(objects, object)
			list = append(list, rule{holds, want})
		}
		src, err := json.Marshal(map[string]any{
			"outbounds": []any{
				map[string]any{"type": "urltest", "tag": "auto", "outbounds": []string{"ss", "direct"}},
				map[string]any{"type": "shadowsocks", "tag": "ss"},
				map[string]any{"type": "direct", "tag": "direct"},
				map[string]any{"type": "block", "tag": "block"},
			},
			"route": map[string]any{"rules": objects},
		})
		if err != nil {
			t.Fatal(err)
		}
		decide := decider(t, "singbox", string(src))
		for range 10 {
			c := drawConn(t)
			want := "route auto"
			if i := slices.IndexFunc(list, func(r rule) bool { return r.holds(c) }); i >= 0 {
				want = list[i].want
			}
			if got := decide(c); got != want {
				t.Fatalf("%s\n%+v: %s, want %s", src, c, got, want)
			}
		}
	})
}

// TestMwan3Meaning is the same for mwan3: policies have lines of both families
// or of one, and rules hold for the families of their addresses.
func TestMwan3Meaning(t *testing.T) {
	const lines = `
config interface 'w4'
	option enabled '1'
config interface 'w6'
	option enabled '1'
	option family 'ipv6'
config member 'm4'
	option interface 'w4'
config member 'm6'
	option interface 'w6'
config policy 'both'
	list use_member 'm4'
	list use_member 'm6'
config policy 'old'
	list use_member 'm4'
	option last_resort 'blackhole'
`
	want := map[string][2]string{
		"both": {"route both_v4", "route both_v6"}, "old": {"route old", "block drop"},
		"default": {"route main", "route main"}, "unreachable": {"block reject", "block reject"},
	}
	rapid.Check(t, func(t *rapid.T) {
		type rule struct {
			holds  func(conn) bool
			policy string
		}
		var list []rule
		src := lines
		for i := range rapid.IntRange(0, 6).Draw(t, "rules") {
			policy := rapid.SampledFrom(sortedKeys(want)).Draw(t, "policy")
			src += fmt.Sprintf("config rule 'r%d'\n\toption use_policy '%s'\n", i, policy)
			var all []func(conn) bool
			add := func(key, value string, holds func(conn) bool) {
				if rapid.IntRange(0, 2).Draw(t, key) == 0 {
					src += fmt.Sprintf("\toption %s '%s'\n", key, value)
					all = append(all, holds)
				}
			}
			draw := func() netip.Prefix {
				bits := rapid.SampledFrom([]int{0, 24, 32}).Draw(t, "bits")
				return netip.PrefixFrom(netip.MustParseAddr(rapid.SampledFrom(connAddrs).Draw(t, "addr")), bits).Masked()
			}
			p, q := draw(), draw()
			add("dest_ip", p.String(), func(c conn) bool { return p.Contains(c.dst) })
			add("src_ip", q.String(), func(c conn) bool { return q.Contains(c.src) && c.src.Is4() == c.dst.Is4() })
			add("family", "ipv6", func(c conn) bool { return c.dst.Is6() })
			if rapid.Bool().Draw(t, "tcp") {
				src += "\toption proto 'tcp'\n"
				all = append(all, func(c conn) bool { return c.proto == "tcp" })
				add("dest_port", "443,5000:9000", func(c conn) bool { return c.dport == 443 || c.dport >= 5000 && c.dport <= 9000 })
			}
			list = append(list, rule{func(c conn) bool {
				return !slices.ContainsFunc(all, func(holds func(conn) bool) bool { return !holds(c) })
			}, policy})
		}
		decide := decider(t, "mwan3", src)
		for range 10 {
			c := drawConn(t)
			if c.src.Is4() != c.dst.Is4() {
				c.src = c.dst
			}
			expect := "route main"
			if i := slices.IndexFunc(list, func(r rule) bool { return r.holds(c) }); i >= 0 {
				expect = want[list[i].policy][map[bool]int{true: 0, false: 1}[c.dst.Is4()]]
			}
			if got := decide(c); got != expect {
				t.Fatalf("%s\n%+v: %s, want %s", src, c, got, expect)
			}
		}
	})
}
