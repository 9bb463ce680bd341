package daemon

import (
	"errors"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
)

// TestKillStays: what is decided anew does not bring back a connection that was ended by hand.
func TestKillStays(t *testing.T) {
	c, plan := newTestCore(t, zoomPolicy)
	e := event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:22")
	c.event(&e, time.Second, time.Now())
	c.take()
	if err := c.kill(1); err != nil {
		t.Fatal(err)
	}
	marks := c.take().setMarks
	if len(marks) != 1 || marks[0].value != plan.BlockMark(true) {
		t.Fatalf("marks %+v, want the one that rejects", marks)
	}
	again := event(t, inspector.Update, "tcp 10.0.0.5:5000 > 203.0.113.7:22 sni=us01.zoom.us")
	c.event(&again, 2*time.Second, time.Now())
	if out := c.take(); len(out.setMarks) != 0 || len(out.records) != 1 {
		t.Errorf("marks %+v after another decision, %d records", out.setMarks, len(out.records))
	}
	if err := c.kill(2); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a connection that is none: %v", err)
	}
	c.observe = true
	if err := c.kill(1); !errors.Is(err, api.ErrConflict) {
		t.Errorf("while only observing: %v", err)
	}
}
