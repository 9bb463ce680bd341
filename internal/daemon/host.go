package daemon

import (
	"context"
	"net/netip"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/tunnels"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
	"netpolicy.dev/netpolicy/xray/process"
)

// Host reads the host and watches it. Its methods are called from one goroutine each.
type Host interface {
	// ReadHost returns the links, addresses and routes as they are now.
	ReadHost(context.Context) (*actions.Host, error)
	// Watch calls changed after links, addresses or main routes changed, until
	// ctx ends. changed does not block.
	Watch(ctx context.Context, changed func()) error
}

// Kernel brings a plan about. Apply and Update are called from one goroutine.
type Kernel interface {
	// Check tries a plan without any effect: a dry apply.
	Check(context.Context, *actions.Plan) error
	// Apply makes the host equal the plan, whatever was there of ours. On an
	// error the former plan is in place again.
	Apply(context.Context, *actions.Plan) error
	// Update changes elements of the plan that was applied last.
	Update(context.Context, []actions.Update) error
}

// Verifier looks whether a plan's table, rules and routes are still there: other
// programs flush what is not theirs. It is called from the kernel's goroutine.
type Verifier interface {
	Verify(context.Context, *actions.Plan) error
}

// ReadBack is what a Verifier may do besides: compare the whole of a plan with what
// the kernel has. It is called from the kernel's goroutine after a change was
// taken back, and may take its time.
type ReadBack interface {
	ReadBack(context.Context, *actions.Plan) error
}

// Refuser refuses connections of local programs as they are made. It is called from
// the kernel's goroutine, after the table was changed. An error says why they are not refused; the table blocks them then.
type Refuser interface {
	Enforce(*actions.Connect) error
}

// Connections changes live connections. Its methods are called from one goroutine.
type Connections interface {
	// SetMark changes the bits under mask of a connection's mark.
	SetMark(ctx context.Context, c Connection, value, mask uint32) error
	// Forget removes conntrack entries, so that the next packet is decided anew.
	Forget(ctx context.Context, list []Connection) error
}

// Connection names a live connection, in the direction of who opened it.
type Connection struct {
	Proto    uint8
	Src, Dst netip.AddrPort
}

// Parts are what the daemon is wired from. Every field must be set unless it
// says otherwise; with --observe Kernel, Verifier and Connections are not used.
type Parts struct {
	Host        Host
	Kernel      Kernel
	Verifier    Verifier // nil: nothing is verified
	Drift       Drift    // nil: changes by others are noticed by the Verifier alone
	Connections Connections
	Sources     []inspector.Source
	// Probe measures the policy's uplinks until ctx ends. The plan says which
	// packet marks lead over them; nil where nothing is enforced. emit blocks
	// while the loop is busy. nil measures nothing.
	Probe func(ctx context.Context, p *rules.Policy, plan *actions.Plan, now func() time.Duration, emit func(state.Round)) error
	// Proxies are those of routes via xray beside the files that policies name; nil: none.
	Proxies tunnels.Source
	// XrayOutput is what Xray prints into; nil makes one when it is needed.
	XrayOutput *process.Output
	// TrialOutput is what an Xray prints into that tries a link; likewise.
	TrialOutput *process.Output
	// Queue answers the kernel's questions of `enforce: consult` and `hello: hold`;
	// nil: nobody does, the table decides, and hellos are watched.
	Queue Queue
	// Refuser refuses local programs what is certain to be blocked while they connect;
	// nil: the table alone blocks.
	Refuser Refuser
	// WatchFile calls changed after the file at path was written, replaced or made, until ctx
	// ends; nil: as the kernel tells it.
	WatchFile func(ctx context.Context, path string, changed func()) error
	// Now is the logical clock: a time since boot that counts sleep, so that it
	// goes on over a restart of the daemon.
	Now func() time.Duration
	// Boot is this boot's id.
	Boot string
	// FirstFlow is what the ids of flows are counted from. By chance it is another one in each
	// run, so that an id of a former run names no flow of this one.
	FirstFlow uint64
	// Accounting reports whether the kernel counts the bytes of connections; nil: it
	// does. Without it quotas and conn.bytes stay at nothing, and the daemon says so.
	Accounting func() bool
	// Programs reports whether the programs behind other users' sockets can be seen;
	// nil: they can. Without it rules on programs hold for few, and the daemon says so.
	Programs func() bool
	// Counters returns the bytes that a device has received and sent; nil: they are not known.
	Counters func(dev string) (rx, tx uint64, err error)
	// Previous is the plan that a former run left in the kernel, nil for none:
	// its numbers are kept.
	Previous *actions.Plan
}

// planMarks reads conntrack marks by a plan.
type planMarks struct {
	plan   *actions.Plan // for AnswerCode and HelloCode alone
	mask   uint32
	routes map[uint32]int // masked mark -> concrete route
	marks  map[int]uint32
	block  uint32
	reject uint32
}

func marksOf(p *actions.Plan, policy *rules.Policy) planMarks {
	m := planMarks{
		plan: p, mask: p.CTMask, routes: map[uint32]int{}, marks: map[int]uint32{},
		block: p.BlockMark(false), reject: p.BlockMark(true),
	}
	for i := range policy.Routes {
		if v, ok := p.CTMark(i); ok {
			m.routes[v], m.marks[i] = i, v
		}
	}
	return m
}

// RouteOf returns the concrete route that the mark holds, -1 for none.
func (m planMarks) RouteOf(mark uint32) int {
	if r, ok := m.routes[mark&m.mask]; ok {
		return r
	}
	return -1
}

// MarkOf returns the mark of flows with this decision; 0 for those without a route.
func (m planMarks) MarkOf(d *engine.Decision) (value, mask uint32) {
	switch {
	case d.Blocked() && d.Reject:
		return m.reject, m.mask
	case d.Blocked():
		return m.block, m.mask
	default:
		return m.marks[d.Route], m.mask
	}
}

// AnswerCode returns the answer of this decision when the kernel asks.
func (m planMarks) AnswerCode(d *engine.Decision) (code uint32, drop bool) {
	return m.plan.AnswerCode(d)
}

// HelloCode returns the answer of this decision for a packet that is held.
func (m planMarks) HelloCode(d *engine.Decision) uint32 { return m.plan.HelloCode(d) }

// IsBlocked reports whether the mark is one of a blocked flow.
func (m planMarks) IsBlocked(mark uint32) bool {
	v := mark & m.mask
	return v != 0 && (v == m.block || v == m.reject)
}

// noMarks is for --observe: nothing is marked.
type noMarks struct{}

func (noMarks) RouteOf(uint32) int                                   { return -1 }
func (noMarks) MarkOf(*engine.Decision) (uint32, uint32)             { return 0, 0 }
func (noMarks) AnswerCode(*engine.Decision) (code uint32, drop bool) { return 0, false }
func (noMarks) HelloCode(*engine.Decision) uint32                    { return 0 }
func (noMarks) IsBlocked(uint32) bool                                { return false }
