package main

import (
	"fmt"
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
		Short: "Force an uplink into NORMAL, DEGRADED, FAILOVER or RECOVERY for a while",
		Long: "Force an uplink into NORMAL, DEGRADED, FAILOVER or RECOVERY for a while. The\n" +
			"health machine goes on in the shadow, and takes over again when the time is up.",
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
			c, ctx, stop, err := f.client(cmd)
			if err != nil {
				return err
			}
			defer stop()
			return changedUplinks(cmd, &f)(c.Force(ctx, q))
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&q.Uplink, "uplink", "", "the `uplink`; the primary unless given")
	cmd.Flags().DurationVar(&dur, "for", 0, "how long, such as 10m")
	cmd.Flags().StringVar(&q.Reason, "reason", "", "why; it is shown in status and kept in the journal")
	for _, name := range []string{"for", "reason"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	return cmd
}

func newStateClearCmd() *cobra.Command {
	var (
		f      daemonFlags
		uplink string
	)
	cmd := &cobra.Command{
		Use:   "clear",
		Short: "End the override of an uplink",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, ctx, stop, err := f.client(cmd)
			if err != nil {
				return err
			}
			defer stop()
			return changedUplinks(cmd, &f)(c.Clear(ctx, uplink))
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&uplink, "uplink", "", "the `uplink`; the primary unless given")
	return cmd
}

// changedUplinks prints the uplinks as they are after a change.
func changedUplinks(cmd *cobra.Command, f *daemonFlags) func([]api.Uplink, error) error {
	return func(uplinks []api.Uplink, err error) error {
		if err != nil {
			return daemonFailed(cmd, err)
		}
		if f.output == "json" {
			return printJSON(cmd.OutOrStdout(), uplinks)
		}
		writeUplinks(cmd.OutOrStdout(), uplinks, time.Now())
		return nil
	}
}
