package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
)

// daemonFlags are what every command that speaks with the daemon has.
type daemonFlags struct {
	socket string
	output string // "text" or "json"
}

func (f *daemonFlags) addSocket(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.socket, "socket", api.DefaultSocket, "the daemon's API `socket`")
}

func (f *daemonFlags) add(cmd *cobra.Command) {
	f.addSocket(cmd)
	cmd.Flags().StringVarP(&f.output, "output", "o", "text", "text or json")
}

// checkOutput refuses what -o can't be where it is text or json, or one of also.
func checkOutput(output string, also ...string) error {
	all := append([]string{"text", "json"}, also...)
	if slices.Contains(all, output) {
		return nil
	}
	last := len(all) - 1
	return fmt.Errorf("-o %s: the outputs are %s and %s", output, strings.Join(all[:last], ", "), all[last])
}

// ask returns a RunE that runs f with the daemon's client, under a context that
// ends at Ctrl-C. An error of f is the daemon's, unless it is a cli.Exit.
func (f *daemonFlags) ask(do func(ctx context.Context, c *api.Client, out io.Writer) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := checkOutput(f.output); err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err := do(ctx, api.NewClient(f.socket), cmd.OutOrStdout())
		var code cli.Exit
		if err == nil || errors.As(err, &code) {
			return err
		}
		return daemonFailed(cmd, err)
	}
}

// print writes v as JSON, or calls text, as the user wants it.
func (f *daemonFlags) print(out io.Writer, v any, text func()) error {
	if f.output != "json" {
		text()
		return nil
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// daemonFailed prints what went wrong with the daemon, and returns the exit code.
func daemonFailed(cmd *cobra.Command, err error) error {
	failed := cli.Fail(cmd, err)
	var gone *api.UnreachableError
	if !errors.As(err, &gone) {
		return failed
	}
	w := cmd.ErrOrStderr()
	switch {
	case errors.Is(err, os.ErrPermission):
		fmt.Fprintln(w, "hint: root and the members of the group netpolicy may; `adduser $USER netpolicy` adds you from the next login on")
	case errors.Is(err, api.ErrSilent):
		fmt.Fprintln(w, "hint: it hangs, or has too much to do; its log may tell more")
	case errors.Is(err, api.ErrBrokeOff):
		fmt.Fprintln(w, "hint: it stopped, or was restarted; `netpolicy status` tells what it does now")
	default:
		fmt.Fprintln(w, "hint: is netpolicyd running? `netpolicyd --config FILE` starts it; --socket names another socket")
	}
	return cli.Unreachable
}

func newStatusCmd() *cobra.Command {
	var f daemonFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the daemon does: policy, states, uplinks, sources, losses",
		Args:  cobra.NoArgs,
		RunE: f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
			s, err := c.Status(ctx)
			if err != nil {
				return err
			}
			return f.print(out, s, func() { writeStatus(out, &s) })
		}),
	}
	f.add(cmd)
	return cmd
}

func newUplinksCmd() *cobra.Command {
	var f daemonFlags
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "uplinks",
		Short: "Show the uplinks with their state, RTT, loss and share, now or over a time",
		Long: `Show the uplinks as they are now; with --since what was measured of them and of the host: means, and behind them the least
and the most, and how much of the time was spent in which state. -o json has the series themselves: a value every two
seconds up to half an hour, every minute beyond.`,
		Example: "  netpolicy uplinks --since 1h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("since") && (since <= 0 || since > api.MaxRange) {
				return fmt.Errorf("--since %s: want a time up to %s", since, ago(api.MaxRange))
			}
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				if since > 0 {
					r, err := c.Range(ctx, api.RangeRequest{Back: since})
					if err != nil {
						return err
					}
					return f.print(out, r, func() { writeRange(out, &r) })
				}
				u, err := c.Uplinks(ctx)
				if err != nil {
					return err
				}
				return f.print(out, u, func() { writeUplinks(out, u, time.Now()) })
			})(cmd, args)
		},
	}
	f.add(cmd)
	cmd.Flags().DurationVar(&since, "since", 0, "what was measured in the last `TIME` instead, such as 1h; up to 24h")
	return cmd
}

func newMetricsCmd() *cobra.Command {
	f := daemonFlags{output: "text"}
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "Print the daemon's metrics in the text format of Prometheus",
		Args:  cobra.NoArgs,
		RunE: f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
			text, err := c.Metrics(ctx)
			if err == nil {
				_, err = io.WriteString(out, text)
			}
			return err
		}),
	}
	f.addSocket(cmd)
	return cmd
}

