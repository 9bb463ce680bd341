package host

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/fake"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/policyrand"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

var seedFlag = flag.Int("seed", 1, "of the random policies and packets that are sent through the kernel")

// packets is how many packets a backend is compared on.
func packets() int {
	if os.Getenv("FULL") != "" {
		return 200_000
	}
	return 5_000
}

const (
	// parts is how many worlds and maps of names each random policy sees, one
	// after the other, and perPart how many packets each of them.
	parts, perPart = 4, 50
)

// decider is one way in which this host decides flows.
type decider struct {
	name string
	// adjust changes what was drawn: the policy says which way it wants, and what
	// this way can't do is left out; nil: nothing.
	adjust func(*drawn)
	// beside starts what decides besides the kernel, when a plan has been applied,
	// and returns what ends it; nil: nothing does. now has the world and the names
	// of the moment.
	beside func(t testing.TB, p *actions.Plan, now *atomic.Pointer[moment]) (stop func())
	// late is how long to wait for what is decided beside the kernel; 0 without.
	late time.Duration
	// noFake leaves out what actions/fake makes of the same plan: it is not in the table.
	noFake bool
}

// moment is what a decision depends on besides the flow.
type moment struct {
	world *state.World
	names map[netip.Addr]flow.Names
}

// TestEquivalence sends random packets through a real gateway under random
// policies, names and worlds: what becomes of each, and the uplink by which it
// leaves, must be what the engine decides, and what the fake kernel says.
func TestEquivalence(t *testing.T) {
	equivalent(t, decider{name: "nftables"})
}

// drawn is a random policy and what is sent under it.
type drawn struct {
	policy *rules.Policy
	worlds [parts]*state.World
	names  [parts]map[netip.Addr]flow.Names
	flows  [parts][]flow.Flow
}

// draw makes a drawn. What is not in the lab is replaced: every packet is
// forwarded, and without a mark.
var draw = rapid.Custom(func(t *rapid.T) drawn {
	d := drawn{policy: policyrand.Policy(t, 10)}
	for i := range d.policy.Rules { // what is held back does not come in time
		d.policy.Rules[i].Do.Mods.Throttle = flow.Value[int]{}
	}
	if d.policy.Default != nil {
		d.policy.Default.Mods.Throttle = flow.Value[int]{}
	}
	for part := range parts {
		d.worlds[part] = policyrand.World(t)
		d.names[part] = policyrand.DNS(t)
		for range perPart {
			f := policyrand.First(t)
			if proto, _ := f.Proto.Get(); proto == 47 {
				f.Proto, f.DstPort = flow.Some(flow.UDP), flow.Some(uint16(443))
			}
			f.IfaceIn, f.Mark = flow.Some("lan0"), flow.Some(uint32(0))
			f.Process, f.ProcessPath, f.Cgroup, f.User = flow.Absent[string](), flow.Absent[string](), flow.Absent[string](), flow.Absent[string]()
			dst, _ := f.Dst.Get()
			f.DNS = d.names[part][dst]
			d.flows[part] = append(d.flows[part], f)
		}
	}
	return d
})

// equivalent compares a decider with the engine on as many packets as packets says.
func equivalent(t *testing.T, by decider) {
	c := &comparison{decider: by, l: newLab(t), tally: map[string]int{}}
	c.e = enforcer(t, t.TempDir())
	before := snapshot(t)
	begin := time.Now()
	policies := 0
	for ; c.sent < packets() && !t.Failed(); policies++ {
		c.policy(t, *seedFlag*1_000_000+policies)
	}
	t.Logf("equivalence: %s: %d packets under %d policies, each as the engine says, and %d second ones as the first; seed %d; %d packets a second while sending, %.1f s in all",
		by.name, c.sent, policies, c.again, *seedFlag, int(float64(c.sent+c.again)/c.busy.Seconds()), time.Since(begin).Seconds())
	c.covered(t)
	must(t, c.e.Close())
	must(t, Cleanup(context.Background(), c.e.dir))
	if after := snapshot(t); after != before {
		t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
	}
}

// comparison is one run of a decider against the engine.
type comparison struct {
	decider
	l     *lab
	e     *Enforcer
	sent  int
	again int            // second packets
	busy  time.Duration  // of sending and collecting
	tally map[string]int // packets by what had to become of them
}

