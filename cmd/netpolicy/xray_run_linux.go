package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/process"
	"netpolicy.dev/netpolicy/xray/trial"
)

func newXrayRunCmd() *cobra.Command {
	var core coreFlags
	flags := xrayFlags{core: config.V26_3.String()}
	var level string
	cmd := &cobra.Command{
		Use:   "run LINK|FILE|-...",
		Short: "Run Xray with profiles, in the foreground",
		Long: `Run builds the configuration that config prints, and runs Xray with it until Ctrl-C:
SOCKS and HTTP on --listen, leading to one of the profiles that can be run. An Xray
that ends by itself is started again. Its log goes to standard error, without secrets.

A link in the command line is seen by everybody on the machine; "-" reads it from
standard input.`,
		Example: `  netpolicy xray run --listen 127.0.0.1:1080 subscription.txt`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, o, err := flags.parse()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			binary, v, err := core.core(ctx)
			if err != nil {
				return cli.Fail(cmd, err)
			}
			profiles, err := gather(args, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return cli.Fail(cmd, err)
			}
			if o.LogLevel = level; !o.API.IsValid() {
				o.APISocket = process.API
			}
			data, findings := config.Build(v, profiles, o)
			writeConfigFindings(cmd.ErrOrStderr(), findings, false)
			if data == nil {
				return cli.Errors
			}
			end, err := trial.Start(ctx, binary, process.Config{Data: data, API: o.API}, cmd.ErrOrStderr())
			switch {
			case err != nil && ctx.Err() != nil:
				return nil
			case err != nil:
				return cli.Fail(cmd, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "SOCKS and HTTP on %s\n", flags.listen)
			<-ctx.Done()
			end()
			return nil
		},
	}
	core.add(cmd)
	flags.addAddresses(cmd)
	cmd.Flags().StringVar(&level, "log-level", "warning", "debug, info, warning, error or none")
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warning", "error", "none"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
