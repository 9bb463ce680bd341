package host

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Where the far end of the throttle lab listens.
const far4, far6 = "192.0.2.2", "2001:db8:f::2"

// house is a gateway with three hosts, each on a device of its own, and a far
// end behind its uplink. The test's thread is in the gateway. Large packets are
// cut up before they leave by a device of the gateway (no TSO): what such a device
// counts are the bytes of a wire.
type house struct {
	t       testing.TB
	gw, far *nstest.NS
	hosts   [3]*nstest.NS
	// counters reads the counters of the far end.
	counters *nftables.Conn
}

func newHouse(t testing.TB) *house {
	needRoot(t)
	h := &house{t: t, gw: nstest.New(t), far: nstest.New(t)}
	all := []*nstest.NS{h.gw, h.far}
	for i := range h.hosts {
		h.hosts[i] = nstest.New(t)
		all = append(all, h.hosts[i])
	}
	for _, ns := range all {
		// A TCP that fills the queue: what is measured is the throttle, not a sender's model of the line.
		ns.Run(t, "", "sh", "-ec", `sysctl -qw net.ipv4.conf.all.rp_filter=0
sysctl -qw net.ipv4.tcp_congestion_control=cubic 2>/dev/null || sysctl -qw net.ipv4.tcp_congestion_control=reno`)
	}
	link := func(dev string, b *nstest.NS, addrs, addrsB, via4, via6 string) {
		nstest.Link(t, h.gw, dev, b, "eth0", addrs, addrsB)
		h.tso(h.gw, dev, false)
		b.Run(t, "", "ip", "route", "add", "default", "via", via4)
		b.Run(t, "", "ip", "-6", "route", "add", "default", "via", via6)
	}
	for i, ns := range h.hosts {
		n := i + 1
		link(fmt.Sprint("lan", n), ns, fmt.Sprintf("10.0.%[1]d.1/24 2001:db8:%[1]d::1/64", n), fmt.Sprintf("10.0.%[1]d.2/24 2001:db8:%[1]d::2/64", n),
			fmt.Sprintf("10.0.%d.1", n), fmt.Sprintf("2001:db8:%d::1", n))
	}
	link("wan1", h.far, "192.0.2.1/24 2001:db8:f::1/64", far4+"/24 "+far6+"/64", "192.0.2.1", "2001:db8:f::1")
	h.gw.Run(t, "", "sh", "-ec", `ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8:f::2
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`)
	(&lab{t: t, namespaces: all}).waitUp()
	h.gw.Enter(t)
	return h
}

// tso turns a device's segmentation offload on or off.
func (h *house) tso(ns *nstest.NS, dev string, on bool) {
	h.t.Helper()
	ns.Do(h.t, func() { setTSO(h.t, dev, on) })
}

func setTSO(t testing.TB, dev string, on bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	value := [2]uint32{unix.ETHTOOL_STSO, 0} // struct ethtool_value
	if on {
		value[1] = 1
	}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data *[2]uint32
		_    [16]byte
	}
	copy(request.name[:], dev)
	request.data = &value
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatalf("turn TSO of %s to %t: %v", dev, on, errno)
	}
}

// serve listens at the far end: a client that begins with 'd' is sent to
// without end, what another sends is read.
func (h *house) serve(ports ...int) {
	var group sync.WaitGroup
	var mu sync.Mutex
	var open []io.Closer
	keep := func(c io.Closer) { mu.Lock(); open = append(open, c); mu.Unlock() }
	h.far.Do(h.t, func() {
		for _, p := range ports {
			for _, addr := range []string{far4, far6} {
				l, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(p)))
				must(h.t, err)
				keep(l)
				group.Go(func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						keep(c)
						group.Go(func() { pump(c) })
					}
				})
			}
		}
	})
	h.t.Cleanup(func() {
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		group.Wait()
	})
}

func pump(c net.Conn) {
	buf := make([]byte, 64<<10)
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return
	}
	if buf[0] == 'd' {
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}
	_, _ = io.Copy(io.Discard, c)
}

