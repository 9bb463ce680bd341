package host

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/bench/workload"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

var flowsFlag = flag.String("flows", "mix:100,mix:1000", "what TestFlows compares: mix:N (bench/workload), acl:N (5-tuples of IPv4), classbench:N (its first N rules)")

// linearMost is the most rules that one rule for each is measured with: more do
// not load in minutes.
const linearMost = 10_000

// flowRounds is how often each contestant is measured, in turns.
const flowRounds = 5

// contender is one gateway whose new flows are counted.
type contender struct {
	name  string
	l     *lab
	gw    *nstest.NS
	load  time.Duration
	again time.Duration // to replace the table by an equal one
	rates []float64     // new flows a second
	judge *judge        // who is asked about each, or nil
	size  string
}

// TestFlows measures how many new flows a second a gateway takes under policies of
// many rules: without a policy (but with connection tracking, as any gateway with
// NAT has it), with netpolicy's table, with the engine asked about each (`enforce:
// consult`), and with one rule of nftables for each rule of the policy. They take turns, and where the packets of each run left is
// compared with what the engine decides.
func TestFlows(t *testing.T) {
	nstest.Need(t)
	count := 4000
	if os.Getenv("FULL") != "" {
		count = 20_000
	}
	for _, what := range strings.Split(*flowsFlag, ",") {
		t.Run(what, func(t *testing.T) { measureFlows(t, what, count) })
	}
}

func measureFlows(t *testing.T, what string, count int) {
	kind, size, _ := strings.Cut(what, ":")
	n, _ := strconv.Atoi(size)
	list, conns := flowWork(t, kind, n, 2*count)
	p := flowPolicy(list)
	prog := engine.Compile(p)
	w := engine.OfflineWorld(p, state.Normal)
	flows, names := flowsOf(conns, count)

	// The loads come first: what a table was made for must be there when its turn comes.
	none := newContender(t, "no policy")
	none.gw.Run(t, "table inet track {\n chain pre {\n type filter hook prerouting priority mangle;\n ct state invalid drop\n }\n}\n", "nft", "-f", "-")
	ours := newContender(t, "netpolicy")
	ours.loadOurs(t, prog, w, names)
	all := []*contender{none, ours}
	if queueVia() != actions.NoQueue {
		asks := newContender(t, "consult")
		asks.loadConsult(t, prog, w, names)
		all = append(all, asks)
	}
	if len(list) <= linearMost {
		linear := newContender(t, "a rule for each rule")
		linear.loadLinear(t, list, prog, w, names)
		all = append(all, linear)
	}

	frames := make([][]byte, len(flows))
	for i := range flows {
		id, _ := flows[i].SrcPort.Get()
		frames[i] = ours.l.packet(&flows[i], id)
	}
	want := map[string]int{}
	for i := range flows {
		d := prog.Decide(&flows[i], w)
		want[outcome(p, &flows[i], &d).dev]++
	}
	for round := range flowRounds + 1 {
		for _, c := range all {
			rate, left := c.run(t, frames)
			wrong := c != none && left != leaving(want)
			if wrong && (c == ours || c.judge != nil) {
				t.Errorf("%s, round %d: packets left by %v, the engine says %v", c.name, round, left, leaving(want))
			} else if wrong {
				t.Logf("%s, round %d does not count: packets left by %v, the engine says %v", c.name, round, left, leaving(want))
			}
			if round > 0 && !wrong { // the first warms up
				c.rates = append(c.rates, rate)
			}
		}
	}
	for _, c := range all {
		t.Logf("flows: %s, %s: %.0f thousand new flows a second, %.2f of no policy; load %d ms, replace %d ms%s", what, c.name,
			middle(c.rates)/1000, middle(c.rates)/middle(none.rates), c.load.Milliseconds(), c.again.Milliseconds(), c.size)
	}
}

