package daemon

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/internal/api"
)

// consultName is the source of what consulting sees, in records, status and metrics.
const consultName = "consult"

// Queue opens one packet queue and has answer judge each packet until ctx ends.
type Queue func(ctx context.Context, opt nfqueue.Options, answer func(*nfqueue.Packet, *nfqueue.Verdict)) error

// hints are the DNS names of addresses for those who do not own the name table:
// the loop writes, everybody reads, nobody waits. They are as many as the table
// holds, and those that it dropped within the last tick.
type hints struct{ byAddr sync.Map } // netip.Addr -> *inspector.Held

func (h *hints) names(a netip.Addr, now time.Time) flow.Names {
	v, ok := h.byAddr.Load(a)
	if !ok {
		return flow.Names{}
	}
	held, _ := v.(*inspector.Held)
	return held.Names(now)
}

// learn takes over what the table holds of the addresses.
func (h *hints) learn(t *inspector.NameTable, list []netip.Addr, now time.Time) {
	for _, a := range list {
		if held := t.Held(a, now); held != nil {
			h.byAddr.Store(a, held)
		} else {
			h.byAddr.Delete(a)
		}
	}
}

// sweep forgets what the table does not hold any more.
func (h *hints) sweep(t *inspector.NameTable, now time.Time) {
	h.byAddr.Range(func(key, _ any) bool {
		if a, ok := key.(netip.Addr); !ok || t.Until(a, now).IsZero() {
			h.byAddr.Delete(key)
		}
		return true
	})
}

// consult makes the daemon answer the queues that the plan in force asks it by,
// and no others. It is the loop's to call.
func (l *loop) consult(ctx context.Context) {
	want := l.plan.Consult
	if l.d.opts.Observe || l.d.parts.Queue == nil || want.Via == actions.NoQueue {
		l.stop(&l.asked)
		return
	}
	l.become(ctx, &l.asked, want, func(ctx context.Context) {
		for i := range want.Queues {
			opt := nfqueue.Options{Queue: want.First + i, FailOpen: !want.Strict, Counters: &l.d.questions}
			l.asked.done.Go(func() { l.d.answerQueue(ctx, opt) })
		}
	})
}

// answerQueue serves one queue; while it can't, the kernel's table decides.
func (d *Daemon) answerQueue(ctx context.Context, opt nfqueue.Options) {
	a := answerer{d: d}
	d.keepRunning(ctx, consultName, "first packets are decided by the kernel's table", func(ctx context.Context) error {
		return d.parts.Queue(ctx, opt, a.answer)
	})
}

// clearSource takes a source out of the status.
func (d *Daemon) clearSource(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var rest []api.Source
	for _, s := range d.sources {
		if s.Name != name {
			rest = append(rest, s)
		}
	}
	d.sources = rest
}

// answerer decides the packets of one queue, on its own goroutine, by the newest
// snapshot. It waits for nobody.
type answerer struct {
	d        *Daemon
	decision engine.Decision // scratch: it is large
	// What follows from a host's links and users, for the one it was made from.
	host  *actions.Host
	ifs   map[uint32]flow.Value[string]
	users map[uint32]flow.Value[string]
}

// answer decides one first packet. One that can't be read goes on as it came: the
// table decides it.
func (a *answerer) answer(p *nfqueue.Packet, v *nfqueue.Verdict) {
	s := a.d.snap.Load()
	if s == nil || s.plan == nil {
		return
	}
	now := time.Now()
	e := inspector.Event{Kind: inspector.Open, At: now, Source: consultName}
	if !a.describe(&e.Flow, p, s, now) {
		return
	}
	d := &a.decision
	s.live.prog.DecideInto(d, &e.Flow, s.live.world)
	v.Priority, v.Drop = s.live.marks.AnswerCode(d)
	e.Mark, _ = s.live.marks.MarkOf(d)
	if d.Blocked() {
		// No conntrack entry will tell of it. As with what the table drops, only
		// rules that log are recorded.
		if d.Mods.Log.Unknown() {
			return
		}
		e.Kind, e.Prefix = inspector.Logged, actions.LogPrefix(deciding(s.live.policy, d))
	}
	a.d.offer(e)
}

// describe gathers what the kernel's table would know of the packet too.
func (a *answerer) describe(f *flow.Flow, p *nfqueue.Packet, s *snapshot, now time.Time) bool {
	if !p.Describe(f) {
		return false
	}
	if s.host != a.host {
		a.learnHost(s.host)
	}
	f.Mark = flow.Some(p.Mark &^ s.plan.MarkMask)
	dst, _ := f.Dst.Get()
	f.DNS = a.d.hints.names(dst, now)
	if p.In == 0 { // a local socket's: its program is known later, as with the table
		f.IfaceIn = flow.Absent[string]()
		if p.HasUID {
			f.User = a.user(p.UID)
		}
		return true
	}
	f.IfaceIn = a.ifs[p.In]
	f.User, f.Group = flow.Absent[string](), flow.Absent[string]()
	f.Process, f.ProcessPath, f.Cgroup = flow.Absent[string](), flow.Absent[string](), flow.Absent[string]()
	if p.HasMAC {
		f.SrcMAC = flow.Some(p.MAC)
	}
	return true
}

func (a *answerer) learnHost(h *actions.Host) {
	a.host, a.ifs, a.users = h, map[uint32]flow.Value[string]{}, map[uint32]flow.Value[string]{}
	for _, l := range h.Links {
		a.ifs[uint32(l.Index)] = flow.Some(l.Name)
	}
	for name, uid := range h.Users {
		// Of several names the first in order, whatever the map's.
		if old, ok := a.users[uid].Get(); !ok || name < old {
			a.users[uid] = flow.Some(name)
		}
	}
}

// maxNumbers bounds the users without a name that are remembered.
const maxNumbers = 4096

func (a *answerer) user(uid uint32) flow.Value[string] {
	u, ok := a.users[uid]
	if !ok {
		u = flow.Some(strconv.FormatUint(uint64(uid), 10))
		if len(a.users) < maxNumbers+len(a.host.Users) {
			a.users[uid] = u
		}
	}
	return u
}
