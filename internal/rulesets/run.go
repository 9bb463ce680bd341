package rulesets

import (
	"context"
	"slices"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/rules"
)

const (
	// defaultRefresh is how often lists are published, in the field.
	defaultRefresh = 24 * time.Hour
	// minRefresh keeps a slip in a policy from being a burden to a server.
	minRefresh = time.Minute
	// firstRetry is the wait after a failure; it doubles up to the interval.
	firstRetry = 30 * time.Second
	// maxFetches bounds the fetches at a time, and with them the memory.
	maxFetches = 4
)

// Wanted is a list that Run keeps fresh.
type Wanted struct {
	Ref  rules.ListRef
	Type rules.SetType
}

// Run keeps the lists of URLs fresh until ctx ends, and then returns nil when
// nothing of it is left. It fetches at once what has no good copy, and the rest
// when its age asks for that. A list that has the checksum that its reference
// expects is not fetched again. For each of the lists that has a new copy it calls
// changed, one call at a time; a call that takes long delays the fetches. Files
// are passed over, and what no fetch could satisfy is logged. Two Runs of one Store
// would fetch everything twice.
func (s *Store) Run(ctx context.Context, wanted []Wanted, changed func(Wanted)) error {
	if s.cache.dir == "" {
		return errNoCache
	}
	r := runner{Store: s, fetches: make(chan struct{}, maxFetches), changed: changed}
	var all sync.WaitGroup
	for _, sub := range s.subscriptions(wanted) {
		all.Go(func() { r.follow(ctx, sub) })
	}
	<-ctx.Done()
	all.Wait()
	return nil
}

// subscription is a list to fetch, and all that want it.
type subscription struct {
	list
	every  time.Duration
	wanted []Wanted
}

// subscriptions joins what is one list, in the order of the first that wants it.
func (s *Store) subscriptions(wanted []Wanted) []*subscription {
	var all []*subscription
	for _, w := range wanted {
		if w.Ref.URL == "" {
			continue
		}
		l, err := s.list(w.Ref, w.Type)
		if err != nil {
			s.log.Error("list can't be fetched", "error", err)
			continue
		}
		every := interval(w.Ref)
		i := slices.IndexFunc(all, func(sub *subscription) bool { return sub.key == l.key && sub.sum == l.sum })
		if i < 0 {
			all = append(all, &subscription{list: l, every: every, wanted: []Wanted{w}})
			continue
		}
		all[i].every = min(all[i].every, every)
		all[i].wanted = append(all[i].wanted, w)
	}
	return all
}

// runner is a Run.
type runner struct {
	*Store
	fetches chan struct{} // holds one for each fetch under way
	mu      sync.Mutex    // over calls of changed
	changed func(Wanted)
}

// follow keeps one list fresh.
func (r *runner) follow(ctx context.Context, sub *subscription) {
	wait := r.due(sub.list, sub.every)
	for retry := firstRetry; sleep(ctx, wait); {
		select {
		case r.fetches <- struct{}{}:
		case <-ctx.Done():
			return
		}
		changed, err := r.refresh(ctx, sub.list)
		<-r.fetches
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = r.jitter(retry)
			retry = min(2*retry, sub.every)
			r.log.Warn("list not fetched", "list", sub.name, "error", err, "retry_in", wait.Round(time.Second).String())
			continue
		case changed:
			r.mu.Lock()
			for _, w := range sub.wanted {
				r.changed(w)
			}
			r.mu.Unlock()
		}
		if sub.sum != "" {
			return // it can't become better
		}
		wait, retry = r.jitter(sub.every), firstRetry
	}
}

// due returns how long the copy that is there is good for; forever (negative)
// if it has the checksum that is expected.
func (s *Store) due(l list, every time.Duration) time.Duration {
	m, err := s.hasCopy(l)
	if err != nil {
		return 0
	}
	if l.sum != "" {
		return forever
	}
	age := time.Since(m.Checked)
	if age < 0 {
		return 0 // the clock was wrong then, or is now
	}
	return max(0, every-age)
}

// forever is a wait that only the end of the context ends.
const forever = -1

// sleep waits, and reports whether the context goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	if d == forever {
		<-ctx.Done()
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// interval is how often a list is fetched.
func interval(ref rules.ListRef) time.Duration {
	if ref.Refresh <= 0 {
		return defaultRefresh
	}
	return max(ref.Refresh, minRefresh)
}

// jitter returns d and up to an eighth of it, so that a thousand routers that
// came up together do not ask together.
func (s *Store) jitter(d time.Duration) time.Duration {
	if s.rand == nil {
		return d
	}
	s.randMu.Lock()
	defer s.randMu.Unlock()
	return d + time.Duration(s.rand.Int64N(int64(d/8)+1))
}
