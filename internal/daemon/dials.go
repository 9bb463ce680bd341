package daemon

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/relay"
	"netpolicy.dev/netpolicy/state"
)

// dials gathers how the relay's dials end, by uplink, for the health machine, and
// tells of its connections as a source does.
type dials struct {
	d    *Daemon
	made [maxUplinks]struct{ all, failed atomic.Int64 }

	mu   sync.Mutex
	dead networks // where a dial failed
	good networks // where one stood
}

const (
	// maxUplinks bounds the uplinks whose dials are counted.
	maxUplinks = 64
	// deadFor is how long a network where a dial failed says nothing more about the
	// line: one dead server that many ask for is not a bad line.
	deadFor = time.Minute
	// goodFor is how long a network counts as one that can be reached. Failures
	// towards others say nothing: anybody behind the gateway could scan what is not there.
	goodFor = 10 * time.Minute
	// maxNetworks bounds those that are remembered; of others nothing is known.
	maxNetworks = 4096
)

func newDials(d *Daemon) *dials {
	return &dials{d: d, dead: networks{deadFor, map[netip.Prefix]time.Time{}}, good: networks{goodFor, map[netip.Prefix]time.Time{}}}
}

// networks remembers networks, /24 or /48, for a while.
type networks struct {
	life time.Duration
	at   map[netip.Prefix]time.Time
}

// networkOf is what an address is remembered by; the zero Prefix, of a name behind a
// SOCKS server, is none.
func networkOf(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

func (n *networks) has(p netip.Prefix, now time.Time) bool {
	at, known := n.at[p]
	return known && now.Sub(at) < n.life
}

// put reports whether there was room.
func (n *networks) put(p netip.Prefix, now time.Time) bool {
	if _, known := n.at[p]; !known && len(n.at) >= maxNetworks {
		maps.DeleteFunc(n.at, func(_ netip.Prefix, at time.Time) bool { return now.Sub(at) >= n.life })
		if len(n.at) >= maxNetworks {
			return false
		}
	}
	n.at[p] = now
	return true
}

// stood notes that a dial towards an address has stood.
func (x *dials) stood(a netip.Addr) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.good.put(networkOf(a), time.Now())
}

// news reports whether a failure towards an address says something of the line: it is
// the first in its network for a while, and something there was reached lately.
func (x *dials) news(a netip.Addr) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	p, now := networkOf(a), time.Now()
	return p.IsValid() && !x.dead.has(p, now) && x.good.has(p, now) && x.dead.put(p, now)
}

// Dialled implements relay.Reporter.
func (x *dials) Dialled(o *relay.Outcome) {
	if _, xray := x.d.proxyServer(o.Route); xray {
		return // it stands as soon as Xray has taken it, which says nothing of the line
	}
	if o.Uplink < 0 || o.Uplink >= maxUplinks || o.Failure != relay.None && (!o.Failure.BlamesUplink() || !x.news(o.Dst.Addr())) {
		return
	}
	if o.Failure == relay.None {
		x.stood(o.Dst.Addr())
	}
	n := &x.made[o.Uplink]
	n.all.Add(1)
	if o.Failure != relay.None {
		n.failed.Add(1)
	}
}

// Opened implements relay.Reporter.
func (x *dials) Opened(c *relay.Conn) { x.event(inspector.Open, c, inspector.Stats{}) }

// Closed implements relay.Reporter.
func (x *dials) Closed(c *relay.Conn, e *relay.End) {
	if e.EarlyReset && x.news(c.Dst.Addr()) && c.Uplink >= 0 && c.Uplink < maxUplinks {
		x.made[c.Uplink].failed.Add(1)
	}
	x.event(inspector.Close, c, inspector.Stats{RTT: e.RTT, MinRTT: e.MinRTT, Retrans: uint64(e.Retransmits), BytesUp: c.Up, BytesDown: c.Down})
}

func (x *dials) event(kind inspector.Kind, c *relay.Conn, stats inspector.Stats) {
	if !c.Dst.IsValid() {
		return
	}
	x.d.offer(inspector.Event{Kind: kind, At: time.Now(), Source: relayName, Stats: stats, Flow: relayedFlow(c)})
}

// report tells the machine each second.
func (x *dials) report(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-tick.C:
			for i := range x.made {
				all, failed := int(x.made[i].all.Swap(0)), int(x.made[i].failed.Swap(0))
				if all+failed == 0 {
					continue
				}
				r := state.Round{Uplink: i, At: x.d.parts.Now(), Dials: max(all, failed), Failures: failed}
				select {
				case x.d.rounds <- taggedRound{passive, r, at}:
				case <-ctx.Done():
					return
				}
			}
		}
	}
}
