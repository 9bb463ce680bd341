package host

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/conntrack"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// lines is a policy over the lab's uplinks: port 443 takes the group of wan1
// and wan2, port 22 always wan1, port 23 is blocked, the user root takes wan2,
// the rest the main table.
func lines(onCrash rules.OnCrash) *rules.Policy {
	port := func(n uint16) rules.Expr {
		return rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldPort, Ports: []rules.PortRange{{Lo: n, Hi: n}}}}
	}
	user := rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldUser, Globs: []rules.Glob{"root"}}}
	return &rules.Policy{
		Hash:    [32]byte{1},
		Uplinks: []rules.Uplink{{Name: "wan1", Dev: "wan1", Gateway: gateways(1)}, {Name: "wan2", Dev: "wan2", Gateway: gateways(2)}},
		Routes: []rules.Route{
			{Name: "direct", Kind: rules.RouteMain},
			{Name: "one", Kind: rules.RouteUplink, Uplink: 0},
			{Name: "two", Kind: rules.RouteUplink, Uplink: 1},
			{Name: "ha", Kind: rules.RouteGroup, Group: 0},
		},
		Groups: []rules.Group{{Name: "ha", Members: []int{1, 2}}},
		Rules: []rules.Rule{
			{Name: "https", Priority: 9, Active: state.AllStates, Match: port(443), Do: rules.Outcome{Kind: rules.ActRoute, Route: 3}},
			{Name: "ssh", Priority: 8, Active: state.AllStates, Match: port(22), Do: rules.Outcome{Kind: rules.ActRoute, Route: 1}},
			{Name: "telnet", Priority: 7, Active: state.AllStates, Match: port(23), Do: rules.Outcome{Kind: rules.ActBlock}},
			{Name: "root", Priority: 6, Active: state.AllStates, Match: user, Do: rules.Outcome{Kind: rules.ActRoute, Route: 2}},
		},
		Default: &rules.Outcome{Kind: rules.ActRoute, Route: 0},
		Daemon:  rules.Daemon{OnCrash: onCrash, Backend: backend},
	}
}

// other is lines with another table, fewer routes and other uplinks in use.
func other() *rules.Policy {
	p := lines(rules.Last)
	p.Hash = [32]byte{2}
	p.Rules = p.Rules[1:2]
	p.Rules[0].Do.Route = 2
	return p
}

func udp(port uint16) flow.Flow {
	return flow.Flow{
		Proto: flow.Some(flow.UDP), Src: flow.Some(netip.MustParseAddr("10.0.0.2")),
		Dst: flow.Some(netip.MustParseAddr("203.0.113.7")), DstPort: flow.Some(port),
	}
}

func udp6(port uint16) flow.Flow {
	f := udp(port)
	f.Src, f.Dst = flow.Some(netip.MustParseAddr("2001:db8:10::2")), flow.Some(netip.MustParseAddr("2001:db8:f::7"))
	return f
}

// goes sends one new flow of each family to port and returns the uplink by
// which both leave.
func (l *lab) goes(port uint16) string {
	l.t.Helper()
	got := l.send([]flow.Flow{udp(port), udp6(port)})
	if a, b := got[l.id-1].dev, got[l.id].dev; a != b {
		l.t.Errorf("port %d: IPv4 leaves by %q, IPv6 by %q", port, a, b)
	}
	return got[l.id].dev
}

// again sends the flow of the id once more.
func (l *lab) again(f flow.Flow, id uint16) seen {
	l.t.Helper()
	l.id = id - 1
	defer func() { l.id += 1000 }()
	return l.send([]flow.Flow{f})[id]
}

func (l *lab) expect(what string, port uint16, dev string) {
	l.t.Helper()
	if got := l.goes(port); got != dev {
		l.t.Errorf("%s: port %d leaves by %q, want %q", what, port, got, dev)
	}
}

