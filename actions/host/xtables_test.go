package host

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/iptables"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/policyrand"
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

// drawnX is a policy in changing worlds.
type drawnX struct {
	policy *rules.Policy
	worlds [3]*state.World
	names  [2]map[string]flow.Names // the second after the first, for the same addresses
}

// drawX draws what iptables can do: no shares by hash.
func drawX() *rapid.Generator[drawnX] {
	return rapid.Custom(func(t *rapid.T) drawnX {
		d := drawnX{policy: policyrand.Policy(t, 14)}
		d.policy.Daemon.Backend = rules.IPTables
		for i := range d.policy.Groups {
			if s := &d.policy.Groups[i].Strategy; *s == rules.Weighted || *s == rules.HashOf {
				*s = rules.Fallback
			}
		}
		for i := range d.worlds {
			d.worlds[i] = policyrand.World(t)
			for j := range d.worlds[i].Uplinks {
				if s := &d.worlds[i].Uplinks[j].Share; *s > 0 {
					*s = 100
				}
			}
		}
		for i := range d.names {
			d.names[i] = map[string]flow.Names{}
			for a, n := range policyrand.DNS(t) {
				d.names[i][a.String()] = n
			}
		}
		return d
	})
}

// first is a forwarded flow's first packet.
var first = rapid.Custom(func(t *rapid.T) flow.Flow {
	f := policyrand.First(t)
	if proto, _ := f.Proto.Get(); proto == 47 {
		f.Proto, f.DstPort = flow.Some(flow.UDP), flow.Some(uint16(443))
	}
	f.IfaceIn, f.Mark = flow.Some("lan0"), flow.Some(uint32(0))
	f.Process, f.ProcessPath, f.Cgroup, f.User = flow.Absent[string](), flow.Absent[string](), flow.Absent[string](), flow.Absent[string]()
	return f
})

// sendAgain sends one more packet of each flow that send has sent.
func (l *lab) sendAgain(flows []flow.Flow) map[uint16]seen {
	l.t.Helper()
	ids := make([]uint16, len(flows))
	for i := range flows {
		id, err := strconv.ParseUint(flows[i].ID, 10, 16)
		must(l.t, err)
		ids[i] = uint16(id)
	}
	out := map[uint16]seen{}
	for i, s := range l.burst(flows, ids, 0) {
		out[ids[i]] = s
	}
	return out
}

// TestXtablesDecideAsEngine is TestKernelDecidesAsEngine through iptables: the
// same random policies, names and worlds, and what becomes of each packet must be
// what the engine decides. Shares by hash are left out: iptables has none, and
// plans say so.
func TestXtablesDecideAsEngine(t *testing.T) {
	const each = 70
	n := 12
	if os.Getenv("FULL") != "" {
		n = 250
	}
	from := 1
	if s := os.Getenv("SEED"); s != "" {
		var err error
		from, err = strconv.Atoi(s)
		must(t, err)
	}
	onXtables(t, func(t *testing.T) {
		l := newLab(t)
		e := enforcer(t, t.TempDir())
		before := snapshot(t)
		ctx := context.Background()
		verdicts := map[string]int{}
		families := map[string]int{}
		sent, again := 0, 0
		var pinned []flow.Flow // of the part before, and where they went
		var places []seen
		gen := drawX()
		for seed := from; seed < from+n && !t.Failed(); seed++ {
			d := gen.Example(seed)
			for i := range d.policy.Uplinks {
				d.policy.Uplinks[i].Gateway = gateways(i)
			}
			plan := planFor(t, e, d.policy, d.worlds[0])
			if err := e.Apply(ctx, plan); err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, plan)
			}
			if err := e.VerifyX(ctx, plan); err != nil {
				t.Fatalf("seed %d: right after it was applied: %v", seed, err)
			}
			prog := plan.Program()
			world := d.worlds[0]
			for part := range d.worlds {
				flows := make([]flow.Flow, each)
				for i := range flows {
					flows[i] = first.Example((seed*len(d.worlds)+part)*each + i)
					dst, _ := flows[i].Dst.Get()
					flows[i].DNS = d.names[min(part, 1)][dst.String()]
				}
				must(t, e.Update(ctx, plan.WorldUpdates(world, d.worlds[part])))
				world = d.worlds[part]
				if part > 0 { // their routes do not change with the world
					got := l.sendAgain(pinned)
					for i := range pinned {
						id, _ := strconv.ParseUint(pinned[i].ID, 10, 16)
						if got[uint16(id)] != places[i] {
							t.Errorf("seed %d, part %d: a second packet: flow %+v\ngot %+v, want %+v", seed, part, pinned[i], got[uint16(id)], places[i])
						}
					}
					again += len(pinned)
				}
				pinned, places = nil, nil
				for _, a := range policyrand.Servers {
					updates, err := plan.Answer(a, d.names[min(part, 1)][a.String()], time.Minute)
					must(t, err)
					must(t, e.Update(ctx, updates))
				}
				got := l.send(flows)
				for i := range flows {
					dec := prog.Decide(&flows[i], world)
					id, _ := strconv.ParseUint(flows[i].ID, 10, 16)
					want := outcome(d.policy, &flows[i], &dec)
					verdicts[want.dev]++
					proto, _ := flows[i].Proto.Get()
					dst, _ := flows[i].Dst.Get()
					families[fmt.Sprint(proto, " IPv6 ", dst.Is6())]++
					sent++
					if want.dev != "" && dec.Kind != rules.ActNone {
						pinned, places = append(pinned, flows[i]), append(places, want)
					}
					if got := got[uint16(id)]; got != want && !t.Failed() {
						t.Errorf("seed %d, part %d: flow %+v\nworld %+v\ndecision %+v\ngot %+v, want %+v\n%s", seed, part, flows[i], world, dec, got, want, plan)
					}
				}
			}
		}
		t.Logf("seeds %d to %d: %d first packets and %d second ones compared; by uplink (empty: dropped or rejected): %v; %v", from, from+n-1, sent, again, verdicts, families)
		must(t, e.Close())
		must(t, Cleanup(ctx, e.dir))
		if after := snapshot(t); after != before {
			t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
		}
	})
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
