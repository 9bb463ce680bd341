package host

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/yaml"
	"netpolicy.dev/netpolicy/state"
)

// needQueue skips where packets can't be queued, and says why.
func needQueue(t testing.TB) {
	t.Helper()
	needRoot(t)
	if queueVia() == actions.NoQueue {
		t.Skip("needs nft_queue, or iptables-legacy and ip6tables-legacy")
	}
}

// patience is how long the answer to a packet may take where it may also be none.
const patience = 60 * time.Millisecond

// judge answers first packets by the engine.
type judge struct {
	plan  *actions.Plan
	now   *atomic.Pointer[moment]
	asked atomic.Int64
}

// judging is a judge for one world without names.
func judging(plan *actions.Plan, w *state.World) *judge {
	j := &judge{plan: plan, now: &atomic.Pointer[moment]{}}
	j.now.Store(&moment{world: w})
	return j
}

// listen serves the plan's queues until stop, which waits for the end.
func (j *judge) listen(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for i := range j.plan.Consult.Queues {
		q, err := nfqueue.Open(nfqueue.Options{Queue: j.plan.Consult.First + i, FailOpen: !j.plan.Consult.Strict})
		if err != nil {
			cancel()
			t.Fatal(err)
		}
		group.Go(func() {
			if err := q.Run(ctx, j.answer); err != nil {
				t.Error(err)
			}
			if n := q.Counters.Bad.Load() + q.Counters.Missed.Load(); n != 0 {
				t.Errorf("%d packets missed or not understood", n)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(stop)
	return stop
}

func (j *judge) answer(p *nfqueue.Packet, v *nfqueue.Verdict) {
	j.asked.Add(1)
	var f flow.Flow
	if !p.Describe(&f) {
		return
	}
	f.IfaceIn, f.Mark = flow.Some("lan0"), flow.Some(p.Mark)
	f.Process, f.ProcessPath, f.Cgroup, f.User = flow.Absent[string](), flow.Absent[string](), flow.Absent[string](), flow.Absent[string]()
	dst, _ := f.Dst.Get()
	now := j.now.Load()
	f.DNS = now.names[dst]
	d := j.plan.Program().Decide(&f, now.world)
	v.Priority, v.Drop = j.plan.AnswerCode(&d)
}

// TestConsultEquivalence: every packet is asked about, and goes where the engine's
// answer sends it; nobody answers the fake kernel, whose table decides.
func TestConsultEquivalence(t *testing.T) {
	needQueue(t)
	sent := 0
	equivalent(t, decider{
		name:   "consult",
		adjust: func(d *drawn) { d.policy.Daemon.Enforce = rules.Consult },
		beside: func(t testing.TB, p *actions.Plan, now *atomic.Pointer[moment]) func() {
			j := &judge{plan: p, now: now}
			stop := j.listen(t)
			return func() {
				stop()
				sent += int(j.asked.Load())
			}
		},
		late: patience,
	})
	if sent < packets() {
		t.Errorf("asked about %d packets, want %d", sent, packets())
	}
}

// asking is lines with the daemon asked.
func asking(onCrash rules.OnCrash) *rules.Policy {
	p := lines(onCrash)
	p.Hash, p.Daemon.Enforce = [32]byte{3}, rules.Consult
	return p
}

// TestConsultStaysInTheKernel: what is exempt, what is decided, and our own
// sockets are never asked about.
func TestConsultStaysInTheKernel(t *testing.T) {
	needQueue(t)
	l := newLab(t)
	l.late = patience
	ctx := context.Background()
	e := enforcer(t, t.TempDir())
	p := asking(rules.Last)
	w := engine.OfflineWorld(p, state.Normal)
	plan := planFor(t, e, p, w)
	must(t, e.Apply(ctx, plan))
	j := judging(plan, w)
	defer j.listen(t)()
	expect := func(what string, n int64) {
		t.Helper()
		if got := j.asked.Swap(0); got != n {
			t.Errorf("%s: asked %d times, want %d", what, got, n)
		}
	}
	l.expect("first", 443, "wan1")
	expect("two first packets", 2)
	first := l.id
	for range 3 {
		if got := l.again(udp6(443), first); got.dev != "wan1" {
			t.Errorf("later packet leaves by %q, want wan1", got.dev)
		}
	}
	expect("later packets", 0)
	for _, dst := range []string{"224.0.0.251", "10.0.0.255", "169.254.1.1"} {
		f := udp(443)
		f.Dst = flow.Some(netip.MustParseAddr(dst))
		l.send([]flow.Flow{f})
	}
	expect("multicast, broadcast, link-local", 0)
	l.expect("no rule, but the default", 80, "wan0")
	expect("the default", 2)
	l.expect("blocked", 23, "")
	expect("blocked", 2)
	sh(t, "ping -c1 -W1 127.0.0.1 >/dev/null")
	expect("loopback", 0)
	sh(t, "ping -c1 -W1 -m %d 192.0.2.2 >/dev/null || true", plan.Bypass())
	expect("the bypass", 0)
	sh(t, "ping -c1 -W1 192.0.2.2 >/dev/null || true")
	expect("a socket of this host", 1)
}

// TestConsultWithoutListener: nobody answers, as after kill -9.
func TestConsultWithoutListener(t *testing.T) {
	needQueue(t)
	l := newLab(t)
	l.late = patience
	ctx := context.Background()
	for _, c := range []struct {
		mode       rules.OnCrash
		soon, late string // where port 22 leaves at once, and after five seconds
	}{{rules.Last, "wan1", "wan1"}, {rules.Open, "wan1", "wan0"}, {rules.Closed, "", ""}} {
		func() { // no t.Run: its goroutine would be in another namespace
			e := enforcer(t, t.TempDir())
			p := asking(c.mode)
			w := engine.OfflineWorld(p, state.Normal)
			plan := planFor(t, e, p, w)
			must(t, e.Apply(ctx, plan))
			j := judging(plan, w)
			stop := j.listen(t)
			l.expect("alive", 22, "wan1")
			l.send([]flow.Flow{udp(22)})
			old := l.id
			stop()
			l.expect("dead", 22, c.soon)
			if c.mode != rules.Last {
				sh(t, "nft flush set inet netpolicy alive") // what five seconds do
			}
			l.expect("dead for long", 22, c.late)
			if got := l.again(udp(22), old); got.dev != "wan1" {
				t.Errorf("established flow leaves by %q, want wan1", got.dev)
			}
			must(t, e.KeepAlive(ctx))
			stop = j.listen(t)
			l.expect("alive again", 22, "wan1")
			stop()
			must(t, e.Close())
			must(t, Cleanup(ctx, e.dir))
		}()
	}
}

// TestConsultOverflow: the daemon does not read, and more packets come than the
// queue holds.
func TestConsultOverflow(t *testing.T) {
	needQueue(t)
	l := newLab(t)
	l.late = patience
	ctx := context.Background()
	for _, c := range []struct {
		mode rules.OnCrash
		dev  string
	}{{rules.Last, "wan1"}, {rules.Closed, ""}} {
		func() {
			e := enforcer(t, t.TempDir())
			p := asking(c.mode)
			plan := planFor(t, e, p, engine.OfflineWorld(p, state.Normal))
			must(t, e.Apply(ctx, plan))
			var queues []*nfqueue.Queue
			for i := range plan.Consult.Queues {
				q, err := nfqueue.Open(nfqueue.Options{Queue: plan.Consult.First + i, FailOpen: !plan.Consult.Strict, ReadBuffer: 4096})
				must(t, err)
				queues = append(queues, q)
			}
			const sent = 100
			var flows []flow.Flow
			for range sent {
				flows = append(flows, udp(22))
			}
			left := map[string]int{}
			for _, s := range l.send(flows) {
				left[s.dev]++
			}
			t.Logf("on_crash %d: of %d flows left by uplink (none: held or dropped): %v", c.mode, sent, left)
			if most := sent / 2; left[c.dev] < most || left[c.dev]+left[""] < sent {
				t.Errorf("on_crash %d: want most by %q, and no other", c.mode, c.dev)
			}
			for _, q := range queues {
				must(t, q.Close())
			}
			must(t, e.Close())
			must(t, Cleanup(ctx, e.dir))
		}()
	}
}

// legacy is what iptables-legacy has, without counters.
func legacy(t testing.TB) string {
	t.Helper()
	return sh(t, `for c in iptables-legacy-save ip6tables-legacy-save; do $c | grep -v '^#' | sed 's/\[[0-9]*:[0-9]*\]//'; done`)
}

// TestConsultKilledAnywhere ends an Apply that begins or ends asking before each of
// its changes. Rules of others in the same tables stay as they are.
func TestConsultKilledAnywhere(t *testing.T) {
	needQueue(t)
	if queueVia() != actions.LegacyQueue {
		t.Skip("nftables queues here by itself: nothing stands in iptables")
	}
	newLab(t)
	sh(t, `for c in iptables-legacy ip6tables-legacy; do
$c -t mangle -N netpolicy_asked
$c -t mangle -A PREROUTING -i wan2 -j netpolicy_asked
$c -t mangle -A PREROUTING -p udp --dport 9 -j MARK --set-mark 0x3f00/0x3f00
done`)
	before := snapshot(t) + legacy(t)
	ctx := context.Background()
	w := engine.OfflineWorld(lines(rules.Last), state.Normal)
	points := 0
	for _, pair := range [][2]*rules.Policy{{nil, asking(rules.Last)}, {asking(rules.Closed), lines(rules.Last)}, {asking(rules.Last), holdingLines(rules.Last)}} {
		for at := 0; ; at++ {
			dir := t.TempDir()
			e := enforcer(t, dir)
			if pair[0] != nil {
				must(t, e.Apply(ctx, planFor(t, e, pair[0], nil)))
			}
			left := at
			e.before = func(string) error {
				if left--; left < 0 {
					return errKilled
				}
				return nil
			}
			err := e.Apply(ctx, planFor(t, e, pair[1], w))
			must(t, e.Close())
			must(t, Cleanup(ctx, dir))
			if after := snapshot(t) + legacy(t); after != before {
				t.Fatalf("killed before change %d (%v): left behind\n%s\nwas\n%s", at, err, after, before)
			}
			if err == nil {
				break
			}
			points++
		}
	}
	t.Logf("%d points of death", points)
}

// TestConsultTwice: a second Apply changes nothing, a damaged jump is put right,
// and a chain of our name that is not in the ledger is refused.
func TestConsultTwice(t *testing.T) {
	needQueue(t)
	if queueVia() != actions.LegacyQueue {
		t.Skip("nftables queues here by itself: nothing stands in iptables")
	}
	newLab(t)
	ctx := context.Background()
	dir := t.TempDir()
	e := enforcer(t, dir)
	p := asking(rules.Last)
	apply := func() (steps []string) {
		e.before = func(what string) error {
			if what != "ledger" && !strings.HasSuffix(what, "element updates") {
				steps = append(steps, what)
			}
			return nil
		}
		must(t, e.Apply(ctx, planFor(t, e, p, nil)))
		return steps
	}
	apply()
	want := legacy(t)
	for _, damage := range []string{
		"", "iptables-legacy -t mangle -F netpolicy_ask", "ip6tables-legacy -t mangle -D OUTPUT -j netpolicy_ask",
		"iptables-legacy -t mangle -A OUTPUT -j netpolicy_ask",
	} {
		sh(t, "%s", damage)
		steps := apply()
		if len(steps) > 0 != (damage != "") {
			t.Errorf("after %q: %v", damage, steps)
		}
		if got := legacy(t); got != want {
			t.Errorf("after %q:\n%s\nwant:\n%s", damage, got, want)
		}
	}
	must(t, e.Close())
	must(t, os.RemoveAll(dir))
	sh(t, "nft delete table inet netpolicy")
	e = enforcer(t, t.TempDir())
	if err := e.Apply(ctx, planFor(t, e, p, nil)); err == nil || !strings.Contains(err.Error(), "not in the ledger") {
		t.Errorf("a chain of others with our name: %v", err)
	}
}

// TestFirstPacketRate reports how many new flows a second the gateway takes: with
// nothing to decide, by the table of 1,000 mixed rules, and by asking the engine.
func TestFirstPacketRate(t *testing.T) {
	needQueue(t)
	l := newLab(t)
	l.late = patience
	ctx := context.Background()
	p, diags := yaml.Load("policy.yaml", policygen.YAML(1, 1000))
	if p == nil {
		t.Fatal(diags)
	}
	for i := range p.Uplinks { // the lab's devices
		p.Uplinks[i].Dev, p.Uplinks[i].Gateway = []string{"wan1", "wan2"}[i], gateways(i+1)
	}
	w := engine.OfflineWorld(p, state.Normal)
	e := enforcer(t, t.TempDir())
	n := 4000
	if os.Getenv("FULL") != "" {
		n = 20_000
	}
	for _, mode := range []string{"no policy", "static", "consult"} {
		j := judging(nil, w)
		stop := func() {}
		if mode != "no policy" {
			p.Daemon.Enforce = rules.Static
			if mode == "consult" {
				p.Daemon.Enforce = rules.Consult
			}
			j.plan = planFor(t, e, p, w)
			must(t, e.Apply(ctx, j.plan))
			if mode == "consult" {
				stop = j.listen(t)
			}
		} else {
			sh(t, "nft 'add table inet track; add chain inet track c { type filter hook prerouting priority 0; }; add rule inet track c ct state new'")
		}
		var rates []int
		for range 5 {
			must(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
			rates = append(rates, int(float64(n)/l.flood(n, mode == "consult", &j.asked).Seconds()))
		}
		stop()
		slices.Sort(rates)
		t.Logf("%s: %d new flows a second (median of 5 with %d flows; %d to %d)", mode, rates[2], n, rates[0], rates[4])
	}
}

// flood sends the first packets of n new flows as fast as it can, and returns how
// long it took until each was decided. Where the daemon is asked no more wait than
// its queues hold.
func (l *lab) flood(n int, ask bool, asked *atomic.Int64) time.Duration {
	l.t.Helper()
	const most = 2000
	packets := make([][]byte, n)
	for i := range packets {
		f := udp([]uint16{443, 80, 53, 22, 5060}[i%5])
		f.Dst = flow.Some(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}))
		packets[i] = l.packet(&f, uint16(1024+i/256))
	}
	asked.Store(0)
	start := time.Now()
	for i, p := range packets {
		if _, err := unix.Write(l.client, p); err != nil {
			l.t.Fatal(err)
		}
		for ask && i%64 == 0 && int64(i)-asked.Load() > most {
			time.Sleep(20 * time.Microsecond)
		}
	}
	for end := time.Now().Add(markerTime); ask && asked.Load() < int64(n); time.Sleep(20 * time.Microsecond) {
		if time.Now().After(end) {
			l.t.Fatalf("%d of %d packets were never asked about", int64(n)-asked.Load(), n)
		}
	}
	return time.Since(start)
}
