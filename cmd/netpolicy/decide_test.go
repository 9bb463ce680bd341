package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// TestDecideEqualsOracle100k writes random policies as YAML, sends random flows
// through `netpolicy decide`, and compares every line with what the oracle says
// of the policy before it was written: reading, checking, compiling, deciding
// and encoding are all in between.
func TestDecideEqualsOracle100k(t *testing.T) {
	const policies, flows = 50, 2000
	rng := rand.New(rand.NewPCG(5, 6))
	dir := t.TempDir()
	total := 0
	for range policies {
		var p *rules.Policy
		var text string
		for ok := false; !ok; {
			p = oracle.Policy(rng)
			text, ok = writePolicy(p)
		}
		config, records := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "flows.ndjson")
		var in []byte
		want := make([]answer, flows)
		for i := range want {
			f := oracle.Flow(rng)
			f.ID = fmt.Sprint(i)
			in = append(f.AppendJSON(in), '\n')
			s, _ := state.Parse(f.State)
			d := oracle.Decide(p, &f, engine.OfflineWorld(p, s))
			want[i] = answerOf(p, f.ID, &d)
		}
		for name, content := range map[string][]byte{config: []byte(text), records: in} {
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out, errs bytes.Buffer
		root := newRoot()
		root.SetArgs([]string{"decide", "--config", config, "--flows", records})
		root.SetOut(&out)
		root.SetErr(&errs)
		if err := root.Execute(); err != nil {
			t.Fatalf("%v\n%s\n%s", err, errs.String(), text)
		}
		lines := bufio.NewScanner(&out)
		for i := range want {
			if !lines.Scan() {
				t.Fatalf("%d lines for %d flows", i, len(want))
			}
			var got answer
			if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
				t.Fatalf("%v: %s", err, lines.Text())
			}
			if diff := cmp.Diff(want[i], got); diff != "" {
				t.Fatalf("flow %s\npolicy\n%s\n(-oracle +decide)\n%s", bytes.Split(in, []byte("\n"))[i], text, diff)
			}
			total++
		}
		if lines.Scan() {
			t.Fatalf("more lines than flows: %s", lines.Text())
		}
	}
	t.Logf("%d random flows over %d policies decided as the oracle does", total, policies)
}

// answer is a line of `decide` without its why.
type answer struct {
	ID         string   `json:"id"`
	Rule       *string  `json:"rule"`
	Action     string   `json:"action"`
	Target     any      `json:"target"`
	Route      *string  `json:"route"`
	Log        any      `json:"log"`
	Throttle   *string  `json:"throttle"`
	Mark       *uint32  `json:"mark"`
	DSCP       *uint8   `json:"dscp"`
	Default    bool     `json:"default"`
	Final      bool     `json:"final"`
	Pending    []string `json:"pending"`
	NameSource string   `json:"name_source"`
}

func answerOf(p *rules.Policy, id string, d *engine.Decision) answer {
	a := answer{ID: id, Default: d.Default, Final: d.Final, Log: false, Pending: []string{}}
	route := func(i int) string { return p.Routes[i].Name }
	if d.Rule >= 0 {
		a.Rule = &p.Rules[d.Rule].Name
	}
	switch d.Kind {
	case rules.ActNone:
		a.Action = "none"
	case rules.ActRoute:
		a.Action, a.Target = "route", route(d.Asked)
	case rules.ActSwitchRoute:
		a.Action, a.Target = "switch_route", route(d.Asked)
	case rules.ActFailover:
		a.Action, a.Target = "failover", route(d.Asked)
	case rules.ActFallback:
		list := []any{}
		for _, i := range d.AskedList {
			list = append(list, route(i))
		}
		a.Action, a.Target = "fallback", list
	case rules.ActBlock:
		a.Action, a.Target = "block", "drop"
		if d.Reject {
			a.Target = "reject"
		}
	}
	if d.Route >= 0 {
		a.Route = &p.Routes[d.Route].Name
	}
	if text, set := d.Mods.Log.Get(); set && text == "" {
		a.Log = true
	} else if set {
		a.Log = text
	}
	if i, set := d.Mods.Throttle.Get(); set {
		a.Throttle = &p.Throttles[i].Name
	}
	if n, set := d.Mods.Mark.Get(); set {
		a.Mark = &n
	}
	if n, set := d.Mods.DSCP.Get(); set {
		a.DSCP = &n
	}
	for f := rules.FieldSNI; f <= rules.FieldCondition; f++ {
		if d.Pending.Has(f) {
			a.Pending = append(a.Pending, f.String())
		}
	}
	slices.Sort(a.Pending)
	if d.Hinted {
		a.NameSource = "dns"
	}
	return a
}

