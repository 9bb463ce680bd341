package main

import (
	"context"
	"time"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/afpacket"
	"netpolicy.dev/netpolicy/inspector/conntrack"
	"netpolicy.dev/netpolicy/inspector/sockdiag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// sources are all that can tell of connections here, without BPF.
func sources() []inspector.Source {
	return []inspector.Source{
		conntrack.New(conntrack.Options{}),
		sockdiag.New(sockdiag.Options{}),
		afpacket.New(afpacket.Options{}),
	}
}

// measure probes the policy's uplinks until ctx ends.
func measure(ctx context.Context, p *rules.Policy, bypass uint32, now func() time.Duration, emit func(state.Round)) error {
	<-ctx.Done()
	return nil
}
