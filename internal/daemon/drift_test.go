package daemon

import (
	"context"
	"strings"
	"testing"
	"time"
)

// fakeDrift tells what a test says that others did.
type fakeDrift chan string

func (f fakeDrift) Watch(ctx context.Context, found func(string)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case what := <-f:
			found(what)
		}
	}
}

// TestDrift: a change by others is put back, counted and shown; a storm of them
// does not make a storm of plans.
func TestDrift(t *testing.T) {
	others := make(fakeDrift)
	r := start(t, zoomPolicy, func(_ *Options, p *Parts) { p.Drift = others })
	applied := func() int {
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		return len(r.host.applied)
	}
	if d := r.Status().Drift; d != nil {
		t.Errorf("before: %+v", d)
	}
	before := applied()
	others <- "nftables: chain pre removed by nft (process 7)"
	for applied() == before {
		time.Sleep(time.Millisecond)
	}
	for range 100 {
		others <- "gone: ip -4 rule add priority 20000"
	}
	d := r.Status().Drift
	if d == nil || d.Count < 100 || d.What != "gone: ip -4 rule add priority 20000" || d.Time.IsZero() {
		t.Errorf("status: %+v", d)
	}
	if n := applied() - before; n != 1 {
		t.Errorf("%d plans applied within %v, want 1", n, repairPause)
	}
	if n := strings.Count(r.log.String(), "others changed"); n == 0 || n > 2 {
		t.Errorf("%d lines in the log", n)
	}
	var text strings.Builder
	r.metrics.WritePrometheus(&text)
	if !strings.Contains(text.String(), "netpolicy_drift_total 1") {
		t.Errorf("metrics:\n%s", text.String())
	}
}
