package api

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestTokenFiles: tokens survive a restart, in files that nobody else reads; one that is none is refused.
func TestTokenFiles(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	for role, name := range tokenFiles {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if first.Get(role) != second.Get(role) || len(first.Get(role)) != 43 {
			t.Errorf("%s: %q and %q", role, first.Get(role), second.Get(role))
		}
	}
	if first.Get(RoleAdmin) == first.Get(RoleRead) {
		t.Error("both roles have one token")
	}
	if err := os.WriteFile(filepath.Join(dir, tokenFiles[RoleAdmin]), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokens(dir); err == nil {
		t.Error("a short token was taken")
	}
	if _, err := first.Renew("root"); !errors.Is(err, ErrBadRequest) {
		t.Errorf("a role that is none: %v", err)
	}
}
