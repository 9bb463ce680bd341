package relay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"netpolicy.dev/netpolicy/flow"
)

// question is what is asked about one connection or session until it has a way.
type question struct {
	r       *Relay
	e       *entry
	target  target
	flow    flow.Flow
	ask     Ask
	verdict Verdict
	addrs   []netip.Addr // those of target's name, once the verdict wanted them
}

// describe fills in what is known before the first bytes.
func (q *question) describe(proto flow.Proto, src netip.AddrPort) {
	f := &q.flow
	f.Proto = flow.Some(proto)
	f.Src, f.SrcPort = flow.Some(src.Addr().WithZone("")), flow.Some(src.Port())
	f.DstPort = flow.Some(q.target.Port)
	if q.target.Name == "" {
		f.Dst = flow.Some(q.target.Addr)
	} else {
		f.Domain = flow.Name(q.target.Name)
	}
	q.ask.Flow = f
}

// decide asks until the verdict waits for nothing more that can be had. sniff
// fills in the facts of the first bytes.
func (q *question) decide(ctx context.Context, sniff func(context.Context) error) error {
	for {
		q.verdict = Verdict{}
		q.r.cfg.Decider.Decide(&q.ask, &q.verdict)
		switch v := &q.verdict; {
		case v.Sniff && !q.ask.Sniffed:
			q.ask.Sniffed = true
			if err := sniff(ctx); err != nil {
				return err
			}
		case v.Do != Resolve:
			return nil
		case q.ask.Resolved:
			return errBlocked // it does not know what it wants
		default:
			q.ask.Resolved = true
			if err := q.resolve(ctx); err != nil {
				return err
			}
		}
	}
}

func (q *question) resolve(ctx context.Context) error {
	if q.target.Name == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, q.r.limits.Dial)
	defer cancel()
	d := dialer{q.r, q.e.src.Addr(), &q.verdict.Way}
	addrs, err := d.resolve(ctx, q.target.Name)
	if err == nil {
		q.addrs = q.allowed(addrs)
		q.flow.Dst = flow.Some(q.addrs[0])
	}
	return err
}

// allowed returns the addresses that may be dialled, all by the way of the first: a
// rule may be about some addresses of a name and not about others. When none may
// be, it is the first, whose verdict is then the name's.
func (q *question) allowed(addrs []netip.Addr) (list []netip.Addr) {
	route := ""
	for _, a := range addrs {
		q.flow.Dst = flow.Some(a)
		ask := q.ask
		ask.Resolved = true
		var v Verdict
		q.r.cfg.Decider.Decide(&ask, &v)
		if v.Do == Dial && (len(list) == 0 || v.Way.Route == route) {
			list, route = append(list, a), v.Way.Route
		}
	}
	if len(list) == 0 {
		return addrs[:1]
	}
	return list
}

// dial decides and has try dial by the verdict; when that fails, by the next one.
func (q *question) dial(ctx context.Context, sniff func(context.Context) error, try func(context.Context, *dialer, target, *Outcome) error) error {
	var failed error
	for range maxTries {
		v := &q.verdict
		switch err := q.decide(ctx, sniff); {
		case err == nil:
		case errors.Is(err, errNoName) && v.Way.Server.IsValid() && !slices.Contains(q.ask.Failed, v.Way.Route):
			// It may be the server that is dead: another member of the group has its own.
			failed = err
			q.ask.Failed, q.ask.Resolved = append(q.ask.Failed, v.Way.Route), false
			continue
		default:
			return err
		}
		switch {
		case v.Do != Dial && failed == nil:
			return errBlocked
		case v.Do != Dial, slices.Contains(q.ask.Failed, v.Way.Route):
			return failed
		}
		if failed = q.try(ctx, try); failed == nil || ctx.Err() != nil {
			return failed
		}
		q.ask.Failed = append(q.ask.Failed, v.Way.Route)
	}
	return failed
}

// try dials once and reports it.
func (q *question) try(ctx context.Context, dial func(context.Context, *dialer, target, *Outcome) error) error {
	w := &q.verdict.Way
	o := Outcome{ID: q.e.id, Route: w.Route, Uplink: w.Uplink}
	start := time.Now()
	limited, cancel := context.WithTimeout(ctx, q.r.limits.Dial)
	err := dial(limited, &dialer{q.r, q.e.src.Addr(), w}, q.wanted(w), &o)
	cancel()
	o.Took = time.Since(start)
	if err != nil {
		o.Err, o.Failure = err, failureOf(err)
	} else {
		q.e.taken(w, o.Dst)
	}
	if q.r.cfg.Reporter != nil {
		q.r.cfg.Reporter.Dialled(&o)
	}
	return err
}

// wanted is the target as a way is asked for it.
func (q *question) wanted(w *Way) target {
	if w.SendName && w.Server.IsValid() && q.target.Name == "" {
		if name, ok := sniffed(&q.flow); ok {
			return target{Name: name, Port: q.target.Port}
		}
	}
	return q.target
}

// sniffed is the name in the client's first bytes.
func sniffed(f *flow.Flow) (string, bool) {
	if name, ok := f.SNI.Get(); ok {
		return name, true
	}
	return f.HTTPHost.Get()
}
