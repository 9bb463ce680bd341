//go:build amd64 || arm64

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/device"
	"netpolicy.dev/netpolicy/inspector/sniff"
)

// Source is an inspector.Source. Run it once at a time.
type Source struct {
	opt      Options
	Counters Counters
	features atomic.Pointer[[]Feature]

	mu      sync.Mutex
	wanted  *actions.Connect // nil: nothing is refused
	refuser *refuser         // nil while Run does not run, or can't refuse
}

// New returns a source for the network namespace that Run is called in.
func New(opt Options) *Source {
	opt.complete()
	return &Source{opt: opt}
}

// Features tells what the source serves, and what it can't, as of the last call
// of Run; nil before the first.
func (s *Source) Features() []Feature {
	if list := s.features.Load(); list != nil {
		return slices.Clone(*list)
	}
	return nil
}

// Detect tells what a source could serve here, by loading and attaching it all
// for a moment. The error wraps ErrUnsupported when that is nothing.
func Detect(opt Options) ([]Feature, error) {
	opt.complete()
	l, list, err := load(&opt)
	if err == nil {
		l.Close()
	}
	return list, err
}

// run is the state of one Run. Three goroutines share it, one at a time.
type run struct {
	source *Source
	emit   func(inspector.Event)
	loaded *loaded

	mu       sync.Mutex
	flows    map[uint64]*conn
	programs *programs
	sniffer  *sniff.Sniffer
	links    *device.Names
	lost     uint64 // as of the last sample
	// swept are told to have ended, because they were not in the list of all; that
	// they ended may still stand in the ring. At most MaxFlows: more make it empty.
	swept map[uint64]bool
}

// conn is a flow that is under way.
type conn struct {
	event observeEvent
	next  *conn // another flow of the same UDP socket
	round bool  // seen when all were read
}

// Losses implements inspector.Counted.
func (s *Source) Losses() map[string]uint64 {
	return map[string]uint64{
		"ring":   s.Counters.Lost.Load(),
		"copies": s.Counters.LostCopies.Load(),
		"room":   s.Counters.Full.Load(),
	}
}

// Run implements inspector.Source. It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN;
// an error that wraps ErrUnsupported says that nothing can be observed so here.
func (s *Source) Run(ctx context.Context, emit func(inspector.Event)) error {
	l, list, err := load(&s.opt)
	if err != nil {
		s.features.Store(&list)
		return err
	}
	defer l.Close()
	links, err := device.Open()
	if err != nil {
		return err
	}
	defer links.Close()
	r := &run{
		source: s, emit: emit, loaded: l, flows: make(map[uint64]*conn), swept: make(map[uint64]bool),
		programs: newPrograms(s.opt.Proc, l.top), links: links,
	}
	r.sniffer = sniff.New(s.Name(), sniff.Options{}, emit)
	if err := s.begin(l, list); err != nil {
		return err
	}
	defer s.end()
	s.features.Store(&list)
	return r.serve(ctx)
}

// serve reads both rings, and samples, until ctx ends or one of them fails.
func (r *run) serve(outer context.Context) error {
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	var group sync.WaitGroup
	defer group.Wait()
	for name, take := range map[string]func([]byte){observeMapEvents: r.event, observeMapCopies: r.copied} {
		ring, err := ringbuf.NewReader(r.loaded.shared.Maps[name])
		if err != nil {
			return fmt.Errorf("open ring %s: %w", name, err)
		}
		defer func() { _ = ring.Close() }() // and its reader ends
		group.Go(func() {
			if err := read(ring, take); err != nil {
				cancel(fmt.Errorf("read ring %s: %w", name, err))
			}
		})
	}
	tick := time.NewTicker(r.source.opt.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := r.sample(); err != nil {
				cancel(err)
			}
		case <-ctx.Done():
			if outer.Err() != nil {
				return nil
			}
			return context.Cause(ctx)
		}
	}
}

// read hands the records of a ring to take until it is closed.
func read(ring *ringbuf.Reader, take func([]byte)) error {
	var record ringbuf.Record
	for {
		switch err := ring.ReadInto(&record); {
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		take(record.RawSample)
	}
}

// from copies a record that the kernel wrote; false if it is too short.
func from[T any](b []byte) (v T, ok bool) {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v))
	return v, copy(raw, b) == len(raw)
}

// event takes one record of the ring of events.
func (r *run) event(b []byte) {
	e, ok := from[observeEvent](b)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Kind {
	case kindOpen:
		if !r.swept[e.Id] { // else both its ends are told already
			r.open(&e)
		}
	case kindClose:
		r.close(&e)
	case kindGone:
		r.gone(e.Id)
	}
}

// The kinds of records, and the flags of a connection, as in bpf/conn.h.
const (
	kindOpen, kindClose, kindGone, kindFigures = 1, 2, 3, 4

	flagOwned, flagAccepted = 1, 2

	protoUDP = 17
)

// open enters a flow and tells of it.
func (r *run) open(e *observeEvent) {
	known := r.flows[e.Id]
	if known != nil && (e.Proto != protoUDP || known.find(e) != nil) {
		return // a sample was faster
	}
	r.source.Counters.Opened.Add(1)
	r.tell(inspector.Open, e)
	if known == nil && len(r.flows) >= r.source.opt.MaxFlows {
		r.source.Counters.Full.Add(1)
		return
	}
	r.flows[e.Id] = &conn{event: *e, next: known, round: true}
	if e.Proto == protoUDP {
		r.shorten(r.flows[e.Id])
	}
}

// find returns the socket's flow with the ends of e, or nil.
func (c *conn) find(e *observeEvent) *conn {
	for ; c != nil; c = c.next {
		if c.event.Lport == e.Lport && c.event.Rport == e.Rport && c.event.Local == e.Local && c.event.Remote == e.Remote {
			return c
		}
	}
	return nil
}

// shorten ends the oldest flow of a socket that has too many.
func (r *run) shorten(c *conn) {
	for n := 1; c.next != nil; n, c = n+1, c.next {
		if n >= maxPerSocket {
			r.ended(&c.next.event)
			c.next = nil
			return
		}
	}
}

// close ends a TCP connection. One that is not known was beyond the bound, or its
// beginning was lost: then it is told now; or it is told already to have ended.
func (r *run) close(e *observeEvent) {
	if r.swept[e.Id] {
		delete(r.swept, e.Id)
		return
	}
	if r.flows[e.Id] == nil && r.source.Counters.Full.Load() == 0 {
		r.open(e)
	}
	delete(r.flows, e.Id)
	r.ended(e)
}

func (r *run) ended(e *observeEvent) {
	r.source.Counters.Closed.Add(1)
	r.tell(inspector.Close, e)
}

// gone ends all flows of a socket.
func (r *run) gone(id uint64) {
	for c := r.flows[id]; c != nil; c = c.next {
		r.ended(&c.event)
	}
	delete(r.flows, id)
}
