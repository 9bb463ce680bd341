package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
)

func newTailCmd() *cobra.Command {
	var (
		f      daemonFlags
		last   int
		follow bool
	)
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the daemon's decisions as they are made",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if last < 0 {
				return fmt.Errorf("-n %d: want a number of records", last)
			}
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				return c.Decisions(ctx, last, follow, func(line []byte) error {
					if f.output == "json" {
						_, err := fmt.Fprintf(out, "%s\n", line)
						return err
					}
					return writeRecord(out, line)
				})
			})(cmd, args)
		},
	}
	f.add(cmd)
	cmd.Flags().IntVarP(&last, "lines", "n", 10, "begin with the newest `N` records")
	cmd.Flags().BoolVarP(&follow, "follow", "f", true, "go on with new records until Ctrl-C; --follow=false ends at once")
	return cmd
}

// record is what the text form of tail shows of a decision record.
type record struct {
	Time        time.Time       `json:"time"`
	Event       string          `json:"event"`
	Mode        string          `json:"mode"`
	Rule        *string         `json:"rule"`
	Action      string          `json:"action"`
	Target      json.RawMessage `json:"target"`
	Route       *string         `json:"route"`
	Default     bool            `json:"default"`
	Final       bool            `json:"final"`
	Pending     []string        `json:"pending"`
	Why         string          `json:"why"`
	Uplink      string          `json:"uplink"`
	Pinned      bool            `json:"pinned"`
	PinnedRoute string          `json:"pinned_route"`
	Text        string          `json:"text"`
	Flow        recordFlow      `json:"flow"`
	Dropped     uint64          `json:"dropped"`
}

type recordFlow struct {
	Proto   any      `json:"proto"`
	Src     string   `json:"src"`
	Dst     string   `json:"dst"`
	SNI     *string  `json:"sni"`
	Host    *string  `json:"http_host"`
	DNS     []string `json:"dns"`
	Process *string  `json:"process"`
	User    *string  `json:"user"`
}

// writeRecord writes one record as a line that reads from left to right: when,
// what, to where, by which rule, and why.
func writeRecord(w io.Writer, line []byte) error {
	var r record
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("read decision record: %w", err)
	}
	if r.Dropped > 0 {
		_, err := fmt.Fprintf(w, "... %d records missed: this tail is slower than the decisions\n", r.Dropped)
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-6s %v %s > %s", r.Time.Local().Format("15:04:05.000"), r.Event, r.Flow.Proto, r.Flow.Src, r.Flow.Dst)
	if name := r.Flow.name(); name != "" {
		b.WriteString(" " + name)
	}
	if r.Flow.Process != nil {
		b.WriteString(" [" + *r.Flow.Process + "]")
	}
	b.WriteString("  " + r.outcome())
	switch {
	case r.Rule != nil:
		b.WriteString("  by " + *r.Rule)
	case r.Default:
		b.WriteString("  by default")
	}
	if r.Why != "" {
		b.WriteString(" (" + r.Why + ")")
	}
	if !r.Final && len(r.Pending) > 0 {
		b.WriteString("  waits for " + strings.Join(r.Pending, ", "))
	}
	if r.Pinned {
		b.WriteString("  stays on " + r.PinnedRoute)
	}
	if r.Text != "" {
		fmt.Fprintf(&b, "  %q", r.Text)
	}
	if r.Mode != "enforce" {
		b.WriteString("  (observed only)")
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}

func (r *record) outcome() string {
	target := string(bytes.Trim(r.Target, `"`))
	if r.Action == "block" {
		return strings.TrimSpace("block " + target)
	}
	out := r.Action
	if r.Route != nil {
		out += " " + *r.Route
		if target != "" && target != "null" && target != *r.Route {
			out += " (asked " + target + ")"
		}
	}
	if r.Uplink != "" && (r.Route == nil || r.Uplink != *r.Route) {
		out += " via " + r.Uplink
	}
	return out
}

func (f *recordFlow) name() string {
	switch {
	case f.SNI != nil:
		return *f.SNI
	case f.Host != nil:
		return *f.Host
	case len(f.DNS) > 0:
		return strings.Join(f.DNS, ",") + "?"
	default:
		return ""
	}
}
