package subscription

import (
	"context"
	"sync"
	"time"
)

const (
	// firstRetry is the wait after a failure; it doubles up to the interval.
	firstRetry = 30 * time.Second
	// maxFetches bounds the fetches at a time, and with them the memory.
	maxFetches = 2
	// idle is how long Run sleeps when nothing is due.
	idle = time.Hour
)

// Run fetches what is due until ctx ends, and then returns nil when nothing of it is
// left. What has no content is due at once.
func (s *Store) Run(ctx context.Context) error {
	s.mu.Lock()
	for _, x := range s.subs {
		s.schedule(x)
	}
	s.mu.Unlock()
	slots := make(chan struct{}, maxFetches)
	var group sync.WaitGroup
	defer group.Wait()
	for {
		due, wait := s.due()
		for _, x := range due {
			group.Go(func() {
				defer s.rest(x)
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return
				}
				_ = s.fetch(ctx, x) // it is logged, and kept as the problem
				<-slots
			})
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// due returns what is to be fetched now, which counts as running from then on, and
// how long it takes until there is more.
func (s *Store) due() (due []*subscription, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = idle
	for _, x := range s.subs {
		left := x.next.Sub(s.now())
		switch {
		case x.running:
		case left <= 0:
			x.running = true
			due = append(due, x)
		default:
			wait = min(wait, left)
		}
	}
	return due, wait
}

// rest ends the running of a subscription.
func (s *Store) rest(x *subscription) {
	s.mu.Lock()
	x.running = false
	s.mu.Unlock()
	s.nudge()
}

// nudge has Run look again.
func (s *Store) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// schedule sets when a subscription is fetched next. The caller holds s.mu.
func (s *Store) schedule(x *subscription) {
	now, every := s.now(), x.every()
	switch age := now.Sub(x.record.Checked); {
	case x.failures > 0:
		wait := min(firstRetry<<min(x.failures-1, 20), every)
		x.next = now.Add(s.jitter(wait))
	case x.record.Checked.IsZero() || age < 0: // a clock that was wrong then, or is now
		x.next = now
	default:
		x.next = x.record.Checked.Add(s.jitter(every))
	}
}

// every is how often a subscription is fetched.
func (x *subscription) every() time.Duration {
	switch {
	case x.record.Every > 0:
		return x.record.Every
	case x.record.Asked > 0:
		return x.record.Asked
	}
	return defaultEvery
}

// jitter returns d and up to an eighth of it, so that a thousand routers that came up
// together do not ask together. The caller holds s.mu.
func (s *Store) jitter(d time.Duration) time.Duration {
	if s.rand == nil {
		return d
	}
	return d + time.Duration(s.rand.Int64N(int64(d/8)+1))
}
