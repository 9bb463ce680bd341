package main

import (
	"bufio"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/nstest"
)

// TestInspectLive watches a namespace of its own.
func TestInspectLive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	ns := nstest.New(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: exe, Args: []string{"netpolicy", "inspect", "--live", "-o", "ndjson"}, Stderr: os.Stderr}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 10_000)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	var l net.Listener
	ns.Do(t, func() { l, err = net.Listen("tcp", "127.0.0.1:443") })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			_ = c.Close()
		}
	}()
	// It may not watch yet: connect until it tells of one.
	for seen := false; !seen; {
		ns.Do(t, func() {
			if c, err := net.Dial("tcp", "127.0.0.1:443"); err == nil {
				_ = tls.Client(c, &tls.Config{ServerName: "live.example", InsecureSkipVerify: true}).Handshake() // #nosec: no TLS server answers
				_ = c.Close()
			}
		})
		for more := true; more && !seen; {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatal("it ended: ", cmd.Wait())
				}
				seen = strings.Contains(line, `"dst":"127.0.0.1:443","sni":"live.example"`) && strings.Contains(line, `"name_source":"tls"`)
			default:
				more = false
			}
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for range lines {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
}
