package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
)

// flowFilter says which connections are meant. The zero flowFilter is all.
type flowFilter struct {
	recordFilter
	match string
}

func (q *flowFilter) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&q.match, "filter", "", "only connections whose name, process, rule, route or address contains `TEXT`")
	q.recordFilter.add(cmd)
}

func (q *flowFilter) any() bool { return q.match != "" || q.recordFilter.any() }

// shows reports whether a connection is meant; the daemon has looked at q.match.
func (q *flowFilter) shows(f *api.Flow) (bool, error) {
	if !q.recordFilter.any() {
		return true, nil
	}
	r, err := recordOf(f)
	return err == nil && q.recordFilter.shows(&r), err
}

// recordOf is what a decision record has of a connection.
func recordOf(f *api.Flow) (r record, err error) {
	if err = json.Unmarshal(f.Decision, &r); err == nil {
		err = json.Unmarshal(f.Flow, &r.Flow)
	}
	if err != nil {
		return r, fmt.Errorf("read connection %s: %w", f.ID, err)
	}
	r.Uplink, r.Name, r.NameFrom = f.Uplink, f.Name, f.NameFrom
	return r, nil
}

// list returns the first most connections that are meant, 0 for all, and how many are followed and meant. What
// changes while it asks for page after page may be left out.
func (q *flowFilter) list(ctx context.Context, c *api.Client, order string, most int) (out api.Flows, err error) {
	out.Flows = []api.Flow{}
	ask := api.FlowsRequest{Sort: order, Limit: api.MaxFlows, Match: q.match}
	if most > 0 && !q.recordFilter.any() {
		ask.Limit = min(most, api.MaxFlows)
	}
	seen := map[string]bool{}
	matched := 0
	for {
		page, err := c.Flows(ctx, ask)
		if err != nil {
			return out, err
		}
		out.Now, out.Total, out.Matched = page.Now, page.Total, page.Matched
		for i := range page.Flows {
			f := &page.Flows[i]
			shown, err := q.shows(f)
			if err != nil {
				return out, err
			}
			if !shown || seen[f.ID] {
				continue
			}
			seen[f.ID] = true
			if matched++; most == 0 || len(out.Flows) < most {
				out.Flows = append(out.Flows, *f)
			}
		}
		enough := len(out.Flows) == most && most > 0 && !q.recordFilter.any()
		if ask.Offset += ask.Limit; enough || len(page.Flows) < ask.Limit {
			break
		}
	}
	if q.recordFilter.any() {
		out.Matched = matched
	}
	return out, nil
}

