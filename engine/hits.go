package engine

import (
	"sync"
	"sync/atomic"
)

// Hits counts how often each rule has won. It is safe for concurrent use; each
// goroutine that decides counts in a Tally of its own, so that counting shares
// no memory between cores. The zero Hits is empty.
type Hits struct {
	mu      sync.Mutex
	tallies []*Tally
}

// Tally is one goroutine's part of Hits. Only that goroutine may call Add.
type Tally struct {
	counts []atomic.Uint64 // by rule in source order, after the default's
}

// Tally returns a new part for the rules of a program.
func (h *Hits) Tally(p *Program) *Tally {
	t := &Tally{counts: make([]atomic.Uint64, len(p.policy.Rules)+1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tallies = append(h.tallies, t)
	return t
}

// Add counts a decision of the tally's program.
func (t *Tally) Add(d *Decision) {
	n := &t.counts[d.Rule+1]
	n.Store(n.Load() + 1) // there is one writer: no need to lock the bus
}

// Sum adds up the tallies, which are all of one program: how often the default,
// and each rule in source order, have won.
func (h *Hits) Sum() (byDefault uint64, byRule []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.tallies {
		byDefault += t.counts[0].Load()
		if byRule == nil {
			byRule = make([]uint64, len(t.counts)-1)
		}
		for i := range byRule {
			byRule[i] += t.counts[i+1].Load()
		}
	}
	return byDefault, byRule
}
