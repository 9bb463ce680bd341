package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
)

// newXrayDaemonCmds are the commands that speak with the daemon about its Xray.
func newXrayDaemonCmds() []*cobra.Command {
	var list []*cobra.Command
	for _, c := range []struct{ use, do, short string }{
		{"status", "", "Show the Xray that the daemon runs, and the proxies of each route"},
		{"start", "start", "Start it again after a stop"},
		{"stop", "stop", "Stop it, until a start; routes via xray are blocked meanwhile"},
		{"restart", "restart", "Start it anew; connections through it end"},
	} {
		var f daemonFlags
		cmd := &cobra.Command{
			Use: c.use, Short: c.short, Args: cobra.NoArgs,
			RunE: f.ask(func(ctx context.Context, client *api.Client, out io.Writer) error {
				x, err := client.Xray(ctx, c.do)
				if err != nil {
					return err
				}
				return f.print(out, x, func() { writeXray(out, &x, time.Now()) })
			}),
		}
		f.add(cmd)
		list = append(list, cmd)
	}
	var f daemonFlags
	logs := &cobra.Command{
		Use: "logs", Short: "Print the last lines of its log, without secrets", Args: cobra.NoArgs,
		RunE: f.ask(func(ctx context.Context, client *api.Client, out io.Writer) error {
			l, err := client.XrayLog(ctx)
			if err != nil {
				return err
			}
			return f.print(out, l, func() {
				for _, line := range l.Lines {
					fmt.Fprintln(out, line)
				}
			})
		}),
	}
	f.add(logs)
	return append(list, logs)
}

// writeXray prints what runs for the routes via xray.
func writeXray(w io.Writer, x *api.Xray, now time.Time) {
	fmt.Fprintln(w, "xray", xrayLine(x, now))
	for _, p := range x.Problems {
		fmt.Fprintf(w, "  not carried: %s\n", p)
	}
	for _, r := range x.Routes {
		fmt.Fprintf(w, "  route %s via %q", r.Route, r.Proxy)
		if r.Listen != "" {
			fmt.Fprintf(w, ", SOCKS on %s", r.Listen)
		}
		fmt.Fprintln(w)
		for _, p := range r.Proxies {
			var notes []string
			switch p.Alive {
			case "true":
				notes = append(notes, fmt.Sprintf("alive, %d ms", p.DelayMS))
			case "false":
				notes = append(notes, "dead")
			default:
				notes = append(notes, "not measured")
			}
			if p.Used {
				notes = append(notes, "used")
			}
			if p.Chosen {
				notes = append(notes, "chosen by hand")
			}
			fmt.Fprintf(w, "    %s (%s): %s\n", p.Name, p.Address, strings.Join(notes, ", "))
		}
	}
}

// xrayLine is what there is to know of the process.
func xrayLine(x *api.Xray, now time.Time) string {
	var b strings.Builder
	if x.Version != "" {
		fmt.Fprintf(&b, "%s ", x.Version)
	}
	b.WriteString(x.State)
	if x.StoppedByUser {
		b.WriteString(" by hand")
	}
	if x.PID != 0 {
		fmt.Fprintf(&b, " (pid %d)", x.PID)
	}
	if !x.Since.IsZero() {
		fmt.Fprintf(&b, " since %s", when(x.Since, now))
	}
	if x.Adopted {
		b.WriteString(", started by an earlier netpolicyd")
	}
	if x.PID != 0 {
		fmt.Fprintf(&b, ", %d MiB, %s of processor time", x.Memory>>20, time.Duration(x.CPUms)*time.Millisecond)
	}
	if x.Restarts > 0 {
		fmt.Fprintf(&b, ", restarted %d times", x.Restarts)
	}
	if x.Reason != "" {
		fmt.Fprintf(&b, ": %s", x.Reason)
	}
	if !x.Next.IsZero() {
		fmt.Fprintf(&b, "; next start at %s", clock(x.Next, now))
	}
	return b.String()
}

// xraySummary is one line of `status`: the process, and how many routes live.
func xraySummary(x *api.Xray, now time.Time) string {
	carried := 0
	for _, r := range x.Routes {
		for _, p := range r.Proxies {
			if p.Used && p.Alive != "false" {
				carried++
			}
		}
	}
	return fmt.Sprintf("%s; %d of %d routes carried", xrayLine(x, now), carried, len(x.Routes))
}
