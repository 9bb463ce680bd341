package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
)

// eventFlags are what the commands have that show what has happened, and go on.
type eventFlags struct {
	daemonFlags
	last   int
	follow bool
}

func (f *eventFlags) add(cmd *cobra.Command, what string, last, most int) {
	f.daemonFlags.add(cmd)
	cmd.Flags().Lookup("output").Usage = "text, json or ndjson (the same here)"
	cmd.Flags().IntVarP(&f.last, "lines", "n", last, fmt.Sprintf("the newest `N` %s, up to %d", what, most))
	cmd.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on with new "+what+" until Ctrl-C")
}

// check refuses what can't be asked for.
func (f *eventFlags) check(most int) error {
	if err := checkOutput(f.output, "ndjson"); err != nil {
		return err
	}
	if f.last < 0 || f.last > most {
		return fmt.Errorf("-n %d: want a number from 0 to %d", f.last, most)
	}
	if f.output == "ndjson" { // what -o json of these commands is
		f.output = "json"
	}
	return nil
}

// event is one as it is shown, with what is in all of them.
type event struct {
	api.Event
	at time.Time
}

// show writes the newest events that are wanted, in the order of their times, and goes on where that is asked for.
func (f *eventFlags) show(ctx context.Context, c *api.Client, topics []string, want func(api.Event) bool, write func(event) error) error {
	read := func(e api.Event) (event, error) {
		var has struct{ Time time.Time }
		if err := json.Unmarshal(e.Data, &has); err != nil {
			return event{}, fmt.Errorf("read event: %w", err)
		}
		return event{e, has.Time}, nil
	}
	kept, after, err := c.Events(ctx, topics, api.MaxEvents)
	if err != nil {
		return err
	}
	var list []event
	for _, e := range kept {
		one, err := read(e)
		if err != nil {
			return err
		}
		if want(e) {
			list = append(list, one)
		}
	}
	slices.SortStableFunc(list, func(a, b event) int { return a.at.Compare(b.at) })
	for _, e := range list[max(len(list)-f.last, 0):] {
		if err := write(e); err != nil {
			return err
		}
	}
	if !f.follow {
		return nil
	}
	return c.FollowEvents(ctx, topics, after, func(e api.Event) error {
		one, err := read(e)
		if err == nil && (want(e) || e.Topic == api.TopicLost) {
			err = write(one)
		}
		return err
	})
}

// eventTopics are those of `netpolicy events`, the first ones without --topics.
var eventTopics = []string{api.TopicTransitions, api.TopicChanges, api.TopicEnded}

