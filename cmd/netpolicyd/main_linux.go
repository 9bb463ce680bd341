// Command netpolicyd enforces a network policy: it observes connections,
// decides them, steers them over the uplinks, and leaves a line that fails.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/daemon"
	"netpolicy.dev/netpolicy/internal/doctor"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, newRoot(), os.Args[1:]))
}

// settings are the flags of netpolicyd.
type settings struct {
	config    string
	dryRun    bool
	flow      string
	state     string
	output    string
	observe   bool
	keep      bool
	stateDir  string
	socket    string
	logLevel  string
	logFormat string
	want      doctor.Want // what the policy needs of the host
}

func newRoot() *cobra.Command {
	var s settings
	root := &cobra.Command{
		Use:   "netpolicyd --config FILE",
		Short: "Enforce a network policy",
		Long: "netpolicyd observes connections, decides them by the policy, steers them over the\n" +
			"uplinks, and leaves a line that fails. On SIGHUP, and when the file changes, it\n" +
			"reads the policy again; one with an error is rejected and the old one goes on.\n" +
			"When it stops it removes everything it made, unless --keep is given.",
		Example: "  netpolicyd --config policy.yaml --dry-run\n" +
			"  netpolicyd --config policy.yaml --dry-run --flow 'tcp 10.0.0.5:5000 > 1.2.3.4:443 sni=us01.zoom.us'\n" +
			"  netpolicyd --config policy.yaml",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	f := root.Flags()
	f.StringVar(&s.config, "config", "", "the policy `file`")
	f.BoolVar(&s.dryRun, "dry-run", false, "print the plan and the decisions for the connections now alive; touch nothing")
	f.StringVar(&s.flow, "flow", "", "with --dry-run: decide this one `flow` and print the answer")
	f.StringVar(&s.state, "state", "", "with --dry-run: in this state (NORMAL, DEGRADED, FAILOVER, RECOVERY)")
	f.StringVarP(&s.output, "output", "o", "text", "with --dry-run: text or json")
	f.BoolVar(&s.observe, "observe", false, "decide and log live traffic, enforce nothing")
	f.BoolVar(&s.keep, "keep", false, "leave rules and routes in place when stopping")
	f.StringVar(&s.stateDir, "state-dir", "", "the state `directory`; the policy's, or "+defaultStateDir)
	f.StringVar(&s.socket, "socket", "", "the API `socket`; the policy's, or "+api.DefaultSocket)
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&s.logFormat, "log-format", "json", "json or text")
	root.AddCommand(newCleanupCmd(), newVersionCmd())
	return root
}

func (s *settings) run(cmd *cobra.Command) error {
	switch {
	case s.config == "":
		return errors.New("--config FILE is required")
	case s.output != "text" && s.output != "json":
		return fmt.Errorf("-o %q: want text or json", s.output)
	case !s.dryRun && (s.flow != "" || s.state != ""):
		return errors.New("--flow and --state need --dry-run: the daemon answers `netpolicy explain` and `netpolicy state`")
	case s.dryRun && s.observe:
		return errors.New("--dry-run and --observe exclude each other: one ends at once, the other runs")
	case s.dryRun && s.flow != "":
		return s.decideFlow(cmd)
	case s.dryRun:
		return s.printPlan(cmd)
	default:
		return s.serve(cmd)
	}
}

// serve runs the daemon until a signal ends it.
func (s *settings) serve(cmd *cobra.Command) error {
	log, err := telemetry.NewLogger(cmd.ErrOrStderr(), s.logFormat, s.logLevel)
	if err != nil {
		return err
	}
	s.finishChange(log)
	if err := s.fromPolicy(cmd); err != nil {
		return err
	}
	s.logConflicts(cmd.Context(), log)
	parts, clean, err := wire(s.stateDir, s.observe, log)
	if err != nil {
		return failed(cmd, err)
	}
	opts := daemon.Options{
		Config: s.config, Observe: s.observe, StateDir: s.stateDir, Socket: s.socket,
		Version: version(), PID: os.Getpid(), Log: log, Notifier: daemon.NewNotifier(os.Getenv, os.Getpid()),
	}
	if !s.keep && !s.observe {
		opts.Clean = clean
	}
	d := daemon.New(opts, parts)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	log.Info("netpolicyd starts", "version", version(), "config", s.config, "state_dir", s.stateDir, "socket", s.socket)
	err = d.Run(cmd.Context(), hup)
	log.Info("netpolicyd stopped")
	return failed(cmd, err)
}

// finishChange puts the rest of a confirmed policy in place when a crash left a part
// of it that can't be read. Where it can be, the daemon does so itself.
func (s *settings) finishChange(log *slog.Logger) {
	if r, err := daemon.LoadPolicy(s.config, ""); err == nil && r.Policy != nil {
		return
	}
	if done, err := daemon.FinishChange(firstOf(s.stateDir, defaultStateDir), s.config); err != nil {
		log.Error("confirmed policy not written to its file", "error", err)
	} else if done {
		log.Info("confirmed policy written to its file")
	}
}

// fromPolicy fills in what the command line leaves to the policy's daemon
// section. A policy with errors is left to what reads it next.
func (s *settings) fromPolicy(cmd *cobra.Command) error {
	r, err := s.load(cmd)
	if err != nil {
		return err
	}
	p := r.Policy
	s.stateDir = firstOf(s.stateDir, p.Daemon.StateDir, defaultStateDir)
	s.socket = firstOf(s.socket, p.Daemon.API, api.DefaultSocket)
	s.want = doctor.WantOf(p)
	return nil
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// failed prints an error that is not about usage, and returns its exit code.
func failed(cmd *cobra.Command, err error) error {
	var text *daemon.PolicyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &text):
		printDiagnostics(cmd.ErrOrStderr(), text.Diagnostics, text.Sources)
	default:
		fmt.Fprintln(cmd.ErrOrStderr(), "error:", err)
		if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "hint: rules and routes are root's to change; --dry-run needs no rights for one --flow")
		}
	}
	return cli.Errors
}

func printDiagnostics(w io.Writer, list []diag.Diagnostic, sources []*diag.Source) {
	if err := diag.Text(w, list, sources...); err != nil {
		fmt.Fprintln(w, "error:", err)
	}
}

func newVersionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "netpolicyd", version())
			return err
		},
	}
}

// version is the module's version, or the commit it was built from where the
// build recorded no more.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	v := "devel"
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v += "-" + s.Value[:min(len(s.Value), 12)]
		}
	}
	return v
}