// stream opens a connection from the namespace to the far end and keeps it busy
// in one direction until stop is called.
func (h *house) stream(ns *nstest.NS, addr string, port int, down bool) (stop func()) {
	h.t.Helper()
	var c net.Conn
	ns.Do(h.t, func() {
		var err error
		c, err = net.DialTimeout("tcp", net.JoinHostPort(addr, strconv.Itoa(port)), 5*time.Second)
		must(h.t, err)
	})
	must(h.t, c.(*net.TCPConn).SetLinger(0)) // what is not sent yet is not to trouble the next measurement
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		buf[0] = 'u'
		if down {
			_, _ = c.Write([]byte{'d'})
			_, _ = io.Copy(io.Discard, c)
			return
		}
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	return func() { _ = c.Close(); <-done }
}

// seconds is how long a rate is measured, after a second to settle.
func seconds() time.Duration {
	if os.Getenv("FULL") != "" {
		return 10 * time.Second
	}
	return 2 * time.Second
}

// meter reads a number of bytes.
type meter struct {
	name string
	read func() uint64
}

// device counts what a device of a namespace has sent.
func (h *house) device(ns *nstest.NS, dev string) meter {
	handle := h.in(ns)
	return meter{dev, func() uint64 {
		link, err := handle.LinkByName(dev)
		must(h.t, err)
		return link.Attrs().Statistics.TxBytes
	}}
}

// in opens a netlink socket in the namespace.
func (h *house) in(ns *nstest.NS) *netlink.Handle {
	h.t.Helper()
	var handle *netlink.Handle
	var err error
	ns.Do(h.t, func() { handle, err = netlink.NewHandle() })
	must(h.t, err)
	h.t.Cleanup(handle.Close)
	return handle
}

// lans counts what the gateway has sent to all hosts.
func (h *house) lans() meter {
	list := []meter{h.device(h.gw, "lan1"), h.device(h.gw, "lan2"), h.device(h.gw, "lan3")}
	return meter{"all lan devices", func() uint64 { return list[0].read() + list[1].read() + list[2].read() }}
}

// source counts the frames from an address that come to the far end.
func (h *house) source(addr string) meter {
	object := &nftables.CounterObj{Table: &nftables.Table{Name: "count", Family: nftables.TableFamilyINet}, Name: counter(addr)}
	return meter{"from " + addr, func() uint64 {
		got, err := h.counters.GetObject(object)
		must(h.t, err)
		c := got.(*nftables.CounterObj)
		return c.Bytes + 14*c.Packets // Ethernet headers
	}}
}

// counter names the counter of an address.
func counter(addr string) string { return "c_" + strings.NewReplacer(".", "_", ":", "_").Replace(addr) }

// count makes the far end count by source.
func (h *house) count(addrs ...string) {
	var objects, rules strings.Builder
	for _, a := range addrs {
		family := "ip"
		if strings.Contains(a, ":") {
			family = "ip6"
		}
		fmt.Fprintf(&objects, "counter %s {}\n", counter(a))
		fmt.Fprintf(&rules, "%s saddr %s counter name %s;\n", family, a, counter(a))
	}
	h.far.Run(h.t, fmt.Sprintf("table inet count {\n%schain in {\ntype filter hook prerouting priority -300;\n%s}\n}\n", objects.String(), rules.String()), "nft", "-f", "-")
	var err error
	h.far.Do(h.t, func() { h.counters, err = nftables.New(nftables.AsLasting()) })
	must(h.t, err)
	h.t.Cleanup(func() { _ = h.counters.CloseLasting() })
}

// allowed is how far a rate may be off, in percent.
const allowed = 5

// tries is how often a rate is measured before it counts as off: a machine that
// is busy with other things takes the processor from both ends.
const tries = 20

// within measures all meters at once, until each has been near enough to the
// asked rate, in bits a second, and reports those that never were.
func (h *house) within(what string, asked float64, meters ...meter) {
	h.t.Helper()
	time.Sleep(time.Second)
	off := make([]float64, len(meters))
	for range tries {
		if !h.measure(what, asked, meters, off) {
			return
		}
	}
	for i, m := range meters {
		if math.Abs(off[i]) > allowed {
			h.t.Errorf("%s, %s: off by %+.2f %%, allowed are %d", what, m.name, off[i], allowed)
		}
	}
}

