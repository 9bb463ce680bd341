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
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/daemon"
	"netpolicy.dev/netpolicy/internal/doctor"
	"netpolicy.dev/netpolicy/internal/recorder"
	"netpolicy.dev/netpolicy/internal/seccomp"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/xray/process"
)

func main() {
	findHelpers()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, newRoot(), os.Args[1:]))
}

// settings are the flags of netpolicyd.
type settings struct {
	config     string
	dryRun     bool
	flow       string
	state      string
	output     string
	observe    bool
	keep       bool
	stateDir   string
	stateGiven bool // by the command line
	socket     string
	group      string
	seccomp    string
	record     string
	recordMax  int64 // MiB
	logLevel   string
	logFormat  string
	recordMask bool
	want       doctor.Want // what the policy needs of the host
	calls      []seccomp.Group

	apiListen, alertExec, decisionDir string
	apiFD                             int
	web                               daemon.Web
	telemetry                         daemon.Telemetry
}

func newRoot() *cobra.Command {
	var s settings
	root := &cobra.Command{
		Use:   "netpolicyd --config FILE",
		Short: "Enforce a network policy",
		Long: "netpolicyd observes connections, decides them by the policy, steers them over the\n" +
			"uplinks, and leaves a line that fails. On SIGHUP, and when the file changes, it\n" +
			"reads the policy again; one with an error is rejected and the old one goes on.\n" +
			"When it stops it removes everything it made, unless --keep is given or SIGUSR2\n" +
			"ends it: then its successor adopts what is there.",
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
	f.StringVar(&s.stateDir, "state-dir", "", "the state `directory`; the policy's, or "+api.DefaultStateDir)
	f.StringVar(&s.socket, "socket", "", "the API `socket`; the policy's, or "+api.DefaultSocket)
	f.StringVar(&s.group, "socket-group", defaultGroup, "the `group` whose members may use the API; \"\" for none")
	f.StringVar(&s.apiListen, "api-listen", "", "serve the API and the web interface at this `address`, too; the policy's, or nowhere")
	f.IntVar(&s.apiFD, "api-fd", 0, "serve them on the listener with this `descriptor`, which was handed in")
	f.StringVar(&s.decisionDir, "decision-log", "", "keep decision records in this `directory`; the policy's decision_log keeps them in the state directory")
	f.StringVar(&s.alertExec, "alert-exec", "", "run this `program` with each alert on its standard input")
	f.StringVar(&s.record, "record", "", "record flows and the lines' health in this `directory`, for netpolicy replay")
	f.Int64Var(&s.recordMax, "record-max", recorder.DefaultMax>>20, "keep at most so many `MiB` of recordings, the newest")
	f.BoolVar(&s.recordMask, "record-hash-names", false, "record names as keyed hashes, label by label")
	f.StringVar(&s.seccomp, "seccomp", seccomp.On.String(), "refuse syscalls that are not needed (on), log them (log), or neither (off)")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&s.logFormat, "log-format", "json", "json or text")
	root.AddCommand(newCleanupCmd(), cli.NewVersionCmd("netpolicyd"))
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
	case s.record == "" && (cmd.Flags().Changed("record-max") || s.recordMask):
		return errors.New("--record-max and --record-hash-names need --record DIR")
	case s.recordMax <= 0:
		return fmt.Errorf("--record-max %d: want at least 1 MiB", s.recordMax)
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
	mode, err := seccomp.ParseMode(s.seccomp)
	if err != nil {
		return fmt.Errorf("--seccomp %w", err)
	}
	group, err := socketGroup(s.group, cmd.Flags().Changed("socket-group"))
	if err != nil {
		return failed(cmd, err)
	}
	s.finishChange(log)
	if err := s.fromPolicy(cmd); err != nil {
		return err
	}
	s.logConflicts(cmd.Context(), log)
	if err := enough(s.observe, log); err != nil {
		return failed(cmd, err)
	}
	output, err := process.NewOutput() // which the filter does not allow
	if err != nil {
		log.Warn("routes via xray are blocked", "error", err)
	}
	trial, err := process.NewOutput()
	if err != nil {
		log.Warn("links can't be tried", "error", err)
	}
	if err := shield(mode, s.calls, log); err != nil {
		return failed(cmd, err)
	}
	defer giveBack(s.stateDir)
	parts, clean, err := wire(s.stateDir, s.observe, log)
	if err != nil {
		return failed(cmd, err)
	}
	opts := daemon.Options{
		Config: s.config, Observe: s.observe, StateDir: s.stateDir, StateDirGiven: s.stateGiven, Socket: s.socket, SocketGroup: group,
		Web: s.web, Telemetry: s.telemetry,
		Version: cli.Version(), PID: os.Getpid(), Log: log, Notifier: daemon.NewNotifier(os.Getenv, os.Getpid()),
	}
	if s.record != "" {
		opts.Record = &daemon.Recording{Options: recorder.Options{Dir: s.record, Max: s.recordMax << 20}, Mask: s.recordMask}
	}
	ctx, stay := keepOn(cmd.Context(), syscall.SIGUSR2)
	if !s.keep && !s.observe {
		opts.Clean = func(ctx context.Context) error {
			if stay() {
				return nil
			}
			return clean(ctx)
		}
	}
	opts.Stay, parts.XrayOutput, parts.TrialOutput = stay, output, trial
	d := daemon.New(opts, parts)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	log.Info("netpolicyd starts", "version", cli.Version(), "config", s.config, "state_dir", s.stateDir, "socket", s.socket)
	err = d.Run(ctx, hup)
	log.Info("netpolicyd stopped")
	return failed(cmd, err)
}