// flowWork makes n rules and connections for them.
func flowWork(t *testing.T, kind string, n, conns int) ([]workload.Rule, []workload.Conn) {
	switch kind {
	case "acl":
		list := accessList(n)
		return list, workload.ConnsFor(workload.ClassBench, list, conns)
	case "classbench":
		t.Chdir("../..") // its data stands beside the project
		if err := workload.Missing(workload.ClassBench); err != nil {
			t.Skip(err)
		}
		list, err := workload.Make(workload.ClassBench, 0)
		if err != nil {
			t.Fatal(err)
		}
		list = list[:min(n, len(list))]
		return list, workload.ConnsFor(workload.ClassBench, list, conns)
	default:
		list := workload.Mix(n)
		return list, workload.Conns(list, conns)
	}
}

// accessList is a list of n 5-tuples as firewalls have them: most destinations are
// narrow, a quarter of the sources and two fifths of the ports are any.
func accessList(n int) []workload.Rule {
	rng := rand.New(rand.NewPCG(uint64(n), 5))
	prefix := func(from, to int) netip.Prefix {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], rng.Uint32())
		b[0] = 11 + b[0]%110
		return netip.PrefixFrom(netip.AddrFrom4(b), from+rng.IntN(to-from+1)).Masked()
	}
	list := make([]workload.Rule, n)
	for i := range list {
		r := &list[i]
		if rng.IntN(4) > 0 {
			r.Src = prefix(12, 32)
		}
		if rng.IntN(20) > 0 || !r.Src.IsValid() {
			r.Dst = prefix(16, 32)
		}
		switch rng.IntN(5) {
		case 0, 1:
			r.Ports = []rules.PortRange{{Lo: 443, Hi: 443}}
			if rng.IntN(2) == 0 {
				port := uint16(1 + rng.IntN(10_000))
				r.Ports[0] = rules.PortRange{Lo: port, Hi: port}
			}
		case 2:
			r.Ports = []rules.PortRange{{Lo: 1024, Hi: 65535}}
		}
		r.Proto = []flow.Proto{0, flow.TCP, flow.TCP, flow.UDP}[rng.IntN(4)]
		r.Outcome = rng.IntN(workload.Outcomes)
	}
	return list
}

func leaving(want map[string]int) [3]int { return [3]int{want["wan0"], want["wan1"], want["wan2"]} }