// measure notes how far each meter is off, and whether one is too far.
func (h *house) measure(what string, asked float64, meters []meter, off []float64) (bad bool) {
	first, at := make([]uint64, len(meters)), make([]time.Time, len(meters))
	for i, m := range meters {
		first[i], at[i] = read(m)
	}
	time.Sleep(seconds())
	for i, m := range meters {
		bytes, now := read(m)
		took := now.Sub(at[i])
		seen := float64(bytes-first[i]) * 8 / took.Seconds()
		off[i] = (seen/asked - 1) * 100
		bad = bad || math.Abs(off[i]) > allowed
		h.t.Logf("%-28s %-20s asked %7.3f Mbit/s, seen %7.3f over %.1f s: %+.2f %%", what, m.name, asked/1e6, seen/1e6, took.Seconds(), off[i])
	}
	return bad
}

// read reads a meter, quickly enough to say when.
func read(m meter) (uint64, time.Time) {
	for {
		began := time.Now()
		n := m.read()
		if took := time.Since(began); took < 2*time.Millisecond {
			return n, began.Add(took / 2)
		}
	}
}

// slow is a policy that throttles by port: 5002, 5020 and 5100 for each host,
// 6020 for all together, 7020 for each connection; 8000 is as it is.
func slow() *rules.Policy {
	rate := func(name, per string, mbit int64) rules.Throttle {
		return rules.Throttle{Name: name, Up: mbit * 1e6, Down: mbit * 1e6, Per: per}
	}
	p := &rules.Policy{
		Hash:    [32]byte{7},
		Uplinks: []rules.Uplink{{Name: "wan1", Dev: "wan1"}},
		Routes:  []rules.Route{{Name: "direct", Kind: rules.RouteMain}, {Name: "one", Kind: rules.RouteUplink}},
		Throttles: []rules.Throttle{
			rate("h2", "host", 2), rate("h20", "host", 20), rate("h100", "host", 100), rate("a20", "all", 20), rate("c20", "conn", 20),
		},
		Default: &rules.Outcome{Kind: rules.ActRoute, Route: 1},
	}
	for i, port := range []uint16{5002, 5020, 5100, 6020, 7020} {
		do := rules.Outcome{Mods: rules.Modifiers{Throttle: flow.Some(i)}}
		if i%2 == 0 {
			do.Kind, do.Route = rules.ActRoute, 1
		}
		p.Rules = append(p.Rules, rules.Rule{
			Name: fmt.Sprint("port", port), Priority: 10 - i, Active: state.AllStates, Do: do,
			Match: rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldPort, Ports: []rules.PortRange{{Lo: port, Hi: port}}}},
		})
	}
	return p
}

func (h *house) addr(i int, v6 bool) string {
	if v6 {
		return fmt.Sprintf("2001:db8:%d::2", i+1)
	}
	return fmt.Sprintf("10.0.%d.2", i+1)
}

func far(v6 bool) string {
	if v6 {
		return far6
	}
	return far4
}

// TestThrottle measures real TCP through a real gateway.
func TestThrottle(t *testing.T) {
	h := newHouse(t)
	before := snapshot(t) + sh(t, "tc qdisc; ip -o link | cut -d: -f2")
	e := enforcer(t, t.TempDir())
	plan := planFor(t, e, slow(), nil)
	began := time.Now()
	must(t, e.Apply(context.Background(), plan))
	t.Logf("applied in %v", time.Since(began).Round(time.Millisecond))
	h.serve(5002, 5020, 5100, 6020, 7020, 8000)
	var addrs []string
	for i := range h.hosts {
		addrs = append(addrs, h.addr(i, false), h.addr(i, true))
	}
	h.count(append(addrs, "192.0.2.1", "2001:db8:f::1")...)

	for _, down := range []bool{false, true} {
		for _, v6 := range []bool{false, true} {
			for _, mbit := range []int{2, 20, 100} {
				h.perHost(mbit, down, v6)
			}
			h.together(down, v6)
			h.own(down, v6)
		}
	}
	must(t, e.Close())
	must(t, Cleanup(context.Background(), e.dir))
	if after := snapshot(t) + sh(t, "tc qdisc; ip -o link | cut -d: -f2"); after != before {
		t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
	}
}

// perHost measures three hosts at once, each with a rate of its own.
func (h *house) perHost(mbit int, down, v6 bool) {
	h.t.Helper()
	var meters []meter
	for i, ns := range h.hosts {
		defer h.stream(ns, far(v6), 5000+mbit, down)()
		if down {
			meters = append(meters, h.device(h.gw, fmt.Sprint("lan", i+1)))
		} else {
			meters = append(meters, h.source(h.addr(i, v6)))
		}
	}
	h.within(way(down)+" per host "+family(v6), float64(mbit)*1e6, meters...)
}

