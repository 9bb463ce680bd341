package relay

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/flow"
)

// entry is one connection in the table, from accept to its end.
type entry struct {
	id       uint64
	inbound  Kind
	udp      bool
	src      netip.AddrPort
	opened   int64 // on the relay's clock
	up, down atomic.Uint64

	mu     sync.Mutex
	dst    target // name: what the client asked for, or what was sniffed
	route  string
	uplink int
	killed bool
	// kill ends the connection at the stage it is in; it must not block.
	kill func()
}

// table holds all connections. It is bounded by limit.
type table struct {
	limit int
	mu    sync.Mutex
	last  uint64
	byID  map[uint64]*entry
	empty sync.Cond // signalled when the last one is gone
}

func newTable(limit int) *table {
	t := &table{limit: limit, byID: map[uint64]*entry{}}
	t.empty.L = &t.mu
	return t
}

// add makes an entry, or none when the table is full.
func (t *table) add(kind Kind, udp bool, src netip.AddrPort, now int64, kill func()) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byID) >= t.limit {
		return nil
	}
	t.last++
	e := &entry{id: t.last, inbound: kind, udp: udp, src: src, opened: now, uplink: -1, kill: kill}
	t.byID[e.id] = e
	return e
}

func (t *table) remove(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, e.id)
	if len(t.byID) == 0 {
		t.empty.Broadcast()
	}
}

func (t *table) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// kill ends one connection, and reports whether there was one.
func (t *table) kill(id uint64) bool {
	t.mu.Lock()
	e := t.byID[id]
	t.mu.Unlock()
	if e == nil {
		return false
	}
	e.end()
	return true
}

// drain waits until the table is empty or ctx ends.
func (t *table) drain(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.empty.Broadcast()
	})
	defer stop()
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.byID) > 0 && ctx.Err() == nil {
		t.empty.Wait()
	}
}

// end kills the connection at the stage it is in now; at later ones it is killed
// on entering them.
func (e *entry) end() {
	e.mu.Lock()
	e.killed = true
	kill := e.kill
	e.mu.Unlock()
	if kill != nil {
		kill()
	}
}

// stage says how the connection is killed from now on, and reports whether it
// has been killed already.
func (e *entry) stage(kill func()) (killed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kill = kill
	return e.killed
}

func (e *entry) aim(t target) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dst = t
}

// called notes the name that the first bytes told.
func (e *entry) called(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dst.Name == "" {
		e.dst.Name = name
	}
}

// taken notes the way that was dialled, and the address where one is known.
func (e *entry) taken(w *Way, to netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.route, e.uplink = w.Route, w.Uplink
	if to.IsValid() {
		e.dst.Addr, e.dst.Port = to.Addr(), to.Port()
	}
}

// show makes the entry's picture. epoch is when the relay's clock was 0.
func (e *entry) show(c *Conn, epoch time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	*c = Conn{
		ID: e.id, Inbound: e.inbound, Proto: flow.TCP, Src: e.src, Dst: e.dst.AddrPort(), Name: e.dst.Name,
		Route: e.route, Uplink: e.uplink, Opened: epoch.Add(time.Duration(e.opened)),
		Up: e.up.Load(), Down: e.down.Load(),
	}
	if e.udp {
		c.Proto = flow.UDP
	}
}

// list returns the connections in the order in which they came.
func (t *table) list(epoch time.Time) []Conn {
	t.mu.Lock()
	all := make([]*entry, 0, len(t.byID))
	for _, e := range t.byID {
		all = append(all, e)
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.id, b.id) })
	conns := make([]Conn, len(all))
	for i, e := range all {
		e.show(&conns[i], epoch)
	}
	return conns
}
