package conntrack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/inspector"
)

const (
	// subsystem is NFNL_SUBSYS_CTNETLINK, the high byte of the message type.
	subsystem = unix.NFNL_SUBSYS_CTNETLINK << 8
	// Messages of nfnetlink_conntrack.h, enum cntl_msg_types.
	msgNew    = 0
	msgGet    = 1
	msgDelete = 2
	// Multicast groups of nfnetlink.h, enum nfnetlink_groups.
	groupNew     = 1
	groupUpdate  = 2
	groupDestroy = 3

	// readBuffer holds about 20,000 events: what a busy router sees in the time
	// that a listing of a full table takes.
	readBuffer = 8 << 20
	// maxEntries bounds the table of connections by default. An entry takes
	// about 200 bytes.
	maxEntries = 65536
	// tick is how often the listing is repeated for the counters of living
	// connections, where the kernel counts.
	tick = 10 * time.Second
)

// Options says how to observe. The zero Options are the defaults.
type Options struct {
	// MaxEntries bounds the connections remembered; 0 means 65,536. Those beyond
	// it are reported, but may be reported open twice and never closed after a
	// resynchronisation.
	MaxEntries int
	// Refresh is how often bytes and packets of living connections are read; 0
	// means 10 s.
	Refresh time.Duration
	// ReadBuffer is the event socket's buffer in bytes; 0 means 8 MiB.
	ReadBuffer int
}

// Counters says what a source did. They may be read at any time.
type Counters struct {
	Events  atomic.Uint64 // messages understood
	Bad     atomic.Uint64 // messages not understood
	Resyncs atomic.Uint64 // times that events were lost, and the table listed anew
	Full    atomic.Uint64 // connections not remembered for want of room
}

// Source is an inspector.Source. Run it once at a time.
type Source struct {
	opt      Options
	Counters Counters
}

// New returns a source for the network namespace that Run is called in.
func New(opt Options) *Source {
	if opt.MaxEntries <= 0 {
		opt.MaxEntries = maxEntries
	}
	if opt.Refresh <= 0 {
		opt.Refresh = tick
	}
	if opt.ReadBuffer <= 0 {
		opt.ReadBuffer = readBuffer
	}
	return &Source{opt: opt}
}

// Name implements inspector.Source.
func (s *Source) Name() string { return "conntrack" }

// Losses implements inspector.Counted.
func (s *Source) Losses() map[string]uint64 {
	return map[string]uint64{
		"resyncs": s.Counters.Resyncs.Load(),
		"room":    s.Counters.Full.Load(),
		"bad":     s.Counters.Bad.Load(),
	}
}

// Run implements inspector.Source. It needs CAP_NET_ADMIN.
func (s *Source) Run(ctx context.Context, emit func(inspector.Event)) error {
	events, err := s.subscribe()
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }()
	lists, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netfilter netlink: %w", err)
	}
	defer func() { _ = lists.Close() }()
	// Ending ctx makes every read return at once.
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = events.SetReadDeadline(past)
		_ = lists.SetReadDeadline(past)
	})
	defer stop()

	r := &run{source: s, emit: emit, table: make(map[key]*known)}
	if err := r.list(lists); err != nil {
		return ended(ctx, err)
	}
	err = r.follow(ctx, events, lists)
	return ended(ctx, err)
}

// ended turns the error that ending ctx caused into success.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Source) subscribe() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	// Without CAP_NET_ADMIN the system's limit holds; losing events is noticed.
	_ = c.SetReadBuffer(s.opt.ReadBuffer)
	for _, g := range []uint32{groupNew, groupUpdate, groupDestroy} {
		if err := c.JoinGroup(g); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("join conntrack event group %d: %w", g, err)
		}
	}
	return c, nil
}

// known is a living connection.
type known struct {
	id    uint32
	mark  uint32
	stats inspector.Stats
	round uint64 // the last listing that held it
}

// run is the state of one Run; one goroutine owns it.
type run struct {
	source *Source
	emit   func(inspector.Event)
	table  map[key]*known
	round  uint64
	first  bool // during the first listing: what it finds was there before
	// forgotten is how many were reported open, not remembered, and not closed since.
	forgotten int
}

