package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
)

func newXraySubCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sub",
		Short: "Keep subscriptions in the daemon, and choose among their profiles",
		Long: `Sub tells the daemon which subscriptions to keep: it fetches each of them now and
then, keeps the last content that had a usable profile, and remembers which profile
was chosen, also when the provider renames or reorders them.

URLs are shown to their host only: the rest is as good as a password.`,
	}
	cmd.AddCommand(newXraySubAddCmd(), newXraySubListCmd(), newXraySubShowCmd(), newXraySubUpdateCmd(), newXraySubChooseCmd(), newXraySubRemoveCmd())
	return cmd
}

func newXraySubAddCmd() *cobra.Command {
	var f daemonFlags
	var every time.Duration
	q := api.SubscriptionRequest{Do: api.DoAdd}
	cmd := &cobra.Command{
		Use:   "add NAME URL|-",
		Short: "Add a subscription and fetch it",
		Long: `Add has the daemon keep a subscription from now on, and fetches it once. Where that
fails, it is said, and tried again later.

A URL in the command line is seen by everybody on the machine; "-" reads it from
standard input.

--keep, --drop and --rename are regular expressions (RE2) on names as the provider
writes them; all of RE=TEMPLATE before the first = is the expression, and $1 or
${name} in the template is what a group has matched. They are applied in their order.`,
		Example: `  netpolicy xray sub add home - --every 12h --drop '^(Expires|Traffic)' <url.txt
  netpolicy xray sub add work https://provider.example/TOKEN --via wan2 --rename '^\[.*?\] *='`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Name, q.URL = args[0], args[1]
			if q.URL == "-" {
				data, err := readInput("-", cmd.InOrStdin(), 64<<10, "the URL")
				if err != nil {
					return cli.Fail(cmd, err)
				}
				q.URL = strings.TrimSpace(string(data))
			}
			if every != 0 {
				q.Every = every.String()
			}
			return f.subscription(q, func(out io.Writer, s *api.Subscription) {
				fmt.Fprintf(out, "added: %s\n", subSummary(s))
			})(cmd, nil)
		},
	}
	f.add(cmd)
	cmd.Flags().DurationVar(&every, "every", 0, "`time` between updates, 5m at least; as the provider says, else 24h, unless given")
	cmd.Flags().StringVar(&q.Via, "via", "", "fetch it over this `route` of the policy")
	cmd.Flags().StringVar(&q.Keep, "keep", "", "keep the profiles whose name matches this `expression`")
	cmd.Flags().StringVar(&q.Drop, "drop", "", "drop the profiles whose name matches this `expression`")
	cmd.Flags().StringSliceVar(&q.Protocols, "protocol", nil, "keep these `protocols` only: vless, vmess, trojan, ss, socks, http, hysteria2, wireguard")
	cmd.Flags().StringArrayVar(&q.Rename, "rename", nil, "replace in names, `RE=TEMPLATE`; may be given several times")
	cmd.Flags().StringVar(&q.UserAgent, "user-agent", "", "how to introduce ourselves; some providers choose the format by it")
	_ = cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions(
		strings.Fields("vless vmess trojan ss socks http hysteria2 wireguard"), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// subscription returns a RunE that asks for q and prints what the subscription is then.
func (f *daemonFlags) subscription(q api.SubscriptionRequest, text func(io.Writer, *api.Subscription)) func(*cobra.Command, []string) error {
	return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
		s, err := c.ChangeSubscription(ctx, q)
		if err != nil {
			return err
		}
		return f.print(out, s, func() { text(out, &s) })
	})
}

func newXraySubListCmd() *cobra.Command {
	var f daemonFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the subscriptions",
		Args:  cobra.NoArgs,
		RunE: f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
			all, err := c.Subscriptions(ctx)
			if err != nil {
				return err
			}
			return f.print(out, all, func() { writeSubs(out, all, time.Now()) })
		}),
	}
	f.add(cmd)
	return cmd
}

func newXraySubShowCmd() *cobra.Command {
	var f daemonFlags
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a subscription with its profiles",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				s, err := c.Subscription(ctx, args[0])
				if err != nil {
					return err
				}
				return f.print(out, s, func() { writeSub(out, &s, time.Now()) })
			})(cmd, nil)
		},
	}
	f.add(cmd)
	return cmd
}

