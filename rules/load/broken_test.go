package load

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

var update = flag.Bool("update", false, "rewrite the golden files and docs/diagnostics.md")

// TestBroken renders what each policy of testdata/broken gets and compares it with
// the file behind it. Files below parts/ are there to be imported.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	policies := 0
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string][]byte{}
		for _, f := range archive.Files {
			all[f.Name] = f.Data
		}
		o := Options{Lists: noLists{}, Read: func(name string) ([]byte, error) {
			if b, ok := all[name]; ok && strings.HasPrefix(name, "parts/") {
				return b, nil
			}
			return nil, fs.ErrNotExist
		}}
		var updated []txtar.File
		for _, f := range archive.Files {
			ext := filepath.Ext(f.Name)
			switch {
			case ext == ".txt":
				continue
			case strings.HasPrefix(f.Name, "parts/"):
				updated = append(updated, f)
				continue
			}
			policies++
			got := render(t, f.Name, f.Data, o)
			want := f.Name + ".txt"
			updated = append(updated, f, txtar.File{Name: want, Data: []byte(got)})
			if diff := cmp.Diff(string(all[want]), got); diff != "" && !*update {
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
	if policies < 120 {
		t.Errorf("%d policies: at least 120 are expected", policies)
	}
}

// noLists has no list at all.
type noLists struct{}

func (noLists) Load(ref rules.ListRef, _ rules.SetType) (rules.Elements, []string, error) {
	return rules.Elements{}, nil, errors.New(ref.File + ref.URL + ": no such list")
}

// render loads a policy and returns its diagnostics as text, "ok" for none.
func render(t testing.TB, name string, src []byte, o Options) string {
	t.Helper()
	r := Policy(name, src, o)
	if (r.Policy == nil) != diag.HasErrors(r.Diags) {
		t.Errorf("%s: policy %v beside\n%v", name, r.Policy != nil, r.Diags)
	}
	var b bytes.Buffer
	if err := diag.Text(&b, r.Diags, r.Sources...); err != nil {
		t.Fatal(err)
	}
	if b.Len() == 0 {
		return "ok\n"
	}
	return b.String()
}