// writePolicy writes a policy of oracle.Policy as YAML. ok is false when the
// classic YAML can't say it: a state or a MAC inside a match, and what came with
// the whole language.
func writePolicy(p *rules.Policy) (text string, ok bool) {
	var b strings.Builder
	b.WriteString("uplinks:\n  wan1: {dev: eth1}\n  wan2: {dev: eth2}\n")
	b.WriteString("routes:\n  direct: {via: main}\n  hole: {via: blackhole}\n  fast: {via: uplink wan1}\n  backup: {via: uplink wan2}\ngroups:\n")
	for _, g := range p.Groups {
		if g.Strategy > rules.LowestLatency {
			return "", false
		}
		strategy := map[rules.Strategy]string{rules.Fallback: "fallback", rules.LowestLatency: "lowest_latency"}[g.Strategy]
		fmt.Fprintf(&b, "  %s: {%s: [%s]%s}\n", g.Name, strategy, routeNames(p, g.Members), map[bool]string{true: ", when_none: block"}[g.BlockWhenNone])
	}
	b.WriteString("throttles:\n  slow: {down: 1mbit}\n  slower: {down: 500kbit}\n")
	fmt.Fprintf(&b, "health: {primary: %s}\n", p.Uplinks[p.Primary].Name)
	if p.Default != nil {
		fmt.Fprintf(&b, "default: {%s}\n", writeOutcome(p, p.Default))
	}
	b.WriteString("rules:\n")
	for i := range p.Rules {
		r := &p.Rules[i]
		match, ok := writeExpr(&r.Match)
		if !ok || r.When != nil {
			return "", false
		}
		fmt.Fprintf(&b, "  - name: %s\n    priority: %d\n    match: %s\n    action: {%s}\n", r.Name, r.Priority, match, writeOutcome(p, &r.Do))
		if r.Active != state.AllStates {
			fmt.Fprintf(&b, "    when: {state: [%s]}\n", stateNames(r.Active))
		}
		if r.OnUnknown != rules.Auto {
			fmt.Fprintf(&b, "    on_unknown: %s\n", [...]string{"", "wait", "provisional", "skip"}[r.OnUnknown])
		}
	}
	return b.String(), true
}

func stateNames(set state.Set) string {
	var list []string
	for s := state.Normal; s <= state.Recovery; s++ {
		if set.Has(s) {
			list = append(list, s.String())
		}
	}
	return strings.Join(list, ", ")
}

func routeNames(p *rules.Policy, list []int) string {
	var out []string
	for _, i := range list {
		out = append(out, p.Routes[i].Name)
	}
	return strings.Join(out, ", ")
}

func writeOutcome(p *rules.Policy, o *rules.Outcome) string {
	var parts []string
	switch o.Kind {
	case rules.ActRoute:
		parts = append(parts, "route: "+p.Routes[o.Route].Name)
	case rules.ActSwitchRoute:
		parts = append(parts, "switch_route: "+p.Routes[o.Route].Name)
	case rules.ActFailover:
		parts = append(parts, "failover: "+p.Routes[o.Route].Name)
	case rules.ActFallback:
		parts = append(parts, "fallback: ["+routeNames(p, o.Routes)+"]")
	case rules.ActBlock:
		parts = append(parts, "block: "+map[bool]string{false: "drop", true: "reject"}[o.Reject])
	}
	if text, set := o.Mods.Log.Get(); set {
		parts = append(parts, "log: "+map[bool]string{true: "true", false: text}[text == ""])
	}
	if i, set := o.Mods.Throttle.Get(); set {
		parts = append(parts, "throttle: "+p.Throttles[i].Name)
	}
	if n, set := o.Mods.Mark.Get(); set {
		parts = append(parts, fmt.Sprintf("mark: %d", n))
	}
	if n, set := o.Mods.DSCP.Get(); set {
		parts = append(parts, fmt.Sprintf("dscp: %d", n))
	}
	return strings.Join(parts, ", ")
}

