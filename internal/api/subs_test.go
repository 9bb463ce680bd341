package api

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/telemetry"
)

func (f *fake) Subscriptions(name string) ([]Subscription, error) {
	switch name {
	case "":
		return nil, nil
	case "a b/c":
		return []Subscription{{Name: name, Usable: 1}}, nil
	}
	return nil, fmt.Errorf("there is no subscription %q: %w", name, ErrNotFound)
}

func (f *fake) ChangeSubscription(_ context.Context, q SubscriptionRequest) (Subscription, error) {
	if q.Do != DoAdd {
		return Subscription{}, fmt.Errorf("do %q: %w", q.Do, ErrBadRequest)
	}
	return Subscription{Name: q.Name, URL: q.URL}, nil
}

func TestSubscriptions(t *testing.T) {
	c, ctx := serve(t, &fake{}, telemetry.NewRing(1)), t.Context()
	if all, err := c.Subscriptions(ctx); err != nil || all == nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	if s, err := c.Subscription(ctx, "a b/c"); err != nil || s.Usable != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := c.Subscription(ctx, "b"); err == nil || err.Error() != `there is no subscription "b"` {
		t.Error(err)
	}
	if _, err := c.Subscription(ctx, ""); err == nil {
		t.Error("a subscription without a name")
	}
	if s, err := c.ChangeSubscription(ctx, SubscriptionRequest{Do: DoAdd, Name: "a", URL: "u"}); err != nil || s.Name != "a" || s.URL != "u" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := c.ChangeSubscription(ctx, SubscriptionRequest{Do: DoRemove}); err == nil || err.Error() != `do "remove"` {
		t.Error(err)
	}
}

// TestNoSubscriptions: a daemon without a state directory says so.
func TestNoSubscriptions(t *testing.T) {
	c, ctx := serveWith(t, &fake{}, telemetry.NewRing(1), func(s *Server) { s.Subscriptions = nil }), t.Context()
	_, listed := c.Subscriptions(ctx)
	_, shown := c.Subscription(ctx, "a")
	_, changed := c.ChangeSubscription(ctx, SubscriptionRequest{Do: DoRemove, Name: "a"})
	for _, err := range []error{listed, shown, changed} {
		if err == nil || !strings.Contains(err.Error(), "has no state directory") {
			t.Error(err)
		}
	}
}
