//go:build amd64 || arm64

package ebpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/link"

	"netpolicy.dev/netpolicy/inspector"
)

// The places of the kernel's counters, as in bpf/conn.h.
const (
	countLost = iota
	countLostCopies
	countLostConns
	countRefused
)

// sample reads the figures of the connections whose figures have changed. When
// events were lost since the last time it reads all connections, and tells of
// those whose beginning or end was lost.
func (r *run) sample() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sniffer.Tick(time.Now())
	r.source.Counters.Names.Store(r.sniffer.Counters.Names)
	r.source.Counters.Answers.Store(r.sniffer.Counters.Answers)
	lost, err := r.count()
	if err != nil || r.loaded.iter == nil {
		return err
	}
	all := lost != r.lost
	r.lost = lost
	if !all {
		return r.figures(r.loaded.iter)
	}
	for _, c := range r.flows {
		for ; c != nil; c = c.next {
			c.round = false
		}
	}
	if err := r.all(1); err != nil {
		return err
	}
	err = r.figures(r.loaded.iter)
	if err == nil && r.loaded.rest != nil {
		err = r.figures(r.loaded.rest)
	}
	if err := errors.Join(err, r.all(0)); err != nil {
		return err
	}
	r.sweep()
	return nil
}

func (r *run) all(v uint32) error {
	if err := r.loaded.shared.Variables[observeVarAll].Set(v); err != nil {
		return fmt.Errorf("ask for all connections: %w", err)
	}
	return nil
}

// count reads the kernel's counters; it returns how many events were lost.
func (r *run) count() (lost uint64, err error) {
	var sums [countRefused + 1]uint64
	for i := range sums {
		var each []uint64
		if err := r.loaded.shared.Maps[observeMapCounters].Lookup(uint32(i), &each); err != nil {
			return 0, fmt.Errorf("read counters: %w", err)
		}
		for _, n := range each {
			sums[i] += n
		}
	}
	c := &r.source.Counters
	c.Lost.Store(sums[countLost] + sums[countLostConns])
	c.LostCopies.Store(sums[countLostCopies])
	c.Refused.Store(sums[countRefused])
	return sums[countLost], nil
}

// figures reads one of the kernel's lists of connections.
func (r *run) figures(it *link.Iter) error {
	list, err := it.Open()
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	defer func() { _ = list.Close() }()
	const records = 256
	in := bufio.NewReaderSize(list, records*int(unsafe.Sizeof(observeEvent{})))
	b := make([]byte, unsafe.Sizeof(observeEvent{}))
	for {
		if _, err := io.ReadFull(in, b); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("list connections: %w", err)
		}
		if e, ok := from[observeEvent](b); ok {
			r.figure(&e)
		}
	}
}

// figure takes one record of the list.
func (r *run) figure(e *observeEvent) {
	c := r.flows[e.Id]
	if c == nil {
		delete(r.swept, e.Id) // the list had missed it: it lives
		if len(r.flows) < r.source.opt.MaxFlows {
			r.open(e) // the event is on its way, or was lost
		}
		return
	}
	for at := c; at != nil; at = at.next {
		at.round = true
	}
	if e.Proto == protoUDP {
		return
	}
	c.event = *e
	r.source.Counters.Samples.Add(1)
	r.tell(inspector.Update, e)
}

// sweep tells of the flows that were not in the list of all.
func (r *run) sweep() {
	var gone []uint64
	for id, c := range r.flows {
		if !c.round {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	if len(r.swept) >= r.source.opt.MaxFlows {
		clear(r.swept)
	}
	for _, id := range gone {
		r.swept[id] = true
		r.gone(id)
	}
}
