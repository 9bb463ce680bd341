package process

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/porttest"
)

// fake is a program that says it is Xray, takes every configuration, and then does what
// the script says.
func fake(t *testing.T, run string) string {
	path := filepath.Join(t.TempDir(), "xray")
	program(t, path, "case \"$*\" in version) echo Xray 26.3.27;; *-test*) ;; *) "+run+";; esac\n")
	return path
}

// program writes a script. What another test starts meanwhile would have it open for
// writing for a moment, and what is open for writing can't be run.
func program(t *testing.T, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// within fails where something does not end; the bound is generous.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(40 * time.Second):
		t.Fatal(what, "does not end")
	}
}

// TestVersionHangs: a script whose program keeps the pipe, and one that prints for ever.
func TestVersionHangs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	path := filepath.Join(dir, "xray")
	program(t, path, "sleep 1000 &\necho $! >"+pid+"\necho Xray 26.3.27\nwait\n")
	t.Cleanup(func() {
		text, _ := os.ReadFile(pid)
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n > 1 {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	within(t, "a version", func() {
		if v, err := Version(ctx, path); err == nil {
			t.Errorf("it is %q", v)
		}
	})
	var h head
	for range 100 {
		if n, err := h.Write(make([]byte, 1000)); n != 1000 || err != nil {
			t.Error(n, err)
		}
	}
	if len(h) != longestLine {
		t.Errorf("%d bytes are kept", len(h))
	}
}

// TestFlood: who never answers, and prints without end, can be stopped, and what is
// printed takes no more memory than is read at a time.
func TestFlood(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{}, 10)
	s := supervise(t, Options{Binary: fake(t, "exec yes a line of it"), Dir: t.TempDir(), Gone: func() { gone <- struct{}{} }})
	applied := make(chan error, 1)
	go func() { applied <- s.Apply(context.Background(), build(t, porttest.Free(t))) }()
	within(t, "the log", func() {
		for len(s.Log()) < keptLines {
			time.Sleep(10 * time.Millisecond)
		}
	})
	within(t, "the stop", func() {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err := <-applied; err == nil {
		t.Error("what never answers is taken")
	}
	if len(gone) == 0 {
		t.Error("nobody was told that it has ended")
	}
	if st := s.Status(); st.State != Stopped || !st.ByUser {
		t.Errorf("%+v", st)
	}
}

// TestOutputDrops: the newest of what is printed too fast is read, and what another has
// read is not read again.
func TestOutputDrops(t *testing.T) {
	o, err := NewOutput()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := o.file.WriteString(strings.Repeat("x", 3*oldOutput) + "\nthe end\n"); err != nil {
		t.Fatal(err)
	}
	var j journal
	j.follow(o)
	if lines := j.tail(); j.last() != "the end" || !strings.Contains(strings.Join(lines, "\n"), " bytes that xray has printed faster than they are read") {
		t.Errorf("%.300q", lines)
	}
	if _, err := o.file.WriteString("of another\n"); err != nil {
		t.Fatal(err)
	}
	o.skip()
	if j.last() != "the end" {
		t.Error(j.last())
	}
}
