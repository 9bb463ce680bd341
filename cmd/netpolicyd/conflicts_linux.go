package main

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/internal/doctor"
)

// conflictTime bounds the look for conflicts before the daemon starts: a host with
// the routes of the whole internet takes longer, and starts without it.
const conflictTime = 3 * time.Second

// logConflicts logs who else uses the numbers that the policy's enforcement will
// use. What can't go on is refused later, when it is applied.
func (s *settings) logConflicts(ctx context.Context, log *slog.Logger) {
	if s.observe {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, conflictTime)
	defer cancel()
	for _, f := range doctor.Conflicts(ctx, s.stateDir, s.want) {
		log.Error("conflict with other programs on this host", "check", f.ID, "conflict", f.Message, "details", strings.Join(f.Details, "; "), "help", f.Help)
	}
}
