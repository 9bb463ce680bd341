package lab

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
)

// pollEvery is how often the daemon's status is read: well under a probe round.
const pollEvery = 50 * time.Millisecond

// watcher prints the daemon's transitions and logged decisions, and remembers
// the status and the decisions for the script.
type watcher struct {
	l    *Lab
	out  *Printer
	seen *decisions

	mu          sync.Mutex
	status      api.Status
	err         error // of the last poll
	transitions int

	workers sync.WaitGroup
}

// newWatcher watches until ctx ends; wait then waits for its end.
func newWatcher(ctx context.Context, l *Lab, out *Printer) *watcher {
	w := &watcher{l: l, out: out, seen: newDecisions()}
	for _, f := range []func(context.Context){w.poll, w.tail} {
		w.workers.Go(func() {
			defer l.rescue()
			f(ctx)
		})
	}
	return w
}

func (w *watcher) wait() { w.workers.Wait() }

// now returns the last status, and why there is none.
func (w *watcher) now() (api.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status, w.err
}

func (w *watcher) poll(ctx context.Context) {
	client := w.l.API()
	for {
		s, err := client.Status(ctx)
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		before, known := w.status, w.err == nil && w.status.PID != 0
		w.err = err
		if err == nil {
			w.status = s
		}
		w.mu.Unlock()
		if err == nil && known {
			w.compare(before, s)
		}
		if !sleep(ctx, pollEvery) {
			return
		}
	}
}

// compare prints what changed between two polls.
func (w *watcher) compare(before, now api.Status) {
	was := map[string]api.Uplink{}
	for _, u := range before.Uplinks {
		was[u.Name] = u
	}
	for _, u := range now.Uplinks {
		old, known := was[u.Name]
		switch {
		case !known:
		case old.State != u.State:
			w.mu.Lock()
			w.transitions++
			w.mu.Unlock()
			w.out.line(stateColour(u.State), "state", "%s %s -> %s%s", u.Name, old.State, u.State, describe(u))
		case old.Share != u.Share && u.State == "RECOVERY":
			w.out.line(cyan, "share", "%s gets %d%% of new connections", u.Name, u.Share)
		case old.Unknown && !u.Unknown:
			w.out.line(dim, "state", "%s %s%s", u.Name, u.State, describe(u))
		}
	}
	if before.State != now.State {
		w.out.line(stateColour(now.State), "state", "global %s -> %s", before.State, now.State)
	}
	if now.Error != nil && (before.Error == nil || !before.Error.Time.Equal(now.Error.Time)) {
		w.out.line(yellow, "reload", "%s: %s", now.Error.Code, now.Error.Message)
	}
	if now.Enforcement != before.Enforcement && now.Enforcement != "" {
		w.out.line(yellow, "kernel", "%s", now.Enforcement)
	}
}

// describe says what is known of an uplink's measurements.
func describe(u api.Uplink) string {
	var parts []string
	if u.RTTms >= 0 {
		parts = append(parts, fmt.Sprintf("rtt %.0f ms", u.RTTms))
	}
	if u.Loss > 0 {
		parts = append(parts, fmt.Sprintf("loss %.0f%%", u.Loss*100))
	}
	if !u.Up {
		parts = append(parts, "link down")
	}
	if u.Share > 0 && u.Share < 100 {
		parts = append(parts, fmt.Sprintf("%d%% of new connections", u.Share))
	}
	if len(parts) == 0 {
		return ""
	}
	return "  (" + strings.Join(parts, ", ") + ")"
}

func stateColour(s string) string {
	switch s {
	case "NORMAL":
		return green
	case "FAILOVER":
		return magenta
	case "RECOVERY":
		return cyan
	}
	return yellow
}

// lookBack is how many old records a new tail begins with: those of the moment
// between the daemon's start and the tail's.
const lookBack = 256

// logged is what a log line is about: a connection that is decided again the
// same, once its name is seen, is not shown twice.
type logged struct {
	conn                tuple
	rule, action, route string
}

// tail follows the daemon's decisions, also over its restarts.
func (w *watcher) tail(ctx context.Context) {
	client := w.l.API()
	var last logged
	for {
		// A daemon that is not there, or goes away, is asked again.
		_ = client.Decisions(ctx, lookBack, true, func(line []byte) error {
			r, err := ParseRecord(line)
			if err != nil {
				w.out.line(red, "decision", "%v: %s", err, line)
				return nil
			}
			w.seen.add(r)
			key, _ := tupleOf(&r.Flow)
			if now := (logged{key, r.Rule, r.Action, r.Route}); bool(r.Log) && now != last {
				last = now
				w.out.line(dim, "log", "%s", describeRecord(r))
			}
			return nil
		})
		if !sleep(ctx, pollEvery) {
			return
		}
	}
}

// describeRecord is a decision in a line.
func describeRecord(r Record) string {
	what := r.Action
	switch {
	case r.Action == "block":
		what = "block " + strings.Trim(string(r.Target), `"`)
	case r.Route != "":
		what = r.Action + " " + r.Route
	}
	if r.Pinned {
		what += ", pinned to " + r.PinnedRoute
	}
	rule := r.Rule
	if rule == "" {
		rule = "default"
	}
	s := fmt.Sprintf("%s: %s", rule, what)
	if t, ok := tupleOf(&r.Flow); ok {
		s += "  " + t.String()
	}
	if sni, ok := r.Flow.SNI.Get(); ok {
		s += " sni=" + sni
	} else if !r.Flow.DNS.Empty() {
		for name := range r.Flow.DNS.All() {
			s += " dns=" + name
		}
	}
	if r.Text != "" {
		s += fmt.Sprintf(" %q", r.Text)
	}
	return s
}
