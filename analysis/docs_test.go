package analysis_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/rules/print"
)

// TestDocExamples loads every block of the documents that is fenced as ```npl policy
// or ```yaml policy. Each has no error and no warning; those of the language's own
// reference have assertions, which hold; and all are the same policy in the other
// syntax.
func TestDocExamples(t *testing.T) {
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, "../README.md")
	n, asserted := 0, 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, syntax := range []string{"npl", "yaml"} {
			parts := strings.Split(string(text), "\n```"+syntax+" policy\n")
			for i, part := range parts[1:] {
				block, _, ok := strings.Cut(part, "\n```")
				if !ok {
					t.Errorf("%s: block %d is not closed", file, i+1)
				}
				n++
				name := fmt.Sprintf("%s-%d.%s", filepath.Base(file), i+1, syntax)
				r := example(t, name, []byte(block+"\n"))
				if r.Policy == nil {
					continue
				}
				if filepath.Base(file) == "language.md" {
					if len(r.Policy.Asserts) == 0 {
						t.Errorf("%s has no assertion", name)
					}
					asserted += len(r.Policy.Asserts)
				}
			}
		}
	}
	if n < 20 || asserted < 15 {
		t.Errorf("only %d examples and %d assertions found", n, asserted)
	}
	t.Logf("%d examples, %d assertions in the reference", n, asserted)
}

// example loads a policy, tries its assertions, and converts it there and back.
func example(t *testing.T, name string, src []byte) load.Result {
	t.Helper()
	r := load.Policy(name, src, load.Options{})
	list := r.Diags
	if r.Policy != nil {
		list = append(list, analysis.Assertions(engine.Compile(r.Policy)).Diags...)
		list = append(list, analysis.Dead(r.Policy, analysis.Thorough).Diags...)
	}
	if diag.HasErrors(list) || diag.Count(list, diag.Warning) > 0 {
		var b bytes.Buffer
		if err := diag.Text(&b, list, r.Sources...); err != nil {
			t.Fatal(err)
		}
		t.Errorf("%s is not clean:\n%s", name, b.String())
		return r
	}
	for _, out := range []struct {
		name string
		text []byte
	}{{"there.npl", print.NPL(r.AST)}, {"there.yaml", print.YAML(r.AST)}} {
		again := load.Policy(out.name, out.text, load.Options{})
		if again.Policy == nil || again.Policy.Hash != r.Policy.Hash || print.Canonical(again.AST) != print.Canonical(r.AST) {
			t.Errorf("%s as %s is another policy: %v\n%s", name, out.name, again.Diags, out.text)
		}
	}
	return r
}
