// Package golden compares what inputs give with what is kept beside them. It is
// for tests.
package golden

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// Files renders each NAME+ext of the archives that pattern finds and compares it
// with the NAME.txt behind it; with update set it writes these instead.
func Files(t *testing.T, pattern, ext string, update bool, render func(t testing.TB, name string, src []byte) string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
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
			name, ok := strings.CutSuffix(f.Name, ext)
			if !ok {
				continue
			}
			got := render(t, f.Name, f.Data)
			updated = append(updated, f, txtar.File{Name: name + ".txt", Data: []byte(got)})
			if diff := cmp.Diff(want[name+".txt"], got); diff != "" && !update {
				t.Errorf("%s: %s (-want +got):\n%s", file, f.Name, diff)
			}
		}
		if update {
			archive.Files = updated
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Archive compares an archive that a test has made with the one that is kept in file;
// with update set it writes that instead.
func Archive(t testing.TB, file string, update bool, got *txtar.Archive) {
	t.Helper()
	text := txtar.Format(got)
	if update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Errorf("%s (-want +got), -update rewrites it:\n%s", file, diff)
	}
}
