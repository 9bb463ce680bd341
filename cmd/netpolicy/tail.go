package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/rules"
)

func newTailCmd() *cobra.Command {
	var (
		f      daemonFlags
		want   recordFilter
		last   int
		follow bool
	)
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the daemon's decisions as they are made",
		Long: `Show the daemon's decisions as they are made, a line each: when and on what occasion, the connection, its name and the
fact that the name comes from (sni, http_host, dns), the program, the round-trip time where it is known, what was decided,
the uplink, the rule, and why.

It goes on until Ctrl-C; when the daemon stops or is restarted it ends with exit code 6.

Filters may be combined; -n counts before them, and is all that are kept where it is not given with them.`,
		Example: `  netpolicy tail --blocked
  netpolicy tail --name '.zoom.us' --uplink wan1 -o ndjson`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(f.output, "ndjson"); err != nil {
				return err
			}
			if last < 0 {
				return fmt.Errorf("-n %d: want a number of records", last)
			}
			if err := want.prepare(); err != nil {
				return err
			}
			if want.any() && !cmd.Flags().Changed("lines") {
				last = telemetry.RingSize
			}
			if f.output == "ndjson" { // what -o json of this command is
				f.output = "json"
			}
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				return c.Decisions(ctx, last, follow, func(line []byte) error {
					return showRecord(out, line, &want, f.output == "json")
				})
			})(cmd, args)
		},
	}
	f.add(cmd)
	cmd.Flags().Lookup("output").Usage = "text, json or ndjson (the same here)"
	cmd.Flags().IntVarP(&last, "lines", "n", 10, "begin with the newest `N` records")
	cmd.Flags().BoolVarP(&follow, "follow", "f", true, "go on with new records until Ctrl-C; --follow=false ends at once")
	want.add(cmd)
	return cmd
}

// recordFilter says which records are shown. The zero recordFilter is all.
type recordFilter struct {
	rule, uplink, name string
	blocked            bool
	pattern            rules.NamePattern
}

func (q *recordFilter) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&q.rule, "rule", "", "only what the rule `NAME` decided; default is the default")
	cmd.Flags().StringVar(&q.uplink, "uplink", "", "only what leaves by the uplink `NAME`")
	cmd.Flags().StringVar(&q.name, "name", "", "only names that match `PATTERN`, as policies spell them: zoom.us, .zoom.us, *.zoom.us, zoom-*.us")
	cmd.Flags().BoolVar(&q.blocked, "blocked", false, "only what was blocked")
}

func (q *recordFilter) any() bool {
	return q.rule != "" || q.uplink != "" || q.name != "" || q.blocked
}

func (q *recordFilter) prepare() error {
	var ok bool
	if q.pattern, ok = rules.ParseNamePattern(q.name); q.name != "" && !ok {
		return fmt.Errorf("--name %q: want a name or a pattern such as .zoom.us, *.zoom.us or zoom-*.us", q.name)
	}
	return nil
}

// shows reports whether the record is to be shown. That records were missed always is.
func (q *recordFilter) shows(r *record) bool {
	if r.Dropped > 0 {
		return true
	}
	rule := ""
	if r.Rule != nil {
		rule = *r.Rule
	} else if r.Default {
		rule = "default"
	}
	return (q.rule == "" || q.rule == rule) && (q.uplink == "" || q.uplink == r.Uplink) &&
		(!q.blocked || r.blocked()) && (q.name == "" || slices.ContainsFunc(r.Flow.names(), q.pattern.Match))
}

// showRecord writes a record if it is to be shown, as it came or as text.
func showRecord(w io.Writer, line []byte, q *recordFilter, raw bool) error {
	var r record
	if !raw || q.any() {
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("read decision record: %w", err)
		}
		if !q.shows(&r) {
			return nil
		}
	}
	if raw {
		_, err := fmt.Fprintf(w, "%s\n", line)
		return err
	}
	return writeRecord(w, &r)
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
	Name        string          `json:"name"`
	NameFrom    string          `json:"name_from"`
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
	RTT     *float64 `json:"rtt_ms"`
}

// writeRecord writes one record as a line that reads from left to right: when,
// what, to where, by which rule, and why.
func writeRecord(w io.Writer, r *record) error {
	if r.Dropped > 0 {
		_, err := fmt.Fprintf(w, "... %d records missed: this tail is slower than the decisions\n", r.Dropped)
		return err
	}
	var b strings.Builder
	// What was refused before it began has no address of its own.
	fmt.Fprintf(&b, "%s %-6s %v %s > %s", r.Time.Local().Format("15:04:05.000"), r.Event, r.Flow.Proto, cmp.Or(r.Flow.Src, "?"), r.Flow.Dst)
	if r.Name != "" {
		fmt.Fprintf(&b, " %s (%s)", r.Name, r.NameFrom)
	}
	if r.Flow.Process != nil {
		b.WriteString(" [" + strings.Map(printable, *r.Flow.Process) + "]")
	}
	if r.Flow.RTT != nil {
		fmt.Fprintf(&b, " rtt %.4g ms", *r.Flow.RTT)
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

// blocked reports whether nothing passes: by a rule, or for want of a usable
// member of a group.
func (r *record) blocked() bool {
	return r.Action == "block" || r.Route == nil && r.Action != "none"
}

// names returns the best names that are known of the far end: one that the flow
// itself said, or else all that DNS answers gave its address.
func (f *recordFlow) names() []string {
	switch {
	case f.SNI != nil:
		return []string{*f.SNI}
	case f.Host != nil:
		return []string{*f.Host}
	default:
		return f.DNS
	}
}
