package daemon

import (
	"net/netip"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// probeMemory is how long flows to a former target are still taken for probes: those that are
// under way when the policy changes are seen after it, conntrack's entries for 30 seconds.
const probeMemory = time.Minute

// probed is where probes go; the protocol is ICMP for ICMPv6, too.
type probed struct {
	proto flow.Proto
	to    netip.AddrPort // port 0 for ICMP
}

// targets are where this host's probes go: each with when the policy gave it up, or
// stillProbed.
type targets map[probed]time.Duration

// stillProbed says that the present policy probes a target.
const stillProbed time.Duration = -1

// follow takes over what a policy probes from now on.
func (t targets) follow(p *rules.Policy, now time.Duration) {
	for k, at := range t {
		if at == stillProbed {
			t[k] = now
		}
	}
	for i := range p.Uplinks {
		k := probed{proto: flow.ICMP}
		switch p.Uplinks[i].Probe.Kind {
		case rules.ProbeNone:
			continue
		case rules.ProbeTCP:
			k.proto = flow.TCP
		}
		for _, k.to = range p.Uplinks[i].Probe.Targets {
			t[k] = stillProbed
		}
	}
}

// has reports whether a flow of this host is a probe.
func (t targets) has(k flowKey) bool {
	if k.proto == flow.ICMPv6 {
		k.proto = flow.ICMP
	}
	_, ok := t[probed{k.proto, k.dst}]
	return ok
}

func (t targets) expire(now time.Duration) {
	for k, at := range t {
		if at != stillProbed && now-at >= probeMemory {
			delete(t, k)
		}
	}
}
