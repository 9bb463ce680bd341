package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/policyfile"
)

func newApplyCmd() *cobra.Command {
	var f daemonFlags
	q := api.ChangeRequest{Do: api.DoApply}
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Make the daemon go over to another policy, for good or until it is confirmed",
		Long: `Apply sends a policy to the daemon, with the imports and lists that stand beside
it. The daemon checks it, tries it, and makes it live; a policy with an error is
rejected and the old one goes on. Then the text is written to the daemon's own
policy file, which the next start reads. When somebody else changes the policy while
this command reads the file or waits for its turn, nothing is done.

With --confirm TIME that waits for ` + "`netpolicy confirm`" + `: without it the old policy
returns by itself when the time is up, also when the daemon was killed meanwhile
or the machine was restarted. So a policy that cuts you off does so for a while.

With --confirm probe nobody has to confirm: the policy is kept when its assertions
hold, every uplink that was up answers its probes under it, and this command is
still there to hear of it; otherwise the old policy returns.

Exit code 1: rejected, or reverted after probes.`,
		Example: "  netpolicy apply new.npl --confirm 90s && netpolicy confirm\n  netpolicy apply new.npl --confirm probe",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkTerms(&q); err != nil {
				return err
			}
			q.Control = controlFlow(os.Getenv("SSH_CONNECTION"))
			return f.change(cmd, q, args[0])
		},
	}
	f.add(cmd)
	addTerms(cmd, &q)
	return cmd
}

func newConfirmCmd() *cobra.Command {
	var f daemonFlags
	cmd := &cobra.Command{
		Use:   "confirm [N]",
		Short: "Keep the policy that was applied with --confirm",
		Long: `Confirm keeps the policy that waits for it: the one of the given number and no
other, or without a number the one that waits now.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := api.ChangeRequest{Do: api.DoConfirm}
			if len(args) > 0 {
				n, err := strconv.Atoi(args[0])
				if err != nil || n <= 0 {
					return fmt.Errorf("%q: want the number of the policy that waits", args[0])
				}
				q.N = n
			}
			return f.change(cmd, q, "")
		},
	}
	f.add(cmd)
	return cmd
}

func newRollbackCmd() *cobra.Command {
	var f daemonFlags
	q := api.ChangeRequest{Do: api.DoRollback}
	cmd := &cobra.Command{
		Use:   "rollback [previous|N|HASH]",
		Short: "Take back the policy that waits, or go back to one of the history",
		Long: `Rollback takes back the policy that waits for its confirmation; when none waits,
nothing is done. With an argument it goes back to the policy before the present
one (previous), or to the one that a number or the beginning of a hash names; see
` + "`netpolicy history`" + `. That is a change like any other: it goes to the daemon's policy
file and gets a number of its own, so that a second ` + "`rollback previous`" + ` takes back
the first.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkTerms(&q); err != nil {
				return err
			}
			if len(args) > 0 {
				q.To = args[0]
			}
			q.Control = controlFlow(os.Getenv("SSH_CONNECTION"))
			return f.change(cmd, q, "")
		},
	}
	f.add(cmd)
	addTerms(cmd, &q)
	return cmd
}

func addTerms(cmd *cobra.Command, q *api.ChangeRequest) {
	cmd.Flags().StringVar(&q.Confirm, "confirm", "", "revert unless confirmed within `TIME` (90s), or by probe")
	cmd.Flags().StringVar(&q.Within, "within", "", "with --confirm probe: `time` for the probes; ten rounds and five seconds unless given")
}

// checkTerms finds mistakes in the command line before the daemon is asked.
func checkTerms(q *api.ChangeRequest) error {
	if q.Within != "" && q.Confirm != api.ConfirmProbe {
		return fmt.Errorf("--within needs --confirm probe")
	}
	for flag, text := range map[string]string{"--confirm": q.Confirm, "--within": q.Within} {
		if text == "" || flag == "--confirm" && text == api.ConfirmProbe {
			continue
		}
		if d, err := time.ParseDuration(text); err != nil || d <= 0 {
			return fmt.Errorf("%s %q: want a time such as 90s, or probe", flag, text)
		}
	}
	return nil
}

