package lab

import (
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHold: a name that only the ClientHello tells is refused before it has left,
// without DNS and without a relay; other names pass, on the uplink of their first
// packet. Without holding, the hello leaves.
func TestHold(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	hello := clientHello(t, &tls.Config{ServerName: "ads.example.com"})
	const addr = "203.0.113.10:80" // echoes
	for _, mode := range []string{"watch", "hold"} {
		if err := WriteFile(policy, testPolicy(", hello: "+mode, "  - {name: ads, priority: 200, match: {sni: ads.example.com}, action: {block: reject}}\n")); err != nil {
			t.Fatal(err)
		}
		if err := l.StartDaemon(ctx, policy); err != nil {
			t.Fatal(err)
		}
		if mode == "hold" {
			eventually(t, "the daemon is asked about packets", func() bool {
				if err := session(ctx, l); err != nil {
					return false
				}
				text, err := l.API().Metrics(ctx)
				return err == nil && !strings.Contains(text, "netpolicy_hello_packets_total 0\n")
			})
		}
		for _, at := range tlsAt {
			if left := leavesTLS(t, l, at, "www.other.example"); left != Wan2 {
				t.Errorf("%s: another name at %s left by %q, want %s\n%s", mode, at, left, Wan2, l.tail())
			}
		}
		l.quiet.measure(func() {
			before, err := l.Counters()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := l.Client().Dial(ctx, "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(map[string]time.Duration{"watch": time.Second, "hold": 10 * time.Second}[mode]))
			if _, err = conn.Write(hello); err == nil {
				_, err = io.ReadFull(conn, make([]byte, len(hello)))
			}
			after, errs := l.Counters()
			if errs != nil {
				t.Fatal(errs)
			}
			grew := after.Since(before)
			left := grew[Wan1].Bytes + grew[Wan2].Bytes
			t.Logf("%s: %v, %d bytes left by the uplinks", mode, err, left)
			if held := left < uint64(len(hello)); held != (mode == "hold") || held && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %v, %d bytes left of a hello of %d\n%s", mode, err, left, len(hello), l.tail())
			}
		})
		if mode == "hold" {
			s, err := l.API().Status(ctx)
			if err != nil || s.Drops["hello"] != 0 {
				t.Errorf("%v, %v", s.Drops, err)
			}
		}
		if err := l.StopDaemon(); err != nil {
			t.Fatal(err)
		}
	}
}
