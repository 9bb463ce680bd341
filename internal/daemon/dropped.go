package daemon

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
)

const (
	// dropMemory is how long a dropped flow is not recorded again: a client's
	// SYNs repeat after 1, 3, 7, 15 and 31 seconds.
	dropMemory = time.Minute
	// maxDropped bounds the dropped flows that are remembered; beyond it repeats are recorded.
	maxDropped = 4096
)

// dropKey tells a dropped flow from others. One that was refused as its program
// connected has no address of its own yet: its program and user tell it apart.
type dropKey struct {
	flowKey
	process, user flow.Value[string]
}

// dropKeyOf returns the key of a flow that the kernel dropped; ok is false where
// there is none, or where the policy is not about the flow.
func (c *core) dropKeyOf(f *flow.Flow) (k dropKey, ok bool) {
	if k.flowKey, ok = keyOf(f); ok {
		return k, !c.ignored(k.flowKey)
	}
	refused := *f
	refused.Src = flow.Some(netip.Addr{})
	k.flowKey, ok = keyOf(&refused)
	k.process, k.user = f.Process, f.User
	return k, ok && f.Src.Unknown() && !beyondPolicy(k.dst.Addr())
}

// logged records a flow that a rule with log made the kernel drop: conntrack
// never confirms those, so this is the only sign of them, unless the socket was
// seen while it waited for an answer. A flow that passes has its record by other
// sources.
func (c *core) logged(e *inspector.Event, now time.Duration, wall time.Time) {
	k, ok := c.dropKeyOf(&e.Flow)
	if !ok {
		return
	}
	rule := strings.TrimPrefix(e.Prefix, actions.LogPrefix(""))
	if t := c.flows[k.flowKey]; t != nil {
		if t.decision.Blocked() && t.logRule == "" {
			t.logRule = rule
			c.record(t, "logged", now, wall)
		}
		return
	}
	if at, ok := c.dropped[k]; ok && now-at < dropMemory {
		return
	}
	t := &tracked{key: k.flowKey, flow: e.Flow, source: e.Source, route: -1, logRule: rule}
	c.nextID++
	t.flow.ID = strconv.FormatUint(c.nextID, 10)
	c.decide(t, wall)
	if !t.decision.Blocked() {
		return
	}
	if len(c.dropped) < maxDropped {
		c.dropped[k] = now
	}
	c.record(t, "logged", now, wall)
}

func (c *core) expireDropped(now time.Duration) {
	for k, at := range c.dropped {
		if now-at >= dropMemory {
			delete(c.dropped, k)
		}
	}
}
