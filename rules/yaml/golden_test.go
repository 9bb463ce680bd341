package yaml

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"netpolicy.dev/netpolicy/diag"
)

var update = flag.Bool("update", false, "rewrite the golden files and docs/diagnostics.md")

// TestGolden renders what each NAME.yaml of testdata/golden/*.txtar gets, and
// compares it with the NAME.txt behind it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, f := range archive.Files {
			want[f.Name] = string(f.Data)
		}
		var updated []txtar.File
		for _, f := range archive.Files {
			name, ok := strings.CutSuffix(f.Name, ".yaml")
			if !ok {
				continue
			}
			got := render(t, f.Name, f.Data)
			updated = append(updated, f, txtar.File{Name: name + ".txt", Data: []byte(got)})
			if diff := cmp.Diff(want[name+".txt"], got); diff != "" && !*update {
				t.Errorf("%s: %s (-want +got):\n%s", file, f.Name, diff)
			}
		}
		if *update {
			archive.Files = updated
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// render loads a policy and returns its diagnostics as text, "ok" for none.
func render(t testing.TB, name string, src []byte) string {
	t.Helper()
	policy, diags := Load(name, src)
	if (policy == nil) != diag.HasErrors(diags) {
		t.Errorf("%s: policy %v beside\n%v", name, policy != nil, diags)
	}
	var b bytes.Buffer
	if err := diag.Text(&b, diags, diag.NewSource(name, src)); err != nil {
		t.Fatal(err)
	}
	if b.Len() == 0 {
		return "ok\n"
	}
	return b.String()
}

// TestEveryCode holds code, catalogue and golden files together: each code that
// the sources can report has an example and a golden case with its caret.
func TestEveryCode(t *testing.T) {
	shown := readAll(t, "testdata/golden/*.txtar")
	reported := map[string]bool{}
	for _, m := range regexp.MustCompile(`report\("(NP\d+)"|diag\.New\("(NP\d+)"`).FindAllStringSubmatch(readAll(t, "*.go", "../*.go"), -1) {
		reported[m[1]+m[2]] = true
	}
	delete(reported, "NP901") // a file of 16 MiB is no golden case; TestLimits has it
	delete(reported, "NP903") // needs a million rules
	delete(reported, "NP008") // not text; TestEncoding has it
	delete(reported, "NP111") // needs files; rules/load has it
	delete(reported, "NP503")
	if len(reported) < 30 {
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
