package durable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	temp, path := filepath.Join(dir, "x.new"), filepath.Join(dir, "x")
	if err := os.WriteFile(temp, []byte("what a crash left, which is longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a", "b"} {
		if err := ReplaceBy(temp, path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		info, _ := os.Stat(path)
		if err != nil || string(got) != text || info.Mode().Perm() != 0o600 {
			t.Errorf("%q, %v, %v", got, info.Mode(), err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "full", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceBy(temp, filepath.Join(dir, "full"), nil); err == nil {
		t.Error("a folder was replaced")
	}
	if _, err := os.Stat(temp); !os.IsNotExist(err) {
		t.Error("a part is left:", err)
	}
}