func TestFailover(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	e := enforcer(t, t.TempDir())
	p := lines(rules.Last)
	normal, failed := engine.OfflineWorld(p, state.Normal), engine.OfflineWorld(p, state.Failover)
	plan := planFor(t, e, p, normal)
	must(t, e.Apply(ctx, plan))
	l.expect("normal", 443, "wan1")
	l.expect("normal", 22, "wan1")
	l.expect("normal", 80, "wan0")
	l.expect("blocked", 23, "")
	l.send([]flow.Flow{udp(443)})
	old := l.id
	must(t, e.Update(ctx, plan.WorldUpdates(normal, failed)))
	l.expect("failover", 443, "wan2")
	l.expect("a route named by a rule is obeyed", 22, "wan1")
	if got := l.again(udp(443), old); got.dev != "wan1" {
		t.Errorf("the established flow leaves by %q, want wan1", got.dev)
	}

	ct, err := conntrack.New()
	must(t, err)
	defer ct.Close()
	tuple := conntrack.Tuple{Proto: 17, Src: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), old), Dst: netip.MustParseAddrPort("203.0.113.7:443")}
	one, _ := plan.CTMark(1)
	must(t, ct.Flush(one, plan.CTMask))
	if got := l.again(udp(443), old); got.dev != "wan2" {
		t.Errorf("after the dead uplink's flows were forgotten: leaves by %q, want wan2", got.dev)
	}
	must(t, ct.Pin(plan, tuple, 1))
	if got := l.again(udp(443), old); got.dev != "wan1" {
		t.Errorf("pinned: leaves by %q, want wan1", got.dev)
	}
	must(t, ct.Block(plan, tuple, false))
	if got := l.again(udp(443), old); got.dev != "" || got.reject {
		t.Errorf("blocked: %+v, want nothing", got)
	}
	must(t, ct.Block(plan, tuple, true))
	if got := l.again(udp(443), old); !got.reject {
		t.Errorf("rejected: %+v, want a refusal", got)
	}
	tuple.Dst = netip.MustParseAddrPort("203.0.113.7:444")
	if err := ct.Pin(plan, tuple, 1); !errors.Is(err, conntrack.ErrNotFound) {
		t.Errorf("a flow that is not there: %v", err)
	}
}

// TestModifiersStay: every packet of the flow carries what the rule set, though
// only the first is decided.
func TestModifiersStay(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	e := enforcer(t, t.TempDir())
	p := lines(rules.Last)
	p.Rules = append(p.Rules, rules.Rule{
		Name: "urgent", Priority: 20, Active: state.AllStates, Match: p.Rules[0].Match,
		Do: rules.Outcome{Mods: rules.Modifiers{DSCP: flow.Some(uint8(46))}},
	})
	p.Rules[0].Do.Mods.DSCP = flow.Some(uint8(10)) // too late: the first setter wins
	must(t, e.Apply(ctx, planFor(t, e, p, engine.OfflineWorld(p, state.Normal))))
	for _, f := range []flow.Flow{udp(443), udp6(443)} {
		first := l.send([]flow.Flow{f})[l.id]
		if want := (seen{dev: "wan1", dscp: 46}); first != want {
			t.Errorf("first packet: %+v, want %+v", first, want)
		}
		if second := l.again(f, l.id); second != first {
			t.Errorf("second packet: %+v, want %+v", second, first)
		}
	}
}

func TestDeadUplinkDoesNotLeak(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	e := enforcer(t, t.TempDir())
	p := lines(rules.Last)
	must(t, e.Apply(ctx, planFor(t, e, p, engine.OfflineWorld(p, state.Normal))))
	l.expect("up", 22, "wan1")
	sh(t, "ip link set wan1 down")
	l.expect("down, nobody has noticed yet", 22, "")
	must(t, e.Apply(ctx, planFor(t, e, p, engine.OfflineWorld(p, state.Normal))))
	l.expect("down", 22, "")
	nstest.Here(t).Address(t, "wan1", "2001:db8:1::1/64")
	l.waitUp()
	must(t, e.Apply(ctx, planFor(t, e, p, engine.OfflineWorld(p, state.Normal))))
	l.neighbours(1)
	l.expect("up again", 22, "wan1")
}

