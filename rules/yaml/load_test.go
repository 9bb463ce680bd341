package yaml

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

const goodRule = "routes: {direct: {via: main}}\nrules:\n  - {name: a, priority: 0, match: {port: 443}, action: {route: direct}}\n"

// wholePolicy has three references to `second`, which is not declared.
const wholePolicy = `uplinks:
  wan1: {dev: eth1, gateway: [192.0.2.1, "2001:db8::1"], probe: {kind: icmp, targets: [192.0.2.9], every: 2s}, threshold: {loss: 10% / 1%}}
  wan2: {dev: eth2, probe: "tcp 192.0.2.9:443, [2001:db8::9]:443 every 5s", required: true, metered: true, weight: 3}
routes:
  direct: {via: main}
  wg: {via: dev wg0 gateway 10.0.0.1}
  wg2: {via: dev wg1}
  wan2: {via: blackhole}
groups:
  best: {lowest_latency: [wan1, line2, direct], tolerance: 10ms}
  line2: {fallback: [second, best2], when_none: block, interrupt: true}
  best2: fallback(second)
health: {degrade_after: 7, threshold: {rtt: 200 / 100}}
throttles: {slow: {down: 2mbit, up: 0.5mbit, burst: 64KiB, per: host}}
daemon: {on_crash: closed, mark_mask: 0xf0, masquerade: wan1, enforce: consult, hello: hold}
default: {fallback: [best, direct]}
rules:
  - name: a
    priority: -3
    when: {state: [normal, "DEGRADED, failover"]}
    disable: DEGRADED
    on_unknown: provisional
    match:
      sni: [Zoom.US., "*.Bücher.example", a-*.b]
      proto: [icmp, tcp]
      port: ["443, 80", 81, 1000-2000, 1500-3000]
      dst_ip: ["::ffff:192.0.2.0/120", "2001:db8::1"]
      latency_ms: "> 12.5"
      error_rate: "!=0.5%"
    action: {throttle: slow, log: hello, mark: 0x10, dscp: 46}
  - {name: b, priority: 0, match: {port: 1}, action: {fallback: [wg, second, wan2]}}
`

func codes(diags []diag.Diagnostic) string {
	var list []string
	for _, d := range diags {
		list = append(list, fmt.Sprintf("%s@%d-%d", d.Code, d.Span.Start, d.Span.End))
	}
	return strings.Join(list, " ")
}

func TestEncoding(t *testing.T) {
	for _, c := range []struct{ name, src, want string }{
		{"BOM", "\xef\xbb\xbf" + goodRule, ""},
		{"BOM and an error", "\xef\xbb\xbfx: 1\n" + goodRule, "NP101@3-4"},
		{"CRLF", strings.ReplaceAll(goodRule, "\n", "\r\n"), ""},
		{"CRLF and an error", "a: 1\r\nb: 2\r\n", "NP101@0-1 NP101@6-7"},
		{"UTF-16", "\xff\xfed\x00", "NP008@0-2"},
		{"Latin-1", "# caf\xe9\ndefault: {block: true}\n", "NP008@5-6"},
		{"truncated", "default: {block: true} # \xe6\x97", "NP008@25-26 NP008@26-27"},
		{"NUL", "default: {block: true}\x00", "NP001@22-23"},
		{"lone CR", "default: {block: true}\rx: 1", "NP001@22-23 NP004@24-25"},
		{"line separator", "# a\u2028default: x\ndefault: {block: true}\n", "NP001@3-6"},
		{"wide characters before", "rules: [{name: a, priority: 0, description: \"日本語\", match: {port: 99999}, action: {block: true}}]", "NP202@71-76"},
		{"empty", "", "NP107@0-0"},
		{"empty document", "---\n", "NP107@4-4"},
	} {
		policy, diags := Load("f", []byte(c.src))
		if got := codes(diags); got != c.want {
			t.Errorf("%s: %s, want %s\n%v", c.name, got, c.want, diags)
		}
		if (policy == nil) != (c.want != "") {
			t.Errorf("%s: policy %v", c.name, policy != nil)
		}
	}
	bad := bytes.Repeat([]byte{0xff}, 1000)
	if _, diags := Load("f", bad); len(diags) > maxBadBytes {
		t.Errorf("%d diagnostics for a file that is no text", len(diags))
	}
}

