// Package probe measures uplinks: each round asks all targets of an uplink at
// once, by ICMP echo or TCP connect, out of the uplink's own device, and
// reports what came back as a state.Round.
//
//	err := probe.Run(ctx, []probe.Uplink{{
//		Index: 0, Dev: "eth1", Kind: probe.ICMP, Targets: targets, Every: time.Second, Mark: 0x10000000,
//	}}, clock, rounds.Offer)
//
// # Which mark
//
// A socket bound to a device still asks the routing tables for its gateway.
// With the main table's default on another uplink, a lookup for this device
// finds no route: IPv4 then takes the target for a neighbour on the link and
// asks for it by ARP, IPv6 fails. So Mark must select a table that has this
// uplink's default: the uplink's own fwmark, not the bypass mark, unless the
// main table has a default route for every uplink's device (with different
// metrics), where the bypass mark does too. With Mark 0 nothing is marked.
//
// Strict reverse-path filtering (rp_filter 1) on the device drops the answers
// when the main table routes the targets elsewhere; loose (2) or none is needed.
package probe

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/state"
)

// Kind is how a target is asked.
type Kind uint8

// The kinds of probes. The zero Kind is ICMP.
const (
	// ICMP sends an echo request. It needs CAP_NET_RAW.
	ICMP Kind = iota
	// TCP opens a connection and resets it. A refusal counts as lost: it may
	// come from a box on this side of the line.
	TCP
)

// String returns the kind as policies spell it.
func (k Kind) String() string {
	if k == TCP {
		return "tcp"
	}
	return "icmp"
}

// MaxTargets bounds the targets of an uplink that are asked in a round; the
// others are left out. More tell nothing new and look like an attack.
const MaxTargets = 16

// minEvery bounds how often an uplink is probed.
const minEvery = 10 * time.Millisecond

// Uplink is one uplink to probe.
type Uplink struct {
	Index   int // goes into the rounds
	Dev     string
	Kind    Kind
	Targets []netip.AddrPort // ports are ignored for ICMP
	// Every is the time from round to round, and the longest that an answer is
	// waited for. At least 10 ms; 0 means 1 s.
	Every time.Duration
	// Mark is the sockets' SO_MARK. See the package's comment.
	Mark uint32
}

// Run probes the uplinks until ctx ends, and returns having stopped all it
// started. now is the clock of the rounds; it must not go back. emit is called
// from several goroutines, one at a time, and must not block.
//
// A round is reported when its last answer is in or Every is over. When the
// device goes down, or is gone, a round with Down is reported at once, and
// once each Every while that lasts; when it comes up, a round begins at once.
// Without targets, only the link is reported: a round without probes each Every.
//
// What makes one uplink unmeasurable (no device, no route, no permission) is a
// lost probe, not an error; only the loss of link news is an error.
func Run(ctx context.Context, uplinks []Uplink, now func() time.Duration, emit func(state.Round)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	one := func(r state.Round) {
		mu.Lock()
		defer mu.Unlock()
		emit(r)
	}
	links, err := watchLinks()
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	var all sync.WaitGroup
	woken := make([]chan struct{}, len(uplinks))
	for i, u := range uplinks {
		woken[i] = make(chan struct{}, 1) // full: it will look anyway
		p := prober{uplink: u.withDefaults(), now: now, emit: one, wake: woken[i]}
		all.Go(func() { p.run(ctx) })
	}
	err = links.run(ctx, func() {
		for _, w := range woken {
			select {
			case w <- struct{}{}:
			default:
			}
		}
	})
	cancel()
	all.Wait()
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	return nil
}

func (u Uplink) withDefaults() Uplink {
	if u.Every <= 0 {
		u.Every = time.Second
	}
	u.Every = max(u.Every, minEvery)
	u.Targets = u.Targets[:min(len(u.Targets), MaxTargets)]
	return u
}

// prober probes one uplink.
type prober struct {
	uplink Uplink
	now    func() time.Duration
	emit   func(state.Round)
	wake   <-chan struct{} // the links have changed
}

// run makes rounds until ctx ends. The rounds keep their pace: a late one does
// not move those after it.
func (p *prober) run(ctx context.Context) {
	next := time.NewTicker(p.uplink.Every)
	defer next.Stop()
	for up := true; ; {
		was := up
		if up = linkUp(p.uplink.Dev); up != was {
			next.Reset(p.uplink.Every)
		}
		if !up {
			p.emit(state.Round{Uplink: p.uplink.Index, At: p.now(), Down: true})
		} else if !p.round(ctx) && ctx.Err() == nil {
			continue // the link went down meanwhile: say so at once
		}
		if !p.wait(ctx, next.C, up) {
			return
		}
	}
}

// wait returns true when the next round is due: in time, or because the link
// changed from what it was; false when ctx ended.
func (p *prober) wait(ctx context.Context, next <-chan time.Time, up bool) bool {
	for {
		select {
		case <-next:
			return true
		case <-p.wake:
			if linkUp(p.uplink.Dev) != up {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// round asks all targets and reports. It returns false, having reported
// nothing, when ctx ended or the link went down before the round was over.
func (p *prober) round(ctx context.Context) bool {
	deadline := time.Now().Add(p.uplink.Every)
	ask, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	answers := make([]state.Answer, len(p.uplink.Targets))
	var all sync.WaitGroup
	for i, target := range p.uplink.Targets {
		all.Go(func() { answers[i] = p.ask(ask, target) })
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for {
		select {
		case <-done:
			if ctx.Err() != nil {
				return false
			}
			p.emit(state.Round{Uplink: p.uplink.Index, At: p.now(), Probes: answers})
			return true
		case <-p.wake:
			if !linkUp(p.uplink.Dev) {
				cancel()
				<-done
				return false
			}
		}
	}
}

// ask asks one target.
func (p *prober) ask(ctx context.Context, target netip.AddrPort) state.Answer {
	var rtt time.Duration
	var err error
	if p.uplink.Kind == TCP {
		rtt, err = p.connect(ctx, target)
	} else {
		rtt, err = p.echo(ctx, target.Addr())
	}
	if err != nil {
		return state.Answer{Lost: true}
	}
	return state.Answer{RTT: max(rtt, 0)}
}
