package resolver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"netpolicy.dev/netpolicy/inspector/dns"
)

// flight is a question on its way; equal ones wait for it.
type flight struct {
	done chan struct{}
	// Set before done is closed.
	entry *entry // nil: no answer
	err   error  // why there is none, or errPoor: a stale answer is better, if there is one

	stop context.CancelFunc
}

// first reads a message and answers at once what needs no upstream and no
// waiting. more is true if respond must be asked, else a nil reply means silence.
func (r *Resolver) first(dst, msg []byte, from netip.AddrPort, limit int) (q query, c Choice, reply []byte, more bool) {
	r.counters.Queries.Add(1)
	q, v := readQuery(msg)
	if v != sound {
		return q, c, r.reject(dst, &q, v), false
	}
	if r.own.has(from) {
		r.counters.Looped.Add(1)
		return q, c, q.reject(dst, rcodeRefused, edeNone), false
	}
	c = r.choose(&q, from.Addr())
	if c.Blocked {
		r.counters.Blocked.Add(1)
		return q, c, append(dst, q.block(r.cfg.Blocked)...), false
	}
	if c.NoWay {
		r.counters.NoWay.Add(1)
		return q, c, q.reject(dst, rcodeServFail, edeNoReachable), false
	}
	now := time.Now()
	if e, fresh := r.cache.get(q.key(c), now); fresh && (r.cfg.Learn == nil || e.known(now)) {
		r.counters.Cached.Add(1)
		return q, c, r.write(dst, e, &q, now, false, limitOf(&q, limit)), false
	}
	return q, c, nil, true
}

// limitOf is how long an answer may be: over UDP what the client takes.
func limitOf(q *query, limit int) int {
	if limit == 0 {
		return q.payload
	}
	return limit
}

func (r *Resolver) reject(dst []byte, q *query, v verdict) []byte {
	switch v {
	case refused, notImp:
		r.counters.Refused.Add(1)
	default:
		r.counters.Malformed.Add(1)
	}
	if v == silence {
		return nil
	}
	return q.reject(dst, verdictCodes[v], edeNone)
}

func (r *Resolver) write(dst []byte, e *entry, q *query, now time.Time, stale bool, limit int) []byte {
	msg, truncated := e.reply(dst, q, now, stale, limit)
	if truncated {
		r.counters.Truncated.Add(1)
	}
	return msg
}

// respond answers a question that first passed on.
func (r *Resolver) respond(ctx context.Context, dst []byte, q *query, c Choice, limit int) []byte {
	limit = limitOf(q, limit)
	k := q.key(c)
	now := time.Now()
	held, fresh := r.cache.get(k, now)
	if fresh {
		r.counters.Cached.Add(1)
		return r.give(ctx, dst, held, q, false, limit)
	}
	stale := func() []byte {
		r.counters.Stale.Add(1)
		return r.give(ctx, dst, held, q, true, limit)
	}
	var patience <-chan time.Time
	if held != nil {
		if held.failing(now) {
			return stale()
		}
		timer := time.NewTimer(staleAfter)
		defer timer.Stop()
		patience = timer.C
	}
	f := r.join(k, q, c)
	select {
	case <-f.done:
	case <-patience:
		return stale()
	case <-ctx.Done():
		return nil
	}
	switch {
	case f.err != nil && held != nil:
		return stale()
	case f.entry == nil:
		r.counters.Failed.Add(1)
		return q.reject(dst, rcodeServFail, edeNoReachable)
	default:
		return r.write(dst, f.entry, q, time.Now(), false, limit)
	}
}

// give answers from the cache, and learns again what may be forgotten before the
// client stops using it.
func (r *Resolver) give(ctx context.Context, dst []byte, e *entry, q *query, stale bool, limit int) []byte {
	if !e.known(time.Now()) {
		r.learn(ctx, e)
	}
	return r.write(dst, e, q, time.Now(), stale, limit)
}

// join returns the flight for k, and begins it if there is none.
func (r *Resolver) join(k key, q *query, c Choice) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.flights[k]; f != nil {
		r.counters.Coalesced.Add(1)
		return f
	}
	f := &flight{done: make(chan struct{})}
	if e, fresh := r.cache.get(k, time.Now()); fresh { // it has just ended
		f.entry = e
		close(f.done)
		return f
	}
	if r.ended {
		f.err = errClosed
		close(f.done)
		return f
	}
	// It is for all who join it, so that it ends with none of them.
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	r.flights[k] = f
	mine := *q
	mine.wire = slices.Clone(q.wire) // the client's buffer may go on to its next question
	c.Upstreams = slices.Clone(c.Upstreams)
	r.running.Go(func() {
		r.fly(ctx, f, k, &mine, c)
		r.mu.Lock()
		delete(r.flights, k)
		r.mu.Unlock()
		f.stop()
		close(f.done)
	})
	return f
}

// land ends all flights, waits for them, and lets no other begin.
func (r *Resolver) land() {
	r.mu.Lock()
	r.ended = true
	for _, f := range r.flights {
		f.stop()
	}
	r.mu.Unlock()
	r.running.Wait()
}

// fly asks the upstreams, learns, and keeps the answer. Learning comes first: from
// the cache nobody may get what is not learned.
func (r *Resolver) fly(ctx context.Context, f *flight, k key, q *query, c Choice) {
	asking, cancel := context.WithTimeout(ctx, queryWithin)
	a, err := r.ask(asking, q, c)
	cancel()
	f.err = err
	now := time.Now()
	if err != nil {
		if held, _ := r.cache.get(k, now); held != nil {
			held.failed(now)
			return
		}
		if errors.Is(err, context.Canceled) {
			return
		}
		if a == nil {
			r.cache.put(newEntry(k, q.failure(), now))
			return
		}
		a.life = failureLife
	}
	if m, err := dns.Parse(a.msg); err == nil && len(m.Answer.Addrs) > 0 {
		a.learn = Answer{Name: m.Answer.Name, Addrs: m.Answer.Addrs, TTL: m.Answer.TTL}
	}
	f.entry = newEntry(k, a, now)
	r.learn(ctx, f.entry)
	r.cache.put(f.entry)
}

// learn tells of an answer's addresses and waits for a bounded time.
func (r *Resolver) learn(ctx context.Context, e *entry) {
	if r.cfg.Learn == nil || len(e.answer.learn.Addrs) == 0 {
		return
	}
	now := time.Now()
	a := e.answer.learn
	a.TTL = e.hold(now) + holdSlack
	a.Addrs = slices.Clone(a.Addrs)
	ctx, cancel := context.WithTimeout(ctx, learnWithin)
	defer cancel()
	if err := r.cfg.Learn(ctx, a); err != nil || ctx.Err() != nil {
		r.counters.LateLearns.Add(1)
		return
	}
	e.learned.Store(int64(now.Sub(e.stored) + a.TTL))
}
