package lab

import (
	"os"
	"path/filepath"
	"testing"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules/yaml"
	"netpolicy.dev/netpolicy/sim"
)

// exampleDirs are the examples that have a lab script.
func exampleDirs(t *testing.T) []string {
	t.Helper()
	scripts, err := filepath.Glob("../../examples/*/" + scriptName)
	if err != nil || len(scripts) < 3 {
		t.Fatalf("examples: %v, %v", scripts, err)
	}
	var dirs []string
	for _, s := range scripts {
		dirs = append(dirs, filepath.Dir(s))
	}
	return dirs
}

// TestExamplesText checks what needs no kernel: policies lint clean, scripts
// parse, scenarios hold.
func TestExamplesText(t *testing.T) {
	for _, dir := range exampleDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			read := func(name string) []byte {
				src, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				return src
			}
			policy, diags := yaml.Load("policy.yaml", read("policy.yaml"))
			for _, d := range diags {
				if d.Severity != diag.Hint {
					t.Errorf("policy.yaml is not lint clean: %s %s", d.Code, d.Message)
				}
			}
			if policy == nil {
				t.Fatal("no policy")
			}
			if _, err := ParseScript(scriptName, read(scriptName)); err != nil {
				t.Error(err)
			}
			scenario, diags := sim.Parse("scenario.sim", read("scenario.sim"))
			if scenario == nil {
				t.Fatal(diags)
			}
			_, diags = sim.Run(scenario, policy)
			for _, d := range diags {
				t.Errorf("scenario.sim at byte %d: %s", d.Span.Start, d.Message)
			}
		})
	}
}
