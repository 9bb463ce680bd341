package daemon

import (
	"bytes"
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

func TestJournalIsBounded(t *testing.T) {
	s := &store{dir: t.TempDir()}
	entry := strings.Repeat("x", maxJournal/4)
	for range 20 {
		if err := s.journal(entry); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "journal*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || len(b) > maxJournal || bytes.Count(b, []byte("\n")) == 0 {
			t.Errorf("%s: %d bytes, %v", f, len(b), err)
		}
	}
}

func TestZeroStoreKeepsNothing(t *testing.T) {
	var s store
	if err := s.saveState([]byte("x")); err != nil {
		t.Error(err)
	}
	if err := s.journal("x"); err != nil {
		t.Error(err)
	}
	if b, err := s.loadState(); b != nil || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}
