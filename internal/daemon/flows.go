package daemon

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
)

// maxFlows bounds the flows that are followed: the kernel's own default for
// nf_conntrack_max on a machine with 2 GiB, about 40 MiB here. Beyond it new
// flows are decided and recorded once, and not followed.
const maxFlows = 65536

// flowKey identifies a connection: its addresses in the direction of who opened it.
type flowKey struct {
	proto    flow.Proto
	src, dst netip.AddrPort // port 0 where the protocol has none
}

// keyOf returns the flow's key; ok is false when its addresses are not known.
func keyOf(f *flow.Flow) (k flowKey, ok bool) {
	proto, okProto := f.Proto.Get()
	src, okSrc := f.Src.Get()
	dst, okDst := f.Dst.Get()
	if !okProto || !okSrc || !okDst {
		return flowKey{}, false
	}
	sport, _ := f.SrcPort.Get()
	dport, _ := f.DstPort.Get()
	return flowKey{proto, netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)}, true
}

// tracked is one connection that the daemon follows.
type tracked struct {
	key      flowKey
	flow     flow.Flow
	decision engine.Decision
	outcome  outcome // what it came to
	source   string  // who saw it first
	// route is the concrete route whose id the kernel put into the conntrack
	// mark, -1 when it is not known.
	route   int
	mark    uint32    // the conntrack mark last seen
	blocked bool      // its mark says blocked
	killed  bool      // and that by hand, whatever is decided
	before  uint32    // the mark that it had then
	loose   bool      // only its name was seen, see core.loose
	asked   bool      // its `failover` decision was carried out
	carried uint64    // bytes that quotas have counted
	began   time.Time // zero: before the daemon, nobody knows when
	logRule string    // the rule under whose name the kernel logged it
	n       uint64    // the flow's ID as a number
	place   int       // in core.roster
	traffic traffic
}

// learn adds what other knows to f: a known fact beats one known to be absent,
// which beats one not known; of two known facts the newer one counts.
func learn(f, other *flow.Flow) {
	take(&f.Proto, other.Proto)
	take(&f.Src, other.Src)
	take(&f.Dst, other.Dst)
	take(&f.SrcPort, other.SrcPort)
	take(&f.DstPort, other.DstPort)
	take(&f.SNI, other.SNI)
	take(&f.HTTPHost, other.HTTPHost)
	take(&f.Domain, other.Domain)
	take(&f.Process, other.Process)
	take(&f.ProcessPath, other.ProcessPath)
	take(&f.User, other.User)
	take(&f.Cgroup, other.Cgroup)
	take(&f.Group, other.Group)
	take(&f.IfaceIn, other.IfaceIn)
	take(&f.IfaceOut, other.IfaceOut)
	take(&f.SrcMAC, other.SrcMAC)
	take(&f.App, other.App)
	take(&f.ALPN, other.ALPN)
	take(&f.Country, other.Country)
	take(&f.ASN, other.ASN)
	take(&f.ConnBytes, other.ConnBytes)
	take(&f.ConnAge, other.ConnAge)
	take(&f.DSCP, other.DSCP)
	take(&f.Mark, other.Mark)
	take(&f.RTT, other.RTT)
	take(&f.Latency, other.Latency)
	take(&f.ErrorRate, other.ErrorRate)
}

func take[T comparable](into *flow.Value[T], from flow.Value[T]) {
	if from.Status() >= into.Status() && !from.Unknown() {
		*into = from
	}
}

// FlowTable gathers what events tell of the connections now alive, for a look
// at them without a daemon. The zero FlowTable is empty. It holds at most
// maxFlows connections.
type FlowTable struct{ flows map[flowKey]flow.Flow }

// Observe takes one event.
func (t *FlowTable) Observe(e *inspector.Event) {
	k, ok := keyOf(&e.Flow)
	if !ok || e.Kind == inspector.Answered || e.Kind == inspector.Logged || beyondPolicy(k.dst.Addr()) {
		return
	}
	if e.Kind == inspector.Close {
		delete(t.flows, k)
		return
	}
	if t.flows == nil {
		t.flows = map[flowKey]flow.Flow{}
	}
	f, known := t.flows[k]
	if !known && len(t.flows) >= maxFlows {
		return
	}
	learn(&f, &e.Flow)
	t.flows[k] = f
}

// Flows returns the connections, ordered by protocol and addresses.
func (t *FlowTable) Flows() []flow.Flow {
	var list []flow.Flow
	for _, k := range slices.SortedFunc(maps.Keys(t.flows), compareKeys) {
		list = append(list, t.flows[k])
	}
	return list
}

// known returns the flows that are followed.
func (c *core) known() FlowTable {
	t := FlowTable{make(map[flowKey]flow.Flow, len(c.flows))}
	for k, f := range c.flows {
		t.flows[k] = f.flow
	}
	return t
}

// beyondPolicy reports destinations that no policy is about: this host, its
// link, and many at once.
func beyondPolicy(dst netip.Addr) bool {
	return dst.IsLoopback() || dst.IsMulticast() || dst.IsUnspecified() || dst.IsLinkLocalUnicast() ||
		dst == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
