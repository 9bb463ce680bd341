package daemon

import (
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// live is the policy that decides, as one immutable snapshot.
type live struct {
	policy *rules.Policy
	prog   *engine.Program
	health state.Config
	world  *state.World
	marks  marks
	since  time.Time // when the policy became live
	places []string  // where each rule stands, "file:line"; nil where that is not known
	// hits counts the decisions by rule; only the core adds to tally, and says in lasts when that was: Unix time in
	// milliseconds, 0 for never, by rule in source order after the default's.
	hits  *engine.Hits
	tally *engine.Tally
	lasts []atomic.Int64
}

// count makes the counters for the program, all zero.
func (l live) count() live {
	l.hits = &engine.Hits{}
	l.tally = l.hits.Tally(l.prog)
	l.lasts = make([]atomic.Int64, len(l.policy.Rules)+1)
	return l
}

// last is when a rule of the program, -1 for the default, has decided; zero for never.
func (l *live) last(rule int) time.Time {
	if at := l.lasts[rule+1].Load(); at != 0 {
		return time.UnixMilli(at)
	}
	return time.Time{}
}
