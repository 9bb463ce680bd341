//go:build !linux

package relay

import (
	"context"
	"errors"
	"net/netip"
)

var errSystem = errors.New("the relay works on Linux only so far")

// Relay needs Linux.
type Relay struct{}

// Stats are counters.
type Stats struct {
	Conns, Limit                   int
	Full, Self, Dropped, Displaced uint64
}

// New needs Linux.
func New(Config) (*Relay, error) { return nil, errSystem }

// Run needs Linux.
func (*Relay) Run(context.Context) error { return errSystem }

// Reopen needs Linux.
func (*Relay) Reopen([]Inbound) error { return errSystem }

// Addrs returns none.
func (*Relay) Addrs() []netip.AddrPort { return nil }

// Conns returns none.
func (*Relay) Conns() []Conn { return nil }

// Kill finds none.
func (*Relay) Kill(uint64) bool { return false }

// Stats returns zeros.
func (*Relay) Stats() Stats { return Stats{} }
