package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/state"
)

func (c *changing) probe(t *testing.T, text, within, control string) <-chan api.ChangeResult {
	done := make(chan api.ChangeResult, 1)
	q := request(text, api.ConfirmProbe)
	q.Within, q.Control = within, control
	go func() {
		r, err := c.Change(t.Context(), "root (uid 0)", q)
		if err != nil {
			r.Error = err.Error()
		}
		done <- r
	}()
	return done
}

func TestConfirmByProbes(t *testing.T) {
	c := startChanging(t)
	answer := state.Answer{RTT: time.Millisecond}
	for range 3 { // wan1 is up, wan2 not known
		c.round(0, answer)
	}
	done := c.probe(t, otherPolicy, "1h", "")
	until(t, "it waits", func() bool { return c.Status().Confirm != nil })
	var r api.ChangeResult
	for r.Result == "" {
		select {
		case r = <-done:
		case c.rounds <- state.Round{Uplink: 0, Probes: []state.Answer{answer}}:
		}
	}
	if r.Result != api.Confirmed || c.file(t) != otherPolicy || len(r.Probes) != 2 || r.Probes[0] != "assertions: 0 hold" || !strings.HasPrefix(r.Probes[1], "uplink wan1: ") {
		t.Errorf("%+v", r)
	}
	c.settled(t)

	// Nobody answers under the next one.
	done = c.probe(t, blockPolicy, "2s", "")
	for r.Result = ""; r.Result == ""; {
		select {
		case r = <-done:
		case c.rounds <- state.Round{Uplink: 0, Probes: []state.Answer{{Lost: true}}}:
			time.Sleep(10 * time.Millisecond)
		}
	}
	if r.Result != api.Reverted || !strings.Contains(r.Error, "uplink wan1, which was up before, did not answer") || c.file(t) != otherPolicy {
		t.Errorf("%+v", r)
	}
	c.settled(t)
	c.expect(t, "apply new.yaml reverted", "apply new.yaml confirmed *", "start")
}

// TestProbesAndTheCaller: it must be able to come back.
func TestProbesAndTheCaller(t *testing.T) {
	c := startChanging(t)
	first := c.Status().Policy.Hash
	const ssh = "tcp 10.0.0.9:50000 > 10.0.0.1:22"
	if r := <-c.probe(t, strings.Replace(blockPolicy, "port: 22", "port: 23", 1), "1h", ssh); r.Result != api.Rejected || !strings.Contains(r.Error, "blocked by its default") {
		t.Errorf("%+v", r)
	}
	q := request(strings.Replace(blockPolicy, "port: 22", "port: 23", 1), "1m")
	q.Control = ssh
	r, err := c.Change(t.Context(), "x", q)
	if err != nil || r.Result != api.Pending || len(r.Warnings) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := c.Change(t.Context(), "x", c.settle(api.DoRollback)); err != nil {
		t.Fatal(err)
	}
	// wan1 is up, and its next rounds take their time: the caller leaves before.
	for range 3 {
		c.round(0, state.Answer{RTT: time.Millisecond})
	}
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := c.Change(ctx, "x", request(otherPolicy, api.ConfirmProbe))
		ended <- err
	}()
	until(t, "it waits", func() bool { return c.Status().Confirm != nil })
	leave()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	c.settled(t)
	if s := c.Status(); s.Policy.Hash != first || s.Reverted == nil || !strings.Contains(s.Reverted.Why, "connection ended") {
		t.Errorf("%+v", s.Reverted)
	}
	// And after a restart there is nobody to tell.
	go func() {
		_, err := c.Change(t.Context(), "x", request(otherPolicy, api.ConfirmProbe))
		ended <- err
	}()
	until(t, "it waits", func() bool { return c.Status().Confirm != nil })
	c.restart(t)
	<-ended
	if s := c.Status(); s.Confirm != nil || s.Policy.Hash != first || !strings.Contains(s.Reverted.Why, "the daemon ended") {
		t.Errorf("%+v, %+v", s.Confirm, s.Reverted)
	}
}
