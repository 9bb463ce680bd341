//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// inspectLive needs sources that only Linux has so far.
func inspectLive(*cobra.Command, *connections, watchOptions) error {
	return errors.New("inspect --live and --iface work on Linux only")
}