// together measures three hosts that share a rate, and two connections of which
// each has one.
func (h *house) together(down, v6 bool) {
	h.t.Helper()
	all, one := h.device(h.gw, "wan1"), h.device(h.gw, "wan1")
	if down {
		all, one = h.lans(), h.device(h.gw, "lan1")
	}
	var stops []func()
	for _, ns := range h.hosts {
		stops = append(stops, h.stream(ns, far(v6), 6020, down))
	}
	h.within(way(down)+" of all "+family(v6), 20e6, all)
	for _, stop := range stops {
		stop()
	}
	defer h.stream(h.hosts[0], far(v6), 7020, down)()
	defer h.stream(h.hosts[0], far(v6), 7020, down)()
	h.within(way(down)+" of two connections "+family(v6), 40e6, one)
}

// own measures a connection of the gateway's own. What it receives is counted
// where it is sent, with what is dropped on the way.
func (h *house) own(down, v6 bool) {
	h.t.Helper()
	count := h.device(h.gw, "wan1")
	if down {
		count = h.device(h.far, "eth0")
		h.tso(h.far, "eth0", false)
		defer h.tso(h.far, "eth0", true)
	}
	defer h.stream(h.gw, far(v6), 6020, down)()
	h.within(way(down)+" of the gateway "+family(v6), 20e6, count)
}

