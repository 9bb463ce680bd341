package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/inspector/quic/quictest"
)

// leftBy returns the uplink by which what send sends over a new connection has left,
// and then a payload: all of it, or "".
func leftBy(t *testing.T, l *Lab, network, addr string, send func(ctx context.Context, conn net.Conn) (net.Conn, error)) string {
	t.Helper()
	left, err := wentBy(t, l, network, addr, send)
	if err != nil {
		t.Fatalf("%s: %v\n%s", addr, err, l.tail())
	}
	return left
}

// wentBy is leftBy for what may fail.
func wentBy(t *testing.T, l *Lab, network, addr string, send func(ctx context.Context, conn net.Conn) (net.Conn, error)) (left string, err error) {
	t.Helper()
	l.quiet.measure(func() { left, err = measured(t, l, network, addr, send) })
	return left, err
}

// measured is wentBy while nobody else measures.
func measured(t *testing.T, l *Lab, network, addr string, send func(ctx context.Context, conn net.Conn) (net.Conn, error)) (left string, err error) {
	t.Helper()
	before, err := l.Counters()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := l.Client().Dial(ctx, network, addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	over, err := send(ctx, conn)
	if err == nil {
		err = exchange(over, payload, time.Now().Add(5*time.Second))
	}
	if err != nil {
		return "", err
	}
	// The relay sends datagrams on by itself: what was sent may not be through yet.
	for end := time.Now().Add(5 * time.Second); left == "" && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		after, err := l.Counters()
		if err != nil {
			t.Fatal(err)
		}
		left = after.Since(before).LeftBy(payload)
	}
	return left, nil
}

// leavesTLS makes a TLS session with a name, and returns the uplink by which it went.
func leavesTLS(t *testing.T, l *Lab, addr, sni string) string {
	t.Helper()
	return leftBy(t, l, "tcp", addr, func(ctx context.Context, conn net.Conn) (net.Conn, error) { return l.Client().TLS(ctx, conn, sni) })
}

// tlsAt are servers that speak TLS, of both families.
var tlsAt = []string{"203.0.113.10:443", "[2001:db8:cafe::10]:443"}

