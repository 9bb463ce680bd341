package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/internal/nstest"
)

// TestInspectLive watches a namespace of its own, in which a hello and a DNS answer pass.
func TestInspectLive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, c := range []struct{ output, hello, answer string }{
		{"ndjson", `"dst":"127.0.0.1:443","sni":"live.example".*"name_source":"tls","tls":"1.3","ja4":"t13d`, `"kind":"answer".*"name":"svc.example","addrs":\[\],"ttl":60,"alpn":"h3,h2"`},
		{"wide", `^tcp 127.0.0.1:\d+ 127.0.0.1:443 live.example tls tls 1.3 - - t13d\S+`, `^dns - - svc.example answer - - - h3,h2 -$`},
	} {
		t.Run(c.output, func(t *testing.T) {
			watched(t, c.output, regexp.MustCompile(c.hello), regexp.MustCompile(c.answer))
		})
	}
}

// watched runs inspect --live until lines have matched all wanted.
func watched(t *testing.T, output string, wanted ...*regexp.Regexp) {
	t.Helper()
	ns := nstest.New(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: exe, Args: []string{"netpolicy", "inspect", "--live", "--answers", "-o", output}, Stderr: os.Stderr}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // has no effect after the end
	lines := make(chan string, 10_000)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	hangUp(t, ns, "127.0.0.1:443")
	resolver := serveService(t, ns)
	// It may not watch yet: connect and ask until it tells of it.
	const patience = 30 * time.Second
	for began := time.Now(); len(wanted) > 0; {
		if time.Since(began) > patience {
			t.Fatalf("no line like %q", wanted)
		}
		ns.Do(t, func() {
			ask(resolver)
			if c, err := net.Dial("tcp", "127.0.0.1:443"); err == nil {
				_ = tls.Client(c, &tls.Config{ServerName: "live.example", InsecureSkipVerify: true}).Handshake() // #nosec: no TLS server answers
				_ = c.Close()
			}
		})
		for more := true; more && len(wanted) > 0; {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatal("it ended: ", cmd.Wait())
				}
				wanted = slices.DeleteFunc(wanted, func(r *regexp.Regexp) bool { return r.MatchString(line) })
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

// hangUp accepts connections in the namespace, reads once, and closes them.
func hangUp(t *testing.T, ns *nstest.NS, addr string) {
	t.Helper()
	var l net.Listener
	var err error
	ns.Do(t, func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
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
}

// serviceQuery asks for the HTTPS record of svc.example.
var serviceQuery = dnsmessage.Question{Name: dnsmessage.MustNewName("svc.example."), Type: dnsmessage.TypeHTTPS, Class: dnsmessage.ClassINET}

// serveService answers serviceQuery in the namespace with protocols alone, and returns
// where.
func serveService(t *testing.T, ns *nstest.NS) string {
	t.Helper()
	var server net.PacketConn
	var err error
	ns.Do(t, func() { server, err = net.ListenPacket("udp", "127.0.0.1:53") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	service := dnsmessage.SVCBResource{Priority: 1, Target: dnsmessage.MustNewName(".")}
	service.SetParam(dnsmessage.SVCParamALPN, []byte("\x02h3\x02h2"))
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			m.Response = true
			header := dnsmessage.ResourceHeader{Name: serviceQuery.Name, Class: serviceQuery.Class, TTL: 60}
			m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.HTTPSResource{SVCBResource: service}}}
			if answer, err := m.Pack(); err == nil {
				_, _ = server.WriteTo(answer, from)
			}
		}
	}()
	return server.LocalAddr().String()
}

// ask asks serviceQuery once. Whether the answer comes shows in what is watched.
func ask(resolver string) {
	query, err := (&dnsmessage.Message{Questions: []dnsmessage.Question{serviceQuery}}).Pack()
	if err != nil {
		panic(err)
	}
	if c, err := net.Dial("udp", resolver); err == nil {
		_, _ = c.Write(query)
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = c.Read(make([]byte, 512))
		_ = c.Close()
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
	if !strings.Contains(got, `"dst":"192.0.2.1:443","sni":"wire.example"`) || !strings.Contains(got, `"name_source":"tls","tls":"1.3","ja4":"t13d`) || strings.Count(got, "\n") != 1 {
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
