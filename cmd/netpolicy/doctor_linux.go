package main

import (
	"context"

	"netpolicy.dev/netpolicy/internal/doctor"
)

// look gathers the facts of this machine.
func look(ctx context.Context, stateDir string, try bool) (*doctor.Facts, error) {
	f := doctor.Look(ctx, doctor.Options{StateDir: stateDir, Try: try})
	return &f, nil
}
