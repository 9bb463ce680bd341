// Package admit bounds what is under way at a time, in all and for each client, so
// that one client can't keep the others out.
package admit

import (
	"net/netip"
	"sync"
)

// Gate counts what is under way. Set its bounds before it is used.
type Gate struct {
	Max     int // of all clients together; 0: no bound
	MaxEach int // of one client

	mu   sync.Mutex
	all  int
	each map[netip.Addr]int
}

// Enter reports whether one more of the client's may begin; then Leave must follow.
func (g *Gate) Enter(client netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Max > 0 && g.all >= g.Max || g.each[client] >= g.MaxEach {
		return false
	}
	if g.each == nil {
		g.each = map[netip.Addr]int{}
	}
	g.all++
	g.each[client]++
	return true
}

// Leave ends what Enter let begin.
func (g *Gate) Leave(client netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.each[client]--; g.each[client] <= 0 {
		delete(g.each, client)
	}
}
