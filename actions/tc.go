package actions

import (
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// Throttled packets make a detour: a filter at the egress of each device sends
// those that the table has marked through one IFB device, whose HTB classes hold
// them back, and from there they go on to the device that they came from. The
// device's own queue stays what it is, packets without a throttle never see the
// detour, and a profile is shared by all devices.
//
// The table says which class a packet belongs to by its priority (the class id).
const (
	// TCDevice is the IFB device.
	TCDevice = "npthrottle"
	// TCMajor is the handle of the IFB's HTB qdisc ("np"): the upper half of class ids.
	TCMajor = 0x6e70
	// TCPref is the preference of our filters; by it they are told from those of others.
	TCPref = 0x6e70
	// TCOwnPref is that of the filters of TCOwn: they come before.
	TCOwnPref = TCPref - 1

	// tcBlock is how many classes a profile has for each direction. A profile for
	// everything uses one; one for each host or connection all, the first of them
	// for whoever finds no other free. 256 are a /24 of hosts; the kernel takes longer
	// for each further class of a device (512: 40 ms, 4,096: 1.3 s).
	tcBlock = 256
	// tcProfiles bounds the profiles of a policy: each has a connection label.
	tcProfiles = 31
	// TCDown is set in the class of the direction towards who opened the flow.
	TCDown = 0x8000
)

const (
	// tcBurst is how much time a class may catch up on, in the bytes of its rate: a
	// timer that comes late (a busy machine, virtual or not) must not cost rate. 20 ms
	// are 0.2 % of ten seconds.
	tcBurst = 50 // 1/50 s
	// tcQueue is how much time a class's queue holds: enough for TCP over 100 ms of
	// round trip to fill the rate, little enough that other flows of it can wait.
	tcQueue = 10 // 1/10 s
	// Bounds of both in bytes: a burst of some full frames, a queue that takes two
	// packets of the largest size (64 KiB, TSO) at any rate.
	tcMinBurst, tcMaxBurst = 8 << 10, 32 << 20
	tcMinQueue, tcMaxQueue = 128 << 10, 16 << 20
)

// TCKind is what a TCObject is.
type TCKind uint8

// The objects, in the order in which they are made.
const (
	TCIFB      TCKind = iota // Dev, an IFB device, up
	TCRoot                   // the HTB qdisc of Dev; packets of no class pass at once
	TCClasses                // Count classes of it from First on
	TCHook                   // clsact of Dev: where filters can be attached
	TCRedirect               // at Dev's egress, packets with our whole mark go through To
	TCOwn                    // at Dev's ingress, answers to throttled packets of this host's sockets go through To
)

// TCObject is one thing of traffic control. Comparable.
type TCObject struct {
	Kind  TCKind
	Dev   string
	To    string `json:",omitempty"`
	First uint32 `json:",omitempty"` // the minor number of the first class
	Count uint32 `json:",omitempty"`
	Rate  uint64 `json:",omitempty"` // of each class, bytes a second as the interface counts them
	Burst uint32 `json:",omitempty"` // bytes
	Queue uint32 `json:",omitempty"` // bytes
	Mask  uint32 `json:",omitempty"` // of the packet mark: all of it set
}

// Same reports whether both are the same object, whatever its parameters.
func (o TCObject) Same(p TCObject) bool {
	return o.Kind == p.Kind && o.Dev == p.Dev && o.First == p.First
}

// Filter is the classic BPF program of a TCRedirect: is the whole mask set in
// the packet's mark? It needs neither bpf(2) nor the `fw` filter.
func (o TCObject) Filter() [][4]uint32 {
	const (
		loadAbs, and, jumpEq, ret = 0x20, 0x54, 0x15, 0x06
		mark                      = 0xfffff000 + 20 // SKF_AD_OFF + SKF_AD_MARK
	)
	return [][4]uint32{{loadAbs, 0, 0, mark}, {and, 0, 0, o.Mask}, {jumpEq, 0, 1, o.Mask}, {ret, 0, 0, 0xffffffff}, {ret, 0, 0, 0}}
}

// String returns the command that makes the object.
func (o TCObject) String() string {
	switch o.Kind {
	case TCIFB:
		return fmt.Sprintf("ip link add name %s up txqueuelen 1000 type ifb", o.Dev)
	case TCRoot:
		return fmt.Sprintf("tc qdisc add dev %s root handle %x: htb default 0", o.Dev, TCMajor)
	case TCClasses:
		class := fmt.Sprintf("%x:%x", TCMajor, o.First)
		loop, done := "", ""
		if o.Count > 1 {
			loop, done = fmt.Sprintf("for i in $(seq %d %d); do ", o.First, o.First+o.Count-1), "; done"
			class = fmt.Sprintf("%x:$(printf %%x $i)", TCMajor)
		}
		return fmt.Sprintf("%stc class add dev %s parent %x: classid %s htb rate %dbit burst %d cburst %d && tc qdisc add dev %s parent %s bfifo limit %d%s",
			loop, o.Dev, TCMajor, class, o.Rate*8, o.Burst, o.Burst, o.Dev, class, o.Queue, done)
	case TCHook:
		return fmt.Sprintf("tc qdisc add dev %s clsact", o.Dev)
	case TCOwn:
		return fmt.Sprintf("# tc filter on %[1]s: egress pref %[2]d: bpf that remembers own connections with a class; "+
			"ingress pref %[2]d: bpf that gives their packets the class, action mirred egress redirect dev %[3]s", o.Dev, TCOwnPref, o.To)
	default:
		code := o.Filter()
		text := make([]string, 0, len(code)+1)
		text = append(text, fmt.Sprint(len(code)))
		for _, c := range code {
			text = append(text, fmt.Sprintf("%d %d %d %d", c[0], c[1], c[2], c[3]))
		}
		return fmt.Sprintf("tc filter add dev %s egress pref %d handle 1 protocol all bpf bytecode '%s' action mirred egress redirect dev %s",
			o.Dev, TCPref, strings.Join(text, ","), o.To)
	}
}

// shaping plans the objects for the policy's throttles.
func (b *builder) shaping() {
	p := b.plan
	if len(p.throttles) == 0 || b.host.NoShaping != "" {
		return
	}
	p.TC = []TCObject{{Kind: TCIFB, Dev: TCDevice}, {Kind: TCRoot, Dev: TCDevice}}
	for _, t := range p.throttles {
		for _, dir := range []struct {
			bits int64
			bit  uint32
		}{{t.Up, 0}, {t.Down, TCDown}} {
			if dir.bits > 0 {
				p.TC = append(p.TC, classes(t, dir.bits, dir.bit))
			}
		}
	}
	for _, dev := range b.shapedDevices() {
		p.TC = append(p.TC, TCObject{Kind: TCHook, Dev: dev}, TCObject{Kind: TCRedirect, Dev: dev, To: TCDevice, Mask: p.MarkMask})
		if b.host.NoOwnShaping == "" && b.outward(dev) {
			p.TC = append(p.TC, TCObject{Kind: TCOwn, Dev: dev, To: TCDevice})
		}
	}
}

func classes(t *throttle, bits int64, dir uint32) TCObject {
	rate := max(1, bits/8)
	burst := t.Burst
	if burst == 0 {
		burst = rate / tcBurst
	}
	o := TCObject{
		Kind: TCClasses, Dev: TCDevice, First: t.first() | dir, Count: 1, Rate: uint64(rate),
		Burst: uint32(min(max(burst, tcMinBurst), tcMaxBurst)),
		Queue: uint32(min(max(rate/tcQueue, tcMinQueue), tcMaxQueue)),
	}
	if t.shared() {
		o.Count = tcBlock
	}
	return o
}

// shapedDevices returns the devices by which throttled packets may leave: those of
// the policy, and those with networks.
func (b *builder) shapedDevices() []string {
	var list []string
	for i := range b.host.Links {
		l := &b.host.Links[i]
		if l.Name == "lo" || l.Name == TCDevice || l.Ingress {
			continue
		}
		if b.isUplink(l.Name) || slices.ContainsFunc(b.host.Connected, func(c Connected) bool { return c.Dev == l.Name }) ||
			slices.ContainsFunc(b.policy.Routes, func(r rules.Route) bool { return r.Dev == l.Name }) {
			list = append(list, l.Name)
		}
	}
	slices.Sort(list)
	return list
}

// outward reports whether this host's own connections are opened over the device.
func (b *builder) outward(dev string) bool {
	return b.isUplink(dev) ||
		slices.ContainsFunc(b.host.Defaults, func(d DefaultRoute) bool { return d.Dev == dev }) ||
		slices.ContainsFunc(b.policy.Routes, func(r rules.Route) bool { return r.Dev == dev })
}

// unshaped returns the devices whose place for filters others hold.
func (b *builder) unshaped() []string {
	var list []string
	for i := range b.host.Links {
		if b.host.Links[i].Ingress {
			list = append(list, b.host.Links[i].Name)
		}
	}
	slices.Sort(list)
	return list
}

// diffTC returns what to make, and what to remove afterwards. Classes whose
// parameters change are made anew in place.
func diffTC(o, n []TCObject) (add, del []Step) {
	for _, x := range n {
		if !slices.Contains(o, x) {
			add = append(add, Step{Kind: AddTC, TC: x})
		}
	}
	for _, x := range slices.Backward(o) {
		if !slices.ContainsFunc(n, x.Same) && !goesWith(o, n, x) {
			del = append(del, Step{Kind: DelTC, TC: x})
		}
	}
	return add, del
}

// goesWith reports whether x goes with its IFB, which n has no more.
func goesWith(o, n []TCObject, x TCObject) bool {
	ifb := TCObject{Kind: TCIFB, Dev: x.Dev}
	return (x.Kind == TCRoot || x.Kind == TCClasses) && slices.ContainsFunc(o, ifb.Same) && !slices.ContainsFunc(n, ifb.Same)
}
