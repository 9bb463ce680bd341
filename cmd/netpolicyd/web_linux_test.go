package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHandedListener runs a daemon in a network namespace of its own on a listener that was opened
// outside of it: the API is there where the listener is. Its token opens it, and decisions go to the disk.
func TestHandedListener(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.npl")
	text := "policy 1\nroute direct via main\ndefault route direct\ndaemon { decision_log true; decision_mask name }\n"
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out bytes.Buffer
	state := filepath.Join(dir, "state")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	daemon := &exec.Cmd{
		Path: exe, Args: []string{"netpolicyd", "--config", policy, "--state-dir", state, "--socket", filepath.Join(dir, "sock"), "--socket-group", "", "--api-fd", "3"},
		ExtraFiles: []*os.File{file}, Stdout: &out, Stderr: &out, SysProcAttr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET},
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	t.Cleanup(func() { daemon.Process.Kill() })

	url := "http://" + l.Addr().String() + "/api/v1/session"
	ask := func(token string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		token, err := os.ReadFile(filepath.Join(state, "api.read-token"))
		code, body := 0, fmt.Sprint(err)
		if err == nil {
			code, body = ask(strings.TrimSpace(string(token)))
		}
		if code == http.StatusOK && strings.Contains(body, `"role":"read"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d %s\n%s", code, body, out.String())
		}
	}
	if code, body := ask("wrong"); code != http.StatusUnauthorized {
		t.Errorf("a wrong token: %d %s", code, body)
	}
	if info, err := os.Stat(filepath.Join(state, "decisions")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of decision records: %v, %v", info, err)
	}
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestListenerOf(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	// listenerOf closes what it is given.
	fd, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if _, err := listenerOf(fd); err == nil {
		t.Error("a unix socket was taken for a TCP listener")
	}
	if _, err := listenerOf(1); err == nil {
		t.Error("standard output was taken for a listener")
	}
}