// TestRelayFirst: a name that nobody has seen before steers the very first
// connection when it goes through the relay, and does not without it.
func TestRelayFirst(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	for _, c := range []struct{ daemon, zoom string }{{"", Wan2}, {", tproxy: [tcp/443]", Wan1}} {
		if err := WriteFile(policy, testPolicy(c.daemon, "")); err != nil {
			t.Fatal(err)
		}
		if err := l.StartDaemon(ctx, policy); err != nil {
			t.Fatal(err)
		}
		for _, addr := range tlsAt {
			if left := leavesTLS(t, l, addr, "api.zoom.us"); left != c.zoom {
				t.Errorf("daemon {%s}: api.zoom.us at %s left by %q, want %s\n%s", c.daemon, addr, left, c.zoom, l.tail())
			}
			if left := leavesTLS(t, l, addr, "www.other.example"); left != Wan2 {
				t.Errorf("daemon {%s}: another name at %s left by %q, want %s", c.daemon, addr, left, Wan2)
			}
		}
		if err := l.StopDaemon(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRelayQUIC: so does the name in a QUIC Initial, a post-quantum hello over two
// datagrams.
func TestRelayQUIC(t *testing.T) {
	l, policy := daemonLab(t)
	if err := WriteFile(policy, testPolicy(", tproxy: [udp/443]", "")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	for _, addr := range tlsAt {
		for name, want := range map[string]string{"api.zoom.us": Wan1, "www.other.example": Wan2} {
			if left := leavesQUIC(t, l, addr, name); left != want {
				t.Errorf("%s at %s left by %q, want %s\n%s", name, addr, left, want, l.tail())
			}
		}
	}
}

// leavesQUIC sends the first packets of a QUIC client, and then some more; it
// returns the uplink by which they went.
func leavesQUIC(t *testing.T, l *Lab, addr, name string) string {
	t.Helper()
	hello, err := quictest.Hello(&tls.Config{ServerName: name, NextProtos: []string{"h3"}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	if len(hello) < 1200 {
		t.Fatalf("a hello of %d bytes is no post-quantum one", len(hello))
	}
	return leftBy(t, l, "udp", addr, func(_ context.Context, conn net.Conn) (net.Conn, error) {
		id := []byte{1, 2, 3, 4, 5, 6, 7, 8}
		for i, part := range [][]byte{hello[:1000], hello[1000:]} {
			frames := append(quictest.Crypto(i*1000, part), make([]byte, 1250-len(part))...)
			if _, err := conn.Write(quictest.V1.Initial(id, id, byte(i), frames)); err != nil {
				return nil, err
			}
		}
		for range 2 { // the far end echoes
			if _, err := conn.Read(make([]byte, 2000)); err != nil {
				return nil, err
			}
		}
		return conn, nil
	})
}

// TestForwarderFirst: with the gateway's own DNS forwarder the first connection to a
// name takes its uplink, as fast as the client opens it after the answer; and a
// blocked name is not resolved.
func TestForwarderFirst(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	dns := fmt.Sprintf(`, dns_listen: ["%s:53", "[%s]:53"], dns_upstreams: ["main udp://%s"]`, lanGateway4, lanGateway6, Resolver4)
	if err := WriteFile(policy, testPolicy(dns, "  - {name: ads, priority: 200, match: {sni: ads.example.com}, action: {block: true}}\n")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	gateway := map[bool]string{false: lanGateway4, true: lanGateway6}
	eventually(t, "the forwarder answers", func() bool {
		_, err := l.Client().resolveAt(ctx, lanGateway4, "echo.example.net", false)
		return err == nil
	})
	// An answer waits for the kernel, but on a busy machine not as long as that takes: then
	// the client may be faster, and this tells nothing.
	late := func() string {
		text, err := l.API().Metrics(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(text, `netpolicy_dns_results_total{result="late"} `)
		if !ok {
			t.Fatal("the metrics say nothing of late answers")
		}
		n, _, _ := strings.Cut(rest, "\n")
		return n
	}
	told := 0
	for _, c := range []struct{ name, uplink string }{{"api.zoom.us", Wan1}, {"us01.zoom.us", Wan1}, {"www.example.com", Wan2}} {
		for _, v6 := range []bool{false, true} {
			before := late()
			a, err := l.Client().resolveAt(ctx, gateway[v6], c.name, v6)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			left := leavesTLS(t, l, netip.AddrPortFrom(a, 443).String(), c.name)
			if late() != before {
				t.Logf("%s at %s was told late", c.name, a)
				continue
			}
			if told++; left != c.uplink {
				t.Errorf("%s at %s left by %q, want %s\n%s", c.name, a, left, c.uplink, l.tail())
			}
		}
	}
	if told == 0 {
		t.Error("every answer was late")
	}
	if a, err := l.Client().resolveAt(ctx, lanGateway4, "ads.example.com", false); err == nil || !strings.Contains(err.Error(), "RCodeNameError") {
		t.Errorf("a blocked name: %v, %v", a, err)
	}
}

// TestRelayLeavesDeadUplink: when a line dies, what the relay has on it ends, and the
// next connection takes the other one.
func TestRelayLeavesDeadUplink(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	if err := WriteFile(policy, testPolicy(", tproxy: [tcp/7]", "")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Client().Dial(ctx, "tcp", "203.0.113.30:7")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := exchange(conn, 1000, time.Now().Add(5*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := l.Fault(ctx, Wan2, Fault{Down: true}); err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection over the dead line: %v\n%s", err, l.tail())
	}
	if left, err := leaves(l, "203.0.113.30:7"); err != nil || left != Wan1 {
		t.Errorf("the next one left by %q, %v", left, err)
	}
}

// TestRelayUnderBlock: a policy that lets nothing out but what it names, and so not
// the gateway itself, lets through what it relays and resolves for others.
func TestRelayUnderBlock(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	text := string(testPolicy(fmt.Sprintf(`, tproxy: [tcp/7], dns_listen: ["%s:53"], dns_upstreams: ["main udp://%s"]`, lanGateway4, Resolver4),
		"  - {name: lan, priority: 1, match: {src_ip: [10.77.0.0/24, \"2001:db8:77::/64\"]}, action: {route: wan1}}\n"))
	text = strings.Replace(text, "default: {route: ha}", "default: {block: true}", 1)
	if err := WriteFile(policy, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	eventually(t, "names are resolved", func() bool {
		_, err := l.Client().resolveAt(ctx, lanGateway4, "echo.example.net", false)
		return err == nil
	})
	for range 3 { // what conntrack tells of the first must not block the next
		for _, addr := range []string{"203.0.113.30:7", "[2001:db8:cafe::30]:7"} {
			if left, err := leaves(l, addr); err != nil || left != Wan1 {
				t.Errorf("%s left by %q, %v\n%s", addr, left, err, l.tail())
			}
		}
	}
}

// TestRelayAndOwnFlows: while a relay runs, a connection of the gateway itself is cut off
// by a blocked name in its hello; the same name through the relay never leaves.
func TestRelayAndOwnFlows(t *testing.T) {
	l, policy := daemonLab(t)
	if err := WriteFile(policy, testPolicy(", tproxy: [tcp/443]", "  - {name: ads, priority: 200, match: {sni: ads.example.com}, action: {block: true}}\n")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	// The far end echoes: what comes back after a while tells that the connection lives.
	talk := func(sni string, seconds int) string {
		script := fmt.Sprintf("(for i in $(seq 100); do sleep 0.4; echo still here $i; done) | timeout %d openssl s_client -quiet -connect 203.0.113.10:443 -servername %s 2>/dev/null | grep -m1 'still here 8'", seconds, sni)
		out, _ := l.Gateway(t.Context(), "bash", "-c", script)
		return out
	}
	if out := talk("www.other.example", 60); !strings.Contains(out, "still here 8") {
		t.Errorf("a name that is not blocked: %q\n%s", out, l.tail())
	}
	if out := talk("ads.example.com", 6); strings.Contains(out, "still here 8") {
		t.Errorf("a blocked name: %q\n%s", out, l.tail())
	}
}
