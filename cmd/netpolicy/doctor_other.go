//go:build !linux

package main

import (
	"context"
	"errors"

	"netpolicy.dev/netpolicy/internal/doctor"
)

func look(context.Context, string, bool) (*doctor.Facts, error) {
	return nil, errors.New("doctor needs Linux")
}