func newReloadCmd() *cobra.Command {
	var f daemonFlags
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon read its policy again",
		Long: "Make the daemon read its policy again. A policy with an error is rejected: the\n" +
			"old one goes on, the errors are printed, and the exit code is 1.",
		Args: cobra.NoArgs,
		RunE: f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
			r, err := c.Reload(ctx)
			if err != nil {
				return err
			}
			if err := f.print(out, r, func() { writeReload(out, &r) }); err != nil {
				return err
			}
			if r.Result == api.Rejected {
				return cli.Errors
			}
			return nil
		}),
	}
	f.add(cmd)
	return cmd
}

func writeReload(w io.Writer, r *api.ReloadResult) {
	for _, d := range r.Diagnostics {
		writeDiagnostic(w, "", d)
	}
	switch r.Result {
	case api.Applied:
		fmt.Fprintf(w, "applied: %s (%s, %d rules)\n", r.Policy.Hash, r.Policy.File, r.Policy.Rules)
	case api.Unchanged:
		fmt.Fprintf(w, "unchanged: %s decides already\n", r.Policy.Hash)
	default:
		fmt.Fprintf(w, "rejected (NP501): %s\nthe old policy goes on: %s\n", r.Error, r.Policy.Hash)
	}
}

func writeDiagnostic(w io.Writer, indent string, d api.Diagnostic) {
	place := ""
	if d.Line > 0 {
		place = fmt.Sprintf("%s:%d:%d: ", d.File, d.Line, d.Column)
	}
	fmt.Fprintf(w, "%s%s%s %s: %s\n", indent, place, d.Severity, d.Code, d.Message)
	if d.Help != "" {
		fmt.Fprintf(w, "%s  help: %s\n", indent, d.Help)
	}
}

// writeTimed shows schedules, conditions and quotas.
func writeTimed(w io.Writer, s *api.Status) {
	line := func(head string, list []api.Truth, words map[string]string) {
		var parts []string
		for _, t := range list {
			parts = append(parts, t.Name+" "+cmp.Or(words[t.Value], t.Value))
		}
		if len(parts) > 0 {
			fmt.Fprintf(w, "%-8s %s\n", head, strings.Join(parts, ", "))
		}
	}
	line("schedule", s.Schedules, map[string]string{"true": "open", "false": "closed"})
	line("if", s.Conditions, nil)
	for _, q := range s.Quotas {
		state := ""
		if q.Exceeded {
			state = ", exceeded"
		}
		fmt.Fprintf(w, "quota    %s: %s of %s this %s%s\n", q.Name, size(q.Used), size(q.Limit), q.Per, state)
	}
}

// size shows bytes in the largest binary unit that leaves a digit before the point.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}