func middle(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// flowPolicy gives the rules' seven outcomes a meaning: three uplinks, a group,
// the main table, and two ways to block.
func flowPolicy(list []workload.Rule) *rules.Policy {
	p := workload.Policy(list)
	p.Routes = nil
	for i := range 3 {
		name := fmt.Sprint("wan", i)
		p.Uplinks = append(p.Uplinks, rules.Uplink{Name: name, Dev: name, Gateway: gateways(i)})
		p.Routes = append(p.Routes, rules.Route{Name: name, Kind: rules.RouteUplink, Uplink: i})
	}
	p.Groups = []rules.Group{{Name: "ha", Members: []int{1, 2}}}
	p.Routes = append(p.Routes, rules.Route{Name: "ha", Kind: rules.RouteGroup}, rules.Route{Name: "main", Kind: rules.RouteMain})
	for i := range p.Rules {
		if o := &p.Rules[i].Do; o.Route >= len(p.Routes) {
			*o = rules.Outcome{Kind: rules.ActBlock}
		}
	}
	return p
}

// flowsOf makes the first packets: connections to addresses that a gateway routes,
// each address with the names that lead to it.
func flowsOf(conns []workload.Conn, most int) ([]flow.Flow, map[netip.Addr]flow.Names) {
	byAddr := map[netip.Addr][]string{}
	var out []flow.Flow
	odd := func(a netip.Addr) bool {
		b := a.As4()
		return b[0] == 0 || b[0] == 127 || b[0] >= 224 || b[0] == 169 && b[1] == 254 || b[0] == 192 && b[1] == 0 && b[2] == 2 || b[3] == 255 || a == netip.AddrFrom4([4]byte{10, 0, 0, 1})
	}
	for i := range conns {
		c := &conns[i]
		if len(out) == most || c.Dst.Is6() || odd(c.Dst) || odd(c.Src) || c.Dst.As4()[0] == 10 {
			continue
		}
		if c.Name != "" && !slices.Contains(byAddr[c.Dst], c.Name) {
			byAddr[c.Dst] = append(byAddr[c.Dst], c.Name)
		}
		f := flow.Flow{
			Proto: flow.Some(c.Proto), Src: flow.Some(c.Src), Dst: flow.Some(c.Dst), DstPort: flow.Some(c.DstPort), SrcPort: flow.Some(c.SrcPort),
			IfaceIn: flow.Some("lan0"), Mark: flow.Some(uint32(0)), DSCP: flow.Some(uint8(0)),
			Process: flow.Absent[string](), ProcessPath: flow.Absent[string](), Cgroup: flow.Absent[string](), User: flow.Absent[string](),
		}
		if c.Proto != flow.TCP && c.Proto != flow.UDP {
			continue
		}
		out = append(out, f)
	}
	names := map[netip.Addr]flow.Names{}
	for a, list := range byAddr {
		names[a] = flow.NewNames(list...)
	}
	for i := range out {
		dst, _ := out[i].Dst.Get()
		out[i].DNS = names[dst]
	}
	return out, names
}

// newContender makes a gateway. Its far ends drop what comes, so that it costs
// little; the counters of its uplinks tell what left.
func newContender(t *testing.T, name string) *contender {
	l := newLab(t)
	for _, ns := range l.namespaces[2:] {
		ns.Run(t, "table netdev far {\n chain in {\n type filter hook ingress device eth0 priority 0; policy drop;\n }\n}\n", "nft", "-f", "-")
	}
	for _, fd := range l.sinks {
		none := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &none); err != nil {
			t.Fatal(err)
		}
	}
	c := &contender{name: name, l: l, gw: l.namespaces[0]}
	c.gw.Set(t, "net/netfilter/nf_conntrack_checksum", "0")
	return c
}

// loadOurs plans and applies the policy, with the names' addresses.
func (c *contender) loadOurs(t *testing.T, prog *engine.Program, w *state.World, names map[netip.Addr]flow.Names) {
	ctx := context.Background()
	e := enforcer(t, t.TempDir())
	h, err := e.ReadHost()
	must(t, err)
	begin := time.Now()
	plan, diags := actions.PlanFor(prog, h, w, nil)
	if plan == nil {
		t.Fatal(diags)
	}
	planned := time.Since(begin)
	begin = time.Now()
	must(t, e.Apply(ctx, plan))
	c.load = time.Since(begin)
	begin = time.Now()
	must(t, e.Apply(ctx, plan))
	must(t, e.nft.Replace(ctx, &plan.Table))
	c.again = time.Since(begin)
	var updates []actions.Update
	for a, n := range names {
		more, err := plan.Answer(a, n, time.Hour)
		must(t, err)
		updates = append(updates, more...)
	}
	begin = time.Now()
	must(t, e.Update(ctx, updates))
	c.size = fmt.Sprintf("; planned in %d ms, %d DNS answers in %d ms; %d chains", planned.Milliseconds(), len(names), time.Since(begin).Milliseconds(), len(plan.Table.Chains))
}

// loadConsult has the engine asked about each flow; it knows the names.
func (c *contender) loadConsult(t *testing.T, prog *engine.Program, w *state.World, names map[netip.Addr]flow.Names) {
	e := enforcer(t, t.TempDir())
	p := *prog.Policy()
	p.Daemon.Enforce = rules.Consult
	plan := planFor(t, e, &p, w)
	begin := time.Now()
	must(t, e.Apply(context.Background(), plan))
	c.load = time.Since(begin)
	begin = time.Now()
	must(t, e.nft.Replace(context.Background(), &plan.Table))
	c.again = time.Since(begin)
	c.judge = judging(plan, w)
	c.judge.now.Store(&moment{world: w, names: names})
	c.judge.listen(t)
}

