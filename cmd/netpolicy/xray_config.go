package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

// defaultListen is where a configuration takes SOCKS and HTTP unless told otherwise.
const defaultListen = "127.0.0.1:1080"

// xrayFlags are what the commands that build a configuration share.
type xrayFlags struct {
	core   string
	listen string
	api    string
	mark   uint32
}

func (f *xrayFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.core, "core", config.V26_3.String(), "the version of Xray: 26.3 or 26.7")
	f.addAddresses(cmd)
}

// addAddresses is add for commands that ask Xray itself for its version.
func (f *xrayFlags) addAddresses(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.listen, "listen", defaultListen, "where to take SOCKS and HTTP, on a loopback address")
	cmd.Flags().StringVar(&f.api, "api", "", "where Xray listens for its API, on a loopback address; none if empty")
	cmd.Flags().Uint32Var(&f.mark, "mark", 0, "the mark on what Xray sends itself")
}

// parse returns what the flags say.
func (f *xrayFlags) parse() (config.Version, config.Options, error) {
	v, ok := config.ParseVersion(f.core)
	if !ok {
		return 0, config.Options{}, fmt.Errorf("--core %s: the versions are 26.3 and 26.7", f.core)
	}
	listen, err := netip.ParseAddrPort(f.listen)
	if err != nil {
		return 0, config.Options{}, fmt.Errorf("--listen %s: not an address with a port", f.listen)
	}
	o := config.Options{Mark: f.mark, Inbounds: []config.Inbound{{Name: "local", Listen: listen, Group: "all"}}}
	if f.api != "" {
		if o.API, err = netip.ParseAddrPort(f.api); err != nil {
			return 0, config.Options{}, fmt.Errorf("--api %s: not an address with a port", f.api)
		}
	}
	return v, o, nil
}

// writeConfigFindings writes each finding on a line; hints only where all are wanted.
func writeConfigFindings(w io.Writer, findings []config.Finding, all bool) {
	for _, f := range findings {
		if all || f.Severity > diag.Hint {
			fmt.Fprintln(w, oneLine(f.String()))
		}
	}
}

func newXrayConfigCmd() *cobra.Command {
	var flags xrayFlags
	cmd := &cobra.Command{
		Use:   "config [--core 26.3|26.7] LINK|FILE|-...",
		Short: "Print a configuration for Xray that runs profiles",
		Long: `Config reads what parse reads and prints a configuration for one version of Xray:
SOCKS and HTTP on a loopback address, leading to one of the profiles that can be
run. What is migrated, dropped or refused is on standard error, with the reason and
the way out. The configuration holds the links' secrets. It exits with 1 when no
profile can be run.`,
		Example: `  netpolicy xray config --core 26.7 subscription.txt | xray run -config stdin:`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, o, err := flags.parse()
			if err != nil {
				return err
			}
			var profiles []link.Profile
			for _, arg := range args {
				s, err := readProfiles(arg, cmd.InOrStdin())
				if err != nil {
					return cli.Fail(cmd, err)
				}
				writeFindings(cmd.ErrOrStderr(), refusals(s), false)
				profiles = append(profiles, s.Profiles()...)
			}
			if len(profiles) == 0 {
				return cli.Fail(cmd, errors.New("there is no profile to run"))
			}
			data, findings := config.Build(v, profiles, o)
			writeConfigFindings(cmd.ErrOrStderr(), findings, false)
			if data == nil {
				return cli.Errors
			}
			if _, err := cmd.OutOrStdout().Write(data); err != nil {
				return cli.Fail(cmd, fmt.Errorf("write the configuration: %w", err))
			}
			return nil
		},
	}
	flags.add(cmd)
	return cmd
}

// refusals keeps the entries that can't be read. What reading warns of in the
// others, building says again with what it does about it.
func refusals(s sub.Subscription) sub.Subscription {
	var out sub.Subscription
	for _, e := range s.Entries {
		if link.Refused(e.Findings) {
			out.Entries = append(out.Entries, e)
		}
	}
	return out
}

