package daemon

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/state"
)

// fakeRefuser keeps what is to be refused.
type fakeRefuser struct {
	mu   sync.Mutex
	list []*actions.Connect
}

func (f *fakeRefuser) Enforce(c *actions.Connect) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, c)
	return nil
}

// last is what is refused now, and how often that was said.
func (f *fakeRefuser) last() (c *actions.Connect, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n = len(f.list); n > 0 {
		c = f.list[n-1]
	}
	return c, n
}

// TestRefusals: they are brought about at the start, with a reload before it is
// answered, and when a state turns; not when nothing has changed.
func TestRefusals(t *testing.T) {
	far := netip.MustParseAddr("203.0.113.7")
	refuses := func(c *actions.Connect, port uint16) bool { return c != nil && c.Refuses(6, far, port, "x", 0) }
	policy := func(port string) string {
		return strings.Replace(zoomPolicy, "rules:\n", "rules:\n"+
			"  - {name: always, priority: 300, match: {dst_ip: 203.0.113.0/24, port: "+port+"}, action: {block: true}}\n"+
			"  - {name: failing, priority: 290, when: {state: FAILOVER}, match: {dst_ip: 203.0.113.0/24, port: 99}, action: {block: true}}\n", 1)
	}
	var f fakeRefuser
	r := start(t, policy("23"), func(_ *Options, p *Parts) { p.Refuser = &f })
	until := func(what string, ok func(c *actions.Connect) bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			if c, _ := f.last(); ok(c) {
				return
			}
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	until("what is blocked is not refused after the start", func(c *actions.Connect) bool { return refuses(c, 23) && !refuses(c, 99) })
	r.write(policy("24"))
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, _ := f.last(); !refuses(c, 24) || refuses(c, 23) {
		t.Error("a reload is answered before what it refuses is refused")
	}
	for range 3 {
		r.round(1, state.Answer{RTT: time.Millisecond})
		r.round(0, state.Answer{Lost: true})
	}
	until("a state has turned", func(c *actions.Connect) bool { return refuses(c, 99) && refuses(c, 24) })
	r.sync()
	_, before := f.last()
	for range 3 { // rounds that change nothing
		r.round(0, state.Answer{Lost: true})
	}
	if _, after := f.last(); after != before {
		t.Errorf("compiled %d times more for nothing", after-before)
	}
}
