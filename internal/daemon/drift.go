package daemon

import (
	"context"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
)

// Drift notices what other processes change of what is enforced.
type Drift interface {
	// Watch calls found for each change, until ctx ends. The next Apply of the
	// plan puts back what was changed. found does not block.
	Watch(ctx context.Context, found func(what string)) error
}

// driftLog is the least time between two lines of the log about changes: who
// makes them may do so in a loop.
const driftLog = time.Second

// driftBook remembers what others changed. The zero book is empty.
type driftBook struct {
	mu     sync.Mutex
	last   api.Drift
	logged time.Time
}

// watchDrift counts and tells what others change, and asks for it to be put back.
func (d *Daemon) watchDrift(ctx context.Context) {
	err := d.parts.Drift.Watch(ctx, func(what string) {
		now := time.Now()
		d.metrics.Drift()
		d.drift.mu.Lock()
		d.drift.last = api.Drift{Time: now, What: what, Count: d.drift.last.Count + 1}
		quiet := now.Sub(d.drift.logged) < driftLog
		if !quiet {
			d.drift.logged = now
		}
		count := d.drift.last.Count
		d.drift.mu.Unlock()
		if !quiet {
			d.log.Warn("others changed what is enforced, putting it back", "what", what, "count", count)
		}
		select {
		case d.drifted <- struct{}{}:
		default: // it is asked for already
		}
	})
	if err != nil && ctx.Err() == nil {
		d.log.Warn("changes by others are not noticed at once", "error", err)
	}
}

// status is the last change, nil for none.
func (b *driftBook) status() *api.Drift {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last.Count == 0 {
		return nil
	}
	last := b.last
	return &last
}
