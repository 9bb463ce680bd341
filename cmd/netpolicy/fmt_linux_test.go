package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestReplaceNoFile: what is no file is written to and stays what it is; as root
// -o /dev/null would otherwise make a file of it.
func TestReplaceNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(path, os.O_RDWR, 0) // with a reader, so that no open waits
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if err := replaceFile(path, []byte("text"), 0o600); err != nil {
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
