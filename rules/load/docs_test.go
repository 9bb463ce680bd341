package load

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/diag"
)

// TestDiagnosticsDoc keeps docs/diagnostics.md equal to the catalogue; -update writes it.
func TestDiagnosticsDoc(t *testing.T) {
	const file = "../../docs/diagnostics.md"
	var b strings.Builder
	b.WriteString(`# Diagnostics

Every finding has a stable code, which is never used for anything else, and one of three severities. An error
refuses the policy; a warning does so under ` + "`netpolicy lint --strict`" + `; a hint never does. All findings of a file are
reported in one run, at most 50 of them are shown as text; ` + "`-o json`" + ` gives all.

This page is made from the catalogue in diag/ (` + "`go test ./rules/load -run TestDiagnosticsDoc -update`" + `); each example is
run by that test.

| code | severity | title |
|---|---|---|
`)
	for _, e := range diag.Catalogue() {
		title := e.Title
		if e.Detail != "" {
			title = fmt.Sprintf("[%s](#%s)", e.Title, strings.ToLower(string(e.Code)))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", e.Code, e.Severity, title)
	}
	b.WriteString("\nCodes without an entry below are kept for parts of the schema that this version does not have.\n")
	for _, e := range diag.Catalogue() {
		if e.Detail == "" {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n%s: %s.\n\n%s\n", e.Code, strings.ToUpper(e.Severity.String()[:1])+e.Severity.String()[1:], e.Title, e.Detail)
		if e.Example != "" {
			fmt.Fprintf(&b, "\n```yaml\n%s```\n```text\n%s```\n", e.Example, example(t, e))
		}
	}
	got, err := os.ReadFile(file)
	if err != nil && !*update {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("%s is not what the catalogue says (-want +got); run with -update:\n%s", file, diff)
	}
}

// example renders the findings of an entry's own code.
func example(t *testing.T, e diag.Entry) string {
	t.Helper()
	r := Policy("policy.yaml", []byte(e.Example), Options{})
	if r.Policy != nil {
		r.Diags = append(r.Diags, analysis.Dead(r.Policy, analysis.Thorough).Diags...)
	}
	diags := slices.DeleteFunc(r.Diags, func(d diag.Diagnostic) bool { return d.Code != e.Code })
	if len(diags) == 0 {
		t.Errorf("%s: its example does not get it", e.Code)
	}
	var b bytes.Buffer
	if err := diag.Text(&b, diags, diag.NewSource("policy.yaml", []byte(e.Example))); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestExamples loads every policy of examples/: no errors, no warnings.
func TestExamples(t *testing.T) {
	n := 0
	for _, pattern := range []string{"../../examples/*/*.yaml", "../../examples/*/*.npl", "../npl/testdata/examples/*.npl", "../yaml/testdata/examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			src, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			n++
			r := Policy(f, src, Options{})
			if diag.HasErrors(r.Diags) || diag.Count(r.Diags, diag.Warning) > 0 {
				t.Errorf("%s", render(t, f, src, Options{}))
			} else if dead := analysis.Dead(r.Policy, analysis.Thorough); len(dead.Diags) > 0 {
				t.Errorf("%s: %v", f, dead.Diags)
			}
		}
	}
	if n < 8 {
		t.Errorf("only %d examples found", n)
	}
}

// TestEveryCode holds code, catalogue and golden files together: each code that
// the sources can report has an entry and a golden case with its caret.
func TestEveryCode(t *testing.T) {
	shown := readAll(t, "testdata/broken/*.txtar", "../*/testdata/golden/*.txtar")
	reported := map[string]bool{}
	sources := readAll(t, "*.go", "../*.go", "../yaml/*.go", "../npl/*.go")
	for _, m := range regexp.MustCompile(`report\("(NP\d+)"|diag\.New\("(NP\d+)"`).FindAllStringSubmatch(sources, -1) {
		reported[m[1]+m[2]] = true
	}
	delete(reported, "NP901") // a file of 16 MiB is no golden case; TestLimits has it
	delete(reported, "NP903") // needs a million rules
	if len(reported) < 40 {
		t.Fatalf("only %d codes found in the sources", len(reported))
	}
	for code := range reported {
		e, ok := diag.Lookup(diag.Code(code))
		if !ok || e.Detail == "" {
			t.Errorf("%s is reported and not described in the catalogue", code)
		}
		if !regexp.MustCompile(`\w+ ` + code + `: .*\n +\d+ \|.*\n +\| +\^+`).MatchString(shown) {
			t.Errorf("%s is reported and has no golden case with a caret", code)
		}
	}
}

func readAll(t *testing.T, patterns ...string) string {
	t.Helper()
	var all strings.Builder
	for _, p := range patterns {
		files, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
	}
	return all.String()
}
