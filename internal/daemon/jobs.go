package daemon

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"netpolicy.dev/netpolicy/actions"
)

// maxBatch bounds the address elements of one job, and maxChores the marks to
// set and the entries to forget: each takes the worker two to four milliseconds,
// and a failover never waits longer behind them.
const (
	maxBatch  = 256
	maxChores = 128
)

// maxPending bounds the marks and the entries to forget that wait for the
// kernel worker; beyond it they are dropped and counted.
const maxPending = 65536

// verifyTicks is how often the kernel's state is looked at, in ticks: what others
// flush is back in seconds, and a look takes about a millisecond.
const verifyTicks = 5

// job is one round of work for the kernel worker, carried out in the order of
// its fields: first the new rules, then the flows that were on the old ones.
type job struct {
	apply   *actions.Plan
	look    *actions.Plan // what to read back after apply; exported parts only
	verify  *actions.Plan // exported parts only
	updates []actions.Update
	turned  time.Time // when the sample came that made the updates necessary; zero: they are no change of state
	marks   []setMark
	forget  []flowKey
	told    []chan struct{} // who waits for the updates
	// refuse is what is refused at connect from now on; nil: what was. It comes after the
	// table, so that who waits for a reload finds both done.
	refuse *actions.Connect
}

func (j *job) empty() bool {
	return j.apply == nil && j.verify == nil && j.refuse == nil && len(j.updates) == 0 && len(j.marks) == 0 && len(j.forget) == 0
}

// part takes out what is refused, and as many marks and entries to forget as one job may have.
func (j *job) part() job {
	m, f := min(len(j.marks), maxChores), min(len(j.forget), maxChores)
	p := job{marks: j.marks[:m:m], forget: j.forget[:f:f], refuse: j.refuse}
	j.refuse = nil
	if j.marks = j.marks[m:]; len(j.marks) == 0 {
		j.marks = nil // what was taken can be let go
	}
	if j.forget = j.forget[f:]; len(j.forget) == 0 {
		j.forget = nil
	}
	return p
}

type jobDone struct {
	job  job
	err  error // of apply or updates
	took time.Duration
	told time.Time // when the kernel had the updates
	// found is what is wrong with what was read back; looked says that it was.
	found  error
	looked bool
}

// dispatch gives the worker its next job, if it is idle and there is one: a new
// plan, or what changed within the present one.
func (l *loop) dispatch() {
	if l.d.opts.Observe {
		tell(l.toTell)
		l.toTell = nil
		l.commitObserved()
		return
	}
	if l.busy {
		return
	}
	if l.waiting != nil && l.waiting.c.same {
		c := l.waiting
		l.waiting = nil
		l.seeHost(c.c.host)
		l.settle()
		c.reply <- nil
	}
	if l.waiting != nil && !l.applying && l.turned.IsZero() {
		// Its turn: a storm of answers must not keep a reload from coming. A change of
		// state goes first: loading takes longer.
		l.busy, l.applying = true, true
		j := job{apply: l.waiting.c.plan, refuse: l.waiting.c.connect}
		if l.waiting.readBack {
			j.look = exported(l.waiting.c.plan)
		}
		l.jobs <- j
		return
	}
	l.applying = false
	j := l.pending.part()
	if w := l.core.live.world; w != l.applied {
		if j.updates = l.plan.WorldUpdates(l.applied, w); len(j.updates) > 0 {
			j.turned = l.turned
		}
		l.applied = w
	}
	l.turned = time.Time{}
	j.updates = append(j.updates, l.answers()...)
	if len(l.core.dirty) == 0 {
		j.told, l.toTell = l.toTell, nil
	}
	if l.alive {
		j.updates = append(j.updates, l.plan.KeepAlive()...)
		l.alive = false
		if l.ticks++; l.ticks%verifyTicks == 0 && l.d.parts.Verifier != nil {
			j.verify = exported(l.plan)
		}
	}
	l.compileRefusals()
	if j.empty() {
		tell(j.told)
		return
	}
	l.busy = true
	l.jobs <- j
}