// finishChange puts the rest of a confirmed policy in place when a crash left a part
// of it that can't be read. Where it can be, the daemon does so itself.
func (s *settings) finishChange(log *slog.Logger) {
	if r, err := daemon.LoadPolicy(s.config, ""); err == nil && r.Policy != nil {
		return
	}
	if done, err := daemon.FinishChange(firstOf(s.stateDir, api.DefaultStateDir), s.config); err != nil {
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
	s.stateGiven = s.stateDir != ""
	s.stateDir = firstOf(s.stateDir, p.Daemon.StateDir, api.DefaultStateDir)
	s.socket = firstOf(s.socket, p.Daemon.API, api.DefaultSocket)
	s.want = doctor.WantOf(p)
	if p.Daemon.Xray.User != "" {
		s.calls = append(s.calls, seccomp.ChangeUser)
	}
	s.telemetryOf(&p.Daemon)
	return s.webOf(&p.Daemon)
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
	var lacks *missingError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &text):
		printDiagnostics(cmd.ErrOrStderr(), text.Diagnostics, text.Sources)
	default:
		fmt.Fprintln(cmd.ErrOrStderr(), "error:", err)
		hint := permissionHint(err)
		if errors.As(err, &lacks) {
			hint = lacks.hint()
		}
		if hint != "" {
			fmt.Fprintln(cmd.ErrOrStderr(), "hint:", hint)
		}
	}
	return cli.Errors
}

func printDiagnostics(w io.Writer, list []diag.Diagnostic, sources []*diag.Source) {
	if err := diag.Text(w, list, sources...); err != nil {
		fmt.Fprintln(w, "error:", err)
	}
}

// keepOn returns a context that the signal ends, too, and what then says that it
// was the signal: the daemon stops, and what it made stays for its successor.
func keepOn(parent context.Context, sig os.Signal) (ctx context.Context, stay func() bool) {
	ctx, cancel := context.WithCancel(parent)
	c := make(chan os.Signal, 1)
	signal.Notify(c, sig)
	var asked atomic.Bool
	go func() {
		defer signal.Stop(c)
		select {
		case <-c:
			asked.Store(true)
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, asked.Load
}
