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
	before, began := applied(), time.Now()
	others <- "nftables: chain pre removed by nft (process 7)"
	r.until("it is not put back", func() bool { return applied() > before }, nil)
	for range 100 {
		others <- "gone: ip -4 rule add priority 20000"
	}
	d := r.Status().Drift
	if d == nil || d.Count < 100 || d.What != "gone: ip -4 rule add priority 20000" || d.Time.IsZero() {
		t.Errorf("status: %+v", d)
	}
	n, lines := applied()-before, strings.Count(r.log.String(), "others changed")
	took := time.Since(began)
	if most := 1 + int(took/repairPause); n > most {
		t.Errorf("%d plans applied within %v, want %d at most", n, took, most)
	}
	if most := 1 + int(took/driftLog); lines == 0 || lines > most {
		t.Errorf("%d lines in the log within %v, want %d at most", lines, took, most)
	}
	var text strings.Builder
	r.metrics.WritePrometheus(&text)
	if !strings.Contains(text.String(), "netpolicy_drift_total 1") {
		t.Errorf("metrics:\n%s", text.String())
	}
}
