package daemon

import (
	"context"
	"math"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/first"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/inspector/packet"
	"netpolicy.dev/netpolicy/inspector/sniff"
	"netpolicy.dev/netpolicy/rules"
)

const (
	// helloName is the source of what is read in held packets, in records, status and metrics.
	helloName = "hello"
	// wholePacket is how much of a held packet is copied: a hello comes in one piece
	// where the network card or the kernel has put its segments together.
	wholePacket = math.MaxUint16
	// dropHeld is the answer for packets that are to be dropped.
	dropHeld = math.MaxUint32
)

// hold makes the daemon answer for the packets that the plan in force holds, and for
// no others. It is the loop's to call. Packets that wait when it stops are lost, and
// sent again.
func (l *loop) hold(ctx context.Context) {
	want := l.plan.Hello
	if !l.d.opts.Observe && l.d.parts.Queue != nil && want.Via != actions.NoQueue {
		l.become(ctx, &l.held, want, func(ctx context.Context) {
			for i := range want.Queues {
				l.held.done.Go(func() { l.d.hear(ctx, want, want.First+i) })
			}
		})
		return
	}
	l.stop(&l.held)
	if l.core.live.policy.Daemon.Hello == rules.Hold && !l.d.opts.Observe && l.host.Queue == actions.NoQueue {
		l.d.setSource(helloName, "no NFQUEUE on this host: hellos are watched, not held")
	}
}

// hear serves one queue; while it can't, hellos pass and are watched.
func (d *Daemon) hear(ctx context.Context, hello actions.Hello, queue uint16) {
	d.keepRunning(ctx, helloName, "hellos are not held", func(ctx context.Context) error {
		a := newHearer(d, hello.Strict)
		return d.parts.Queue(ctx, nfqueue.Options{
			Queue: queue, Copy: wholePacket, FailOpen: !hello.Strict, Counters: &d.hellos, Tick: a.tick,
		}, a.answer)
	})
}

// hearer answers for the held packets of one queue, on its own goroutine, by the
// newest snapshot. It waits for nobody.
type hearer struct {
	answerer
	holder *sniff.Holder
	given  []nfqueue.Answer // scratch
}

func newHearer(d *Daemon, strict bool) *hearer {
	a := &hearer{answerer: answerer{d: d}}
	a.holder = sniff.NewHolder(a.judge)
	a.holder.Again, a.holder.Full, a.holder.Counters = actions.HelloAgain, actions.HelloPass, &d.held
	if strict {
		a.holder.Full = dropHeld
	}
	return a
}

// answer takes one packet. One that can't be read has no answer.
func (a *hearer) answer(p *nfqueue.Packet, v *nfqueue.Verdict) {
	s := a.d.snap.Load()
	seen, ok := packet.DecodeIP(p.Payload, packet.Options{})
	if !ok || s == nil || s.plan == nil {
		return
	}
	now := time.Now()
	list := a.holder.Packet(seen, p.ID, now, func() *flow.Flow {
		var f flow.Flow
		a.describe(&f, p, s, now)
		return &f
	})
	v.Hold, v.Before = true, a.answers(list)
	if n := len(v.Before); n > 0 && v.Before[n-1].ID == p.ID { // this one is let go last
		last := v.Before[n-1]
		v.Hold, v.Before, v.Drop, v.Priority = false, v.Before[:n-1], last.Drop, last.Priority
	}
}

// tick answers for those that have waited long enough.
func (a *hearer) tick() (list []nfqueue.Answer, more bool) {
	return a.answers(a.holder.Tick(time.Now())), a.holder.Waits()
}

func (a *hearer) answers(list []sniff.Release) []nfqueue.Answer {
	a.given = a.given[:0]
	for _, r := range list {
		one := nfqueue.Answer{ID: r.ID, Priority: r.Answer}
		if r.Answer == dropHeld {
			one = nfqueue.Answer{ID: r.ID, Drop: true}
		}
		a.given = append(a.given, one)
	}
	return a.given
}

// judge implements sniff.Judge: it decides as soon as nothing that the client may
// still say would change the decision.
func (a *hearer) judge(f *flow.Flow, x first.Facts, final bool) (answer uint32, decided bool) {
	s := a.d.snap.Load()
	now := time.Now()
	e := inspector.Event{Kind: inspector.Name, At: now, Source: helloName, Flow: *f, ECH: x.ECH}
	dst, _ := f.Dst.Get()
	e.Flow.DNS = a.d.hints.names(dst, now)
	x.Fill(&e.Flow, final)
	d := &a.decision
	s.live.prog.DecideInto(d, &e.Flow, s.live.world)
	if !final && d.Pending&actions.FirstFacts != 0 {
		return 0, false
	}
	if d.Blocked() {
		e.Mark, _ = s.live.marks.MarkOf(d) // the table sets it
	}
	a.d.offer(e)
	return s.live.marks.HelloCode(d), true
}