func writeStatus(w io.Writer, s *api.Status) {
	doing := "enforcing"
	if s.Mode != "enforce" {
		doing = "observing only: nothing is enforced"
	}
	fmt.Fprintf(w, "netpolicyd %s (pid %d), %s, up %s\n", s.Version, s.PID, doing, ago(s.Now.Sub(s.Started)))
	fmt.Fprintf(w, "policy   %s, %s, %d rules, live since %s\n", s.Policy.File, s.Policy.Hash, s.Policy.Rules, when(s.Policy.Since, s.Now))
	if c := s.Confirm; c != nil {
		how := "`netpolicy confirm`"
		if c.Mode == api.ConfirmProbe {
			how = "probes"
		}
		fmt.Fprintf(w, "confirm  policy %s by %s waits for %s: %s left, then policy %s returns\n", former(c.N, c.Hash), oneLine(c.Who), how, left(c), former(c.Before, c.Old))
		if c.Error != "" {
			fmt.Fprintf(w, "error    it can't be taken back yet: %s\n", c.Error)
		}
	}
	if r := s.Reverted; r != nil {
		fmt.Fprintf(w, "revert   at %s: ", when(r.Time, s.Now))
		writeReverted(w, r)
	}
	fmt.Fprintf(w, "state    %s", s.State)
	if !s.Since.IsZero() {
		fmt.Fprintf(w, " since %s", when(s.Since, s.Now))
	}
	fmt.Fprintln(w)
	if s.Enforcement != "" {
		fmt.Fprintf(w, "error    not enforced: %s\n", s.Enforcement)
	}
	if d := s.Drift; d != nil {
		fmt.Fprintf(w, "drift    %d changes by others, put back; the last at %s: %s\n", d.Count, when(d.Time, s.Now), oneLine(d.What))
	}
	if len(s.Uplinks) > 0 {
		fmt.Fprintln(w, "uplinks")
		writeUplinks(w, s.Uplinks, s.Now)
	}
	writeTimed(w, s)
	if s.Xray != nil {
		fmt.Fprintf(w, "xray     %s\n", xraySummary(s.Xray, s.Now))
		for _, p := range s.Xray.Problems {
			fmt.Fprintf(w, "  not carried: %s\n", p)
		}
	}
	var running, failed []string
	for _, src := range s.Sources {
		if src.Error == "" {
			running = append(running, src.Name)
			for _, f := range src.Facts {
				if f.Error != "" {
					failed = append(failed, fmt.Sprintf("%s without %s: %s", src.Name, f.Fact, f.Error))
				}
			}
		} else {
			failed = append(failed, fmt.Sprintf("%s not in use: %s", src.Name, src.Error))
		}
	}
	if len(running) > 0 || len(failed) > 0 {
		fmt.Fprintf(w, "sources  %s\n", strings.Join(append([]string{strings.Join(running, ", ")}, failed...), "; "))
	}
	fmt.Fprintf(w, "flows    %d followed, %d addresses with names, %d decisions\n", s.Flows, s.Names, s.Decisions)
	for i, h := range s.Hits {
		lead := "hits"
		if i > 0 {
			lead = ""
		}
		fmt.Fprintf(w, "%-8s %d by %s\n", lead, h.Decisions, h.Rule)
	}
	for _, q := range slices.Sorted(maps.Keys(s.Drops)) {
		if n := s.Drops[q]; n > 0 {
			what, why := q, "queue full"
			if name, ok := strings.CutSuffix(q, api.OnDisk); ok {
				what, why = name, "the disk did not take it"
			}
			fmt.Fprintf(w, "dropped  %d %s (%s)\n", n, what, why)
		}
	}
	if e := s.Error; e != nil {
		fmt.Fprintf(w, "%s    the reload at %s was rejected, the old policy goes on: %s\n", e.Code, when(e.Time, s.Now), e.Message)
		for _, d := range e.Diagnostics {
			writeDiagnostic(w, "  ", d)
		}
	}
}

func writeUplinks(w io.Writer, uplinks []api.Uplink, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, u := range uplinks {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", u.Name, u.Dev, u.State, uplinkDetail(&u, now))
	}
	t.Flush()
}

// uplinkDetail says in words why an uplink is as it is.
func uplinkDetail(u *api.Uplink, now time.Time) string {
	var parts []string
	if !u.Since.IsZero() {
		parts = append(parts, "since "+when(u.Since, now))
	}
	if u.Forced != nil {
		forced := "forced"
		if !u.Forced.Until.IsZero() {
			forced += " until " + clock(u.Forced.Until, now)
		}
		if u.Forced.Reason != "" {
			forced += fmt.Sprintf(" (%s)", oneLine(u.Forced.Reason))
		}
		parts = append(parts, forced, "by itself it would be "+u.Forced.Shadow)
	}
	switch {
	case !u.Up:
		parts = append(parts, "link down")
	case u.Unknown:
		parts = append(parts, "not measured yet")
	}
	if verdict := u.Verdict; verdict != "" && (verdict != "good" || u.State != "NORMAL") {
		if !u.VerdictSince.IsZero() {
			verdict += " since " + clock(u.VerdictSince, now)
		}
		if u.Why != "" {
			verdict += " (" + u.Why + ")"
		}
		parts = append(parts, verdict)
	}
	if u.RTTms >= 0 {
		parts = append(parts, fmt.Sprintf("rtt %.4g ms", u.RTTms))
	}
	if u.Loss > 0 {
		parts = append(parts, fmt.Sprintf("loss %.3g%%", u.Loss*100))
	}
	if u.Errors > 0 {
		parts = append(parts, fmt.Sprintf("errors %.3g%%", u.Errors*100))
	}
	if u.Share < 100 && u.State == "RECOVERY" {
		parts = append(parts, fmt.Sprintf("takes %d%% of new flows", u.Share))
	}
	if u.Suppressed {
		parts = append(parts, fmt.Sprintf("suppressed (penalty %d)", u.Penalty))
	} else if u.HoldUntil.After(now) {
		parts = append(parts, "held until "+clock(u.HoldUntil, now))
	}
	return strings.Join(parts, ", ")
}

// when spells a moment with how long ago it was.
func when(t, now time.Time) string { return fmt.Sprintf("%s (%s ago)", clock(t, now), ago(now.Sub(t))) }

// clock spells a moment in local time, with the date unless it is today's.
func clock(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// ago rounds a duration to what a person wants to read.
func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Hour:
		return d.Truncate(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
