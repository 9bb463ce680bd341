package yaml

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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

This page is made from the catalogue in diag/ (` + "`go test ./rules/yaml -run TestDiagnosticsDoc -update`" + `); each example is
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
	_, diags := Load("policy.yaml", []byte(e.Example))
	diags = slices.DeleteFunc(diags, func(d diag.Diagnostic) bool { return d.Code != e.Code })
	if len(diags) == 0 {
		t.Errorf("%s: its example does not get it", e.Code)
	}
	var b bytes.Buffer
	if err := diag.Text(&b, diags, diag.NewSource("policy.yaml", []byte(e.Example))); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestDocExamples loads every block of README.md and docs/*.md that is fenced as ```yaml policy.
func TestDocExamples(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, "../../README.md")
	n := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(string(text), "\n```yaml policy\n")
		for i, part := range parts[1:] {
			block, _, ok := strings.Cut(part, "\n```")
			if !ok {
				t.Errorf("%s: block %d is not closed", f, i+1)
			}
			n++
			name := fmt.Sprintf("%s example %d", filepath.Base(f), i+1)
			src := []byte(block + "\n")
			if policy, diags := Load(name, src); policy == nil {
				var b bytes.Buffer
				if err := diag.Text(&b, diags, diag.NewSource(name, src)); err != nil {
					t.Fatal(err)
				}
				t.Errorf("refused:\n%s", b.String())
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d examples found", n)
	}
}

// TestExamples loads every policy of examples/: no errors, no warnings.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, diags := Load(f, src); diag.HasErrors(diags) || diag.Count(diags, diag.Warning) > 0 {
			t.Errorf("%s", render(t, f, src))
		}
	}
}