// controlFlow is the connection that the environment of an SSH session tells of
// ("client port server port") as a flow; "" for none, and for one within a link, which no
// policy is about.
func controlFlow(env string) string {
	part := strings.Fields(env)
	if len(part) != 4 {
		return ""
	}
	src, err := netip.ParseAddrPort(net.JoinHostPort(part[0], part[1]))
	dst, err2 := netip.ParseAddrPort(net.JoinHostPort(part[2], part[3]))
	if err != nil || err2 != nil || src.Addr().Zone() != "" || dst.Addr().Zone() != "" {
		return ""
	}
	plain := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
	return fmt.Sprintf("tcp %s > %s", plain(src), plain(dst))
}

// change asks for a change, to a policy in a file or to another one, and prints what came of it.
func (f *daemonFlags) change(cmd *cobra.Command, q api.ChangeRequest, file string) error {
	return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
		if file != "" {
			// First what is in force: whoever changes that while the file is read, or a change before ours goes on, is heard.
			tag, gone := c.InForce(ctx)
			b, err := policyfile.Gather(file, cmd.InOrStdin())
			if err := cmp.Or(err, gone); err != nil {
				return err
			}
			q.Policy, q.IfMatch = &b, tag
		}
		if q.Confirm == api.ConfirmProbe && f.output == "text" {
			fmt.Fprintln(cmd.ErrOrStderr(), "waiting for probes; Ctrl-C takes the policy back")
		}
		if q.Do != api.DoApply && q.N == 0 && q.To == "" {
			s, err := c.Status(ctx)
			if err != nil {
				return err
			}
			if s.Confirm == nil {
				return errors.New("no policy waits for its confirmation; `netpolicy rollback previous` goes back to the one before")
			}
			q.N = s.Confirm.N
		}
		r, err := c.Change(ctx, q)
		if errors.Is(err, api.ErrPrecondition) {
			return errors.New("nothing was changed: somebody else has changed the policy meanwhile; `netpolicy history` tells who")
		}
		if err != nil {
			return err
		}
		if err := f.print(out, r, func() { writeChange(out, &r, time.Now()) }); err != nil {
			return err
		}
		if r.Result == api.Rejected || r.Result == api.Reverted && q.Do == api.DoApply || r.Result == api.Reverted && q.Confirm != "" {
			return cli.Errors
		}
		return nil
	})(cmd, nil)
}

func writeChange(w io.Writer, r *api.ChangeResult, now time.Time) {
	for _, d := range r.Diagnostics {
		writeDiagnostic(w, "", d)
	}
	for _, text := range r.Warnings {
		fmt.Fprintln(w, "warning:", text)
	}
	for _, text := range r.Probes {
		fmt.Fprintln(w, text)
	}
	number := ""
	if r.N > 0 {
		number = fmt.Sprintf(", policy %d of the history", r.N)
	}
	switch r.Result {
	case api.Applied, api.Confirmed:
		fmt.Fprintf(w, "%s: %s (%s, %d rules)%s\n", r.Result, r.Policy.Hash, r.Policy.File, r.Policy.Rules, number)
	case api.Unchanged:
		fmt.Fprintf(w, "unchanged: %s decides already%s\n", r.Policy.Hash, number)
	case api.Pending:
		fmt.Fprintf(w, "applied, not kept yet: %s (%d rules)%s\n", r.Policy.Hash, r.Policy.Rules, number)
		fmt.Fprintf(w, "%s left (until %s) for `netpolicy confirm %d`; else policy %s returns\n",
			left(r.Confirm), clock(r.Confirm.Deadline, now), r.Confirm.N, former(r.Confirm.Before, r.Confirm.Old))
	case api.Reverted:
		writeReverted(w, r.Reverted)
	default:
		fmt.Fprintf(w, "rejected: %s\nthe old policy goes on: %s\n", r.Error, r.Policy.Hash)
	}
}

// former names a policy by its number, where it has one, and its hash.
func former(n int, hash string) string {
	if n == 0 {
		return hash
	}
	return fmt.Sprintf("%d (%s)", n, hash)
}

func left(c *api.Confirm) string {
	return time.Duration(c.Left * float64(time.Second)).Round(time.Second).String()
}

func writeReverted(w io.Writer, r *api.Revert) {
	verified := "verified"
	if !r.Verified {
		verified = "not verified"
	}
	fmt.Fprintf(w, "reverted, %s: policy %s decides again; %s\n", verified, former(r.To, r.Hash), r.Why)
}

