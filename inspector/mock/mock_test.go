package mock

import (
	"context"
	"errors"
	"testing"

	"netpolicy.dev/netpolicy/inspector"
)

func TestScript(t *testing.T) {
	more := make(chan inspector.Event, 1)
	more <- inspector.Event{Kind: inspector.Close, Source: "other"}
	close(more)
	want := errors.New("over")
	s := &Source{Script: []inspector.Event{{Kind: inspector.Open}, {Kind: inspector.Name}}, More: more, End: true, Err: want}
	var kinds []inspector.Kind
	err := s.Run(t.Context(), func(e inspector.Event) {
		if e.Source != "mock" {
			t.Errorf("source %q", e.Source)
		}
		kinds = append(kinds, e.Kind)
	})
	if err != want || len(kinds) != 3 || kinds[2] != inspector.Close {
		t.Errorf("%v %v", kinds, err)
	}
}

func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &Source{Script: []inspector.Event{{}}, More: make(chan inspector.Event)}
	if err := s.Run(ctx, func(inspector.Event) { cancel() }); err != nil {
		t.Error(err)
	}
	if err := (&Source{}).Run(ctx, func(inspector.Event) { t.Error("nothing to emit") }); err != nil {
		t.Error(err)
	}
}