func newXrayTestCmd() *cobra.Command {
	flags := xrayFlags{listen: defaultListen} // of a configuration that nobody runs
	var core coreFlags
	var try tryFlags
	var only bool
	cmd := &cobra.Command{
		Use:   "test LINK|FILE|-...",
		Short: "Run links through Xray to a page, or say whether they can be run",
		Long: `Test runs each profile through Xray, on ports of 127.0.0.1 of its own, and asks for a
page through it. It prints how long each step took: the core's start, a connection to
the server, the page's TLS handshake through the tunnel, its first byte, and the whole;
of several profiles a table, the fastest first. Where a page can't be had, it says
why, as far as Xray's log tells. It exits with 1 when no profile gets the page.

With --config-only nothing is connected to: it prints all there is to know about
running a link, a subscription, or a whole configuration of Xray, on one version, and
finds what Xray's own test takes in silence. With --xray that program's test is run
too, which gets the configuration through its standard input. It then exits with 1
when something can't be run.

A link in the command line is seen by everybody on the machine; "-" reads it from
standard input.`,
		Example: `  netpolicy xray test subscription.txt
  netpolicy xray test --config-only --xray /usr/bin/xray config.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !only {
				ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
				defer stop()
				return tryLinks(ctx, cmd, &try, &core, args)
			}
			if len(args) > 1 {
				return errors.New("--config-only looks at one link or file")
			}
			if flags.core = core.rules; flags.core == "" {
				flags.core = config.V26_3.String()
			}
			v, o, err := flags.parse()
			if err != nil {
				return err
			}
			return checkConfig(cmd, v, o, args[0], core.binary)
		},
	}
	core.add(cmd)
	try.add(cmd)
	cmd.Flags().BoolVar(&try.byDaemon, "by-daemon", false, "have the running daemon try, with its Xray and by its routes: one at a time")
	cmd.Flags().StringVar(&try.socket, "socket", api.DefaultSocket, "with --by-daemon: the daemon's API `socket`")
	cmd.Flags().BoolVar(&only, "config-only", false, "look at the configuration and connect to nowhere")
	cmd.MarkFlagsMutuallyExclusive("by-daemon", "config-only")
	return cmd
}

// checkConfig is `xray test --config-only`.
func checkConfig(cmd *cobra.Command, v config.Version, o config.Options, arg, binary string) error {
	data, findings, err := testInput(v, o, arg, cmd)
	if err != nil {
		return cli.Fail(cmd, err)
	}
	writeConfigFindings(cmd.OutOrStdout(), findings, true)
	if config.Refused(findings) {
		return cli.Errors
	}
	if binary != "" {
		if err := testWithCore(cmd.Context(), binary, data); err != nil {
			return cli.Fail(cmd, err)
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "ok for Xray %s\n", v)
	return nil
}

// testInput returns the configuration that the argument is, or that is built of
// it, and what is to know about it.
func testInput(v config.Version, o config.Options, arg string, cmd *cobra.Command) ([]byte, []config.Finding, error) {
	var s sub.Subscription
	var err error
	if strings.Contains(arg, "://") {
		s, err = readProfiles(arg, cmd.InOrStdin())
	} else {
		var data []byte
		if data, err = readInput(arg, cmd.InOrStdin(), sub.MaxBytes, "the profiles"); err != nil {
			return nil, nil, err
		}
		if config.IsConfig(data) {
			return data, config.Validate(v, data), nil
		}
		s, err = parseProfiles(arg, data)
	}
	if err != nil {
		return nil, nil, err
	}
	var findings []config.Finding
	for _, e := range refusals(s).Entries {
		for _, f := range e.Findings {
			findings = append(findings, config.Finding{Severity: f.Severity, Profile: f.Link, Key: f.Key, Message: f.Message, Help: f.Help})
		}
	}
	data, more := config.Build(v, s.Profiles(), o)
	return data, append(findings, more...), nil
}

// testWithCore runs Xray's own test.
func testWithCore(ctx context.Context, binary string, data []byte) error {
	if config.HasTun(data) {
		return errors.New("the configuration has a tun inbound, and Xray's test would make the device on this host")
	}
	run := exec.CommandContext(ctx, binary, "run", "-test", "-config", "stdin:")
	run.Stdin = bytes.NewReader(data)
	out, err := run.CombinedOutput()
	if err == nil {
		return nil
	}
	// Xray prints the cause in its last line, with the value that it does not like.
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := oneLine(lines[len(lines)-1])
	for _, secret := range config.Secrets(data) {
		last = strings.ReplaceAll(last, secret, "***")
	}
	if last != "" {
		return fmt.Errorf("run the test of Xray: %w: %s", err, last)
	}
	return fmt.Errorf("run the test of Xray: %w", err)
}
