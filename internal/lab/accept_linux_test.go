package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/api"
)

// testPolicy is a policy over both uplinks. extra is appended to its rules and
// daemon to its daemon section.
func testPolicy(daemon, extra string) []byte {
	return fmt.Appendf(nil, `version: 1
uplinks:
  wan1: {dev: wan1, gateway: [192.0.2.1, "2001:db8:1::1"], probe: {kind: icmp, targets: [203.0.113.1], every: 500ms}}
  wan2: {dev: wan2, gateway: [192.0.2.129, "2001:db8:2::1"], probe: {kind: icmp, targets: [203.0.113.1], every: 500ms}}
groups:
  ha: {fallback: [wan2, wan1]}
health: {primary: wan2}
daemon: {masquerade: [wan1, wan2]%s}
default: {route: ha}
rules:
  - name: zoom
    priority: 100
    match: {sni: "*.zoom.us"}
    action: {route: wan1, log: true}
%s`, daemon, extra)
}

// extraRule is one more rule, another one for each n.
func extraRule(n int) string {
	return fmt.Sprintf("  - name: extra_%d\n    priority: 10\n    match: {protocol: tcp, port: %d}\n    action: {block: reject}\n", n, 30000+n)
}

// eventually asks until ok, or until far too long a time is over.
func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for time.Since(begin) < 20*time.Second {
		if ok() {
			return time.Since(begin)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not after 20 s: %s", what)
	return 0
}

// daemonLab is a lab with both binaries built.
func daemonLab(t *testing.T) (*Lab, string) {
	t.Helper()
	l := newLab(t, Options{Daemon: filepath.Join(binaries(t), "netpolicyd")})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's last words:\n%s", l.tail())
		}
	})
	return l, filepath.Join(l.Dir, "policy.yaml")
}

// reach opens a new connection from the client and exchanges data over it.
func reach(ctx context.Context, l *Lab, addr string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := l.Client().Dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	return exchange(conn, 1024, time.Now().Add(limit))
}

// middle returns the median and the largest.
func middle(list []time.Duration) (median, most time.Duration) {
	slices.Sort(list)
	return list[len(list)/2], list[len(list)-1]
}

// background opens connections, one after the other, until its stop is called,
// which returns how long each took and the errors.
func background(ctx context.Context, l *Lab, addr string) (stop func() ([]time.Duration, []error)) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	var took []time.Duration
	var errs []error
	go func() {
		defer close(done)
		for sleep(ctx, 30*time.Millisecond) {
			begin := time.Now()
			if err := reach(ctx, l, addr, 10*time.Second); ctx.Err() == nil {
				took = append(took, time.Since(begin))
				if err != nil {
					errs = append(errs, err)
				}
			}
		}
	}()
	return func() ([]time.Duration, []error) {
		cancel()
		<-done
		return took, errs
	}
}

