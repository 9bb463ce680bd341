// Package tunnels carries out `via xray NAME`: it makes one configuration of all
// routes of a policy that lead through Xray, keeps one Xray running with it, and
// says where each route's SOCKS server is and whether its tunnel lives.
//
// Profiles come out of files of links, and of Sources such as subscriptions.
package tunnels

import (
	"context"
	"sync"

	"netpolicy.dev/netpolicy/xray/link"
)

// Choice is what a name of `via xray NAME` stands for.
type Choice struct {
	// Profiles are the proxies, in their order; more than one are measured and one is
	// used at a time. Those that can't be run are left out, with the reason.
	Profiles []link.Profile
	// Chosen is the index of the one that the user prefers: it is used as long as it
	// lives. -1 leaves it to the measurements.
	Chosen int
	// From says for people where they come from, such as `the file links.txt`.
	From string
}

// Source finds profiles by name. Its methods are called from many goroutines.
type Source interface {
	// Find returns what the name stands for, false where the source has none of that
	// name. It does not wait for a network.
	Find(name string) (Choice, bool)
	// Watch calls changed after Find would give another answer for some name, until
	// ctx ends. changed does not block.
	Watch(ctx context.Context, changed func())
}

// Sources asks several, in their order: the first to know a name has it.
type Sources []Source

// Find implements Source.
func (list Sources) Find(name string) (Choice, bool) {
	for _, s := range list {
		if c, ok := s.Find(name); ok {
			return c, true
		}
	}
	return Choice{}, false
}

// Watch implements Source.
func (list Sources) Watch(ctx context.Context, changed func()) {
	var group sync.WaitGroup
	for _, s := range list {
		group.Go(func() { s.Watch(ctx, changed) })
	}
	group.Wait()
}
