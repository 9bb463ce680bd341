package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

// TestInspectInterface captures on one of two interfaces, until it has shown one
// connection.
func TestInspectInterface(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	ns, far := nstest.New(t), nstest.New(t)
	nstest.Link(t, ns, "eth1", far, "peer1", "192.0.2.2/24", "192.0.2.1/24")
	nstest.Link(t, ns, "eth2", far, "peer2", "198.51.100.2/24", "198.51.100.1/24")
	var listeners []net.Listener
	for _, addr := range []string{"192.0.2.1:443", "198.51.100.1:443"} {
		var l net.Listener
		var err error
		far.Do(t, func() { l, err = net.Listen("tcp", addr) })
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { _ = c.Close() })
			}
		}()
	}
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: exe, Args: []string{"netpolicy", "inspect", "--iface", "eth1", "--count", "1", "-o", "ndjson"}, Stderr: os.Stderr}
	var out bytes.Buffer
	cmd.Stdout = &out
	ns.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	// It may not listen yet: say hello again until it has shown one. The connections
	// stay, so that their program is found.
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for running := true; running; {
		for _, l := range slices.Backward(listeners) {
			ns.Do(t, func() {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					return
				}
				t.Cleanup(func() { _ = c.Close() })
				_, _ = c.Write(firstFlight(t, "wire.example"))
			})
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			running = false
		case <-again.C:
		}
	}
	got := out.String()
	if !strings.Contains(got, `"dst":"192.0.2.1:443","sni":"wire.example"`) || !strings.Contains(got, `"name_source":"tls"`) || strings.Count(got, "\n") != 1 {
		t.Errorf("shown:\n%s", got)
	}
	if !strings.Contains(got, `"process":"netpolicy.test"`) {
		t.Errorf("without the program:\n%s", got)
	}
}

// TestInspectInterfaceFails: what is missing is said, and ends the command.
func TestInspectInterfaceFails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give a capability up")
	}
	if code, out := command("inspect", "--iface", "none0"); code != 1 || !strings.Contains(out, `find interface "none0"`) {
		t.Errorf("exit %d\n%s", code, out)
	}
	// The capability goes from this thread and what it starts, and nothing else.
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip("no setpriv to give the capability up with")
	}
	// testscript runs as `netpolicy` what is called so.
	name := filepath.Join(t.TempDir(), "netpolicy")
	if err := os.Symlink(exe, name); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(setpriv, "--bounding-set=-net_raw", "--inh-caps=-net_raw", name, "inspect", "--iface", "lo", "--for", "10s")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "operation not permitted") || !strings.Contains(string(out), "hint: a capture needs root, or CAP_NET_RAW") {
		t.Errorf("%v\n%s", err, out)
	}
}
