package relay

import (
	"net/netip"
	"sync"
)

// callerPart is the part of all handshakes that one client may have under way: a
// scan of dead addresses, or silence, must not keep the others out.
const callerPart = 4

// callers counts handshakes by client. There are no more than Limits.Handshakes.
type callers struct {
	mu   sync.Mutex
	each map[netip.Addr]int
}

// take reports whether the client may have one more; then give must follow.
func (c *callers) take(client netip.Addr, most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.each[client] >= most {
		return false
	}
	if c.each == nil {
		c.each = map[netip.Addr]int{}
	}
	c.each[client]++
	return true
}

func (c *callers) give(client netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.each[client]--; c.each[client] <= 0 {
		delete(c.each, client)
	}
}
