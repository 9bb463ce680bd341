package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/lab"
)

func newLabCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Try policies with real packets in network namespaces",
		Long: `Builds a client, a gateway with two uplinks, two providers and an internet in
network namespaces of its own, runs netpolicyd in the gateway, and removes all
of it in the end. It needs root. docs/lab.md defines the script language.`,
	}
	var quiet bool
	var seed uint64
	cmd.PersistentFlags().BoolVarP(&quiet, "quiet", "q", false, "print results and failures only")
	cmd.PersistentFlags().Uint64Var(&seed, "seed", 1, "`number` that chooses the packets a lossy line drops")

	// inLab runs f until it ends, or Ctrl-C or a termination asks it to.
	inLab := func(cmd *cobra.Command, f func(context.Context, *lab.Printer) error) error {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		err := f(ctx, lab.NewPrinter(cmd.OutOrStdout(), quiet))
		var code cli.Exit
		switch {
		case err != nil && !errors.As(err, &code):
			return cli.Fail(cmd, err)
		case err != nil && ctx.Err() != nil:
			return cli.Interrupted
		}
		return err
	}

	run := &cobra.Command{
		Use:   "run DIR...",
		Short: "Run the lab.txt of each directory and fail if a connection leaves by another uplink than its decision says",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, dirs []string) error {
			return inLab(cmd, func(ctx context.Context, out *lab.Printer) error {
				if lab.RunDirs(ctx, lab.Options{Seed: seed}, out, dirs...) != nil {
					return cli.Errors // what failed has been printed where it happened
				}
				return nil
			})
		},
	}
	var mainUplink string
	var web string
	var traffic bool
	up := &cobra.Command{
		Use:   "up FILE",
		Short: "Build a lab, run netpolicyd with a policy, and wait for Ctrl-C",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inLab(cmd, func(ctx context.Context, out *lab.Printer) error {
				return lab.Up(ctx, lab.Options{Seed: seed, Main: mainUplink, Web: web}, out, args[0], traffic, cmd.InOrStdin())
			})
		},
	}
	up.Flags().StringVar(&mainUplink, "main", lab.Wan1, "`uplink` of the gateway's own default route: wan1 or wan2")
	up.Flags().StringVar(&web, "web", "", "serve the daemon's web interface at this `address` of the machine, such as 127.0.0.1:8321")
	up.Flags().BoolVar(&traffic, "traffic", false, "let the client make connections all the time: calls, pages, downloads")
	clean := &cobra.Command{
		Use:   "clean",
		Short: "Remove what killed labs left behind",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return inLab(cmd, func(context.Context, *lab.Printer) error {
				removed, err := lab.Clean()
				if len(removed) > 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "removed", strings.Join(removed, ", "))
				}
				return err
			})
		},
	}
	cmd.AddCommand(run, up, clean)
	return cmd
}
