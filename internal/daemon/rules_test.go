package daemon

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/lsp"
)

// TestDeadRules lists what is found of rules that never decide, those that allow it too.
func TestDeadRules(t *testing.T) {
	r := start(t, `routes: {direct: {via: main}}
default: {route: direct}
rules:
  - {name: web, priority: 9, match: {port: "80,443"}, action: {route: direct}}
  - {name: alive, priority: 8, match: {port: 80-81}, action: {block: true}}
  - {name: plain, priority: 7, match: {port: 80, protocol: tcp}, action: {block: true}}
  - {name: both, priority: 6, match: {port: 80-81, protocol: udp}, action: {route: direct}}
  - {name: wanted, priority: 5, match: {port: 443, protocol: tcp}, action: {block: true}, allow: [NP302]}
  - {name: never, priority: 4, match: {all: [{port: 80}, {port: 443}]}, action: {block: true}}
  - {name: asleep, priority: 3, when: {state: NORMAL}, disable: NORMAL, match: {port: 22}, action: {block: true}}
  - {name: starred, priority: 2, match: {sni: "*.zoom.us"}, action: {block: true}}
`, nil)
	list, err := r.Rules()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rule := range list.Rules {
		line := fmt.Sprintf("%s %d %v", rule.Name, rule.Line, rule.Dead)
		for _, f := range rule.Findings {
			line += fmt.Sprintf(" %s at %d:%d", f.Code, f.Line, f.Column)
		}
		got = append(got, line)
	}
	want := []string{
		"web 4 false", "alive 5 false", "plain 6 true NP302 at 6:12", "both 7 true NP302 at 7:12", "wanted 8 true", "never 9 true NP306 at 9:12",
		"asleep 10 true NP307 at 10:12", "starred 11 false NP401 at 11:47",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestDeadRulesBound: where a text has too many rules to look which never decide, that is said.
func TestDeadRulesBound(t *testing.T) {
	numbered := func(n int) string {
		var b strings.Builder
		b.WriteString("routes: {direct: {via: main}}\ndefault: {route: direct}\nrules:\n")
		for i := range n {
			fmt.Fprintf(&b, "  - {name: r%d, priority: 1, match: {port: %d}, action: {block: true}}\n", i, i+1)
		}
		return b.String()
	}
	socket := filepath.Join(t.TempDir(), "s.sock")
	r := start(t, numbered(maxAnalysed+1), func(o *Options, _ *Parts) { o.Socket = socket })
	if list, err := r.Rules(); err != nil || list.DeadUpTo != maxAnalysed {
		t.Errorf("looked at up to %d, %v", list.DeadUpTo, err)
	}
	k := newTalk(t, socket)
	for _, c := range []struct{ rules, want int }{{7, 0}, {lsp.MaxAnalysed + 1, lsp.MaxAnalysed}} {
		_, body := k.ask("POST", "/api/v1/lint", map[string]any{"text": numbered(c.rules)})
		var l api.Lint
		if err := json.Unmarshal(body, &l); err != nil || l.Rules != c.rules || l.DeadUpTo != c.want {
			t.Errorf("of %d rules: %d, looked at up to %d, %v", c.rules, l.Rules, l.DeadUpTo, err)
		}
	}
}
