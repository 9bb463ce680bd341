package daemon

import (
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/inspector"
)

func TestDroppedFlowsAreRecordedOnce(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	e := event(t, inspector.Logged, web+" sni=bad.example")
	e.Source, e.Prefix = "nflog", actions.LogPrefix("bad")
	c.event(&e, 0, wall)
	c.event(&e, time.Second, wall)
	o := expect(t, c, `logged: block by "bad" to "" over ""`)
	if got := o.records[0].Context.LogRule; got != "bad" {
		t.Errorf("log_rule %q", got)
	}
	// One that passes is conntrack's to report.
	e = event(t, inspector.Logged, "tcp 10.0.0.5:5001 > 203.0.113.7:443 sni=us01.zoom.us")
	c.event(&e, 0, wall)
	expect(t, c)
	c.expire(dropMemory)
	if len(c.dropped) != 0 {
		t.Error("dropped flows are remembered for ever")
	}
}

func TestDroppedFlowWhoseSocketWasSeenFirst(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	e := event(t, inspector.Open, web+" sni=bad.example")
	e.Source = "sock_diag"
	c.event(&e, 0, wall)
	expect(t, c, `open: block by "bad" to "" over ""`)
	e = event(t, inspector.Logged, web)
	e.Source, e.Prefix = "nflog", actions.LogPrefix("bad")
	c.event(&e, 0, wall)
	c.event(&e, time.Second, wall)
	o := expect(t, c, `logged: block by "bad" to "" over ""`)
	if got := o.records[0].Context.LogRule; got != "bad" {
		t.Errorf("log_rule %q", got)
	}
}

// TestRefusedPrograms: what is refused as a program connects has no address of its
// own yet; each program and user has a record, once a minute.
func TestRefusedPrograms(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy+"  - {name: no_telnet, priority: 300, match: {port: 23}, action: {block: reject, log: true}}\n")
	refused := func(text string, at time.Duration) {
		e := event(t, inspector.Logged, text)
		e.Source, e.Prefix = "ebpf", actions.LogPrefix("no_telnet")
		c.event(&e, at, wall)
	}
	const once = `logged: block by "no_telnet" to "" over ""`
	refused("tcp ? > 203.0.113.9:23 process=curl user=ann", 0)
	o := expect(t, c, once)
	ctx := o.records[0].Context
	if got := string(ctx.Flow); ctx.Source != "ebpf" || ctx.LogRule != "no_telnet" || strings.Contains(got, `"src"`) || !strings.Contains(got, `"process":"curl"`) {
		t.Errorf("source %q, log_rule %q, flow %s", ctx.Source, ctx.LogRule, got)
	}
	refused("tcp ? > 203.0.113.9:23 process=curl user=ann", dropMemory-1)
	expect(t, c)
	refused("tcp ? > 203.0.113.9:23 process=nc user=ann", 0)
	refused("tcp ? > 203.0.113.9:23 process=curl user=bob", 0)
	refused("tcp ? > [2001:db8::9]:23 process=curl user=ann", 0)
	refused("tcp ? > 203.0.113.9:23 process=curl user=ann", dropMemory)
	expect(t, c, once, once, once, once)
	for _, beyond := range []string{"127.0.0.1:23", "224.0.0.1:23", "[fe80::1]:23"} { // the table leaves them alone
		refused("tcp ? > "+beyond+" process=curl", 0)
	}
	refused("tcp ? > ?", 0)
	expect(t, c)
}