// policy applies the random policy of a seed and sends its packets.
func (c *comparison) policy(t *testing.T, seed int) {
	ctx := context.Background()
	d := draw.Example(seed)
	for i := range d.policy.Uplinks {
		d.policy.Uplinks[i].Gateway = gateways(i)
	}
	if c.adjust != nil {
		c.adjust(&d)
	}
	plan := planFor(t, c.e, d.policy, d.worlds[0])
	if err := c.e.Apply(ctx, plan); err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, plan)
	}
	var kernel fake.Kernel
	if !c.noFake {
		must(t, kernel.Apply(ctx, actions.Diff(nil, plan)))
	}
	// What the last policy decided is over.
	must(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
	var now atomic.Pointer[moment]
	now.Store(&moment{d.worlds[0], d.names[0]})
	if c.beside != nil {
		defer c.beside(t, plan, &now)()
	}
	ids := sourcePorts(rand.New(rand.NewPCG(uint64(seed), 0)))
	var before pinned
	for part := range parts {
		now.Store(&moment{d.worlds[part], d.names[part]})
		var updates []actions.Update
		if part > 0 {
			updates = plan.WorldUpdates(d.worlds[part-1], d.worlds[part])
		}
		for _, a := range policyrand.Servers {
			answer, err := plan.Answer(a, d.names[part][a], time.Minute)
			must(t, err)
			updates = append(updates, answer...)
		}
		must(t, c.e.Update(ctx, updates))
		if !c.noFake {
			must(t, kernel.Update(ctx, updates))
		}
		for i, got := range c.send(before.flows, before.ids) {
			if c.again++; got != before.went[i] {
				t.Errorf("seed %d, part %d: the second packet of flow %s\n%s: %+v, want %+v", seed, part, before.flows[i], c.name, got, before.went[i])
			}
		}
		before = pinned{}
		flows, ids := d.flows[part], ids[part*perPart:][:perPart]
		for i, got := range c.send(flows, ids) {
			f := &flows[i]
			dec := plan.Program().Decide(f, d.worlds[part])
			want := outcome(d.policy, f, &dec)
			c.sent++
			c.tally[describe(f, want)]++
			model := want
			if !c.noFake {
				model = modelled(&kernel, f)
			}
			if got != want || model != want {
				t.Errorf("seed %d, part %d, packet %d: flow %s\nworld %+v\ndecision %+v\n%s: %+v, the fake kernel: %+v, want %+v",
					seed, part, i, f, d.worlds[part], dec, c.name, got, model, want)
			}
			if want.dev != "" && dec.Kind != rules.ActNone {
				before.add(f, ids[i], want)
			}
		}
	}
	if t.Failed() {
		t.Log(snapshot(t))
	}
}

// send sends packets and returns what became of each.
func (c *comparison) send(flows []flow.Flow, ids []uint16) []seen {
	start := time.Now()
	defer func() { c.busy += time.Since(start) }()
	return c.l.burst(flows, ids, c.late)
}

// pinned are flows that were given a route, which they keep whatever the world
// and the names become.
type pinned struct {
	flows []flow.Flow
	ids   []uint16
	went  []seen
}

func (p *pinned) add(f *flow.Flow, id uint16, went seen) {
	p.flows, p.ids, p.went = append(p.flows, *f), append(p.ids, id), append(p.went, went)
}

// covered prints what had to become of the packets: each protocol must have been
// decided in both families, and everything must have become of some.
func (c *comparison) covered(t *testing.T) {
	whats := []string{"wan0", "wan1", "wan2", "reject", "drop"}
	all := map[string]int{}
	for _, proto := range []string{"tcp", "udp", "icmp"} {
		var of []string
		for _, what := range whats {
			n4, n6 := c.tally[proto+" 4 "+what], c.tally[proto+" 6 "+what]
			of = append(of, fmt.Sprintf("%s %d + %d", what, n4, n6))
			all[what] += n4 + n6
			all[proto+" 4"] += n4
			all[proto+" 6"] += n6
		}
		t.Logf("%s (IPv4 + IPv6): %s", proto, strings.Join(of, ", "))
	}
	for _, what := range append(whats, "tcp 4", "tcp 6", "udp 4", "udp 6", "icmp 4", "icmp 6") {
		if all[what] == 0 {
			t.Errorf("no packet for %s", what)
		}
	}
}

// sourcePorts are a different port for each packet of a policy.
func sourcePorts(rnd *rand.Rand) []uint16 {
	ports := make([]uint16, 0, parts*perPart)
	taken := map[uint16]bool{0: true}
	for len(ports) < cap(ports) {
		if p := uint16(rnd.Uint32()); !taken[p] {
			taken[p] = true
			ports = append(ports, p)
		}
	}
	return ports
}

// describe sorts packets by what must become of them.
func describe(f *flow.Flow, s seen) string {
	proto, _ := f.Proto.Get()
	src, _ := f.Src.Get()
	name, family, what := "icmp", "4", s.dev
	switch proto {
	case flow.TCP:
		name = "tcp"
	case flow.UDP:
		name = "udp"
	}
	if src.Is6() {
		family = "6"
	}
	switch {
	case s.reject:
		what = "reject"
	case s.dev == "":
		what = "drop"
	}
	return name + " " + family + " " + what
}

// modelled is what the fake kernel makes of a flow's first packet.
func modelled(k *fake.Kernel, f *flow.Flow) seen {
	proto, _ := f.Proto.Get()
	p := fake.Packet{Proto: uint8(proto), New: true}
	p.In, _ = f.IfaceIn.Get()
	p.Src, _ = f.Src.Get()
	p.Dst, _ = f.Dst.Get()
	p.Sport, _ = f.SrcPort.Get()
	p.Dport, _ = f.DstPort.Get()
	p.DSCP, _ = f.DSCP.Get()
	switch r := k.Send(p); {
	case r.Err != nil:
		return seen{dev: r.Err.Error()}
	case r.Verdict == fake.Reject:
		return seen{reject: true}
	case r.Verdict == fake.Drop || r.Unreachable:
		return seen{}
	case r.Dev == "":
		return seen{dev: "wan0", dscp: r.DSCP} // the main table's default
	default:
		return seen{dev: r.Dev, dscp: r.DSCP}
	}
}
