package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/rules"
)

// killedLife is how long a connection that was ended stays refused where the protocol knows no end of
// one: its program may go on between the same ports for ever, as WireGuard does, and what comes then is a new one.
const killedLife = 30 * time.Second

// Kill ends a connection: what goes through the relay is closed there, at both ends; else, and for datagrams, its
// conntrack mark says from now on that it is rejected, and Kill returns when the kernel has it. What the policy does
// with others of its kind stays as it is. One that was ended before stays so.
func (d *Daemon) Kill(ctx context.Context, id uint64) error {
	var key flowKey
	var done bool
	err := d.call(ctx, func(l *loop) error {
		t, err := l.core.doomed(id)
		if err == nil {
			key, done = t.key, t.killed
		}
		return err
	})
	if err != nil || done {
		return err
	}
	relayed := d.relayed(key)
	// A mark would keep the relay's reset from the client.
	if len(relayed) == 0 || key.proto != flow.TCP {
		err = d.refuse(ctx, id)
	}
	if r := d.relay.Load(); r != nil {
		for _, one := range relayed {
			r.Kill(one)
			err = nil
		}
	}
	if who := api.Who(ctx); err == nil && d.byHand.told(who) {
		d.log.Info("connection ended by hand", "id", id, "who", who)
	}
	return err
}

// maxByHand bounds the lines of the log about connections that were ended between two ticks, for each who does so.
const maxByHand = 5

// byHand counts the connections that were ended since the last tick, by who did so. The zero byHand is ready.
type byHand struct {
	mu     sync.Mutex
	counts map[string]int
}

// told reports whether this one has a line of its own in the log, and counts it.
func (b *byHand) told(who string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.counts == nil {
		b.counts = map[string]int{}
	}
	b.counts[who]++
	return b.counts[who] <= maxByHand
}

// tellByHand logs, with each tick, how many more connections were ended than have a line.
func (d *Daemon) tellByHand() {
	d.byHand.mu.Lock()
	counts := d.byHand.counts
	d.byHand.counts = nil
	d.byHand.mu.Unlock()
	for _, who := range slices.Sorted(maps.Keys(counts)) {
		if more := counts[who] - maxByHand; more > 0 {
			d.log.Info("more connections ended by hand", "count", more, "who", who)
		}
	}
}

// refuse has the kernel refuse what a connection sends from now on.
func (d *Daemon) refuse(ctx context.Context, id uint64) error {
	marked := make(chan error, 1)
	err := d.call(ctx, func(l *loop) error {
		defer l.settle()
		return l.core.kill(id, l.d.parts.Now(), marked)
	})
	if err != nil {
		return err
	}
	select {
	case err = <-marked:
	case <-ctx.Done():
		return fmt.Errorf("ask the daemon: %w", ctx.Err())
	}
	if err != nil {
		_ = d.call(ctx, func(l *loop) error { l.core.revive(id); return nil })
		return fmt.Errorf("connection %d can't be ended, the kernel does not refuse it: %w: %w", id, err, api.ErrConflict)
	}
	return nil
}

// relayed returns what the relay has of a connection, by the relay's ids.
func (d *Daemon) relayed(key flowKey) (ids []uint64) {
	r := d.relay.Load()
	if r == nil {
		return nil
	}
	for _, c := range r.Conns() {
		f := relayedFlow(&c)
		if k, ok := keyOf(&f); ok && k == key {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// doomed returns the connection, if it can be ended.
func (c *core) doomed(id uint64) (*tracked, error) {
	i := slices.IndexFunc(c.roster, func(t *tracked) bool { return t.n == id })
	switch {
	case i < 0 || c.ours(c.roster[i]):
		return nil, fmt.Errorf("no connection %d is followed: %w", id, api.ErrNotFound)
	case c.observe:
		return nil, fmt.Errorf("the daemon only observes: no connection is ended: %w", api.ErrConflict)
	case len(c.out.setMarks) >= maxMarks:
		return nil, fmt.Errorf("too many marks wait for the kernel; try again: %w", api.ErrConflict)
	}
	return c.roster[i], nil
}

// kill has the kernel told of it, and marked of what came of that.
func (c *core) kill(id uint64, now time.Duration, marked chan<- error) error {
	t, err := c.doomed(id)
	if err != nil {
		return err
	}
	value, mask := c.live.marks.MarkOf(&engine.Decision{Rule: -1, Kind: rules.ActBlock, Reject: true, Route: -1})
	c.out.setMarks = append(c.out.setMarks, setMark{t.key, value, mask, marked})
	t.before = t.mark
	c.marked(t, t.mark&^mask|value)
	t.blocked, t.killed = true, true
	if t.key.proto != flow.TCP {
		c.killed[t.key] = now
	}
	return nil
}

// revive takes back what kill has noted of a connection that the kernel goes on with.
func (c *core) revive(id uint64) {
	i := slices.IndexFunc(c.roster, func(t *tracked) bool { return t.n == id })
	if i < 0 {
		return
	}
	t := c.roster[i]
	t.killed = false
	delete(c.killed, t.key)
	c.marked(t, t.before)
}

// expireKilled has the kernel forget what was ended long enough ago: its next packet is a new connection's.
func (c *core) expireKilled(now time.Duration) {
	for k, at := range c.killed {
		if now-at < killedLife {
			continue
		}
		delete(c.killed, k)
		if t := c.flows[k]; t != nil && t.killed {
			c.out.flush = append(c.out.flush, k)
			c.forget(k, api.EndKilled)
		}
	}
}