// loadLinear puts each rule of the policy into one rule of nftables, in order; a
// rule about names asks for the addresses that have one.
func (c *contender) loadLinear(t *testing.T, list []workload.Rule, prog *engine.Program, w *state.World, names map[netip.Addr]flow.Names) {
	e := enforcer(t, t.TempDir())
	h, err := e.ReadHost()
	must(t, err)
	// The rest of the table is ours: routes, marks, and one candidate for each action.
	one := *prog.Policy()
	one.Rules = nil
	seen := map[string]bool{}
	for _, r := range prog.Policy().Rules {
		if key := fmt.Sprint(r.Do.Kind, r.Do.Route); !seen[key] {
			seen[key] = true
			r.Match = rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldSrcIP, Prefixes: []netip.Prefix{netip.MustParsePrefix("240.0.0.1/32")}}}
			r.Active, r.When = state.AllStates, nil
			r.Name = "a" + strconv.Itoa(len(one.Rules))
			one.Rules = append(one.Rules, r)
		}
	}
	plan, diags := actions.PlanFor(engine.Compile(&one), h, w, nil)
	if plan == nil {
		t.Fatal(diags)
	}
	must(t, e.Apply(context.Background(), plan))
	script := linear(list, prog, plan, names)
	begin := time.Now()
	c.gw.Run(t, script, "nft", "-f", "-")
	c.load = time.Since(begin)
	begin = time.Now()
	c.gw.Run(t, "flush chain inet netpolicy linear\n"+script, "nft", "-f", "-")
	c.again = time.Since(begin)
}

// linear is the table's deciding part as one rule for each rule.
func linear(list []workload.Rule, prog *engine.Program, plan *actions.Plan, names map[netip.Addr]flow.Names) string {
	var b strings.Builder
	b.WriteString("flush chain inet netpolicy decide\ntable inet netpolicy {\n\tchain linear {\n")
	addrs := slices.SortedFunc(maps.Keys(names), netip.Addr.Compare)
	p := prog.Policy()
	for _, i := range prog.Order() {
		r := &list[i]
		if !p.Rules[i].Active.Has(state.Normal) || r.Latency > 0 {
			continue // not in this world: the table would have it guarded
		}
		if r.Name != "" {
			var own []string
			for _, a := range addrs {
				if slices.ContainsFunc(slices.Collect(names[a].All()), (&rules.NamePattern{Kind: r.Kind, Name: r.Name}).Match) {
					own = append(own, a.String())
				}
			}
			if len(own) == 0 {
				own = []string{"240.0.0.1"}
			}
			fmt.Fprintf(&b, "ip daddr %s ", oneOf(own))
		}
		for _, x := range []struct {
			key    string
			prefix netip.Prefix
		}{{"daddr", r.Dst}, {"saddr", r.Src}} {
			family := "ip"
			if x.prefix.Addr().Is6() {
				family = "ip6"
			}
			if x.prefix.IsValid() {
				fmt.Fprintf(&b, "%s %s %s ", family, x.key, x.prefix)
			}
		}
		if r.Proto != 0 {
			fmt.Fprintf(&b, "meta l4proto %d ", r.Proto)
		}
		for _, ports := range []struct {
			key  string
			list []rules.PortRange
		}{{"th dport", r.Ports}, {"th sport", r.SrcPorts}} {
			var texts []string
			for _, x := range ports.list {
				texts = append(texts, fmt.Sprintf("%d-%d", x.Lo, x.Hi))
			}
			if len(texts) > 0 {
				fmt.Fprintf(&b, "%s %s ", ports.key, oneOf(texts))
			}
		}
		verdict := "drop"
		switch o := &p.Rules[i].Do; {
		case o.Kind == rules.ActBlock:
		case p.Routes[o.Route].Kind == rules.RouteGroup:
			verdict = fmt.Sprint("goto d_", plan.IDs.Routes["wan1"])
		default:
			verdict = fmt.Sprint("goto d_", plan.IDs.Routes[p.Routes[o.Route].Name])
		}
		b.WriteString(verdict + "\n")
	}
	b.WriteString("\t}\n\tchain decide {\n\t\tgoto linear\n\t}\n}\n")
	return b.String()
}

