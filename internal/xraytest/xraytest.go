// Package xraytest gives tests the real Xray. It is built out of the Go module
// proxy once, into the user's cache, and stays there.
package xraytest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Version is the release that the tests run, as the Go module proxy names it.
const Version = "v1.260327.0"

// NewerVariable is the variable of the environment that names a program of Xray 26.7,
// which the Go module proxy does not have: the tests that compare versions run it too.
const NewerVariable = "XRAY_26_7"

// Newer returns the program that NewerVariable names, "" where it names none.
func Newer() string { return os.Getenv(NewerVariable) }

// Binary returns the path of the program. It skips the test with the reason where
// it can't be built, for instance without a network.
func Binary(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no cache directory for Xray: ", err)
	}
	dir := filepath.Join(cache, "netpolicy-test", "xray", Version)
	path := filepath.Join(dir, "xray")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skip("no cache directory for Xray: ", err)
	}
	building, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		t.Skip("no cache directory for Xray: ", err)
	}
	defer building.Close()
	if _, err := os.Stat(path); err == nil {
		return path
	}
	// Built beside and moved, so that nobody runs half of it.
	bin, err := os.MkdirTemp(dir, "build")
	if err != nil {
		t.Skip("no cache directory for Xray: ", err)
	}
	defer os.RemoveAll(bin)
	cmd := exec.Command("go", "install", "-trimpath", "-buildvcs=false", "github.com/xtls/xray-core/main@"+Version)
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Skipf("Xray can't be built: %v: %s", err, lines[len(lines)-1])
	}
	if err := os.Rename(filepath.Join(bin, "main"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Test asks Xray whether it takes a configuration, which it reads from standard
// input. It returns what Xray printed.
func Test(ctx context.Context, binary string, config []byte) (output string, ok bool) {
	cmd := exec.CommandContext(ctx, binary, "run", "-test", "-config", "stdin:")
	cmd.Stdin = bytes.NewReader(config)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}