func newXraySubUpdateCmd() *cobra.Command {
	var f daemonFlags
	cmd := &cobra.Command{
		Use:   "update [NAME]",
		Short: "Fetch a subscription now, or all",
		Long: `Update fetches a subscription now, or all of them. What can't be fetched, or has no
usable profile, leaves the last good content in use; the exit code is then 1.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				names := args
				if len(args) == 0 {
					all, err := c.Subscriptions(ctx)
					if err != nil {
						return err
					}
					for _, s := range all {
						names = append(names, s.Name)
					}
				}
				updated := []api.Subscription{}
				var failed error
				for _, name := range names {
					s, err := c.ChangeSubscription(ctx, api.SubscriptionRequest{Do: api.DoUpdate, Name: name})
					var gone *api.UnreachableError
					switch {
					case errors.As(err, &gone), errors.Is(err, context.Canceled):
						return err
					case err != nil:
						failed = cli.Fail(cmd, errors.New(oneLine(err.Error())))
					default:
						s.Profiles = nil
						updated = append(updated, s)
					}
				}
				err := f.print(out, updated, func() {
					for i := range updated {
						fmt.Fprintf(out, "updated: %s\n", subSummary(&updated[i]))
					}
				})
				return cmp.Or(err, failed)
			})(cmd, nil)
		},
	}
	f.add(cmd)
	return cmd
}

func newXraySubChooseCmd() *cobra.Command {
	var f daemonFlags
	var none bool
	cmd := &cobra.Command{
		Use:   "choose NAME PROFILE",
		Short: "Choose the profile of a subscription that is used",
		Long: `Choose sets which profile ` + "`via xray NAME`" + ` uses as long as it lives, by its id or its
name, as show prints them. --none leaves it to the measurements again. A chosen
profile is recognised after updates by its server, port and credentials, then by its
name; while it is not there the choice is kept.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if none {
				return cobra.ExactArgs(1)(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q := api.SubscriptionRequest{Do: api.DoChoose, Name: args[0]}
			if !none {
				if q.Profile = args[1]; q.Profile == "" {
					return errors.New("the profile's id or name is empty")
				}
			}
			return f.subscription(q, func(out io.Writer, s *api.Subscription) {
				if s.Chosen == nil {
					fmt.Fprintf(out, "%s: no profile is chosen\n", s.Name)
					return
				}
				fmt.Fprintf(out, "%s: %s, %s\n", s.Name, s.Chosen.ID, oneLine(s.Chosen.Name))
			})(cmd, nil)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&none, "none", false, "choose none")
	return cmd
}

func newXraySubRemoveCmd() *cobra.Command {
	var f daemonFlags
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a subscription with its profiles",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := api.SubscriptionRequest{Do: api.DoRemove, Name: args[0]}
			return f.subscription(q, func(out io.Writer, s *api.Subscription) { fmt.Fprintln(out, "removed:", s.Name) })(cmd, nil)
		},
	}
	f.add(cmd)
	return cmd
}

// subSummary says on one line how a subscription stands.
func subSummary(s *api.Subscription) string {
	text := fmt.Sprintf("%s, %s", s.Name, plural(s.Usable, "profile"))
	if s.Filtered > 0 {
		text += fmt.Sprintf(", %d filtered", s.Filtered)
	}
	if s.Refused > 0 {
		text += fmt.Sprintf(", %d refused", s.Refused)
	}
	if s.Lost {
		text += ", the chosen one is not there"
	}
	if s.Problem != "" {
		text += "; the last try failed: " + oneLine(s.Problem)
	}
	return text
}

func writeSubs(w io.Writer, all []api.Subscription, now time.Time) {
	if len(all) == 0 {
		fmt.Fprintln(w, "there is no subscription")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tPROFILES\tCHOSEN\tCHECKED\tFROM\tPROBLEM")
	for i := range all {
		s := &all[i]
		checked := "never"
		if !s.Checked.IsZero() {
			checked = ago(now.Sub(s.Checked)) + " ago"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n", s.Name, s.Usable, chosenOf(s), checked, oneLine(s.URL), oneLine(cmp.Or(s.Problem, "-")))
	}
	t.Flush()
}

func chosenOf(s *api.Subscription) string {
	switch {
	case s.Chosen != nil:
		return oneLine(s.Chosen.Name)
	case s.Lost:
		return "(not there)"
	}
	return "-"
}

func writeSub(w io.Writer, s *api.Subscription, now time.Time) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, oneLine(fmt.Sprintf(format, args...)))
	}
	row("from", "%s", s.URL)
	row("every", "%v", time.Duration(s.Every*float64(time.Second)))
	for _, r := range [][2]string{
		{"via", s.Via},
		{"user agent", s.UserAgent},
		{"keep", s.Keep},
		{"drop", s.Drop},
		{"protocols", strings.Join(s.Protocols, ", ")},
		{"rename", strings.Join(s.Rename, ", ")},
		{"format", s.Format},
		{"problem", s.Problem},
	} {
		if r[1] != "" {
			row(r[0], "%s", r[1])
		}
	}
	if !s.Checked.IsZero() {
		row("fetched", "%s", when(s.Fetched, now))
		row("checked", "%s", when(s.Checked, now))
	}
	if s.Used > 0 || s.Total > 0 {
		text := size(s.Used)
		if s.Total > 0 {
			text += " of " + size(s.Total)
		}
		row("used", "%s", text)
	}
	if !s.Expires.IsZero() {
		row("expires", "%s", clock(s.Expires, now))
	}
	row("profiles", "%d, %d filtered, %d refused", s.Usable, s.Filtered, s.Refused)
	for _, text := range s.Reasons {
		fmt.Fprintln(w, "  "+oneLine(text))
	}
	if s.Lost {
		row("chosen", "a profile that is not there at the moment")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range s.Profiles {
		star := " "
		if p.Chosen {
			star = "*"
		}
		kind := strings.Join(strings.Fields(p.Protocol+" "+p.Transport+" "+p.Security), "+")
		fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\n", star, p.ID, oneLine(p.Name), kind, oneLine(p.Server))
	}
	t.Flush()
}
