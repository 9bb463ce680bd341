package host

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/iptables"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// backend and variant are what the tests of this package enforce with; only
// onXtables changes them, and no test runs in parallel.
var (
	backend rules.Backend
	variant iptables.Variant
)

// onXtables runs f with both kinds of iptables, each in a test of its own.
func onXtables(t *testing.T, f func(*testing.T)) {
	t.Helper()
	onVariants(t, f, iptables.Legacy, iptables.NFT)
}

// onOneXtables is onXtables for what takes long: one kind will do, unless FULL is set.
func onOneXtables(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if os.Getenv("FULL") != "" {
		onXtables(t, f)
		return
	}
	onVariants(t, f, iptables.NFT) // which also makes tables, and has to remove them
}

func onVariants(t *testing.T, f func(*testing.T), list ...iptables.Variant) {
	t.Helper()
	needRoot(t)
	if !iptables.Available() {
		t.Skip("needs iptables-restore, ip6tables-restore and ipset")
	}
	for _, v := range list {
		t.Run(string(v), func(t *testing.T) {
			for _, name := range []string{"iptables-", "ip6tables-"} {
				if _, err := exec.LookPath(name + string(v)); err != nil {
					t.Skip(err)
				}
			}
			backend, variant = rules.IPTables, v
			defer func() { backend, variant = rules.AutoBackend, "" }()
			f(t)
		})
	}
}

// TestXtablesLife is the life of an Enforcer, as told in life_test.go.
func TestXtablesLife(t *testing.T) {
	for _, c := range []struct {
		name string
		on   func(*testing.T, func(*testing.T))
		test func(*testing.T)
	}{
		{"failover", onXtables, TestFailover},
		{"modifiers stay", onXtables, TestModifiersStay},
		{"dead uplink", onOneXtables, TestDeadUplinkDoesNotLeak},
		{"on crash", onOneXtables, TestOnCrash},
		{"local sockets", onXtables, TestLocalSockets},
		{"killed anywhere", onOneXtables, TestKilledAnywhere},
		{"take back", onOneXtables, TestTakeBack},
	} {
		t.Run(c.name, func(t *testing.T) { c.on(t, c.test) })
	}
}

// TestEquivalenceIPTables is TestEquivalence through iptables. Shares by hash are
// left out: iptables has none, and plans say so.
func TestEquivalenceIPTables(t *testing.T) {
	onXtables(t, func(t *testing.T) {
		equivalent(t, decider{name: "iptables-" + string(variant), adjust: withoutShares, noFake: true})
	})
}

func withoutShares(d *drawn) {
	d.policy.Daemon.Backend = rules.IPTables
	for i := range d.policy.Groups {
		if s := &d.policy.Groups[i].Strategy; *s == rules.Weighted || *s == rules.HashOf {
			*s = rules.Fallback
		}
	}
	for _, w := range d.worlds {
		for j := range w.Uplinks {
			if s := &w.Uplinks[j].Share; *s > 0 {
				*s = 100
			}
		}
	}
}

// TestXtablesOthersStay: rules of others in the same tables stay as they are, in
// their order, while ours come, change and go; and ours are put back after others
// have flushed them.
func TestXtablesOthersStay(t *testing.T) {
	onXtables(t, func(t *testing.T) {
		l := newLab(t)
		ctx := context.Background()
		others := func() string {
			var lines []string
			for line := range strings.Lines(sh(t, `for i in iptables ip6tables; do $i-%[1]s-save 2>/dev/null | grep -v '^#' | sed 's/\[[0-9:]*\]//'; done; ipset list -n`, variant)) {
				if !strings.Contains(line, "np_") {
					lines = append(lines, line)
				}
			}
			return strings.Join(lines, "")
		}
		sh(t, `for i in iptables ip6tables; do
	$i-%[1]s -t mangle -N MWAN; $i-%[1]s -t mangle -A PREROUTING -j MWAN; $i-%[1]s -t mangle -A MWAN -m mark --mark 0x100/0x3f00 -j RETURN
	$i-%[1]s -t mangle -A PREROUTING -i lan0 -p tcp --dport 9 -j MARK --set-xmark 0x5/0xff
	$i-%[1]s -t mangle -A OUTPUT -o lo -j ACCEPT
	$i-%[1]s -t filter -N DOCKER-USER; $i-%[1]s -t filter -A FORWARD -j DOCKER-USER; $i-%[1]s -t filter -A DOCKER-USER -j RETURN
	$i-%[1]s -t nat -A POSTROUTING -o docker0 -j MASQUERADE
done
ipset create theirs hash:ip; ipset add theirs 203.0.113.9`, variant)
		want, before := others(), snapshot(t)
		e := enforcer(t, t.TempDir())
		a, b := lines(rules.Last), other()
		a.Daemon.Masquerade = []int{0, 1}
		w := engine.OfflineWorld(a, state.Normal)
		for i, p := range []*rules.Policy{a, b, a} {
			must(t, e.Apply(ctx, planFor(t, e, p, w)))
			if got := others(); got != want {
				t.Fatalf("apply %d: others' rules are now\n%s\nwere\n%s", i, got, want)
			}
		}
		a.Daemon.Masquerade = nil // the lab knows packets by their addresses
		must(t, e.Apply(ctx, planFor(t, e, a, w)))
		if got := others(); got != want {
			t.Fatalf("without masquerade: others' rules are now\n%s\nwere\n%s", got, want)
		}
		l.expect("with others", 22, "wan1")
		sh(t, "iptables-%[1]s -t mangle -F", variant)
		if err := e.VerifyX(ctx, e.plan); err == nil {
			t.Error("a flush was not noticed")
		}
		must(t, e.Apply(ctx, planFor(t, e, a, w)))
		must(t, e.VerifyX(ctx, e.plan))
		l.expect("put back", 22, "wan1")
		must(t, e.Close())
		must(t, Cleanup(ctx, e.dir))
		must(t, Cleanup(ctx, e.dir))
		sh(t, `i=iptables; $i-%[1]s -t mangle -A PREROUTING -j MWAN; $i-%[1]s -t mangle -A MWAN -m mark --mark 0x100/0x3f00 -j RETURN
	$i-%[1]s -t mangle -A PREROUTING -i lan0 -p tcp --dport 9 -j MARK --set-xmark 0x5/0xff
	$i-%[1]s -t mangle -A OUTPUT -o lo -j ACCEPT`, variant) // what the flush took
		if after := snapshot(t); after != before {
			t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
		}
	})
}