func newHistoryCmd() *cobra.Command {
	var f daemonFlags
	var diff bool
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show the policies of late: when, who, why, and what became of them",
		Long: `History lists the last 20 policies, the newest first; the one that decides has a
star. --diff adds what each changed in the text of the one that it replaced; JSON
always has it. ` + "`netpolicy history show N`" + ` prints the text of one.`,
		Args: cobra.NoArgs,
		RunE: f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
			list, err := c.History(ctx, diff || f.output == "json")
			if err != nil {
				return err
			}
			return f.print(out, list, func() { writeHistory(out, list, time.Now()) })
		}),
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&diff, "diff", false, "print what each changed")
	cmd.AddCommand(newHistoryShowCmd())
	return cmd
}

func newHistoryShowCmd() *cobra.Command {
	var f daemonFlags
	var file string
	var diff bool
	cmd := &cobra.Command{
		Use:   "show N|HASH",
		Short: "Print a policy of the history",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				e, err := c.Entry(ctx, args[0])
				if err != nil {
					return err
				}
				text, ok := e.Policy.Main, true
				if file != "" {
					text, ok = e.Policy.Files[file]
				}
				switch {
				case !ok:
					return fmt.Errorf("policy %d has no file %q", e.N, file)
				case diff:
					text = []byte(e.Diff)
				}
				return f.print(out, e, func() { out.Write(text) })
			})(cmd, args)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&file, "file", "", "an imported `file` or list of it instead")
	cmd.Flags().BoolVar(&diff, "diff", false, "what it changed instead")
	return cmd
}

func writeHistory(w io.Writer, list []api.Entry, now time.Time) {
	for _, e := range list {
		star := " "
		if e.Live {
			star = "*"
		}
		outcome := ""
		if e.Outcome != "" {
			outcome = ", " + e.Outcome
		}
		if e.Note != "" {
			outcome += " (" + e.Note + ")"
		}
		if e.Outcome == api.Damaged {
			fmt.Fprintf(w, "%s%3d  damaged: %s\n", star, e.N, e.Note)
			continue
		}
		fmt.Fprintf(w, "%s%3d  %-12s  %s  %s by %s, %d rules, +%d -%d%s\n",
			star, e.N, e.Hash, clock(e.Time, now), e.Trigger, e.Who, e.Rules, e.Added, e.Removed, outcome)
		if e.Diff != "" {
			fmt.Fprintln(w, strings.TrimSuffix(indent(e.Diff), "\n"))
		}
	}
	if len(list) == 0 {
		fmt.Fprintln(w, "no policy is kept")
	}
}

// indent moves lines to the right.
func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("      " + line)
	}
	return b.String()
}

func newPlanCmd() *cobra.Command {
	var f daemonFlags
	var current bool
	cmd := &cobra.Command{
		Use:   "plan [FILE]",
		Short: "Show what a policy would change in the kernel, by the running daemon",
		Long: `Plan prints what ` + "`netpolicyd --dry-run`" + ` prints: the plan (routes, ip rules, the
nftables table), the steps from what is in force to it, counts, and how the
connections that are alive would be decided. The daemon answers by its own view
of the host, and nothing is touched. Without a file it is about the daemon's own
policy file as it is now: what a reload would do.

With --current it is the plan of the policy in force, as the daemon wants the
kernel to be at this moment, without a comparison.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if current {
				if len(args) > 0 || f.output != "text" {
					return errors.New("--current is a text, and about no file")
				}
				return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
					text, err := c.Plan(ctx)
					if err == nil {
						_, err = io.WriteString(out, text)
					}
					return err
				})(cmd, args)
			}
			var q api.PlanRequest
			if len(args) > 0 {
				b, err := policyfile.Gather(args[0], cmd.InOrStdin())
				if err != nil {
					return cli.Fail(cmd, err)
				}
				q.Policy = &b
			}
			q.JSON = f.output == "json"
			err := f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				r, err := c.Compare(ctx, q)
				if err != nil {
					return err
				}
				for _, d := range r.Diagnostics {
					writeDiagnostic(cmd.ErrOrStderr(), "", d)
				}
				if r.Error != "" {
					fmt.Fprintln(cmd.ErrOrStderr(), "error:", r.Error)
					return cli.Errors
				}
				_, err = io.WriteString(out, r.Output)
				return err
			})(cmd, args)
			if err == cli.Unreachable { //nolint:errorlint // it is a code, never wrapped
				fmt.Fprintln(cmd.ErrOrStderr(), "hint: without a daemon `netpolicyd --config FILE --dry-run` prints the plan")
			}
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&current, "current", false, "print the plan that is in force, and compare nothing")
	return cmd
}
