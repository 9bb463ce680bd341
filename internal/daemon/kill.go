package daemon

import (
	"context"
	"fmt"
	"slices"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/rules"
)

// Kill ends a connection: its conntrack mark says from now on that it is rejected. What
// the policy does with others of its kind stays as it is.
func (d *Daemon) Kill(ctx context.Context, id uint64) error {
	return d.call(ctx, func(l *loop) error {
		if err := l.core.kill(id); err != nil {
			return err
		}
		l.d.log.Info("connection ended by hand", "id", id, "who", api.Who(ctx))
		l.settle()
		return nil
	})
}

func (c *core) kill(id uint64) error {
	i := slices.IndexFunc(c.roster, func(t *tracked) bool { return t.n == id })
	switch {
	case i < 0:
		return fmt.Errorf("no connection %d is followed: %w", id, api.ErrNotFound)
	case c.observe:
		return fmt.Errorf("the daemon only observes: no connection is ended: %w", api.ErrConflict)
	case len(c.out.setMarks) >= maxMarks:
		return fmt.Errorf("too many marks wait for the kernel; try again: %w", api.ErrConflict)
	}
	t := c.roster[i]
	value, mask := c.live.marks.MarkOf(&engine.Decision{Rule: -1, Kind: rules.ActBlock, Reject: true, Route: -1})
	c.out.setMarks = append(c.out.setMarks, setMark{t.key, value, mask})
	c.marked(t, t.mark&^mask|value)
	t.blocked, t.killed = true, true
	return nil
}