func TestOnCrash(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	for _, c := range []struct {
		mode rules.OnCrash
		dead string // where port 22 leaves when the daemon is dead
	}{{rules.Last, "wan1"}, {rules.Open, "wan0"}, {rules.Closed, ""}} {
		func() { // no t.Run: its goroutine would be in another namespace
			e := enforcer(t, t.TempDir())
			p := lines(c.mode)
			must(t, e.Apply(ctx, planFor(t, e, p, engine.OfflineWorld(p, state.Normal))))
			l.expect("alive", 22, "wan1")
			l.send([]flow.Flow{udp(22)})
			old := l.id
			if c.mode != rules.Last {
				look, die, word := "nft list set inet netpolicy alive", "nft flush set inet netpolicy alive", "expires"
				if variant != "" {
					set := strings.TrimSpace(sh(t, "ipset list -n | grep alive"))
					look, die, word = "ipset list "+set+" | grep np_any", "ipset flush "+set, "timeout"
				}
				if text := sh(t, "%s", look); strings.Count(text, word) != 2 {
					t.Errorf("elements without an end:\n%s", text)
				}
				sh(t, "%s", die) // what five seconds do
			}
			l.expect("dead", 22, c.dead)
			if got := l.again(udp(22), old); got.dev != "wan1" {
				t.Errorf("established flow leaves by %q, want wan1", got.dev)
			}
			must(t, e.KeepAlive(ctx))
			must(t, e.KeepAlive(ctx))
			l.expect("alive again", 22, "wan1")
			must(t, e.Close())
			must(t, Cleanup(ctx, e.dir))
		}()
	}
}

func TestLocalSockets(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	e := enforcer(t, t.TempDir())
	p := lines(rules.Last)
	plan := planFor(t, e, p, engine.OfflineWorld(p, state.Normal))
	must(t, e.Apply(ctx, plan))
	for _, c := range []struct {
		name string
		mark uint32
		dev  string
	}{{"root's", 0, "wan2"}, {"our own", plan.Bypass(), "wan0"}} {
		d := net.Dialer{Control: func(_, _ string, rc syscall.RawConn) error {
			var err error
			ctl := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(c.mark)) })
			return errors.Join(ctl, err)
		}}
		for _, dst := range []string{"203.0.113.7:9", "[2001:db8:f::7]:9"} {
			l.drain()
			conn, err := d.DialContext(ctx, "udp", dst)
			must(t, err)
			key := tuple{unix.IPPROTO_UDP, netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(dst)}
			_, err = conn.Write([]byte("x"))
			must(t, errors.Join(err, conn.Close()))
			if got := l.collect(1, time.Second)[key].dev; got != c.dev {
				t.Errorf("%s socket to %s leaves by %q, want %q", c.name, dst, got, c.dev)
			}
		}
	}
}

// TestApplyTwice: a second Apply, and one after a restart, change nothing and
// do not load the table again.
func TestApplyTwice(t *testing.T) {
	newLab(t)
	ctx := context.Background()
	dir := t.TempDir()
	p := lines(rules.Last)
	w := engine.OfflineWorld(p, state.Recovery)
	e := enforcer(t, dir)
	must(t, e.Apply(ctx, planFor(t, e, p, w)))
	want := snapshot(t)
	for _, restart := range []bool{false, true} {
		if restart {
			must(t, e.Close())
			e = enforcer(t, dir)
		}
		var steps []string
		e.before = func(what string) error { steps = append(steps, what); return nil }
		must(t, e.Apply(ctx, planFor(t, e, p, w)))
		for _, s := range steps {
			if s != "ledger" && !strings.HasSuffix(s, "element updates") {
				t.Errorf("restart %v: unexpected step %q", restart, s)
			}
		}
		if got := snapshot(t); got != want {
			t.Errorf("restart %v: the host changed:\n%s\nwas:\n%s", restart, got, want)
		}
	}
	if _, err := New(Config{StateDir: dir}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second enforcer: %v, want ErrRunning", err)
	}
	info, err := os.Stat(filepath.Join(dir, ledgerFile))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("ledger has mode %v", info.Mode())
	}
}

// TestKilledAnywhere ends an Apply before each of its changes, as kill -9 does;
// Cleanup must then leave the host as it was, and a restart must work.
func TestKilledAnywhere(t *testing.T) {
	l := newLab(t)
	// Things of others, alike enough to be taken for ours.
	sh(t, `nft add table inet netpolicy2
ip rule add priority 20000 fwmark 0x10000000/0x70000000 lookup 77
ip route add 192.0.2.200/32 dev lan0 table 20001 || true
ip route del 192.0.2.200/32 dev lan0 table 20001
ip route add unreachable 198.51.100.0/24 table 19999`)
	before := snapshot(t)
	ctx := context.Background()
	a, b := lines(rules.Last), other()
	points := 0
	for at := 0; ; at++ {
		dir := t.TempDir()
		e := enforcer(t, dir)
		if at%2 == 0 { // over an older plan, and from nothing
			must(t, e.Apply(ctx, planFor(t, e, b, nil)))
		}
		left := at
		e.before = func(string) error {
			if left--; left < 0 {
				return errKilled
			}
			return nil
		}
		err := e.Apply(ctx, planFor(t, e, a, engine.OfflineWorld(a, state.Normal)))
		must(t, e.Close())
		if err == nil {
			break
		}
		points++
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		if at%5 == 0 {
			e = enforcer(t, dir)
			must(t, e.Apply(ctx, planFor(t, e, a, engine.OfflineWorld(a, state.Normal))))
			l.expect("restarted", 22, "wan1")
			must(t, e.Close())
		}
		must(t, Cleanup(ctx, dir))
		must(t, Cleanup(ctx, dir))
		if after := snapshot(t); after != before {
			t.Fatalf("killed before change %d: left behind\n%s\nwas\n%s", at, after, before)
		}
	}
	t.Logf("%d points of death", points)
}

