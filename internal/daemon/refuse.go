package daemon

import (
	"context"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
)

// refusing is what decides which connections are refused as they are made.
type refusing struct {
	prog  *engine.Program
	host  *actions.Host
	turns uint64 // of the world
}

// turnedRefusals has what is refused compiled anew when it may have changed.
func (l *loop) turnedRefusals() {
	now := refusing{l.core.live.prog, l.host, l.core.turns}
	if now == l.refusing {
		return
	}
	l.refusing = now
	select {
	case l.d.refusals <- struct{}{}:
	default: // it is about to be
	}
}

// refuse keeps the Refuser at what the newest snapshot says, until ctx ends.
func (d *Daemon) refuse(ctx context.Context) error {
	told := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.refusals:
		}
		s := d.snap.Load()
		why := ""
		if err := d.parts.Refuser.Enforce(actions.ConnectFor(s.live.prog, s.host, s.live.world)); err != nil {
			why = err.Error()
		}
		if why != told {
			if told = why; why != "" {
				d.log.Info("blocked programs are not refused at connect: the table drops what they send", "why", why)
			}
		}
	}
}
