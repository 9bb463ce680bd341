package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Lookup finds the addresses of a name that a client asks for by other means than
// DNS, such as a proxy's clients do: from the cache, or from the upstreams of c by
// its route, and by no other. They are learned as those of an answer are. IPv4 comes
// first. It works while Run does.
func (r *Resolver) Lookup(ctx context.Context, client netip.Addr, name string, c Choice) ([]netip.Addr, error) {
	if !r.clients.Enter(client) {
		r.counters.Dropped.Add(1)
		return nil, errBusy
	}
	defer r.clients.Leave(client)
	r.sound(&c)
	var lists [2][]netip.Addr
	var errs [2]error
	var both sync.WaitGroup
	for i, qtype := range [...]uint16{typeA, typeAAAA} {
		both.Go(func() { lists[i], errs[i] = r.lookup(ctx, name, qtype, c) })
	}
	both.Wait()
	if list := slices.Concat(lists[:]...); len(list) > 0 {
		return list, nil
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	return nil, fmt.Errorf("look up %s: it has no address", name)
}

// lookup asks for the addresses of one family.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16, c Choice) ([]netip.Addr, error) {
	q, err := ask(name, qtype)
	if err != nil {
		return nil, err
	}
	r.counters.Queries.Add(1)
	k := q.key(c)
	now := time.Now()
	held, fresh := r.cache.get(k, now)
	switch {
	case fresh:
		r.counters.Cached.Add(1)
	case held != nil && held.failing(now):
		r.counters.Stale.Add(1)
	default:
		f := r.join(k, &q, c)
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch {
		case f.err == nil:
			held = f.entry
		case held == nil:
			r.counters.Failed.Add(1)
			return nil, f.err
		default:
			r.counters.Stale.Add(1)
		}
	}
	if !held.known(time.Now()) {
		r.learn(ctx, held)
	}
	return held.answer.learn.Addrs, nil
}

// ask makes a question of our own.
func ask(name string, qtype uint16) (query, error) {
	q := query{flags: flagsRecursion, qtype: qtype, payload: maxPayload}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 {
			return q, fmt.Errorf("%q is no name", name)
		}
		q.wire = append(append(q.wire, byte(len(label))), label...)
	}
	if q.wire = append(q.wire, 0); len(q.wire) > maxNameWire {
		return q, fmt.Errorf("%q is no name", name)
	}
	q.wire = binary.BigEndian.AppendUint16(q.wire, qtype)
	q.wire = binary.BigEndian.AppendUint16(q.wire, classIN)
	return q, nil
}