// TestXtablesForeign: chains and sets named like ours that the ledger does not
// list stop an Apply.
func TestXtablesForeign(t *testing.T) {
	onXtables(t, func(t *testing.T) {
		newLab(t)
		ctx := context.Background()
		e := enforcer(t, t.TempDir())
		p := lines(rules.Last)
		for _, c := range [][2]string{
			{"ipset create np_theirs hash:ip # %[1]s", "ipset destroy np_theirs # %[1]s"},
			{"ip6tables-%[1]s -t filter -N np_theirs", "ip6tables-%[1]s -t filter -X np_theirs"},
		} {
			sh(t, c[0], variant)
			if err := e.Apply(ctx, planFor(t, e, p, nil)); err == nil || !strings.Contains(err.Error(), "not in the ledger") {
				t.Errorf("%s: got %v", c[0], err)
			}
			sh(t, c[1], variant)
		}
		must(t, e.Apply(ctx, planFor(t, e, p, nil)))
	})
}

// TestXtablesSecondFamilyFails: when IPv6 can't be written, IPv4 is taken back, and
// so are the sets.
func TestXtablesSecondFamilyFails(t *testing.T) {
	onXtables(t, func(t *testing.T) {
		l := newLab(t)
		ctx := context.Background()
		e := enforcer(t, t.TempDir())
		p := lines(rules.Last)
		w := engine.OfflineWorld(p, state.Normal)
		must(t, e.Apply(ctx, planFor(t, e, p, w)))
		before := snapshot(t)
		name := "ip6tables-" + string(variant) + "-restore"
		real, err := exec.LookPath(name)
		must(t, err)
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho made to fail >&2\nexit 1\n"), 0o755))
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		if err := e.Apply(ctx, planFor(t, e, other(), w)); err == nil || !strings.Contains(err.Error(), "made to fail") {
			t.Errorf("got %v", err)
		}
		if after := snapshot(t); after != before {
			t.Errorf("left\n%s\nwas\n%s", after, before)
		}
		l.expect("taken back", 22, "wan1")
		must(t, os.Remove(filepath.Join(dir, name)))
		must(t, e.Apply(ctx, planFor(t, e, other(), w)))
		l.expect("with "+real, 22, "wan2")
	})
}

// TestXtablesSwitch changes the backend under a policy and back: flows go on, and
// nothing of the other backend stays.
func TestXtablesSwitch(t *testing.T) {
	onXtables(t, func(t *testing.T) {
		l := newLab(t)
		ctx := context.Background()
		e := enforcer(t, t.TempDir())
		p := lines(rules.Last)
		w := engine.OfflineWorld(p, state.Normal)
		l.send([]flow.Flow{udp(22)})
		for i, b := range []rules.Backend{rules.NFTables, rules.IPTables, rules.NFTables, rules.IPTables} {
			p.Daemon.Backend = b
			must(t, e.Apply(ctx, planFor(t, e, p, w)))
			l.expect(b.String(), 22, "wan1")
			old := l.id
			table := sh(t, "nft list tables")
			if has := strings.Contains(table, "inet netpolicy"); has != (b == rules.NFTables) {
				t.Errorf("change %d to %v: tables are now\n%s", i, b, table)
			}
			sets := strings.Fields(sh(t, "ipset list -n"))
			if has := slices.Contains(sets, "np_any4"); has != (b == rules.IPTables) {
				t.Errorf("change %d to %v: ipsets are now %v", i, b, sets)
			}
			if got := l.again(udp6(22), old); got.dev != "wan1" {
				t.Errorf("change %d: the flow leaves by %q, want wan1", i, got.dev)
			}
		}
	})
}

