package foreign

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

func FuzzClash(f *testing.F)   { fuzz(f, "clash") }
func FuzzSingbox(f *testing.F) { fuzz(f, "singbox") }
func FuzzMwan3(f *testing.F)   { fuzz(f, "mwan3") }

// fuzz imports anything: what can be read must become a policy that is clean.
func fuzz(f *testing.F, format string) {
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, member := range archive.Files {
			if strings.HasSuffix(member.Name, "."+format) {
				f.Add(member.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		r, err := Import(format, "fuzz", src)
		if err != nil {
			if r.NPL != nil || r.Report != nil || err.Error() == "" {
				t.Errorf("a result beside the error %q", err)
			}
			return
		}
		checkPolicy(t, "fuzz", r)
	})
}