// follow handles events until an error. When some were lost it lists the
// table anew, which closes what is gone and opens what is new.
func (r *run) follow(ctx context.Context, events, lists *netlink.Conn) error {
	next := time.Now().Add(r.source.opt.Refresh)
	for ctx.Err() == nil {
		if err := events.SetReadDeadline(next); err != nil {
			return fmt.Errorf("set deadline for conntrack events: %w", err)
		}
		if ctx.Err() != nil { // it may have ended before that deadline replaced its own
			return nil
		}
		for m, err := range events.ReceiveIter() {
			switch {
			case err == nil:
				r.handle(m)
				continue
			case errors.Is(err, unix.ENOBUFS):
				r.source.Counters.Resyncs.Add(1)
				next = time.Now()
			case !timeout(err):
				return fmt.Errorf("receive conntrack events: %w", err)
			}
			break
		}
		if now := time.Now(); !now.Before(next) && ctx.Err() == nil {
			if err := r.list(lists); err != nil {
				return err
			}
			next = time.Now().Add(r.source.opt.Refresh)
		}
	}
	return nil
}

func timeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// list asks for the whole table. What is not in it any more is closed.
func (r *run) list(c *netlink.Conn) error {
	r.round++
	r.first = r.round == 1
	defer func() { r.first = false }()
	_, err := c.Send(netlink.Message{
		Header: netlink.Header{Type: subsystem | msgGet, Flags: netlink.Request | netlink.Dump},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return fmt.Errorf("ask for the conntrack table: %w", err)
	}
	for m, err := range c.ReceiveIter() {
		if err != nil {
			return fmt.Errorf("list the conntrack table: %w", err)
		}
		e, err := parse(m.Data)
		if err != nil {
			r.source.Counters.Bad.Add(1)
			continue
		}
		r.alive(e)
	}
	var dead []key
	for k, n := range r.table {
		if n.round != r.round {
			dead = append(dead, k)
		}
	}
	slices.SortFunc(dead, key.compare)
	for _, k := range dead {
		r.gone(k, r.table[k].mark, r.table[k].stats)
	}
	return nil
}

// handle takes one event message.
func (r *run) handle(m netlink.Message) {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_CTNETLINK {
		return
	}
	e, err := parse(m.Data)
	if err != nil {
		r.source.Counters.Bad.Add(1)
		return
	}
	r.source.Counters.Events.Add(1)
	switch m.Header.Type & 0xff {
	case msgNew:
		r.alive(e)
	case msgDelete:
		// A listing may have told of the end before the event did, and of the
		// next connection with the same addresses, whose id differs.
		if n := r.table[e.key]; n != nil && n.id == e.id {
			r.gone(e.key, e.mark, merge(n.stats, e.stats))
		} else if n == nil && r.forgotten > 0 {
			r.forgotten--
			r.send(inspector.Close, e.key, e.mark, e.stats)
		}
	}
}

// alive enters what a listing or an event says of a living connection.
func (r *run) alive(e entry) {
	n := r.table[e.key]
	if n != nil && n.id != e.id {
		r.gone(e.key, n.mark, n.stats)
		n = nil
	}
	if n == nil {
		if len(r.table) >= r.source.opt.MaxEntries {
			r.source.Counters.Full.Add(1)
			r.forgotten++
		} else {
			r.table[e.key] = &known{id: e.id, mark: e.mark, stats: e.stats, round: r.round}
		}
		r.send(inspector.Open, e.key, e.mark, e.stats)
		return
	}
	n.round = r.round
	stats := merge(n.stats, e.stats)
	if stats != n.stats || e.mark != n.mark {
		n.stats, n.mark = stats, e.mark
		r.send(inspector.Update, e.key, e.mark, stats)
	}
}

// merge keeps the figures that a message without counters does not carry.
func merge(old, now inspector.Stats) inspector.Stats {
	now.BytesUp, now.BytesDown = max(old.BytesUp, now.BytesUp), max(old.BytesDown, now.BytesDown)
	now.PacketsUp, now.PacketsDown = max(old.PacketsUp, now.PacketsUp), max(old.PacketsDown, now.PacketsDown)
	now.Replied = now.Replied || old.Replied
	return now
}

func (r *run) gone(k key, mark uint32, stats inspector.Stats) {
	delete(r.table, k)
	r.send(inspector.Close, k, mark, stats)
}

func (r *run) send(kind inspector.Kind, k key, mark uint32, stats inspector.Stats) {
	r.emit(inspector.Event{
		Kind: kind, At: time.Now(), Source: "conntrack", Flow: k.flow(), Mark: mark, Stats: stats,
		Earlier: kind == inspector.Open && r.first,
	})
}