// answers returns the element updates for the addresses whose names changed.
func (l *loop) answers() []actions.Update {
	if len(l.core.dirty) == 0 {
		return nil
	}
	var out []actions.Update
	wall := time.Now()
	list := make([]netip.Addr, 0, len(l.core.dirty))
	for a := range l.core.dirty {
		list = append(list, a)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	for _, a := range list[:min(len(list), maxBatch)] {
		delete(l.core.dirty, a)
		ttl := l.core.names.Until(a, wall).Sub(wall)
		if ttl <= 0 {
			continue
		}
		updates, err := l.plan.Answer(a, l.core.names.Names(a, wall), ttl)
		if errors.Is(err, actions.ErrClasses) {
			l.d.wake(reasonNames)
			break
		}
		out = append(out, updates...)
	}
	return out
}

// commitObserved makes a waiting candidate live where nothing is enforced.
func (l *loop) commitObserved() {
	clear(l.core.dirty)
	c := l.waiting
	if c == nil {
		return
	}
	l.waiting = nil
	l.swap(c.c)
	l.settle()
	c.reply <- nil
}

// finished takes what came of a job.
func (l *loop) finished(ctx context.Context, j jobDone) {
	l.busy = false
	tell(j.job.told)
	if j.job.apply != nil {
		c := l.waiting
		l.waiting = nil
		c.c.found, c.c.looked = j.found, j.looked
		l.d.metrics.Apply("plan", j.took, j.err)
		if j.err == nil {
			l.broken = ""
			probes := !sameProbes(l.core.live.policy, c.c.policy) || l.plan.MarkMask != c.c.plan.MarkMask ||
				!maps.Equal(l.plan.IDs.Marks, c.c.plan.IDs.Marks)
			l.swap(c.c)
			if probes {
				l.stopProbes()
				l.startProbes(ctx)
			}
			l.settle()
			l.consult(ctx)
			l.hold(ctx)
			l.xray(ctx)
			l.relay(ctx)
			l.recheck()
			l.forward(ctx)
		} else {
			// The former plan is back as it was made, without what came since.
			made := l.made
			l.applied = &made
			for _, n := range l.core.holds(time.Now()) {
				l.core.dirty[n.addr] = true
			}
		}
		c.reply <- j.err
		return
	}
	if len(j.job.updates) > 0 {
		l.d.metrics.Apply("update", j.took, j.err)
	}
	if !j.job.turned.IsZero() && j.err == nil {
		since := j.told.Sub(j.job.turned)
		l.d.metrics.Turned(since)
		l.d.log.Info("new flows take other ways", "elements", len(j.job.updates), "after_sample_us", since.Microseconds())
	}
	if j.err == nil {
		return
	}
	if l.broken == "" {
		l.d.log.Error("the kernel lacks a part of the plan, applying it again", "error", j.err)
	}
	l.broken = j.err.Error()
	l.d.wake(reasonRepair)
}

// worker carries out jobs until its channel is closed.
func (l *loop) worker(ctx context.Context) {
	for j := range l.jobs {
		start := time.Now()
		r := jobDone{job: j}
		switch {
		case j.apply != nil:
			r.err = l.d.parts.Kernel.Apply(ctx, j.apply)
			if r.err == nil && j.look != nil {
				r.found, r.looked = l.d.readBack(ctx, j.look)
			}
		case len(j.updates) > 0:
			r.err = l.d.parts.Kernel.Update(ctx, j.updates)
		}
		r.told = time.Now()
		if r.err == nil && j.verify != nil {
			r.err = l.d.parts.Verifier.Verify(ctx, j.verify)
		}
		r.took = time.Since(start)
		if r.err == nil && j.refuse != nil {
			l.refuse(j.refuse)
		}
		for _, m := range j.marks {
			err := l.d.parts.Connections.SetMark(ctx, m.key.connection(), m.value, m.mask)
			if err != nil {
				l.d.log.Warn("connection not marked", "error", err)
			}
			m.tell(err)
		}
		if r.err == nil && len(j.forget) > 0 {
			list := make([]Connection, len(j.forget))
			for i, k := range j.forget {
				list[i] = k.connection()
			}
			if err := l.d.parts.Connections.Forget(ctx, list); err != nil {
				l.d.log.Warn("connections that were to begin anew not forgotten", "error", err)
			} else {
				l.d.log.Info("connections begin anew", "count", len(list))
			}
		}
		l.done <- r
	}
}

// errTooMany is why a mark is not set.
var errTooMany = errors.New("too many connections wait to be marked")

// tell says what came of it.
func (m *setMark) tell(err error) {
	if m.done != nil {
		m.done <- err
	}
}

func (k flowKey) connection() Connection { return Connection{uint8(k.proto), k.src, k.dst} }
