package host

import (
	"errors"
	"fmt"
	"runtime"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/iproute"
	"netpolicy.dev/netpolicy/actions/iptables"
	"netpolicy.dev/netpolicy/actions/nft"
	"netpolicy.dev/netpolicy/actions/tc"
)

// Read returns what plans need to know of this host, and the plan that a ledger
// in stateDir names, nil for none. It changes nothing and takes no lock: for
// dry runs and for observing beside a daemon that runs.
func Read(stateDir string) (actions.Host, *actions.Plan, error) {
	ip, err := iproute.New()
	if err != nil {
		return actions.Host{}, nil, err
	}
	defer ip.Close()
	h, err := ip.ReadHost()
	if err != nil {
		return h, nil, fmt.Errorf("read host: %w", err)
	}
	queues, err := tc.New()
	if err != nil {
		return h, nil, err
	}
	if err := errors.Join(queues.ReadHost(&h), queues.Close()); err != nil {
		return h, nil, fmt.Errorf("read host: %w", err)
	}
	kernel, err := nft.New()
	if err != nil {
		return h, nil, err
	}
	h.NoNFTables, h.XTables = missing(kernel), iptables.Available()
	if err := kernel.Close(); err != nil {
		return h, nil, fmt.Errorf("read host: %w", err)
	}
	if h.Users, err = users(); err != nil {
		return h, nil, err
	}
	h.Queue, h.CPUs = queueVia(), runtime.NumCPU()
	books, err := load(stateDir)
	return h, books.Plan, err
}
