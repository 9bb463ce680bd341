package print_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/print"
)

// FuzzFormat prints what reads without errors in its own syntax: the policy and
// its comments stay, and the result prints as itself. What Check refuses need not:
// it may be called as nothing can be.
func FuzzFormat(f *testing.F) {
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, text := range archive.Files {
			f.Add(text.Data, strings.HasSuffix(text.Name, ".yaml"))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, yaml bool) {
		s := inNPL
		if yaml {
			s = inYAML
		}
		a, list := s.parse("policy", text)
		if a == nil || diag.HasErrors(list) {
			return
		}
		meaning, texts := print.Canonical(a), comments(a)
		out := s.print(a)
		if refused(a) {
			return
		}
		b, list := s.parse("policy", out)
		if b == nil || diag.HasErrors(list) {
			t.Fatalf("it does not read: %v\n%s", list, out)
		}
		if diff := cmp.Diff(meaning, print.Canonical(b)); diff != "" {
			t.Fatalf("it means something else:\n%s\n%s", diff, out)
		}
		if diff := cmp.Diff(texts, comments(b)); diff != "" {
			t.Fatalf("its comments differ:\n%s\n%s", diff, out)
		}
		if diff := cmp.Diff(string(out), string(s.print(b))); diff != "" {
			t.Fatalf("a second printing differs:\n%s\n%s", diff, out)
		}
	})
}

// refused reports errors of Check other than those about names that are not declared.
func refused(a *rules.AST) bool {
	_, list := rules.Check(a)
	return slices.ContainsFunc(list, func(d diag.Diagnostic) bool {
		return d.Severity == diag.Error && d.Code != "NP110" && d.Code != "NP111"
	})
}
