package print_test

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
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/rules"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden prints each NAME.npl and NAME.yaml of testdata/golden/*.txtar in both
// syntaxes, and compares with the NAME.out.npl and NAME.out.yaml behind it.
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
			name, ext, _ := strings.Cut(f.Name, ".")
			in := inNPL
			switch ext {
			case "npl":
			case "yaml":
				in = inYAML
			default:
				continue
			}
			updated = append(updated, f)
			for _, s := range []syntax{inNPL, inYAML} {
				got := string(through(t, in.read(t, f.Data, ""), s, string(f.Data)))
				out := name + ".out." + s.name
				updated = append(updated, txtar.File{Name: out, Data: []byte(got)})
				if diff := cmp.Diff(want[out], got); diff != "" && !*update {
					t.Errorf("%s: %s (-want +got):\n%s", file, out, diff)
				}
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

// TestHash converts whole policies there and back: the hash, which is of the
// meaning, stays the same.
func TestHash(t *testing.T) {
	type policy struct {
		name string
		in   syntax
		text []byte
	}
	var list []policy
	yamls, err := filepath.Glob("../../examples/*/policy.yaml")
	if err != nil || len(yamls) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, name := range yamls {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, policy{name, inYAML, text})
	}
	archive, err := txtar.ParseFile("../npl/testdata/golden/examples.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		if strings.HasSuffix(f.Name, ".npl") {
			list = append(list, policy{f.Name, inNPL, f.Data})
			if got := inNPL.print(inNPL.read(t, f.Data, "")); !bytes.Equal(got, f.Data) {
				t.Errorf("%s is not as the printer writes it:\n%s", f.Name, cmp.Diff(string(f.Data), string(got)))
			}
		}
	}
	list = append(list, policy{"policygen", inYAML, policygen.YAML(1, 500)})
	for _, p := range list {
		want := hash(t, p.in.read(t, p.text, ""), p.name)
		for _, s := range []syntax{inNPL, inYAML} {
			out := through(t, p.in.read(t, p.text, ""), s, string(p.text))
			if hash(t, s.read(t, out, ""), p.name) != want {
				t.Errorf("%s: printed in %s it has another hash:\n%s", p.name, s.name, out)
			}
			other := inNPL
			if s.name == "npl" {
				other = inYAML
			}
			back := other.print(s.read(t, out, ""))
			if hash(t, other.read(t, back, ""), p.name) != want {
				t.Errorf("%s: printed in %s and back it has another hash:\n%s", p.name, s.name, back)
			}
		}
	}
}

func hash(t *testing.T, a *rules.AST, name string) [32]byte {
	t.Helper()
	p, list := rules.Check(a)
	if p == nil {
		for _, d := range list {
			if d.Severity == diag.Error {
				t.Fatalf("%s: %s %s", name, d.Code, d.Message)
			}
		}
	}
	return p.Hash
}

// TestNothing prints policies without a declaration.
func TestNothing(t *testing.T) {
	for _, s := range []syntax{inNPL, inYAML} {
		through(t, inNPL.read(t, []byte("# alone\n\npolicy 1 # one\n# end\n"), ""), s, "")
		through(t, inYAML.read(t, []byte("# alone\nrules: []\n# end\n"), ""), s, "")
	}
	if diff := cmp.Diff("policy 1\n", string(inNPL.print(&rules.AST{}))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff("rules: []\n", string(inYAML.print(&rules.AST{}))); diff != "" {
		t.Error(diff)
	}
}
