//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
)

var errNoCore = errors.New("Xray is run on Linux only")

func newXrayRunCmd() *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "Run Xray with profiles, on Linux only", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return cli.Fail(cmd, errNoCore) },
	}
}
