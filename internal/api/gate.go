package api

import (
	"context"
	"net/http"
	"time"
)

// gate bounds what is at work at once. The role read can't take all of its places.
type gate struct{ all, readers chan struct{} }

// newGate has most places, kept of which the role admin alone may take.
func newGate(most, kept int) *gate {
	return &gate{make(chan struct{}, most), make(chan struct{}, most-kept)}
}

// enter takes a place for who makes the request, and waits for one for as long as patience.
func (g *gate) enter(r *http.Request, patience time.Duration) (leave func(), ok bool) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	want := []chan struct{}{g.all}
	if who, _ := callerOf(r.Context()); who.role != RoleAdmin {
		want = []chan struct{}{g.readers, g.all}
	}
	var taken []chan struct{}
	leave = func() {
		for _, c := range taken {
			<-c
		}
	}
	for _, c := range want {
		select {
		case c <- struct{}{}:
		default:
			select {
			case c <- struct{}{}:
			case <-ctx.Done():
				leave()
				return nil, false
			}
		}
		taken = append(taken, c)
	}
	return leave, true
}
