//go:build !linux

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
)

var errNoCore = errors.New("Xray is run on Linux only")

func newXrayRunCmd() *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "Run Xray with profiles, on Linux only", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return cli.Fail(cmd, errNoCore) },
	}
}

func tryCore(_ context.Context, t *trial, _ string, _ config.Version, _ link.Profile) {
	t.fail(errNoCore.Error(), "")
}
