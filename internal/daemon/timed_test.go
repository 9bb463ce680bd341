package daemon

import (
	"slices"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/state"
)

const timedPolicy = `
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1, probe: icmp 1.1.1.1 every 1s}
  wan2: {dev: eth2, gateway: 198.51.100.1, probe: icmp 1.1.1.1 every 1s}
schedules:
  always: {time: 00:00-24:00}
  long_ago: {date: 2001-01-01}
quotas:
  lan: {match: {src_ip: 10.0.0.0/8}, limit: 1000B, per: month}
conditions:
  slow: uplink.wan1.rtt > 100ms for 3s
  quick: uplink.wan1.rtt <= 100ms
default: {route: wan1}
rules:
  - {name: over, priority: 9, match: {port: 443}, when: {quota: lan}, action: {block: reject}}
  - {name: never, priority: 8, match: {any: true}, when: {schedule: long_ago}, action: {block: true}}
  - {name: slow, priority: 7, match: {port: 22}, when: {condition: slow}, action: {route: wan2}}
  - {name: open, priority: 6, match: {port: 80}, when: {all: [{schedule: always}, {condition: quick}]}, action: {route: wan2}}
`

// TestQuotaIsUsedUp counts what conntrack tells of, decides by it, tells the
// kernel, and knows it after a restart.
func TestQuotaIsUsedUp(t *testing.T) {
	dir := t.TempDir()
	with := func(o *Options, _ *Parts) { o.StateDir = dir }
	r := start(t, timedPolicy, with)
	text := "tcp 10.0.0.5:5000 > 203.0.113.7:443"
	r.send(event(t, inspector.Open, text))
	update := event(t, inspector.Update, text)
	carried := func(up, down uint64) {
		update.Stats = inspector.Stats{BytesUp: up, BytesDown: down}
		r.send(update)
	}
	carried(100, 500)
	carried(100, 500) // the same again: nothing new
	quota := func() api.Quota { return r.Status().Quotas[0] }
	if q := quota(); q.Used != 600 || q.Exceeded || q.Limit != 1000 {
		t.Fatalf("quota: %+v", q)
	}
	before := len(r.host.updates)
	end := event(t, inspector.Close, text)
	end.Stats = inspector.Stats{BytesUp: 300, BytesDown: 800}
	r.send(end)
	if q := quota(); q.Used != 1100 || !q.Exceeded {
		t.Fatalf("quota: %+v", q)
	}
	// The kernel hears of it with the next tick.
	r.until("the kernel was not told", func() bool {
		r.sync()
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		return slices.ContainsFunc(r.host.updates[before:], func(u string) bool { return strings.Contains(u, "ipv4") })
	}, nil)
	r.send(event(t, inspector.Open, "tcp 10.0.0.6:5001 > 203.0.113.7:443"))
	decided := func(r *rig) string {
		var last string
		for _, line := range r.records.Read(r.records.Last(1), 1).Lines {
			last = string(line)
		}
		return last
	}
	if got := decided(r); !strings.Contains(got, `"rule":"over","action"`) {
		t.Errorf("decided as %s", got)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, timedPolicy, with)
	if q := quota(); q.Used != 1100 || !q.Exceeded {
		t.Errorf("after a restart: %+v", q)
	}
	// Another policy that has the quota goes on counting.
	r.write(strings.ReplaceAll(timedPolicy, "limit: 1000B", "limit: 2000B"))
	if res, err := r.Reload(t.Context()); err != nil || res.Result != api.Applied {
		t.Fatalf("%+v, %v", res, err)
	}
	if q := quota(); q.Used != 1100 || q.Exceeded || q.Limit != 2000 {
		t.Errorf("after a reload: %+v", q)
	}
}

// TestBytesAreNotCounted: the daemon says why a quota can't be used up.
func TestBytesAreNotCounted(t *testing.T) {
	r := start(t, timedPolicy, func(_ *Options, p *Parts) { p.Accounting = func() bool { return false } })
	if !strings.Contains(r.log.String(), "nf_conntrack_acct") {
		t.Errorf("nothing is said:\n%s", r.log)
	}
	quiet := start(t, zoomPolicy, func(_ *Options, p *Parts) { p.Accounting = func() bool { return false } })
	if strings.Contains(quiet.log.String(), "nf_conntrack_acct") {
		t.Error("it is said where nothing is counted")
	}
}

// TestEarlierTrafficIsNotCountedAgain: what a connection carried before the daemon
// saw it was counted by the one before it.
func TestEarlierTrafficIsNotCountedAgain(t *testing.T) {
	r := start(t, timedPolicy, nil)
	open := event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:443")
	open.Earlier, open.Stats = true, inspector.Stats{BytesUp: 5000}
	r.send(open)
	update := event(t, inspector.Update, "tcp 10.0.0.5:5000 > 203.0.113.7:443")
	update.Stats = inspector.Stats{BytesUp: 5001}
	r.send(update)
	fresh := event(t, inspector.Open, "tcp 10.0.0.6:5000 > 203.0.113.7:443")
	fresh.Stats = inspector.Stats{BytesUp: 40}
	r.send(fresh)
	if q := r.Status().Quotas[0]; q.Used != 41 {
		t.Errorf("quota: %+v", q)
	}
}

// TestConditionHasToLast sends rounds of a slow line: the condition holds after
// three seconds of them, and no more at the first quick one.
func TestConditionHasToLast(t *testing.T) {
	r := start(t, timedPolicy, nil)
	holds := func(name string) string {
		for _, c := range append(r.Status().Conditions, r.Status().Schedules...) {
			if c.Name == name {
				return c.Value
			}
		}
		return "none of that name"
	}
	if holds("always") != "true" || holds("long_ago") != "false" || holds("slow") != "unknown" {
		t.Fatalf("at the start: %+v", r.Status())
	}
	began := time.Now()
	r.until("the condition does not hold", func() bool {
		r.round(0, state.Answer{RTT: 150 * time.Millisecond})
		return holds("slow") == "true"
	}, nil)
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("it holds after %v", took)
	}
	if got := holds("quick"); got != "false" {
		t.Errorf("quick is %s", got)
	}
	r.until("the condition still holds", func() bool {
		r.round(0, state.Answer{RTT: time.Millisecond})
		return holds("slow") == "false" && holds("quick") == "true"
	}, nil)
}
