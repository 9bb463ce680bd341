package resolver

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// Counters say what a Resolver did since it was made.
type Counters struct {
	Queries        atomic.Uint64 // messages that came, of any kind
	Cached         atomic.Uint64 // answered from the cache
	Stale          atomic.Uint64 // answered from the cache beyond its time
	Coalesced      atomic.Uint64 // waited for an equal question on its way
	Blocked        atomic.Uint64 // answered as blocked
	NoWay          atomic.Uint64 // answered SERVFAIL: the name's traffic has no way out
	Failed         atomic.Uint64 // answered SERVFAIL: no upstream replied
	Malformed      atomic.Uint64 // not a sound query: FORMERR, or no answer at all
	Refused        atomic.Uint64 // ANY, zone transfers, other classes and opcodes
	Dropped        atomic.Uint64 // over a bound, not answered
	Looped         atomic.Uint64 // our own question came back to us
	Truncated      atomic.Uint64 // told to come again over TCP
	LateLearns     atomic.Uint64 // answered although Learn was late or failed
	UpstreamErrors atomic.Uint64 // attempts without a usable reply
	Mismatched     atomic.Uint64 // replies to something that was not asked, dropped
}

// Bounds of what is under way.
const (
	// maxQueries bounds the questions that wait for an upstream at a time: with
	// 4 s each still 256 a second while everything is down, in a few MiB.
	maxQueries = 1024
	// maxQueriesPerClient keeps one client from taking them all; a browser that
	// starts with many tabs asks for some 100 at once.
	maxQueriesPerClient = 256
	// maxConns and maxConnsPerClient do the same for TCP connections.
	maxConns          = 256
	maxConnsPerClient = 16
)

// ownAddrs are the local addresses of our sockets towards upstreams. A question
// that comes from one of them is our own: something leads it back, such as a
// redirect of port 53 that does not except us.
type ownAddrs struct {
	mu    sync.RWMutex
	addrs map[netip.AddrPort]struct{}
}

func (o *ownAddrs) add(a netip.AddrPort) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.addrs == nil {
		o.addrs = map[netip.AddrPort]struct{}{}
	}
	o.addrs[a] = struct{}{}
}

func (o *ownAddrs) remove(a netip.AddrPort) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.addrs, a)
}

func (o *ownAddrs) has(a netip.AddrPort) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	_, ok := o.addrs[a]
	return ok
}