// TestReload50 is the spine's acceptance line 4: a long transfer over 50
// reloads, every fifth of which is of a broken file.
func TestReload50(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	if err := WriteFile(policy, testPolicy("", "")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	transfer, err := l.StartTransfer(ctx, "198.51.100.40:5001")
	if err != nil {
		t.Fatal(err)
	}
	stop := background(ctx, l, "198.51.100.41:7")

	const reloads = 50
	var live []time.Duration
	broken := 0
	for n := range reloads {
		before, err := l.API().Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n%5 == 4 {
			broken++
			if err := WriteFile(policy, testPolicy("", "  - name: broken\n    match: {snii: x}\n    priority: 10\n    action: {block: true}\n")); err != nil {
				t.Fatal(err)
			}
			rejected(t, l, before)
			continue
		}
		begin := time.Now()
		write, want := WriteFile, testPolicy("", extraRule(n))
		if n%2 == 1 { // in place, with a signal, as a script would
			write = func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }
		}
		if err := write(policy, want); err != nil {
			t.Fatal(err)
		}
		if n%2 == 1 {
			if err := l.SignalDaemon(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, fmt.Sprintf("reload %d is live", n), func() bool {
			s, err := l.API().Status(ctx)
			return err == nil && s.Policy.Hash != before.Policy.Hash && s.Error == nil && s.Enforcement == ""
		})
		live = append(live, time.Since(begin))
	}

	took, errs := stop()
	bytes, gap, _ := transfer.Progress()
	if err := transfer.Stop(); err != nil {
		t.Errorf("the transfer broke: %v", err)
	}
	if len(errs) > 0 {
		t.Errorf("%d of %d new connections failed: %v", len(errs), len(took), errs[0])
	}
	if bytes == 0 || len(took) == 0 {
		t.Fatalf("%d bytes, %d connections: nothing was tried", bytes, len(took))
	}
	median, most := middle(live)
	connMedian, connMost := middle(took)
	t.Logf("reload: %d reloads, %d broken ones rejected with their place; good ones live after %d ms (median), %d ms (most); "+
		"one transfer of %s over all, longest pause %d ms; %d new connections meanwhile, %d failed, %.1f ms (median), %.1f ms (most)",
		reloads, broken, median.Milliseconds(), most.Milliseconds(), size(uint64(bytes)), gap.Milliseconds(),
		len(took), len(errs), float64(connMedian.Microseconds())/1000, float64(connMost.Microseconds())/1000)
	if median > time.Second {
		t.Errorf("a good policy is live after %v, want within a second", median)
	}
}

// rejected waits until the broken file is reported, and checks status and log.
func rejected(t *testing.T, l *Lab, before api.Status) {
	t.Helper()
	var s api.Status
	eventually(t, "the broken file is reported", func() bool {
		var err error
		s, err = l.API().Status(t.Context())
		return err == nil && s.Error != nil && (before.Error == nil || s.Error.Time.After(before.Error.Time))
	})
	if s.Policy.Hash != before.Policy.Hash {
		t.Error("a broken file replaced the policy")
	}
	if s.Error.Code != "NP501" || len(s.Error.Diagnostics) == 0 {
		t.Fatalf("status: %+v", s.Error)
	}
	d := s.Error.Diagnostics[0]
	if filepath.Base(d.File) != "policy.yaml" || d.Code != "NP102" || d.Line != 16 || d.Column != 13 {
		t.Errorf("status places the error at %s:%d:%d %s", d.File, d.Line, d.Column, d.Code)
	}
	log, err := os.ReadFile(l.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for line := range bytes.Lines(log) {
		var entry struct {
			Code, File   string
			Line, Column int
		}
		if json.Unmarshal(line, &entry) == nil && entry.Code == "NP501" {
			found = filepath.Base(entry.File) == "policy.yaml" && entry.Line == 16 && entry.Column == 13
		}
	}
	if !found {
		t.Errorf("the log does not say NP501 with policy.yaml, line 16, column 13:\n%s", l.tail())
	}
}

// kernel is all that netpolicyd may change in the gateway, and what others have
// there, as text without counters.
func kernel(t *testing.T, l *Lab) string {
	t.Helper()
	var all strings.Builder
	for _, args := range [][]string{
		{"nft", "-s", "list", "ruleset"},
		{"sh", "-c", "iptables-legacy-save | sed -e /^#/d -e 's/ \\[[0-9:]*\\]$//'"},
		{"sh", "-c", "ip6tables-legacy-save | sed -e /^#/d -e 's/ \\[[0-9:]*\\]$//'"},
		{"ip", "rule"},
		{"ip", "-6", "rule"},
		{"ip", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"},
		{"sh", "-c", "cd /proc/sys/net && grep -r . ipv4/conf ipv4/ip_forward ipv6/conf/*/forwarding netfilter/nf_conntrack_acct 2>/dev/null | sort"},
	} {
		out, err := l.Gateway(context.Background(), args...)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "# %s\n%s", strings.Join(args, " "), out)
	}
	return all.String()
}

// sameKernel compares after a cleanup.
func sameKernel(t *testing.T, l *Lab, before, when string) {
	t.Helper()
	if err := l.Cleanup(context.Background()); err != nil {
		t.Fatalf("cleanup %s: %v", when, err)
	}
	if after := kernel(t, l); after != before {
		t.Fatalf("%s, cleanup left a difference:\n%s", when, cmp.Diff(strings.Split(before, "\n"), strings.Split(after, "\n")))
	}
}

// online are where the client must get to, over both families.
var online = []string{"198.51.100.41:7", "[2001:db8:cafe::41]:7"}

// TestKill9 is the spine's acceptance line 5 with on_crash last: SIGKILL at 20
// random moments of starting, applying, reloading and running.
func TestKill9(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	const seed = 5
	rnd := rand.New(rand.NewPCG(seed, 0))
	before := kernel(t, l)
	const kills = 20
	cleanups := 0
	var moments, took []time.Duration
	for n := range kills {
		if err := WriteFile(policy, testPolicy("", extraRule(n))); err != nil {
			t.Fatal(err)
		}
		if n%2 == 0 { // while it starts and applies for the first time, or adopts
			if err := l.SpawnDaemon(policy); err != nil {
				t.Fatal(err)
			}
		} else { // while it runs, and applies another policy
			if err := l.StartDaemon(ctx, policy); err != nil {
				t.Fatal(err)
			}
			if err := WriteFile(policy, testPolicy("", extraRule(n)+extraRule(100+n))); err != nil {
				t.Fatal(err)
			}
		}
		moment := time.Duration(rnd.Int64N(int64(400 * time.Millisecond)))
		moments = append(moments, moment)
		sleep(ctx, moment)
		if err := l.KillDaemon(); err != nil {
			t.Fatal(err)
		}
		when := fmt.Sprintf("kill %d (seed %d), %v after the start or the reload", n, seed, moment)
		for _, addr := range online {
			begin := time.Now()
			if err := reach(ctx, l, addr, 5*time.Second); err != nil {
				t.Fatalf("%s: the client does not reach %s: %v\n%s", when, addr, err, kernel(t, l))
			}
			took = append(took, time.Since(begin))
		}
		if rnd.IntN(2) == 0 || n == kills-1 {
			cleanups++
			sameKernel(t, l, before, when)
		}
	}
	median, most := middle(took)
	_, last := middle(moments)
	t.Logf("kill -9: %d kills within %d ms of a start or a reload; %d of %d connections right after worked, %.1f ms (median), %.1f ms (most); %d cleanups, each byte-identical",
		kills, last.Milliseconds(), len(took), len(took), float64(median.Microseconds())/1000, float64(most.Microseconds())/1000, cleanups)
}

// TestKill9OnCrash: closed drops new connections once the daemon is gone, open
// lets them pass undecided; cleanup ends both without a trace.
func TestKill9OnCrash(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	before := kernel(t, l)
	for _, mode := range []string{"closed", "open"} {
		if err := WriteFile(policy, testPolicy(", on_crash: "+mode, extraRule(1))); err != nil {
			t.Fatal(err)
		}
		if err := l.StartDaemon(ctx, policy); err != nil {
			t.Fatal(err)
		}
		for _, addr := range online {
			if err := reach(ctx, l, addr, 5*time.Second); err != nil {
				t.Fatalf("%s: with the daemon: %v", mode, err)
			}
		}
		transfer, err := l.StartTransfer(ctx, "198.51.100.40:5001")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.KillDaemon(); err != nil {
			t.Fatal(err)
		}
		var after time.Duration
		if mode == "closed" {
			after = eventually(t, "new connections are dropped", func() bool {
				return reach(ctx, l, online[0], time.Second) != nil && reach(ctx, l, online[1], time.Second) != nil
			})
		} else {
			after = eventually(t, "connections leave by the main table, undecided", func() bool {
				left, err := leaves(l, online[0])
				return err == nil && left == Wan1
			})
			if left, err := leaves(l, online[1]); err != nil || left != Wan1 {
				t.Errorf("open: IPv6 left by %q, %v", left, err)
			}
		}
		waiting, cancel := context.WithTimeout(ctx, aliveTime)
		if err := transfer.Alive(waiting, aliveBytes); err != nil {
			t.Errorf("%s: an established transfer broke: %v", mode, err)
		}
		cancel()
		if err := transfer.Stop(); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		sameKernel(t, l, before, "on_crash: "+mode)
		for _, addr := range online {
			if err := reach(ctx, l, addr, 5*time.Second); err != nil {
				t.Errorf("%s: after the cleanup: %v", mode, err)
			}
		}
		t.Logf("on_crash %s: so after %.1f s, established transfer alive, cleanup byte-identical", mode, after.Seconds())
	}
}

// leaves measures by which uplink a new connection leaves.
func leaves(l *Lab, addr string) (string, error) {
	var left string
	var err error
	l.quiet.measure(func() {
		var before, after Counters
		if before, err = l.Counters(); err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var conn net.Conn
		if conn, err = l.Client().Dial(ctx, "tcp", addr); err != nil {
			return
		}
		defer conn.Close()
		if err = exchange(conn, payload, time.Now().Add(5*time.Second)); err != nil {
			return
		}
		if after, err = l.Counters(); err == nil {
			left = after.Since(before).LeftBy(payload)
		}
	})
	return left, err
}