func newConnectionsCmd() *cobra.Command {
	var (
		f     daemonFlags
		want  flowFilter
		most  int
		order string
	)
	cmd := &cobra.Command{
		Use:   "connections",
		Short: "List the connections that the daemon follows",
		Long: `List the connections that the daemon follows, a line each: the id, by which ` + "`netpolicy kill`" + ` ends it, the connection, the
best name of its far end, program, route (* where it stays on a former one; killed: it was ended by hand), round-trip time, what it has carried
up and down, how long it has been followed, and the rule. Filters may be combined.`,
		Example: "  netpolicy connections --sort rate -n 20\n  netpolicy connections --name .zoom.us --uplink wan1 -o ndjson",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(f.output, "ndjson"); err != nil {
				return err
			}
			switch {
			case !slices.Contains(api.Orders, order):
				return fmt.Errorf("--sort %q: want %s", order, strings.Join(api.Orders, ", "))
			case most < 0:
				return fmt.Errorf("-n %d: want a number of connections, 0 for all", most)
			}
			if err := want.prepare(); err != nil {
				return err
			}
			lines := f.output == "ndjson"
			if lines {
				f.output = "json"
			}
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				list, err := want.list(ctx, c, order, most)
				if err != nil {
					return err
				}
				if lines {
					e := json.NewEncoder(out)
					for i := range list.Flows {
						if err := e.Encode(&list.Flows[i]); err != nil {
							return err
						}
					}
					return nil
				}
				return f.print(out, list, func() { err = writeConnections(out, &list) })
			})(cmd, args)
		},
	}
	f.add(cmd)
	cmd.Flags().Lookup("output").Usage = "text, json, or ndjson: one connection a line"
	want.add(cmd)
	cmd.Flags().IntVarP(&most, "lines", "n", 100, "at most `N` connections, 0 for all")
	cmd.Flags().StringVar(&order, "sort", api.ByBytes, "bytes, rate, rtt or age")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(api.Orders, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// writeConnections writes a table.
func writeConnections(w io.Writer, list *api.Flows) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tCONNECTION\tNAME\tPROCESS\tROUTE\tRTT\tUP\tDOWN\tAGE\tRULE")
	for i := range list.Flows {
		f := &list.Flows[i]
		r, err := recordOf(f)
		if err != nil {
			return err
		}
		process, route, rtt, age, rule := "-", cmp.Or(f.PinnedRoute, r.outcome()), "-", "-", "default"
		if r.Route != nil && f.PinnedRoute == "" && !r.blocked() {
			route = *r.Route
		}
		switch {
		case f.Killed:
			route = "killed"
		case f.Pinned:
			route += "*"
		}
		if r.Flow.Process != nil {
			process = strings.Map(printable, *r.Flow.Process)
		}
		if f.RTTms >= 0 {
			rtt = fmt.Sprintf("%.4g ms", f.RTTms)
		}
		if f.Age >= 0 {
			age = time.Duration(f.Age * float64(time.Second)).Round(time.Second).String()
		}
		if r.Rule != nil {
			rule = *r.Rule
		}
		fmt.Fprintf(t, "%s\t%v %s > %s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", f.ID, r.Flow.Proto, r.Flow.Src, r.Flow.Dst,
			cmp.Or(strings.Map(printable, f.Name), "-"), process, route, rtt, f.BytesUp, f.BytesDown, age, rule)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n := len(list.Flows); n < list.Matched {
		fmt.Fprintf(w, "%d of %d; -n 0 shows all\n", n, list.Matched)
	}
	return nil
}

// killed is what `kill -o json` prints.
type killed struct {
	Ended  []string     `json:"ended"` // ids
	Failed []killFailed `json:"failed"`
}

type killFailed struct {
	ID    string `json:"id"`
	Error string `json:"error"`
}

func newKillCmd() *cobra.Command {
	var f daemonFlags
	var want flowFilter
	cmd := &cobra.Command{
		Use:   "kill ID... | kill --FILTER...",
		Short: "End connections",
		Long: `End connections, by their ids, which ` + "`netpolicy connections`" + ` and the decision records have, or all that the filters
choose; ` + "`netpolicy connections`" + ` with the same filters shows which those are. Their packets are refused from now on;
what goes through the relay is closed at both ends. The policy decides about new connections as before.

Exit code 1: a connection could not be ended. Filters that choose none are no error.`,
		Example: "  netpolicy kill 1734\n  netpolicy kill --name .zoom.us --uplink wan2",
		RunE: func(cmd *cobra.Command, ids []string) error {
			if want.any() == (len(ids) > 0) {
				return errors.New("want ids of connections, or filters that choose some, and not both")
			}
			for _, id := range ids {
				if _, err := strconv.ParseUint(id, 10, 64); err != nil {
					return fmt.Errorf("%q is no id of a connection: that is a number", id)
				}
			}
			if err := want.prepare(); err != nil {
				return err
			}
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				if want.any() {
					list, err := want.list(ctx, c, api.ByAge, 0)
					if err != nil {
						return err
					}
					for i := range list.Flows {
						if !list.Flows[i].Killed {
							ids = append(ids, list.Flows[i].ID)
						}
					}
				}
				done, err := killAll(ctx, c, ids)
				if err != nil {
					return err
				}
				err = f.print(out, done, func() {
					fmt.Fprintf(out, "ended %d of %d connections\n", len(done.Ended), len(ids))
					for _, x := range done.Failed {
						fmt.Fprintf(cmd.ErrOrStderr(), "error: %s: %s\n", x.ID, x.Error)
					}
				})
				if err == nil && len(done.Failed) > 0 {
					return cli.Errors
				}
				return err
			})(cmd, ids)
		},
		ValidArgsFunction: func(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
			return f.completeIDs(cmd.Context(), given), cobra.ShellCompDirectiveNoFileComp
		},
	}
	f.add(cmd)
	want.add(cmd)
	return cmd
}

// killAll ends connections. An error is one of the daemon as a whole.
func killAll(ctx context.Context, c *api.Client, ids []string) (killed, error) {
	out := killed{Ended: []string{}, Failed: []killFailed{}}
	for _, id := range ids {
		err := c.Kill(ctx, id)
		var gone *api.UnreachableError
		switch {
		case err == nil:
			out.Ended = append(out.Ended, id)
		case errors.As(err, &gone) || ctx.Err() != nil:
			return out, err
		default:
			out.Failed = append(out.Failed, killFailed{id, err.Error()})
		}
	}
	return out, nil
}

// completeIDs offers the ids of the connections that carry most, with what they are.
func (f *daemonFlags) completeIDs(ctx context.Context, given []string) []string {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	list, err := api.NewClient(f.socket).Flows(ctx, api.FlowsRequest{Sort: api.ByRate, Limit: 50})
	if err != nil {
		return nil // a shell shows no errors
	}
	var out []string
	for i := range list.Flows {
		x := &list.Flows[i]
		r, err := recordOf(x)
		if err == nil && !slices.Contains(given, x.ID) {
			out = append(out, cobra.CompletionWithDesc(x.ID, fmt.Sprintf("%v %s > %s %s", r.Flow.Proto, r.Flow.Src, r.Flow.Dst, strings.Map(printable, x.Name))))
		}
	}
	return out
}