func TestLimits(t *testing.T) {
	big := bytes.Repeat([]byte("# 456789\n"), MaxSize/9+1)
	if _, diags := Load("f", big); codes(diags) != "NP901@0-0" {
		t.Errorf("oversize: %v", diags)
	}
	if _, diags := Load("f", append([]byte(goodRule), bytes.Repeat([]byte("# 456789\n"), 100_000)...)); len(diags) > 0 {
		t.Errorf("900 kB of comments: %v", diags)
	}
	many := append([]byte(goodRule), bytes.Repeat([]byte("#\n"), maxComments+1)...)
	if _, diags := Load("f", many); codes(diags) != fmt.Sprintf("NP905@%d-%d", len(many)-2, len(many)-1) {
		t.Errorf("a million and one comments: %s", codes(diags))
	}
	names := "rules: [{name: a, priority: 0, match: any, when: {schedule: \"" + strings.Repeat("a,", 1_000_000) + "\"}, action: block}]\n"
	if ast, diags := Parse("f", []byte(names)); !strings.Contains(codes(diags), "NP905") || ast.Rules[0].When == nil {
		t.Errorf("a million schedules: %s", codes(diags))
	}
	deep := "rules: [{name: a, priority: 0, match: '" + strings.Repeat("(", 20_000) + "', action: block}]\n"
	if _, diags := Load("f", []byte(deep)); !strings.Contains(codes(diags), "NP902") {
		t.Errorf("brackets in a string: %s", codes(diags))
	}
	for _, nest := range []string{strings.Repeat("[", 20_000), strings.Repeat("{a: ", 5_000), strings.Repeat("- ", 1_000), strings.Repeat("? ", 1_000)} {
		if _, diags := Load("f", []byte("rules: \n  "+nest)); !strings.Contains(codes(diags), "NP902") {
			t.Errorf("%.10q...: %s", nest, codes(diags))
		}
	}
	ast := &rules.AST{File: "f", Rules: make([]rules.RuleNode, rules.MaxRules+1), Lost: true, Partial: true}
	if _, diags := rules.Check(ast); !slices.ContainsFunc(diags, func(d diag.Diagnostic) bool { return d.Code == "NP903" }) {
		t.Error("a million and one rules are too many")
	}
}

// TestManyErrors is the cost of a large broken file: repairs and suggestions are bounded.
func TestManyErrors(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("routes:\n")
	for i := range 500 {
		fmt.Fprintf(&b, "  route%d: {via: main}\n", i)
	}
	b.WriteString("rules:\n")
	for i := range 500 {
		fmt.Fprintf(&b, "  - {name: r%d, priority: 0, match: {sni: *.x%d.example}, action: {route: ruote%d}}\n", i, i, i)
	}
	_, diags := Load("f", b.Bytes())
	n := 0
	for _, d := range diags {
		if d.Code == "NP009" {
			n++
		}
	}
	if n != maxRepairs {
		t.Errorf("%d repairs, want %d", n, maxRepairs)
	}
	src := bytes.ReplaceAll(b.Bytes(), []byte("*.x"), []byte(".x"))
	_, diags = Load("f", src)
	if n := diag.Count(diags, diag.Error); n != 500 || diags[0].Help == "" {
		t.Errorf("%d errors, want 500 undefined routes: %v", n, diags[0])
	}
}

