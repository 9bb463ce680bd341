package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "np")
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.loadState(); b != nil || err != nil {
		t.Errorf("empty directory: %q, %v", b, err)
	}
	for _, text := range []string{"one", "two"} {
		if err := s.saveState([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := s.loadState(); string(b) != text || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, stateFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v, %v", info.Mode(), err)
	}
	if _, err := openStore(dir); err == nil || !strings.Contains(err.Error(), "another netpolicyd") {
		t.Errorf("two daemons share a state directory: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestJournal(t *testing.T) {
	s := &store{dir: t.TempDir()}
	for i, step := range []struct {
		line  string
		fresh bool
	}{{"a", true}, {"b", false}, {"c", true}, {"d", false}} {
		if err := s.appendJournal([]byte(step.line), step.fresh); err != nil {
			t.Fatal(i, err)
		}
	}
	for name, want := range map[string]string{journalFile: "cd", journalFile + ".1": "ab"} {
		if b, err := os.ReadFile(filepath.Join(s.dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestZeroStoreKeepsNothing(t *testing.T) {
	var s store
	if err := s.saveState([]byte("x")); err != nil {
		t.Error(err)
	}
	if err := s.appendJournal([]byte("x"), false); err != nil {
		t.Error(err)
	}
	if b, err := s.loadState(); b != nil || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}