func writeExpr(e *rules.Expr) (string, bool) {
	var kids []string
	for i := range e.Kids {
		kid, ok := writeExpr(&e.Kids[i])
		if !ok {
			return "", false
		}
		kids = append(kids, kid)
	}
	switch e.Op {
	case rules.OpAny:
		return "{any: true}", true
	case rules.OpAnd:
		return "{all: [" + strings.Join(kids, ", ") + "]}", true
	case rules.OpOr:
		return "{any_of: [" + strings.Join(kids, ", ") + "]}", true
	case rules.OpNot:
		return "{not: " + kids[0] + "}", true
	}
	return writePred(&e.Pred)
}

func writePred(p *rules.Pred) (string, bool) {
	key := strings.ReplaceAll(p.Field.String(), ".", "_")
	var list []string
	for _, n := range p.Names {
		list = append(list, n.String())
	}
	for _, n := range p.Prefixes {
		list = append(list, n.String())
	}
	for _, r := range p.Ports {
		list = append(list, fmt.Sprintf("%d-%d", r.Lo, r.Hi))
	}
	for _, g := range p.Globs {
		list = append(list, string(g))
	}
	for _, n := range p.Numbers {
		if p.Field == rules.FieldProto {
			list = append(list, flow.Proto(n).String())
		} else {
			list = append(list, fmt.Sprint(n))
		}
	}
	op := [...]string{"==", "<", "<=", ">", ">="}[p.Cmp]
	switch p.Field {
	case rules.FieldState, rules.FieldSrcMAC:
		return "", false
	case rules.FieldApp, rules.FieldALPN, rules.FieldGroup, rules.FieldIfaceOut, rules.FieldCountry, rules.FieldASN, rules.FieldConnBytes,
		rules.FieldConnAge, rules.FieldUplink, rules.FieldRoute, rules.FieldSchedule, rules.FieldQuota, rules.FieldCondition:
		return "", false
	case rules.FieldProto:
		if slices.Equal(list, []string{"icmp", "icmpv6"}) {
			list = list[:1] // means both
		}
	case rules.FieldRTT, rules.FieldLatency:
		return fmt.Sprintf(`{%s_ms: "%s%d.%03d"}`, key, op, p.Bound/1000, p.Bound%1000), true
	case rules.FieldErrorRate:
		return fmt.Sprintf(`{%s: "%s%d.%04d%%"}`, key, op, p.Bound/10_000, p.Bound%10_000), true
	}
	for i, s := range list {
		list[i] = fmt.Sprintf("%q", s)
	}
	return "{" + key + ": [" + strings.Join(list, ", ") + "]}", true
}

func TestDecideStream(t *testing.T) {
	d := newDecider(&rules.Policy{Primary: -1})
	long := `{"id":"long","sni":"` + strings.Repeat("a", flow.MaxRecord) + `"}`
	in := "{\"id\":\"1\"}\n\n  \r\n" + long + "\n{\"id\":\"2\"}\r\n" + long
	var out bytes.Buffer
	bad, err := d.run(t.Context(), strings.NewReader(in), &out)
	const none = `,"rule":null,"action":"none","target":null,"route":null,"log":false,"throttle":null,"default":true,"final":true,"pending":[],` +
		`"why":"no rule matches, and there is no default"}` + "\n"
	const tooLong = `{"id":null,"error":{"code":"too_long","message":"at byte 65536: line longer than 65536 bytes"}}` + "\n"
	want := `{"id":"1"` + none + tooLong + `{"id":"2"` + none + tooLong
	if diff := cmp.Diff(want, out.String()); diff != "" || bad != 2 || err != nil {
		t.Errorf("%d bad, %v (-want +got):\n%s", bad, err, diff)
	}
}

// TestDecideStopsOnWriteError: a reader that goes away ends the work at once,
// although the input never ends.
func TestDecideStopsOnWriteError(t *testing.T) {
	d := newDecider(&rules.Policy{Primary: -1})
	_, err := d.run(t.Context(), endless{}, closedPipe{})
	if err == nil || !strings.Contains(err.Error(), "write decisions: closed pipe") {
		t.Errorf("%v, want the write's error", err)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return copy(b, "{}\n"), nil }

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, fmt.Errorf("closed pipe") }

func BenchmarkDecideStream(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	p := oracle.Policy(rng)
	var in []byte
	for range 10_000 {
		f := oracle.Flow(rng)
		in = append(f.AppendJSON(in), '\n')
	}
	b.Run("10k-flows", func(b *testing.B) {
		b.SetBytes(int64(len(in)))
		for b.Loop() {
			if bad, err := newDecider(p).run(b.Context(), bytes.NewReader(in), new(bytes.Buffer)); bad > 0 || err != nil {
				b.Fatal(bad, err)
			}
		}
	})
}