// TestPolicy looks at what comes out of a whole policy.
func TestPolicy(t *testing.T) {
	p, diags := Load("f", []byte(wholePolicy))
	if p != nil {
		t.Fatal("second is not declared")
	}
	if got := codes(diags); strings.Count(got, "NP110") != 3 {
		t.Fatal(diags)
	}
	src := strings.ReplaceAll(wholePolicy, "second", "wg2")
	p, diags = Load("f", []byte(src))
	if p == nil {
		t.Fatal(diags)
	}
	r := p.Rules[0]
	if r.Priority != -3 || r.Active != state.Set(0).With(state.Normal).With(state.Failover) || r.OnUnknown != rules.Provisional {
		t.Errorf("rule: %+v", r)
	}
	var got []string
	for _, k := range r.Match.Kids {
		pred := k.Pred
		if k.Op == rules.OpNot {
			pred = k.Kids[0].Pred
		}
		got = append(got, fmt.Sprint(k.Op, pred.Field, pred.Names, pred.Prefixes, pred.Ports, pred.Numbers, pred.Cmp, pred.Bound)+" "+pred.Text)
	}
	want := []string{
		"4 sni [zoom.us *.xn--bcher-kva.example a-*.b] [] [] [] 0 0 sni Zoom.US., *.Bücher.example, a-*.b",
		"4 proto [] [] [] [1 6 58] 0 0 proto icmp, tcp",
		"4 port [] [] [{80 81} {443 443} {1000 3000}] [] 0 0 port 443, 80, 81, 1000-2000, 1500-3000",
		"4 dst.ip [] [192.0.2.0/24 2001:db8::1/128] [] [] 0 0 dst_ip ::ffff:192.0.2.0/120, 2001:db8::1",
		"4 latency [] [] [] [] 3 12500 latency_ms > 12.5",
		"3 error_rate [] [] [] [] 0 5000 error_rate !=0.5%",
	}
	if !slices.Equal(got, want) {
		t.Errorf("match:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if s := r.Specificity().String(); s != "(6,2,120,6)" {
		t.Errorf("specificity %s", s)
	}
	if r.Do.Mods != (rules.Modifiers{Log: flow.Some("hello"), Throttle: flow.Some(0), Mark: flow.Some(uint32(16)), DSCP: flow.Some(uint8(46))}) {
		t.Errorf("modifiers: %+v", r.Do.Mods)
	}
	cfg := p.Health()
	u := cfg.Uplinks[0]
	if u.DegradeAfter != 7 || u.RTT != (state.Threshold{Enter: 200_000, Exit: 100_000}) || u.Loss != (state.Threshold{Enter: 100_000, Exit: 10_000}) ||
		u.Every.Seconds() != 2 || !cfg.Uplinks[1].Required || cfg.Primary != 0 {
		t.Errorf("state: %+v", cfg)
	}
	if g := cfg.Groups[0]; !g.Select || !slices.Equal(g.Members, []int{0, -1, -1}) || g.Tolerance.Milliseconds() != 10 {
		t.Errorf("group: %+v", g)
	}
	if th := p.Throttles[0]; th.Down != 2_000_000 || th.Up != 500_000 || th.Burst != 65536 || th.Per != "host" {
		t.Errorf("throttle: %+v", th)
	}
	if p.Daemon.OnCrash != rules.Closed || p.Daemon.MarkMask != 0xf0 || !slices.Equal(p.Daemon.Masquerade, []int{0}) || p.Daemon.Enforce != rules.Consult || p.Daemon.Hello != rules.Hold {
		t.Errorf("daemon: %+v", p.Daemon)
	}
	names := ""
	for _, r := range p.Routes {
		names += fmt.Sprintf("%s/%d/%v ", r.Name, r.Kind, r.Implied)
	}
	if names != "direct/0/false wg/3/false wg2/3/false wan2/1/false wan1/2/true best/6/true line2/6/true best2/6/true " {
		t.Errorf("routes: %s", names)
	}
}

// TestPrimary tells which uplink `when: state` follows.
func TestPrimary(t *testing.T) {
	const lines = "uplinks: {a: {dev: e0}, b: {dev: e1}, c: {dev: e2}}\nroutes: {rb: {via: uplink b}, d: {via: main}}\ngroups: {g: {fallback: [rb, a]}}\n"
	for _, c := range []struct {
		rest string
		want int
	}{
		{"", 0},
		{"default: {route: d}", 0},
		{"default: {route: rb}", 1},
		{"default: {route: c}", 2},
		{"default: {route: g}", 1},
		{"default: {fallback: [g, a]}", 1},
		{"default: {block: true}", 0},
		{"default: {route: c}\nhealth: {primary: a}", 0},
	} {
		p, diags := Load("f", []byte(lines+c.rest+"\n"))
		if p == nil || p.Primary != c.want {
			t.Errorf("%q: %v, want %d", c.rest, diags, c.want)
		}
	}
}

// TestHash shows what is meaning and what is spelling.
func TestHash(t *testing.T) {
	hash := func(src string) [32]byte {
		p, diags := Load("f", []byte(src))
		if p == nil {
			t.Fatalf("%s\n%v", src, diags)
		}
		return p.Hash
	}
	const base = "routes: {a: {via: main}, b: {via: table 7}}\nrules:\n  - {name: x, priority: 0, match: {port: \"80,443\", proto: tcp, sni: [p.q, .r.s]}, action: {route: a}}\n  - {name: y, priority: 0, match: {any: true}, action: {route: b}}\n"
	h := hash(base)
	for _, same := range []string{
		"# comment\nversion: 1\n" + base,
		strings.Replace(base, "{a: {via: main}, b: {via: table 7}}", "{b: table 7, a: {via: main}}", 1),
		strings.Replace(base, `"80,443"`, "[443, 80-80]", 1),
		strings.Replace(base, "proto: tcp, sni: [p.q, .r.s]", "sni: \".R.s, P.q.\", protocol: 6", 1),
		base + "daemon: {on_crash: open}\n",
	} {
		if hash(same) != h {
			t.Errorf("the same policy has another hash:\n%s", same)
		}
	}
	seen := map[[32]byte]string{h: base}
	for _, other := range []string{
		strings.Replace(base, "name: x", "name: z", 1),
		strings.Replace(base, "443", "444", 1),
		strings.Replace(base, "table 7", "table 8", 1),
		strings.Replace(base, "route: a", "switch_route: a", 1),
		strings.Replace(base, "route: a", "route: b", 1),
		strings.Replace(base, "route: a", "route: a, log: true", 1),
		strings.Replace(base, "priority: 0", "priority: 1", 1),
		strings.Replace(base, "name: x", "name: x, disable: FAILOVER", 1),
		base + "default: {route: a}\n",
		base + "uplinks: {u: {dev: eth0}}\n",
	} {
		g := hash(other)
		if first, ok := seen[g]; ok {
			t.Errorf("two policies have one hash:\n%s\n%s", first, other)
		}
		seen[g] = other
	}
}

// TestGenerated: whatever the seed, a generated policy has no errors, and a
// damaged one never makes Load panic or point outside.
func TestGenerated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Int64Range(0, 1<<40).Draw(t, "seed")
		src := policygen.YAML(seed, rapid.IntRange(0, 30).Draw(t, "n"))
		if p, diags := Load("f", src); p == nil {
			t.Fatalf("refused: %v\n%s", diags, src)
		}
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		for range 3 {
			at := r.IntN(len(src))
			switch r.IntN(3) {
			case 0:
				src = slices.Delete(slices.Clone(src), at, min(len(src), at+1+r.IntN(4)))
			case 1:
				src = slices.Insert(slices.Clone(src), at, []byte{" \t\n:{}[]*>&!\"'#,-\xe9"[r.IntN(18)]}...)
			default:
				src = slices.Clone(src)
				src[at] = byte(r.IntN(256))
			}
			if len(src) == 0 {
				return
			}
		}
		checkLoad(t, src)
	})
}

