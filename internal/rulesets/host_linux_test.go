package rulesets

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"netpolicy.dev/netpolicy/rules"
)

// TestPipe: a pipe without a writer would block for ever whoever opens it.
func TestPipe(t *testing.T) {
	r := newRig(t)
	r.write("root", "include:pipe\na.example\n")
	for _, name := range []string{"pipe", "ads.txt"} {
		if err := syscall.Mkfifo(filepath.Join(r.policy, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.load(file("ads.txt"), "", "not a regular file")
	r.load(file("/dev/zero"), "", "not a regular file")
	r.load(rules.ListRef{File: "root", Format: "dlc"}, ".a.example", "can't include `pipe`: not a regular file")
	// A file that becomes a pipe between the two looks at it.
	f, err := openRegular(swapped{}, filepath.Join(r.policy, "pipe"), 10)
	if err != errRegular {
		t.Errorf("opened %v, %v", f, err)
	}
}

// swapped says that everything is a regular file.
type swapped struct{ host }

func (swapped) Stat(string) (os.FileInfo, error) { return os.Stat("host_linux.go") }

// TestFolderUnreadable: what can't be read is said, and files still load. A file
// in the folder's place stops root, too.
func TestFolderUnreadable(t *testing.T) {
	r := newRig(t)
	r.write("ads.txt", "a.example\n")
	r.load(file("ads.txt"), "a.example")
	if err := errors.Join(os.RemoveAll(r.cache), os.WriteFile(r.cache, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	r.load(file("ads.txt"), "a.example", "can't be kept")
	r.remove("ads.txt")
	r.load(file("ads.txt"), "", "not a directory")
}

// TestOtherWriter: while another process writes, Load does not wait for it.
func TestOtherWriter(t *testing.T) {
	r := newRig(t)
	r.write("ads.txt", "a.example\n")
	r.load(file("ads.txt"), "a.example")
	f, err := os.OpenFile(filepath.Join(r.cache, "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := lockFile(f); err != nil {
		t.Fatal(err)
	}
	r.load(file("ads.txt"), "a.example") // nothing to write
	r.write("ads.txt", "b.example\n")
	r.load(file("ads.txt"), "b.example", "another process is writing there")
	ref := rules.ListRef{URL: "http://lists.example/", Format: "list"}
	if _, err := r.store().Refresh(t.Context(), ref, rules.DomainSet); err == nil || !strings.Contains(err.Error(), "another process is writing there") {
		t.Errorf("refresh: %v", err)
	}
	f.Close()
	r.load(file("ads.txt"), "b.example")
	r.remove("ads.txt")
	r.load(file("ads.txt"), "b.example", "no such file")
}