// TestXtablesRestart: after a restart the table is loaded anew, and names that
// only the former process knew are gone from their sets.
func TestXtablesRestart(t *testing.T) {
	onXtables(t, func(t *testing.T) {
		l := newLab(t)
		ctx := context.Background()
		dir := t.TempDir()
		p := lines(rules.Last)
		p.Rules = append(p.Rules, rules.Rule{
			Name: "named", Priority: 20, Active: state.AllStates,
			Match: rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldSNI, Names: []rules.NamePattern{{Kind: rules.Suffix, Name: "a.example"}}}},
			Do:    rules.Outcome{Kind: rules.ActRoute, Route: 2},
		})
		w := engine.OfflineWorld(p, state.Normal)
		e := enforcer(t, dir)
		plan := planFor(t, e, p, w)
		must(t, e.Apply(ctx, plan))
		dst, _ := udp(80).Dst.Get()
		updates, err := plan.Answer(dst, flow.NewNames("x.a.example"), time.Hour)
		must(t, err)
		must(t, e.Update(ctx, updates))
		if got := l.send([]flow.Flow{udp(80)})[l.id]; got.dev != "wan2" {
			t.Errorf("by its name: leaves by %q, want wan2", got.dev)
		}
		must(t, e.Close())
		e = enforcer(t, dir)
		must(t, e.Apply(ctx, planFor(t, e, p, w)))
		if got := l.send([]flow.Flow{udp(80)})[l.id]; got.dev != "wan0" {
			t.Errorf("after a restart: leaves by %q, want wan0", got.dev)
		}
		steps := 0
		e.before = func(what string) error {
			if what != "ledger" && !strings.HasSuffix(what, "element updates") {
				t.Errorf("the second Apply: unexpected step %q", what)
			}
			steps++
			return nil
		}
		must(t, e.Apply(ctx, planFor(t, e, p, w)))
		t.Logf("%d steps", steps)
	})
}

// TestXtablesTenThousand loads a large policy and reports what it takes; a packet
// must then go where the engine says.
func TestXtablesTenThousand(t *testing.T) { onOneXtables(t, TestLoadTenThousand) }

// TestXtablesUpdateTimes reports what updates cost.
func TestXtablesUpdateTimes(t *testing.T) {
	onOneXtables(t, func(t *testing.T) {
		newLab(t)
		ctx := context.Background()
		e := enforcer(t, t.TempDir())
		p := lines(rules.Last)
		p.Rules = append(p.Rules, rules.Rule{
			Name: "named", Priority: 20, Active: state.AllStates,
			Match: rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldSNI, Names: []rules.NamePattern{{Kind: rules.Suffix, Name: "a.example"}}}},
			Do:    rules.Outcome{Kind: rules.ActRoute, Route: 2},
		})
		normal, failed := engine.OfflineWorld(p, state.Normal), engine.OfflineWorld(p, state.Failover)
		plan := planFor(t, e, p, normal)
		timed := func(what string, n int, f func(i int) error) {
			start := time.Now()
			for i := range n {
				must(t, f(i))
			}
			t.Logf("%s: %v", what, time.Since(start)/time.Duration(n))
		}
		timed("apply", 1, func(int) error { return e.Apply(ctx, plan) })
		timed("apply again", 5, func(int) error { return e.Apply(ctx, plan) })
		timed("failover and back", 50, func(i int) error {
			if i%2 == 0 {
				return e.Update(ctx, plan.WorldUpdates(normal, failed))
			}
			return e.Update(ctx, plan.WorldUpdates(failed, normal))
		})
		answer := func(i int) []actions.Update {
			u, err := plan.Answer(netip.AddrFrom4([4]byte{203, 0, byte(113 + i>>8), byte(i)}), flow.NewNames("x.a.example"), time.Hour)
			must(t, err)
			return u
		}
		timed("DNS answer", 50, func(i int) error { return e.Update(ctx, answer(i)) })
		timed("a thousand at once", 3, func(int) error {
			var all []actions.Update
			for i := range 1000 {
				all = append(all, answer(i)...)
			}
			return e.Update(ctx, all)
		})
		if text := sh(t, "ipset list %s", plan.Table.XT.Sets[0].Name); !strings.Contains(text, "Number of entries: 1000\n") {
			t.Errorf("want 1000 elements:\n%s", text[:min(len(text), 500)])
		}
		timed("verify", 5, func(int) error { return e.VerifyX(ctx, plan) })
	})
}
