package yaml

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"netpolicy.dev/netpolicy/diag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

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