func way(down bool) string {
	if down {
		return "down"
	}
	return "up"
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// loose is how far above its rate a limit may be, in percent: nft counts neither
// Ethernet headers nor, of large packets, all of IP's and TCP's, and a second's worth
// may be saved up.
const loose = 15

// TestThrottleLimits measures what a kernel does that can't shape.
func TestThrottleLimits(t *testing.T) {
	h := newHouse(t)
	e := enforcer(t, t.TempDir())
	host, err := e.ReadHost()
	must(t, err)
	host.NoShaping = "the test says so"
	plan, diags := actions.PlanFor(engine.Compile(slow()), host, nil, nil)
	if plan == nil {
		t.Fatal(diags)
	}
	must(t, e.Apply(context.Background(), plan))
	h.serve(5002, 5020, 5100, 6020, 7020)
	h.count(h.addr(0, false), h.addr(0, true))
	for _, v6 := range []bool{false, true} {
		for _, port := range []int{5002, 5020, 5100, 6020, 7020} {
			for _, down := range []bool{false, true} {
				mbit := float64(port % 1000)
				if mbit == 0 {
					mbit = 100
				}
				count := h.source(h.addr(0, v6))
				if down {
					count = h.device(h.gw, "lan1")
				}
				stop := h.stream(h.hosts[0], far(v6), port, down)
				time.Sleep(time.Second)
				off := []float64{loose + 1} // what is saved up while the sender stands still comes on top
				for n := 0; n < tries && off[0] > loose; n++ {
					h.measure(fmt.Sprint(way(down), " limited ", port, " ", family(v6)), mbit*1e6, []meter{count}, off)
				}
				if off[0] > loose {
					t.Errorf("%s, port %d, %s: off by %+.2f %%", way(down), port, family(v6), off[0])
				}
				stop()
			}
		}
		stop := h.stream(h.gw, far(v6), 6020, true)
		time.Sleep(time.Second)
		h.tso(h.far, "eth0", false)
		h.measure("down limited, the gateway "+family(v6), 20e6, []meter{h.device(h.far, "eth0")}, []float64{0})
		stop()
	}
}

// control is the machine's traffic control as people read it.
func control(t testing.TB) string {
	t.Helper()
	return snapshot(t) + sh(t, `ip -o link | cut -d: -f2
for d in lan1 lan2 lan3 wan1; do tc qdisc show dev $d; tc filter show dev $d egress; tc filter show dev $d ingress; done`)
}

// TestThrottleForeign: what others have made on the devices is used, or left
// alone, and is there afterwards.
func TestThrottleForeign(t *testing.T) {
	newHouse(t)
	sh(t, `tc qdisc add dev lan1 root tbf rate 500mbit burst 1mb latency 50ms
tc qdisc add dev lan2 clsact
tc filter add dev lan2 egress pref 7 protocol ip u32 match ip dst 203.0.113.9/32 flowid 1:1
tc qdisc add dev lan3 ingress
tc qdisc add dev wan1 clsact`)
	before := control(t)
	e := enforcer(t, t.TempDir())
	ctx := context.Background()
	h, err := e.ReadHost()
	must(t, err)
	if h.NoShaping != "" || h.NoOwnShaping != "" {
		t.Fatalf("the kernel lacks something: %q, %q", h.NoShaping, h.NoOwnShaping)
	}
	plan := planFor(t, e, slow(), nil)
	must(t, e.Apply(ctx, plan))
	after := control(t)
	for _, line := range []string{"qdisc tbf", "match cb007109/ffffffff", "qdisc ingress ffff: parent ffff:fff1", `oifname "lan3" goto police`} {
		if !strings.Contains(after, line) {
			t.Errorf("no %q in\n%s", line, after)
		}
	}
	have, err := e.tc.Have(plan.TC)
	must(t, err)
	if d := cmp.Diff(plan.TC, have); d != "" {
		t.Errorf("planned and there: %s", d)
	}
	// Somebody's filter comes to the place that we made: it stays.
	sh(t, "tc filter add dev lan1 egress pref 9 protocol ip u32 match ip dst 203.0.113.9/32 flowid 1:1")
	must(t, e.Close())
	must(t, Cleanup(ctx, e.dir))
	if left := sh(t, "tc filter show dev lan1 egress"); !strings.Contains(left, "pref 9") || strings.Contains(left, "bpf") {
		t.Errorf("left on lan1:\n%s", left)
	}
	sh(t, "tc qdisc del dev lan1 clsact")
	if after := control(t); after != before {
		t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
	}
}

// TestThrottleRepair: what is taken away comes back, a device of our name that
// somebody else made is not used.
func TestThrottleRepair(t *testing.T) {
	newHouse(t)
	p := slow()
	p.Throttles, p.Rules = p.Throttles[3:4], p.Rules[3:4]
	p.Rules[0].Do.Mods.Throttle = flow.Some(0)
	ctx := context.Background()
	e := enforcer(t, t.TempDir())
	sh(t, "ip link add npthrottle type veth peer name other0")
	plan := planFor(t, e, p, nil)
	if err := e.Apply(ctx, plan); err == nil || !strings.Contains(err.Error(), "not ours to use") {
		t.Errorf("a foreign device: %v", err)
	}
	sh(t, "ip link del npthrottle")
	before := control(t)
	must(t, e.Apply(ctx, plan))
	for _, damage := range []string{
		"ip link del npthrottle", "ip link set npthrottle down", "tc qdisc del dev npthrottle root", "tc qdisc del dev wan1 clsact",
		"tc filter del dev lan1 egress", "tc filter del dev wan1 ingress", "tc class del dev npthrottle classid 6e70:100",
		"tc class change dev npthrottle classid 6e70:100 htb rate 1gbit",
	} {
		sh(t, "%s", damage)
		have, err := e.tc.Have(plan.TC)
		must(t, err)
		if cmp.Equal(have, plan.TC) {
			t.Errorf("%s is not noticed", damage)
		}
		must(t, e.Apply(ctx, plan))
		have, err = e.tc.Have(plan.TC)
		must(t, err)
		if d := cmp.Diff(plan.TC, have); d != "" {
			t.Errorf("after %q: %s", damage, d)
		}
	}
	must(t, e.Close())
	must(t, Cleanup(ctx, e.dir))
	if after := control(t); after != before {
		t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
	}
}

// TestThrottleKilled ends the process before every single change: cleaning up
// leaves what was there before.
func TestThrottleKilled(t *testing.T) {
	newHouse(t)
	p := slow()
	p.Throttles, p.Rules = p.Throttles[3:4], p.Rules[3:4]
	p.Rules[0].Do.Mods.Throttle = flow.Some(0)
	ctx := context.Background()
	before := control(t)
	for n, done := 0, false; !done; n++ {
		e := enforcer(t, t.TempDir())
		plan := planFor(t, e, p, nil)
		left := n
		e.before = func(string) error {
			if left--; left < 0 {
				return errKilled
			}
			return nil
		}
		done = e.Apply(ctx, plan) == nil
		must(t, e.Close())
		must(t, Cleanup(ctx, e.dir))
		if after := control(t); after != before {
			t.Fatalf("killed before change %d, left behind:\n%s\nwas:\n%s", n, after, before)
		}
	}
}
