package lab

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
)

// mangle is what the gateway's iptables-legacy has, without counters.
func mangle(t *testing.T, l *Lab) string {
	t.Helper()
	var text strings.Builder
	for _, name := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		if _, err := exec.LookPath(name); err != nil {
			continue
		}
		out, err := l.Gateway(t.Context(), name, "-t", "mangle")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "-") {
				text.WriteString(line)
			}
		}
	}
	return text.String()
}

// consulted reports whether the status says that the kernel asks the daemon, who answers.
func consulted(t *testing.T, l *Lab) bool {
	t.Helper()
	s, err := l.API().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(s.Sources, func(s api.Source) bool { return s.Name == "consult" && s.Error == "" })
}

// TestConsultKill9: the daemon decides first packets; when it is killed, what
// on_crash says holds from that moment on, and established connections live.
func TestConsultKill9(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	// The question makes the empty tables, which stay: see docs/adr/0006-consult.md.
	if m := mangle(t, l); m != "" {
		t.Fatalf("the gateway's mangle tables have something already:\n%s", m)
	}
	before := kernel(t, l)
	for _, mode := range []string{"last", "open", "closed"} {
		if err := WriteFile(policy, testPolicy(", enforce: consult, on_crash: "+mode, extraRule(1))); err != nil {
			t.Fatal(err)
		}
		if err := l.StartDaemon(ctx, policy); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the daemon answers", func() bool { return consulted(t, l) })
		// Until its queue is bound the table decides the same.
		eventually(t, "it was asked", func() bool {
			for _, addr := range online {
				if left, err := leaves(l, addr); err != nil || left != Wan2 {
					t.Fatalf("%s: %s left by %q, %v", mode, addr, left, err)
				}
			}
			figures, err := l.API().Metrics(ctx)
			return err == nil && !strings.Contains(figures, "netpolicy_consult_packets_total 0\n")
		})
		transfer, err := l.StartTransfer(ctx, "198.51.100.40:5001")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.KillDaemon(); err != nil {
			t.Fatal(err)
		}
		for _, addr := range online { // at once
			if mode == "closed" {
				if err := reach(ctx, l, addr, time.Second); err == nil {
					t.Errorf("closed: %s is reached after the kill", addr)
				}
			} else if left, err := leaves(l, addr); err != nil || left != Wan2 {
				t.Errorf("%s: right after the kill %s left by %q, %v", mode, addr, left, err)
			}
		}
		if mode == "open" {
			after := eventually(t, "connections leave by the main table, undecided", func() bool {
				left, err := leaves(l, online[0])
				return err == nil && left == Wan1
			})
			t.Logf("open: undecided after %.1f s", after.Seconds())
		}
		waiting, cancel := context.WithTimeout(ctx, aliveTime)
		if err := transfer.Alive(waiting, aliveBytes); err != nil {
			t.Errorf("%s: an established transfer broke: %v", mode, err)
		}
		cancel()
		if err := transfer.Stop(); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		sameKernel(t, l, before, "consult, on_crash: "+mode)
		if m := mangle(t, l); m != "" {
			t.Errorf("%s: cleanup left in iptables:\n%s", mode, m)
		}
		for _, addr := range online {
			if err := reach(ctx, l, addr, 5*time.Second); err != nil {
				t.Errorf("%s: after the cleanup: %v", mode, err)
			}
		}
	}
}
