package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestNotifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	env := map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "7"}
	n := NewNotifier(func(k string) string { return env[k] }, 7)
	if n.Watchdog() != 2*time.Second {
		t.Errorf("watchdog every %s", n.Watchdog())
	}
	if err := n.Send("READY=1"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	size, err := l.Read(b)
	if err != nil || string(b[:size]) != "READY=1" {
		t.Errorf("got %q, %v", b[:size], err)
	}
	if n := NewNotifier(func(k string) string { return env[k] }, 8); n.Watchdog() != 0 {
		t.Error("another process's watchdog was taken")
	}
	if err := (Notifier{}).Send("READY=1"); err != nil {
		t.Error(err)
	}
}

// TestWatchFile changes a file in every way that editors and tools do.
func TestWatchFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "a")
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan struct{}, 16)
	done := make(chan error, 1)
	go func() { done <- watchFile(ctx, path, func() { changed <- struct{}{} }) }()
	// The watch has no sign of being ready: knock until it answers.
	knock := time.NewTicker(4 * settle)
	defer knock.Stop()
	for ready := false; !ready; {
		write(path, "knock")
		select {
		case <-changed:
			ready = true
		case <-knock.C:
		}
	}
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"write in place", func() { write(path, "b") }},
		{"rename over", func() {
			write(path+".tmp", "c")
			if err := os.Rename(path+".tmp", path); err != nil {
				t.Fatal(err)
			}
		}},
		{"remove and make", func() {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			write(path, "d")
		}},
		{"link swapped", func() {
			write(filepath.Join(dir, "other"), "e")
			if err := os.Symlink("other", path+".lnk"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".lnk", path); err != nil {
				t.Fatal(err)
			}
		}},
		{"target written", func() { write(filepath.Join(dir, "other"), "f") }},
	} {
		t.Log(c.name)
		c.do()
		<-changed
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
