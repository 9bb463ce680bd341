package main

import (
	"context"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/afpacket"
	"netpolicy.dev/netpolicy/inspector/conntrack"
	"netpolicy.dev/netpolicy/inspector/ebpf"
	"netpolicy.dev/netpolicy/inspector/nflog"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/inspector/sockdiag"
	"netpolicy.dev/netpolicy/probe"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// sources are all that can tell of connections here. Where there is no BPF the
// others go on.
func sources(programs *ebpf.Source) []inspector.Source {
	return []inspector.Source{
		programs,
		conntrack.New(conntrack.Options{}),
		sockdiag.New(sockdiag.Options{}),
		afpacket.New(afpacket.Options{}),
		nflog.New(nflog.Options{Group: actions.LogGroup}),
	}
}

// lookers are the sources that list what is alive at once, and take nothing
// away from a daemon that runs.
func lookers() []inspector.Source {
	return []inspector.Source{conntrack.New(conntrack.Options{}), sockdiag.New(sockdiag.Options{})}
}

// serveQueue answers one queue of the kernel's questions until ctx ends.
func serveQueue(ctx context.Context, opt nfqueue.Options, answer func(*nfqueue.Packet, *nfqueue.Verdict)) error {
	q, err := nfqueue.Open(opt)
	if err != nil {
		return err
	}
	return q.Run(ctx, answer)
}

// measure probes the policy's uplinks until ctx ends. An uplink that no route
// leads over has no table of its own: its probes use the main one, undecided.
func measure(ctx context.Context, p *rules.Policy, plan *actions.Plan, now func() time.Duration, emit func(state.Round)) error {
	var uplinks []probe.Uplink
	for i := range p.Uplinks {
		u := &p.Uplinks[i]
		if u.Probe.Kind == rules.ProbeNone {
			continue
		}
		w := probe.Uplink{Index: i, Dev: u.Dev, Targets: u.Probe.Targets, Every: u.Probe.Every}
		if u.Probe.Kind == rules.ProbeTCP {
			w.Kind = probe.TCP
		}
		if plan != nil {
			var ok bool
			if w.Mark, ok = plan.UplinkMark(u.Name); !ok {
				w.Mark = plan.Bypass()
			}
		}
		uplinks = append(uplinks, w)
	}
	return probe.Run(ctx, uplinks, now, emit)
}
