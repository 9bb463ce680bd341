package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/process"
)

// startCore runs Xray with a configuration until the function that it returns is
// called. Its log goes to out.
func startCore(ctx context.Context, binary string, c process.Config, out io.Writer) (s *process.Supervisor, end func(), err error) {
	dir, err := os.MkdirTemp("", "netpolicy-xray")
	if err != nil {
		return nil, nil, err
	}
	s = process.New(process.Options{Binary: binary, Dir: dir, Lines: out})
	// It ends when end is called, so that what is left of its log can be read.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.Run(running) }()
	end = func() {
		stop()
		<-done
		_ = os.RemoveAll(dir) // what is left there takes room and does no other harm
	}
	if err := s.Apply(ctx, c); err != nil {
		end()
		return nil, nil, err
	}
	return s, end, nil
}

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
			_, end, err := startCore(ctx, binary, process.Config{Data: data, API: o.API}, cmd.ErrOrStderr())
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

// maxPorts is how many ports are tried: somebody else may take one first.
const maxPorts = 3

// tryCore runs one profile on ports of its own, and asks with it for a page.
func tryCore(ctx context.Context, t *trial, binary string, v config.Version, p link.Profile) {
	for n := 1; ; n++ {
		in, err := freePort()
		if err != nil {
			t.fail(err.Error(), "")
			return
		}
		data, findings := config.Build(v, []link.Profile{p}, config.Options{
			APISocket: process.API, LogLevel: "info", Inbounds: []config.Inbound{{Name: "test", Listen: in, Group: "all"}},
		})
		if data == nil {
			t.fail(firstError(findings))
			return
		}
		began := time.Now()
		s, end, err := startCore(ctx, binary, process.Config{Data: data}, nil)
		if err != nil && n < maxPorts && strings.Contains(err.Error(), "address already in use") {
			continue
		}
		if err != nil {
			t.fail(oneLine(err.Error()), "")
			return
		}
		defer end()
		t.StartMS = msSince(began)
		t.connect(ctx, p)
		if err := t.fetch(ctx, in); err != nil {
			t.explain(ctx, p, err, s.Log)
		}
		return
	}
}
