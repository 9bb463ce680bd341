package sim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// testPolicy is a policy with two lines, built by hand: wan1 first, wan2 when
// wan1 is down; `calls` go to wan2 in FAILOVER, `ads` are rejected.
func testPolicy() *rules.Policy {
	p := &rules.Policy{
		Uplinks: []rules.Uplink{{Name: "wan1"}, {Name: "wan2"}, {Name: "blind"}},
		Routes: []rules.Route{
			{Name: "wan1", Kind: rules.RouteUplink},
			{Name: "wan2", Kind: rules.RouteUplink, Uplink: 1},
			{Name: "ha", Kind: rules.RouteGroup},
			{Name: "plain", Kind: rules.RouteMain},
		},
		Groups:    []rules.Group{{Name: "ha", Members: []int{0, 1}}},
		Throttles: []rules.Throttle{{Name: "slow"}},
		Rules: []rules.Rule{
			{
				Name: "ads", Priority: 9, Active: state.AllStates,
				Match: rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldSNI, Names: []rules.NamePattern{{Kind: rules.Suffix, Name: "ads.example"}}}},
				Do:    rules.Outcome{Kind: rules.ActBlock, Reject: true, Route: -1},
			},
			{
				Name: "calls", Priority: 8, Active: state.Set(0).With(state.Failover),
				Match: rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldPort, Ports: []rules.PortRange{{Lo: 5060, Hi: 5060}}}},
				Do: rules.Outcome{Kind: rules.ActFallback, Route: -1, Routes: []int{1, 0}, Mods: rules.Modifiers{
					Log: flow.Some("moved"), Throttle: flow.Some(0), Mark: flow.Some(uint32(7)), DSCP: flow.Some(uint8(46)),
				}},
			},
		},
		Default: &rules.Outcome{Kind: rules.ActRoute, Route: 2},
	}
	for i := range p.Uplinks {
		p.Uplinks[i].Health = state.DefaultUplink(p.Uplinks[i].Name)
		p.Uplinks[i].Probe = rules.Probe{Kind: rules.ProbeICMP, Every: time.Second}
	}
	p.Uplinks[2].Probe = rules.Probe{}
	return p
}

// run parses and runs a scenario under testPolicy and returns the diagnostics
// as text.
func run(t *testing.T, text string) (Result, string) {
	t.Helper()
	s, diags := Parse("t.sim", []byte(text))
	var r Result
	if s != nil {
		r, diags = Run(s, testPolicy())
	}
	var b strings.Builder
	if err := diag.Text(&b, diags, diag.NewSource("t.sim", []byte(text))); err != nil {
		t.Fatal(err)
	}
	return r, b.String()
}