func oneOf(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	return "{ " + strings.Join(list, ", ") + " }"
}

// run sends the frames as new flows; it returns their rate, and how many packets
// left by each uplink.
func (c *contender) run(t *testing.T, frames [][]byte) (rate float64, left [3]int) {
	c.gw.Do(t, func() {
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			t.Error(err)
		}
	})
	for _, frame := range frames { // each lab has its own addresses
		copy(frame[:6], c.l.gateway)
		copy(frame[6:12], c.l.own)
	}
	before := c.settled(t)
	took := c.pass(t, frames)
	after := c.settled(t)
	for i := range left {
		left[i] = after[i] - before[i]
	}
	return float64(len(frames)) / took.Seconds(), left
}

// pass sends all frames and returns the processor time that it took. Where each
// is asked about, that is the whole process's, and no more are sent at once than
// wait for an answer.
func (c *contender) pass(t *testing.T, frames [][]byte) (took time.Duration) {
	if c.judge == nil {
		return c.blast(t, frames)
	}
	const waiting = nfqueue.QueueLength / 2
	for part := range slices.Chunk(frames, waiting) {
		want := c.judge.asked.Load() + int64(len(part))
		begin := processTime(t)
		c.blast(t, part)
		for end := time.Now().Add(markerTime); c.judge.asked.Load() < want; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatalf("%d of %d packets were never asked about", want-c.judge.asked.Load(), len(part))
			}
		}
		took += processTime(t) - begin
	}
	return took
}

// settled returns the counters when nothing is on its way any more.
func (c *contender) settled(t *testing.T) [3]int {
	for last := c.counters(t); ; {
		time.Sleep(20 * time.Millisecond)
		now := c.counters(t)
		if now == last {
			return now
		}
		last = now
	}
}

func (c *contender) counters(t *testing.T) (list [3]int) {
	c.gw.Do(t, func() {
		for i := range list {
			link, err := netlink.LinkByName(fmt.Sprint("wan", i))
			if err != nil {
				t.Error(err)
				return
			}
			list[i] = int(link.Attrs().Statistics.TxPackets)
		}
	})
	return list
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// blast sends all frames on one processor, where the kernel also routes them, and
// returns how long that took.
func (c *contender) blast(t *testing.T, frames [][]byte) time.Duration {
	const batch = 64
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back := c.l.oneCPU()
	defer back()
	iov := make([]unix.Iovec, len(frames))
	msgs := make([]mmsghdr, len(frames))
	for i, f := range frames {
		iov[i].Base = &f[0]
		iov[i].SetLen(len(f))
		msgs[i].hdr.Iov = &iov[i]
		msgs[i].hdr.SetIovlen(1)
	}
	c.l.drain()
	begin := threadTime(t)
	for sent := 0; sent < len(msgs); {
		n := min(batch, len(msgs)-sent)
		done, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, uintptr(c.l.client), uintptr(unsafe.Pointer(&msgs[sent])), uintptr(n), 0, 0, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		sent += int(done)
	}
	took := threadTime(t) - begin
	c.l.collect(0, 0) // all are through
	return took
}

// threadTime is the processor time of this thread: what the kernel routes while it
// sends is its own, and what else the machine does is not.
func threadTime(t *testing.T) time.Duration { return clock(t, unix.CLOCK_THREAD_CPUTIME_ID) }

// processTime is that of all threads.
func processTime(t *testing.T) time.Duration { return clock(t, unix.CLOCK_PROCESS_CPUTIME_ID) }

func clock(t *testing.T, which int32) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(which, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}
