package nstest

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Fill leaves no room on the file system of dir, which must be a small one, and
// returns what frees it again.
func Fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "fill")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal("fill a disk:", err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 512))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal("fill a disk:", err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal("free a disk:", err)
		}
	}
}
