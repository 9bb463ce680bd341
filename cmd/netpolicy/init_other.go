//go:build !linux

package main

import (
	"errors"

	"netpolicy.dev/netpolicy/actions"
)

func readHost() (*actions.Host, error) { return nil, errors.New("init needs Linux") }
