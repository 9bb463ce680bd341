package sim_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules/yaml"
	"netpolicy.dev/netpolicy/sim"
)

// TestScenarios runs the scenarios of docs/states.md, and checks that the page
// links each of them and no other.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("../docs/scenarios/*.sim")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	page, err := os.ReadFile("../docs/states.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(string(page), "(scenarios/"+name+")") {
				t.Errorf("docs/states.md does not link it")
			}
			runFile(t, file)
		})
	}
	if n := strings.Count(string(page), "(scenarios/"); n < len(files) {
		t.Errorf("%d links for %d scenarios", n, len(files))
	}
	for rest := string(page); ; {
		_, after, ok := strings.Cut(rest, "(scenarios/")
		if !ok {
			break
		}
		name, _, _ := strings.Cut(after, ")")
		if _, err := os.Stat("../docs/scenarios/" + name); err != nil {
			t.Error(err)
		}
		rest = after
	}
}

func runFile(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, diags := sim.Parse(file, text)
	if s == nil {
		show(t, diags, file, text)
		return
	}
	name := filepath.Join(filepath.Dir(file), s.Policy)
	source, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	policy, diags := yaml.Load(name, source)
	if len(diags) > 0 { // scenarios for people have clean policies
		show(t, diags, name, source)
	}
	if policy == nil {
		t.FailNow()
	}
	r, failed := sim.Run(s, policy)
	show(t, failed, file, text)
	if r.Expectations == 0 {
		t.Error("it expects nothing")
	}
	// The same texts give the same result.
	again, _ := sim.Run(s, policy)
	if len(again.Log) != len(r.Log) {
		t.Errorf("%d entries, then %d", len(r.Log), len(again.Log))
	}
	for i := range again.Log {
		if a, b := sim.Describe(policy, again.Log[i]), sim.Describe(policy, r.Log[i]); a != b {
			t.Errorf("%s, then %s", b, a)
		}
	}
}

func show(t *testing.T, diags []diag.Diagnostic, file string, text []byte) {
	t.Helper()
	if len(diags) == 0 {
		return
	}
	var b strings.Builder
	if err := diag.Text(&b, diags, diag.NewSource(file, text)); err != nil {
		t.Fatal(err)
	}
	t.Errorf("\n%s", b.String())
}
