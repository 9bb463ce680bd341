// Package mock is a source for tests: it emits what it is told to, in order.
package mock

import (
	"context"

	"netpolicy.dev/netpolicy/inspector"
)

// Source emits a script. The zero Source emits nothing and waits.
type Source struct {
	// Script is emitted at the start, each event with source "mock".
	Script []inspector.Event
	// More, where not nil, is emitted as it comes, until it is closed.
	More <-chan inspector.Event
	// End makes Run return after the script and More, instead of waiting for ctx.
	End bool
	// Err is what Run returns then.
	Err error
}

// Name implements inspector.Source.
func (s *Source) Name() string { return "mock" }

// Run implements inspector.Source.
func (s *Source) Run(ctx context.Context, emit func(inspector.Event)) error {
	for _, e := range s.Script {
		if ctx.Err() != nil {
			return nil
		}
		s.send(e, emit)
	}
	for more := s.More; more != nil; {
		select {
		case e, ok := <-more:
			if !ok {
				more = nil
				break
			}
			s.send(e, emit)
		case <-ctx.Done():
			return nil
		}
	}
	if !s.End {
		<-ctx.Done()
		return nil
	}
	return s.Err
}

func (s *Source) send(e inspector.Event, emit func(inspector.Event)) {
	e.Source = s.Name()
	emit(e)
}
