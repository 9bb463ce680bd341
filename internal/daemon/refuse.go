package daemon

import (
	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/state"
)

// refusals are what decides which connections of local programs are refused as
// they are made.
type refusals struct {
	prog  *engine.Program
	host  *actions.Host
	turns uint64 // of the world
}

// refusal is a job for the kernel worker: it comes after the table, so that who
// waits for a reload finds both done.
type refusal struct {
	prog  *engine.Program
	host  *actions.Host
	world *state.World
}

// refusalNow returns what has to be compiled anew, nil when nothing has changed.
func (l *loop) refusalNow() *refusal {
	now := l.refusing()
	if now == l.refused || l.d.parts.Refuser == nil {
		return nil
	}
	l.refused = now
	return &refusal{now.prog, now.host, l.core.live.world}
}

func (l *loop) refusing() refusals { return refusals{l.core.live.prog, l.host, l.core.turns} }

// refuse brings a refusal about. The log says once why that can't be.
func (l *loop) refuse(r *refusal) {
	why := ""
	if err := l.d.parts.Refuser.Enforce(actions.ConnectFor(r.prog, r.host, r.world)); err != nil {
		why = err.Error()
	}
	if why != l.unrefused && why != "" {
		l.d.log.Info("blocked programs are not refused at connect: the table drops what they send", "why", why)
	}
	l.unrefused = why
}
