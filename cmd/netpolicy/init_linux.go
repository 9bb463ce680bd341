package main

import (
	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/host"
)

// readHost looks at this machine's devices and routes.
func readHost() (*actions.Host, error) {
	h, _, err := host.Read("")
	return &h, err
}
