package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/state"
)

func newStateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Force an uplink into a state, or let it go again",
	}
	cmd.AddCommand(newStateForceCmd(), newStateClearCmd())
	return cmd
}

func newStateForceCmd() *cobra.Command {
	var (
		f   daemonFlags
		q   api.ForceRequest
		dur time.Duration
	)
	cmd := &cobra.Command{
		Use:   "force STATE",
		Short: "Force an uplink, or the whole host, into a state for a while",
		Long: "Force an uplink, or the whole host, into NORMAL, DEGRADED, FAILOVER or RECOVERY for\n" +
			"a while. The health machine goes on in the shadow, and takes over when the time is up.",
		Example:   "  netpolicy state force FAILOVER --for 10m --reason 'cable works'",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{"NORMAL", "DEGRADED", "FAILOVER", "RECOVERY"},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, ok := state.Parse(args[0])
			if !ok {
				return fmt.Errorf("state %q: want NORMAL, DEGRADED, FAILOVER or RECOVERY", args[0])
			}
			if dur <= 0 {
				return fmt.Errorf("--for %s: want a time above zero, such as 10m", dur)
			}
			q.State, q.For = s.String(), dur.String()
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				uplinks, err := c.Force(ctx, q)
				return f.printUplinks(out, uplinks, err)
			})(cmd, args)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&q.Uplink, "uplink", "", "the `uplink`; the whole host unless given")
	cmd.Flags().DurationVar(&dur, "for", 0, "how long, such as 10m")
	cmd.Flags().StringVar(&q.Reason, "reason", "", "why; it is shown in status and kept in the journal")
	require(cmd, "for", "reason")
	return cmd
}

func newStateClearCmd() *cobra.Command {
	var (
		f      daemonFlags
		uplink string
	)
	cmd := &cobra.Command{
		Use:   "clear",
		Short: "End the override of an uplink, or of the whole host",
		Args:  cobra.NoArgs,
		RunE: f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
			uplinks, err := c.Clear(ctx, uplink)
			return f.printUplinks(out, uplinks, err)
		}),
	}
	f.add(cmd)
	cmd.Flags().StringVar(&uplink, "uplink", "", "the `uplink`; the whole host unless given")
	return cmd
}

// printUplinks prints the uplinks as they are after a change.
func (f *daemonFlags) printUplinks(out io.Writer, uplinks []api.Uplink, err error) error {
	if err != nil {
		return err
	}
	return f.print(out, uplinks, func() { writeUplinks(out, uplinks, time.Now()) })
}
