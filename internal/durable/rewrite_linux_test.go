package durable

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestRewriteNoFile: what is no file is written to and stays what it is; as root
// -o /dev/null would otherwise make a file of it.
func TestRewriteNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(path, os.O_RDWR, 0) // with a reader, so that no open waits
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if err := Rewrite(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		t.Fatalf("it is %v now, %v", info, err)
	}
	got := make([]byte, 4)
	if _, err := pipe.Read(got); err != nil || string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestRewrite: a file keeps its mode and its owner, and a link stays one.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := Rewrite(file, []byte("a"), 0o640); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Fatal(info, err)
	}
	uid := os.Getuid()
	if uid == 0 {
		uid = 12345
	}
	for _, err := range []error{os.Chmod(file, 0o604), os.Chown(file, uid, -1), os.Symlink("file", link), Rewrite(link, []byte("b"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Error(info, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o604 || int(info.Sys().(*syscall.Stat_t).Uid) != uid {
		t.Errorf("%+v, %v", info, err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "b" {
		t.Errorf("%q, %v", b, err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Error("something is left:", names, err)
	}
}
