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

// compiled are refusals, and what came of them.
type compiled struct {
	of      refusals
	connect *actions.Connect
}

func (l *loop) refusing() refusals { return refusals{l.core.live.prog, l.host, l.core.turns} }

// compileRefusals has what is refused compiled anew where something has changed. That may
// take a quarter of a second, which neither the loop nor the kernel worker has: it is
// done beside them, one at a time.
func (l *loop) compileRefusals() {
	now := l.refusing()
	if now == l.refused || l.compiling || l.d.parts.Refuser == nil || l.d.opts.Observe {
		return
	}
	l.refused, l.compiling = now, true
	world := l.core.live.world
	go func() { l.compiled <- compiled{now, connectFor(now, world)} }()
}

func connectFor(r refusals, w *state.World) *actions.Connect {
	return actions.ConnectFor(r.prog, r.host, w)
}

// takeRefusals keeps what was compiled for the worker. For a policy that does not decide
// any more it is nothing: with the new one came its own.
func (l *loop) takeRefusals(c compiled) {
	l.compiling = false
	if c.of.prog == l.core.live.prog {
		l.pending.refuse = c.connect
	}
}

// refuse brings refusals about. The log says once why that can't be.
func (l *loop) refuse(c *actions.Connect) {
	why := ""
	if err := l.d.parts.Refuser.Enforce(c); err != nil {
		why = err.Error()
	}
	if why != l.unrefused && why != "" {
		l.d.log.Info("blocked programs are not refused at connect: the table drops what they send", "why", why)
	}
	l.unrefused = why
}