func newEventsCmd() *cobra.Command {
	var f eventFlags
	var topics []string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show when states changed and why, and what became of policies",
		Long: `Show what happened, a line each, the newest last: the changes of state of the uplinks and of the host, with their causes,
and what became of policies: applied, rejected, confirmed, reverted, and by whom. With --topics also the connections that
have ended. The daemon keeps 1000 of each since its start, and 4096 ended connections.`,
		Example: "  netpolicy events -n 50\n  netpolicy events --topics transitions -f -o ndjson",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(api.MaxEvents); err != nil {
				return err
			}
			for _, topic := range topics {
				if !slices.Contains(eventTopics, topic) {
					return fmt.Errorf("--topics %q: want %s", topic, strings.Join(eventTopics, ", "))
				}
			}
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				return f.show(ctx, c, topics, func(api.Event) bool { return true }, func(e event) error {
					if f.output == "json" {
						return writeLine(out, struct {
							Topic string          `json:"topic"`
							Event json.RawMessage `json:"event"`
						}{e.Topic, e.Data})
					}
					return writeEvent(out, e)
				})
			})(cmd, args)
		},
	}
	f.add(cmd, "events", 20, api.MaxEvents)
	cmd.Flags().StringSliceVar(&topics, "topics", eventTopics[:2], strings.Join(eventTopics, ", "))
	_ = cmd.RegisterFlagCompletionFunc("topics", cobra.FixedCompletions(eventTopics, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// writeLine writes v as one line of JSON.
func writeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeEvent writes an event as a line: when, of what, what, and why.
func writeEvent(w io.Writer, e event) error {
	var line string
	var err error
	read := func(v any) { err = json.Unmarshal(e.Data, v) }
	switch e.Topic {
	case api.TopicTransitions:
		var t api.Transition
		read(&t)
		line = fmt.Sprintf("%-12s %s > %s", cmp.Or(t.Uplink, "host"), t.From, t.To)
		if t.Why != "" {
			line += ": " + t.Why
		}
	case api.TopicChanges:
		var p api.PolicyEvent
		read(&p)
		line = fmt.Sprintf("%-12s %s", "policy", p.Result)
		if p.Who != "" {
			line += " by " + p.Who
		}
		line += ", " + former(p.N, p.Hash) + " decides"
		if p.Detail != "" {
			line += ": " + p.Detail
		}
	case api.TopicEnded:
		var x api.Ended
		read(&x)
		line = fmt.Sprintf("%-12s %s, up %s, down %s", "connection", x.ID+" "+x.Reason, size(int64(x.BytesUp)), size(int64(x.BytesDown)))
		if x.Duration > 0 {
			line += ", after " + ago(time.Duration(x.Duration)*time.Millisecond)
		}
		if x.RTTms > 0 {
			line += fmt.Sprintf(", rtt %.4g ms", x.RTTms)
		}
	default:
		return writeLost(w, e.Data)
	}
	if err == nil {
		_, err = fmt.Fprintf(w, "%s  %s\n", e.at.Local().Format(time.DateTime), oneLine(line))
	}
	return err
}

// writeLost says that a stream had more than was read of it.
func writeLost(w io.Writer, data []byte) error {
	var lost struct {
		Topic string
		Lost  uint64
	}
	if err := json.Unmarshal(data, &lost); err != nil {
		return err
	}
	what := fmt.Sprintf("%d %s missed: they came faster than they are read", lost.Lost, lost.Topic)
	if lost.Lost == 0 {
		what = "the daemon was restarted"
	}
	_, err := fmt.Fprintf(w, "... %s\n", what)
	return err
}

func newLogsCmd() *cobra.Command {
	var f eventFlags
	level := "debug"
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "Show the daemon's log",
		Long: `Show the newest lines of the daemon's log, those that its --log-level lets pass: when, how serious, what, and the details.
The daemon keeps 2000 since its start; where it runs as a service, the journal has them all. With --level only lines that
are at least as serious; -n counts these.`,
		Example: "  netpolicy logs --level warn\n  netpolicy logs -f",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var least slog.Level
			if err := f.check(api.MaxEvents); err != nil {
				return err
			}
			if i := slices.Index(logLevels, level); i < 0 {
				return fmt.Errorf("--level %q: want %s", level, strings.Join(logLevels, ", "))
			} else if err := least.UnmarshalText([]byte(level)); err != nil {
				return err
			}
			return f.ask(func(ctx context.Context, c *api.Client, out io.Writer) error {
				write := func(line []byte) error {
					if f.output == "json" {
						_, err := fmt.Fprintf(out, "%s\n", line)
						return err
					}
					return writeLog(out, line)
				}
				if !f.follow {
					l, err := c.Logs(ctx, f.last, least)
					for i := 0; i < len(l.Lines) && err == nil; i++ {
						err = write(l.Lines[i])
					}
					return err
				}
				return f.show(ctx, c, []string{api.TopicLogs}, func(e api.Event) bool {
					var line struct{ Level slog.Level }
					return json.Unmarshal(e.Data, &line) == nil && line.Level >= least
				}, func(e event) error {
					if e.Topic == api.TopicLost && f.output != "json" {
						return writeLost(out, e.Data)
					}
					return write(e.Data)
				})
			})(cmd, args)
		},
	}
	f.add(cmd, "lines", 100, api.MaxEvents)
	cmd.Flags().StringVar(&level, "level", level, "only lines of this level or above: "+strings.Join(logLevels, ", "))
	_ = cmd.RegisterFlagCompletionFunc("level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// logLevels are those of the log, the least first.
var logLevels = []string{"debug", "info", "warn", "error"}

// writeLog writes a line of the log, its keys in their order.
func writeLog(w io.Writer, line []byte) error {
	var head struct {
		Time  time.Time
		Level string
		Msg   string
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return fmt.Errorf("read line of the log: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-5s %s", head.Time.Local().Format("2006-01-02 15:04:05.000"), head.Level, head.Msg)
	d := json.NewDecoder(bytes.NewReader(line))
	_, _ = d.Token()
	for d.More() {
		key, err := d.Token()
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		if err != nil {
			return fmt.Errorf("read line of the log: %w", err)
		}
		if key == slog.TimeKey || key == slog.LevelKey || key == slog.MessageKey {
			continue
		}
		fmt.Fprintf(&b, "  %v=%s", key, plain(value))
	}
	_, err := fmt.Fprintln(w, oneLine(b.String()))
	return err
}

// plain is a JSON value without the quotes that nothing needs.
func plain(value json.RawMessage) string {
	var s string
	if json.Unmarshal(value, &s) != nil {
		return string(value)
	}
	if s == "" || strings.ContainsAny(s, " =\"") {
		return strconv.Quote(s)
	}
	return s
}