// TestTakeBack lets each change fail; the plan in force must stay in force.
func TestTakeBack(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	a, b := lines(rules.Last), other()
	fails := 0
	dir := t.TempDir()
	e := enforcer(t, dir)
	normal, failed := engine.OfflineWorld(a, state.Normal), engine.OfflineWorld(a, state.Failover)
	plan := planFor(t, e, a, normal)
	must(t, e.Apply(ctx, plan))
	must(t, e.Update(ctx, plan.WorldUpdates(normal, failed)))
	want := snapshot(t)
	for at := 1; ; at++ {
		left, replaced := at, false
		e.before = func(what string) error {
			if left--; left == -1 && what != "ledger" {
				return errors.New("made to fail")
			}
			replaced = replaced || left >= 0 && strings.HasPrefix(what, "nft replace")
			return nil
		}
		err := e.Apply(ctx, planFor(t, e, b, nil))
		e.before = nil
		if left >= 0 {
			must(t, err)
			break
		}
		if err == nil { // it was the ledger's turn
			must(t, e.Apply(ctx, planFor(t, e, a, failed)))
			continue
		}
		fails++
		if replaced { // with the elements as they were planned
			must(t, e.Update(ctx, plan.WorldUpdates(normal, failed)))
		}
		if got := snapshot(t); got != want {
			t.Fatalf("change %d failed (%v), left\n%s\nwas\n%s", at, err, got, want)
		}
		if fails == 1 {
			l.expect("taken back", 22, "wan1")
		}
	}
	if fails == 0 {
		t.Error("nothing was made to fail")
	}
	t.Logf("%d failures taken back", fails)
}

// TestDeviceGoesDown takes devices down, or away, between a plan and its routes: the plan
// fails with what says so, what can be is taken back, and the next plan succeeds.
func TestDeviceGoesDown(t *testing.T) {
	for errno, how := range map[error]string{unix.ENETDOWN: "ip link set wan0 down", unix.ENODEV: "ip link del wan0"} {
		t.Run(errno.Error(), func(t *testing.T) {
			newLab(t)
			ctx := context.Background()
			more := lines(rules.Last)
			more.Hash = [32]byte{2}
			more.Uplinks = append(more.Uplinks, rules.Uplink{Name: "wan0", Dev: "wan0", Gateway: gateways(0)})
			more.Routes = append(more.Routes, rules.Route{Name: "third", Kind: rules.RouteUplink, Uplink: 2})
			more.Rules[0].Do.Route = len(more.Routes) - 1
			e := enforcer(t, t.TempDir())
			must(t, e.Apply(ctx, planFor(t, e, lines(rules.Last), nil)))
			plan, once := planFor(t, e, more, nil), true
			e.before = func(what string) error {
				if once && strings.HasPrefix(what, "ip ") {
					once = false
					sh(t, "%s; ip link set wan1 down", how) // the old plan's routes over wan1 are gone with it
				}
				return nil
			}
			err := e.Apply(ctx, plan)
			e.before = nil
			if !errors.Is(err, errno) || strings.Contains(err.Error(), "take back") {
				t.Errorf("got %v, want %v alone", err, errno)
			}
			must(t, e.Apply(ctx, planFor(t, e, more, nil)))
			if got := sh(t, "ip route show table all proto 117; ip -6 route show table all proto 117"); strings.Contains(got, "wan0") || strings.Contains(got, "wan1") || !strings.Contains(got, "wan2") {
				t.Errorf("routes:\n%s", got)
			}
		})
	}
}