func TestParseErrors(t *testing.T) {
	const flow = "flow 0s tcp 10.0.0.5:1 > 192.0.2.7:443\n"
	for _, c := range []struct{ line, under, want string }{
		{"samlpe 0s rtt=1ms", "samlpe", "NP101: unknown statement `samlpe`\n  help: did you mean `sample`?"},
		{"sample", "", "NP003: expected a time or A..B"},
		{"sample soon rtt=1ms", "soon", "NP203: expected a time, found `soon`"},
		{"sample 5s..2s rtt=1ms", "5s..2s", "NP103: the end of the time must come after its start"},
		{"sample 5s..x rtt=1ms", "x", "NP203: expected the end of the time, found `x`"},
		{"sample -1s rtt=1ms", "-1s", "NP103: a time must lie between 0s and 168h"},
		{"sample 9000h rtt=1ms", "9000h", "NP103"},
		{"sample 0s uplink=wan1", "", "NP107: the sample sets nothing"},
		{"sample 0s rtt=1ms rtt=2ms", "rtt=2ms", "NP105: rtt is given twice"},
		{"sample 0s lost=1%", "lost", "NP102: unknown key `lost`\n  help: did you mean `loss`?"},
		{"sample 0s loss=5", "5", "NP203: expected a percentage"},
		{"sample 0s loss=101%", "101%", "NP203"},
		{"sample 0s loss=1.%", "1.%", "NP203"},
		{"sample 0s link=off", "off", "NP004: expected up or down, found `off`"},
		{"sample 0s rounds=all", "all", "NP004"},
		{"sample 0s rtt=2h", "2h", "NP103: no round trip"},
		{"sample 0s fast", "fast", "NP004: expected key=value, found `fast`"},
		{"flow 0s", "", "NP003: expected a flow"},
		{"flow 0s tcp 10.0.0.5:1 > 1.2.3:443", "1.2.3:443", "NP004"},
		{"flow 0s tcp 10.0.0.5:1 > 192.0.2.7:443 snni=x", "snni=x", "NP004: unknown key"},
		{"force 0s FALLOVER for 1m", "FALLOVER", "NP204: unknown state `FALLOVER`\n  help: did you mean `FAILOVER`?"},
		{"force 0s FAILOVER", "", "NP003: expected `for` and how long"},
		{"force 0s FAILOVER for 1m because", "because", "NP005: expected the end of the line, found `because`"},
		{"policy other.yaml", "policy", "NP105: the scenario has a policy already"},
		{"clear", "", "NP003"},
		{"expect", "", "NP003: expected what to expect"},
		{"expect route wan1", "expect", "NP107: there is no flow yet"},
		{flow + "expect route", "", "NP003: expected a route"},
		{flow + "expect rout wan1", "rout", "NP102: can't expect `rout`\n  help: did you mean `route`?"},
		{flow + "expect action drop", "drop", "NP120: unknown action `drop`"},
		{flow + "expect pending sni,age", "sni,age", "NP102: unknown fact `age`"},
		{flow + "expect pending sni, age", "sni, age", "NP102: unknown fact `age`"},
		{flow + "expect pending sni,", "", "NP003: expected a fact"},
		{flow + "expect dscp 64", "64", "NP103"},
		{"expect 9s route wan1", "route", "NP004: expected state, share, schedule, quota or condition, found `route`"},
		{"expect 9s state", "", "NP003: expected a state"},
		{"expect transitions > 8 in 1h", ">", "NP203: expected <= or ==, found `>`"},
		{"expect transitions <= many in 1h", "many", "NP103: expected a number of transitions"},
		{"expect transitions <= 8", "", "NP003: expected `in` and a length of time"},
		{"expect transitions <= 8 in 0s", "0s", "NP103: the length of time must be above zero"},
		{`force 0s FAILOVER for 1m reason "no end`, `"no end`, "NP002: the string is not closed"},
	} {
		s, diags := Parse("t.sim", []byte("policy p.yaml\n"+c.line+"\n"))
		if s != nil || len(diags) != 1 {
			t.Errorf("%s: %v", c.line, diags)
			continue
		}
		d := diags[0]
		got := string(d.Code) + ": " + d.Message
		if d.Help != "" {
			got += "\n  help: " + d.Help
		}
		if under := ("policy p.yaml\n" + c.line + "\n")[d.Span.Start:d.Span.End]; !strings.HasPrefix(got, c.want) || under != c.under {
			t.Errorf("%s:\n%s\nunder %q, want under %q:\n%s", c.line, got, under, c.under, c.want)
		}
	}
	for text, want := range map[string]string{
		"":                               "NP107",
		"# only a comment":               "NP107",
		"\xff":                           "NP008",
		strings.Repeat("#", maxSource+1): "NP901",
	} {
		if s, diags := Parse("t.sim", []byte(text)); s != nil || len(diags) != 1 || string(diags[0].Code) != want {
			t.Errorf("%.20q: %v", text, diags)
		}
	}
	// All mistakes are found in one run.
	if _, diags := Parse("t.sim", []byte("polcy x\nsampl 1s\nexpect 1s state GONE\nflow x\n")); len(diags) != 4 {
		t.Errorf("%d diagnostics: %v", len(diags), diags)
	}
}

func TestRunErrors(t *testing.T) {
	const flow = "flow 0s tcp 10.0.0.5:1 > 192.0.2.7:443\n"
	for line, want := range map[string]string{
		"sample 0s uplink=wan rtt=1ms":           "NP110: the policy has no uplink `wan`",
		"sample 0s uplink=blind rtt=1ms":         "NP207: the uplink `blind` has no probe",
		"sample 0s rtt=1ms":                      "NP107: the policy has 3 uplinks: a sample at 0s must say uplink=NAME",
		"expect 0s state NORMAL uplink=wan3":     "NP110",
		"expect transitions <= 1 in 1s uplink=x": "NP110",
		flow + "expect route wan9":               "NP110: the policy has no route `wan9`",
		flow + "expect target wan1,wan9":         "NP110",
		flow + "expect by adz":                   "NP110: the policy has no rule `adz`",
		flow + "expect uplink wan9":              "NP110",
		flow + "expect throttle fast":            "NP110",
	} {
		r, got := run(t, "policy p.yaml\n"+line+"\n")
		if !strings.Contains(got, want) || strings.Count(got, "error") != 1 || r.Expectations != 0 {
			t.Errorf("%s: %+v\n%s", line, r, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("../docs/scenarios/*.sim")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("policy \"a b\"\nsample 0s..1m uplink=\"w\" rtt=1ms loss=0.5%\nexpect not log \"x\"\n"))
	p := testPolicy()
	f.Fuzz(func(t *testing.T, src []byte) {
		s, diags := Parse("f.sim", src)
		if (s == nil) == (len(diags) == 0) {
			t.Fatalf("%v %v", s, diags)
		}
		for _, d := range diags {
			if d.Span.Start < 0 || d.Span.Start > d.Span.End || d.Span.End > len(src) || d.Message == "" {
				t.Fatalf("%+v", d)
			}
		}
		if s != nil && s.length() < 20*time.Minute {
			Run(s, p)
		}
	})
}
