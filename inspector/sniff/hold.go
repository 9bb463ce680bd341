package sniff

import (
	"net/netip"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/first"
	"netpolicy.dev/netpolicy/inspector/packet"
)

const (
	// HoldTime is how long packets wait at most for the rest of their hello. What
	// is not there by then counts as absent (language.md, 4).
	HoldTime = 300 * time.Millisecond
	// MaxHolding flows are kept at a time: those that wait, and those that were
	// decided within the last HoldTime. Some 20,000 new flows a second.
	MaxHolding = 8192
	// MaxHeld packets of one flow wait; then the oldest is let go, and the hello at
	// the far end still lacks those behind it. They are fewer than a client sends
	// before it hears anything (10 segments, RFC 6928), so it never gets stuck.
	MaxHeld = 8
)

// Judge decides a flow by what its client has said. final is true when nothing
// more will be known; otherwise it may wait for more, with decided false.
type Judge func(f *flow.Flow, x first.Facts, final bool) (answer uint32, decided bool)

// Release is the answer for one packet, by the number that its owner gave it.
type Release struct{ ID, Answer uint32 }

// Holder keeps the first packets that clients send back until what they say is
// known and judged. Packets of a flow are let go in the order in which they came.
// It is pure, and for one goroutine. Make one with NewHolder.
type Holder struct {
	// Again is the answer for packets that say nothing: the flow's next one is to be
	// held, too. Full is for those of flows beyond the bounds, whose first packet does
	// not say enough.
	Again, Full uint32
	Counters    *HoldCounters // of this one, or of several together

	judge    Judge
	flows    map[holdKey]*holding
	order    []holdDue // by due
	buffered int
	waiting  int // flows that have not been answered
	reader   first.Reader
	out      []Release
}

// HoldCounters say what Holders did. They may be read at any time.
type HoldCounters struct {
	Late atomic.Uint64 // flows judged because their time was over
	Full atomic.Uint64 // packets beyond the bounds
	Let  atomic.Uint64 // packets let go before their flow was judged: see MaxHeld
}

type holdKey struct {
	proto    flow.Proto
	src, dst netip.AddrPort
}

// holding is one flow: its packets wait, or, once answered, have been let go.
type holding struct {
	flow      *flow.Flow
	ids       []uint32
	half      half
	datagrams first.Datagrams
	facts     first.Facts // so far
	answered  bool
	answer    uint32
	due       time.Time
}

// holdDue says when a flow is to be judged or forgotten, unless its due has moved.
type holdDue struct {
	key holdKey
	due time.Time
}

// NewHolder returns a Holder that asks judge.
func NewHolder(judge Judge) *Holder {
	return &Holder{Counters: &HoldCounters{}, judge: judge, flows: map[holdKey]*holding{}}
}

// Packet takes a packet from a client to a server and returns which packets, this
// one among them or not, are let go. describe is asked once for each flow. The
// result is valid until the next call.
func (h *Holder) Packet(p packet.Packet, id uint32, at time.Time, describe func() *flow.Flow) []Release {
	h.out = h.out[:0]
	h.expire(at)
	k := holdKey{p.Proto, p.Src, p.Dst}
	e := h.flows[k]
	switch {
	case e != nil && e.answered: // it was under way when the answer was given
		return h.let(id, e.answer)
	case len(p.Payload) == 0 || !p.HasPorts || p.Proto != flow.TCP && p.Proto != flow.UDP:
		return h.let(id, h.Again)
	case e == nil && len(h.flows) >= MaxHolding:
		h.Counters.Full.Add(1)
		return h.let(id, h.alone(p, describe()))
	case e == nil:
		e = &holding{flow: describe()}
		h.flows[k] = e
		h.waiting++
		h.wait(k, e, at)
	}
	e.ids = append(e.ids, id)
	x, state := h.read(e, p)
	if x != (first.Facts{}) {
		e.facts = x
	}
	switch answer, decided := h.judge(e.flow, x, state != first.More); {
	case decided || state != first.More:
		h.settle(k, e, answer, at)
	case h.buffered > MaxBuffered:
		h.Counters.Full.Add(1)
		h.late(k, e, at)
	case len(e.ids) > MaxHeld:
		h.Counters.Let.Add(1)
		h.let(e.ids[0], h.Again)
		e.ids = e.ids[1:]
	}
	return h.out
}

// alone is the answer for a packet by what it says itself: there is no room to wait
// for more.
func (h *Holder) alone(p packet.Packet, f *flow.Flow) uint32 {
	e := &holding{flow: f}
	x, state := h.read(e, p)
	h.buffered -= e.half.held() + e.datagrams.Held()
	if answer, decided := h.judge(f, x, state != first.More); decided {
		return answer
	}
	return h.Full
}

// Tick returns the packets whose time is over. Call it often enough for HoldTime.
func (h *Holder) Tick(at time.Time) []Release {
	h.out = h.out[:0]
	h.expire(at)
	return h.out
}

// Waits reports whether packets wait: only then Tick has something to do soon.
func (h *Holder) Waits() bool { return h.waiting > 0 }

// read adds the packet to what the client has said.
func (h *Holder) read(e *holding, p packet.Packet) (first.Facts, first.State) {
	if p.Proto == flow.UDP {
		before := e.datagrams.Held()
		state := e.datagrams.Write(p.Payload)
		h.buffered += e.datagrams.Held() - before
		return e.datagrams.Facts(), state
	}
	before := e.half.held()
	grew := e.half.add(p, false)
	h.buffered += e.half.held() - before
	if !grew {
		return e.facts, first.More
	}
	return h.reader.Stream(e.half.buf)
}

func (h *Holder) let(id, answer uint32) []Release {
	h.out = append(h.out, Release{id, answer})
	return h.out
}

// settle lets the flow's packets go, and remembers the answer for those that are
// under way.
func (h *Holder) settle(k holdKey, e *holding, answer uint32, at time.Time) {
	for _, id := range e.ids {
		h.let(id, answer)
	}
	h.buffered -= e.half.held() + e.datagrams.Held()
	h.waiting--
	*e = holding{answered: true, answer: answer}
	h.wait(k, e, at)
}

// late judges by what is there.
func (h *Holder) late(k holdKey, e *holding, at time.Time) {
	answer, _ := h.judge(e.flow, e.facts, true)
	h.settle(k, e, answer, at)
}

func (h *Holder) wait(k holdKey, e *holding, at time.Time) {
	e.due = at.Add(HoldTime)
	h.order = append(h.order, holdDue{k, e.due})
}

func (h *Holder) expire(at time.Time) {
	for len(h.order) > 0 && !at.Before(h.order[0].due) {
		next := h.order[0]
		h.order = h.order[1:]
		switch e := h.flows[next.key]; {
		case e == nil || !e.due.Equal(next.due):
		case e.answered:
			delete(h.flows, next.key)
		default:
			h.Counters.Late.Add(1)
			h.late(next.key, e, at)
		}
	}
}
