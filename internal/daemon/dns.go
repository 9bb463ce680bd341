package daemon

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/relay"
	"netpolicy.dev/netpolicy/resolver"
	"netpolicy.dev/netpolicy/rules"
)

// forwarderName is the DNS forwarder as a source, in status and metrics.
const forwarderName = "dns"

// forward runs the DNS forwarder that the policy in force asks for, and no other.
// It is the loop's to call.
func (l *loop) forward(ctx context.Context) {
	dns := &l.core.live.policy.Daemon.DNS
	if len(dns.Listen) == 0 || l.d.opts.Observe {
		l.stop(&l.forwarded)
		return
	}
	cfg := resolver.Config{Listen: dns.Listen, Stale: dns.Stale, StripECH: dns.StripECH}
	if dns.ZeroAddress {
		cfg.Blocked = resolver.ZeroAddress
	}
	for _, u := range dns.Upstreams { // whom each is for, chooseUpstream asks the policy
		cfg.Upstreams = append(cfg.Upstreams, resolver.Upstream{Name: u.Name, URL: u.URL, Bootstrap: u.At})
	}
	l.become(ctx, &l.forwarded, cfg, func(ctx context.Context) {
		l.forwarded.done.Go(func() { l.d.runForwarder(ctx, cfg) })
	})
}

// runForwarder serves until ctx ends, and again when that ends, with a growing pause.
func (d *Daemon) runForwarder(ctx context.Context, cfg resolver.Config) {
	cfg.Choose, cfg.Learn = d.chooseUpstream, d.learnAnswer
	d.keepRunning(ctx, forwarderName, "names are not resolved here", func(ctx context.Context) error {
		r, err := resolver.New(cfg)
		if err != nil {
			return err
		}
		d.forwarder.Store(r)
		defer d.forwarder.Store(nil)
		return r.Run(ctx)
	})
}

// forwardedPort is the port for which a question is decided: whoever asks for a
// name is most likely about to open it.
const forwardedPort = 443

// chooseUpstream decides a question as the connection that will follow it.
func (d *Daemon) chooseUpstream(name string, _ uint16, client netip.Addr) (c resolver.Choice) {
	s := d.snap.Load()
	if s == nil || s.plan == nil {
		return resolver.Choice{Blocked: true}
	}
	p := s.live.policy
	c.Route.Mark = s.plan.Bypass()
	c.Upstreams = p.Daemon.DNS.UpstreamsFor(name)
	f := flow.Flow{
		Proto: flow.Some(flow.TCP), Src: flow.Some(client), DstPort: flow.Some(uint16(forwardedPort)),
		SNI: flow.Name(name), HTTPHost: flow.Absent[string](),
	}
	(&decider{d: d}).describe(&f, time.Now())
	var decision engine.Decision
	s.live.prog.DecideInto(&decision, &f, s.live.world)
	switch {
	case decision.Blocked():
		// For good, or because a group has no usable member: the question must not
		// leave where its traffic may not. Else the address has still to be known.
		c.Blocked = decision.Final || decision.Kind != rules.ActBlock
	case decision.Route >= 0:
		var way relay.Way
		ok := (&decider{d: d}).way(&way, s, decision.Route)
		// A tunnel that can't be had hides names as well; a black hole may be what is left
		// when the address turns out not to be another rule's.
		c.NoWay = !ok && (decision.Final || p.Routes[decision.Route].Kind == rules.RouteOther)
		c.Route.Mark, c.Route.Server = cmp.Or(way.Mark, c.Route.Mark), way.Server
	}
	return c
}

// learnAnswer enters an answer, and returns when the kernel knows of it.
func (d *Daemon) learnAnswer(ctx context.Context, a resolver.Answer) error {
	told := make(chan struct{})
	err := d.call(ctx, func(l *loop) error {
		e := inspector.Event{
			Kind: inspector.Answered, At: time.Now(), Source: forwarderName,
			Answer: inspector.Answer{Name: a.Name, Addrs: a.Addrs, TTL: a.TTL},
		}
		l.core.event(&e, l.d.parts.Now(), e.At)
		l.toTell = append(l.toTell, told)
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case <-told:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("tell the kernel of %s: %w", a.Name, ctx.Err())
	}
}

// tell lets those go on who waited for the kernel.
func tell(list []chan struct{}) {
	for _, c := range list {
		close(c)
	}
}

// dnsGauges writes what the forwarder counts, while there is one.
func (d *Daemon) dnsGauges(w io.Writer) {
	r := d.forwarder.Load()
	if r == nil {
		return
	}
	c := r.Counters()
	for _, x := range []struct {
		result string
		n      *atomic.Uint64
	}{
		{"cached", &c.Cached},
		{"stale", &c.Stale},
		{"coalesced", &c.Coalesced},
		{"blocked", &c.Blocked},
		{"failed", &c.Failed},
		{"no_way", &c.NoWay},
		{"malformed", &c.Malformed},
		{"refused", &c.Refused},
		{"dropped", &c.Dropped},
		{"looped", &c.Looped},
		{"truncated", &c.Truncated},
		{"late", &c.LateLearns},
		{"upstream_error", &c.UpstreamErrors},
		{"mismatched", &c.Mismatched},
	} {
		fmt.Fprintf(w, "netpolicy_dns_results_total{result=%q} %d\n", x.result, x.n.Load())
	}
	fmt.Fprintf(w, "netpolicy_dns_queries_total %d\n", c.Queries.Load())
}
