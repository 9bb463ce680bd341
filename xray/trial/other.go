//go:build !linux

package trial

import (
	"context"

	"netpolicy.dev/netpolicy/xray/link"
)

// Run fails.
func Run(_ context.Context, _ Options, p link.Profile) Result {
	r := NewResult(p)
	r.Fail("Xray is run on Linux only", "")
	return r
}