func TestForeignTableIsRefused(t *testing.T) {
	newLab(t)
	ctx := context.Background()
	dir := t.TempDir()
	p := lines(rules.Last)
	sh(t, "nft add table inet netpolicy; nft add chain inet netpolicy theirs")
	before := snapshot(t)
	e := enforcer(t, dir)
	if err := e.Apply(ctx, planFor(t, e, p, nil)); err == nil || !strings.Contains(err.Error(), "not in the ledger") {
		t.Errorf("got %v", err)
	}
	sh(t, "nft delete table inet netpolicy; ip route add 198.51.100.0/24 dev lan0 table 20000")
	if err := e.Apply(ctx, planFor(t, e, p, nil)); err == nil || !strings.Contains(err.Error(), "table_base") {
		t.Errorf("got %v", err)
	}
	sh(t, "nft add table inet netpolicy; nft add chain inet netpolicy theirs; ip route del 198.51.100.0/24 dev lan0 table 20000")
	must(t, e.Close())
	for _, folder := range []string{dir, filepath.Join(dir, "none")} {
		if err := Cleanup(ctx, folder); !errors.Is(err, ErrUnlisted) {
			t.Errorf("cleanup with the ledger of %s: %v", folder, err)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, ledgerFile), []byte("{"), 0o600))
	if err := Cleanup(ctx, dir); err == nil || !strings.Contains(err.Error(), "delete table inet netpolicy") {
		t.Errorf("cleanup with a broken ledger: %v", err)
	}
	if after := snapshot(t); after != before {
		t.Errorf("touched:\n%s\nwas:\n%s", after, before)
	}
}

// TestUpdateTimes reports what element updates cost; it asserts that they work
// with elements that are there, gone, or changed.
func TestUpdateTimes(t *testing.T) {
	newLab(t)
	ctx := context.Background()
	e := enforcer(t, t.TempDir())
	p := lines(rules.Last)
	for i, name := range []string{"a.example", "b.example"} {
		p.Rules = append(p.Rules, rules.Rule{
			Name: name, Priority: 1, Active: state.AllStates,
			Match: rules.Expr{Op: rules.OpAnd, Kids: []rules.Expr{
				{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldSNI, Names: []rules.NamePattern{{Kind: rules.Suffix, Name: name}}}},
				{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldProto, Numbers: []uint32{6}}},
			}},
			Do: rules.Outcome{Kind: rules.ActRoute, Route: 1 + i},
		})
	}
	normal, failed := engine.OfflineWorld(p, state.Normal), engine.OfflineWorld(p, state.Failover)
	plan := planFor(t, e, p, normal)
	must(t, e.Apply(ctx, plan))
	timed := func(what string, n int, f func(i int) []actions.Update) {
		var took time.Duration
		for i := range n {
			updates := f(i)
			start := time.Now()
			must(t, e.Update(ctx, updates))
			took += time.Since(start)
		}
		t.Logf("%s: %v", what, took/time.Duration(n))
	}
	timed("failover and back", 100, func(i int) []actions.Update {
		if i%2 == 0 {
			return plan.WorldUpdates(normal, failed)
		}
		return plan.WorldUpdates(failed, normal)
	})
	answer := func(i int, names ...string) []actions.Update {
		a := netip.AddrFrom4([4]byte{203, 0, byte(113 + i>>8), byte(i)})
		u, err := plan.Answer(a, flow.NewNames(names...), time.Hour)
		must(t, err)
		return u
	}
	timed("DNS answer, new", 100, func(i int) []actions.Update { return answer(i, "x.a.example") })
	timed("DNS answer, again", 100, func(i int) []actions.Update { return answer(i, "x.a.example") })
	timed("DNS answer, other class", 100, func(i int) []actions.Update { return answer(i, "b.example") })
	timed("DNS answer, names gone", 100, func(i int) []actions.Update { return answer(i, "c.test") })
	timed("DNS answer, nothing to remove", 100, func(i int) []actions.Update { return answer(i, "c.test") })
	timed("a thousand at once", 3, func(int) []actions.Update {
		var all []actions.Update
		for i := range 1000 {
			all = append(all, answer(i, "a.example")...)
		}
		return all
	})
	timed("DNS answer with a new chain", 1, func(i int) []actions.Update { return answer(5000, "a.example", "b.example") })
	if n := strings.Count(sh(t, "nft list map inet netpolicy dhost4")+sh(t, "nft list map inet netpolicy chost4"), "expires"); n != 1001 {
		t.Errorf("%d elements, want 1001", n)
	}
}