// checkLoad holds for every input at all.
func checkLoad(t interface{ Fatalf(string, ...any) }, src []byte) {
	policy, diags := Load("f", src)
	if (policy == nil) != diag.HasErrors(diags) {
		t.Fatalf("policy %v beside %v\n%q", policy != nil, diags, src)
	}
	inside := func(s diag.Span) {
		if s.File != "f" || s.Start < 0 || s.End < s.Start || s.End > len(src) {
			t.Fatalf("the span %v lies outside of %d bytes\n%v\n%q", s, len(src), diags, src)
		}
	}
	for _, d := range diags {
		inside(d.Span)
		if _, ok := diag.Lookup(d.Code); !ok || d.Message == "" {
			t.Fatalf("no such code: %v", d)
		}
		for _, n := range d.Notes {
			inside(n.Span)
		}
	}
	if policy == nil {
		return
	}
	for i := range policy.Rules {
		inside(policy.Rules[i].Span)
		inside(policy.Rules[i].NameSpan)
		inside(policy.Rules[i].Do.Span)
		insideExpr(&policy.Rules[i].Match, inside)
	}
}

func insideExpr(e *rules.Expr, inside func(diag.Span)) {
	inside(e.Span)
	for i := range e.Kids {
		insideExpr(&e.Kids[i], inside)
	}
}

func FuzzYAML(f *testing.F) {
	f.Add([]byte(goodRule))
	f.Add([]byte(wholePolicy))
	f.Add(policygen.YAML(1, 3))
	files, err := filepath.Glob("testdata/examples/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	for _, e := range diag.Catalogue() {
		f.Add([]byte(e.Example))
	}
	f.Fuzz(func(t *testing.T, src []byte) { checkLoad(t, src) })
}
