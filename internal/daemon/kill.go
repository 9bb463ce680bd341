package daemon

import (
	"context"
	"fmt"
	"slices"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/rules"
)

// Kill ends a connection: what goes through the relay is closed there, at both ends; else, and for datagrams, its
// conntrack mark says from now on that it is rejected. What the policy does with others of its kind stays as it is.
func (d *Daemon) Kill(ctx context.Context, id uint64) error {
	var key flowKey
	err := d.call(ctx, func(l *loop) error {
		t, err := l.core.doomed(id)
		if err == nil {
			key = t.key
		}
		return err
	})
	if err != nil {
		return err
	}
	relayed := d.relayed(key)
	return d.call(ctx, func(l *loop) error {
		// A mark would keep the relay's reset from the client.
		if closed := len(relayed) > 0 && key.proto == flow.TCP; !closed {
			if err := l.core.kill(id); err != nil {
				return err
			}
		}
		r := l.d.relay.Load()
		for _, one := range relayed {
			if r != nil {
				r.Kill(one)
			}
		}
		l.d.log.Info("connection ended by hand", "id", id, "who", api.Who(ctx))
		l.settle()
		return nil
	})
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
	case i < 0:
		return nil, fmt.Errorf("no connection %d is followed: %w", id, api.ErrNotFound)
	case c.observe:
		return nil, fmt.Errorf("the daemon only observes: no connection is ended: %w", api.ErrConflict)
	case len(c.out.setMarks) >= maxMarks:
		return nil, fmt.Errorf("too many marks wait for the kernel; try again: %w", api.ErrConflict)
	}
	return c.roster[i], nil
}

func (c *core) kill(id uint64) error {
	t, err := c.doomed(id)
	if err != nil {
		return err
	}
	value, mask := c.live.marks.MarkOf(&engine.Decision{Rule: -1, Kind: rules.ActBlock, Reject: true, Route: -1})
	c.out.setMarks = append(c.out.setMarks, setMark{t.key, value, mask})
	c.marked(t, t.mark&^mask|value)
	t.blocked, t.killed = true, true
	return nil
}
