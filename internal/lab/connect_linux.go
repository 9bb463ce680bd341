package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/rules"
)

const (
	// connectTime bounds one connection: a slow, lossy line needs some retransmissions.
	connectTime = 15 * time.Second
	// blockTime is how long silence must last to count as blocked: over the
	// first retransmission of a SYN, after one second.
	blockTime = 1500 * time.Millisecond
	// namePause is how long after its name was resolved a connection begins. A
	// gateway that overhears an answer needs a millisecond to act on it, so a
	// client that is faster than that is decided without the name.
	namePause = 100 * time.Millisecond
	// recordTime is how long a connection's decision may take to be reported.
	recordTime = 3 * time.Second
)

// attempt is one connection that was tried.
type attempt struct {
	conn    tuple
	outcome Outcome
	err     error
	delta   Counters
	records []Record
	asked   bool // the record is the answer to a question, not a report
}

// connect tries each connection of a step and compares it with its decision.
func (r *run) connect(ctx context.Context, c Connect) error {
	resolving, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	addr, err := r.l.Client().Resolve(resolving, c.Host, c.V6)
	if err != nil {
		return err
	}
	sleep(ctx, namePause)
	to := net.JoinHostPort(addr.String(), c.Port)
	if c.Times == 1 {
		_, err := r.connectOnce(ctx, c, to, true)
		return err
	}
	row, by := "", map[string]int{}
	for range c.Times {
		left, err := r.connectOnce(ctx, c, to, false)
		if err != nil {
			return err
		}
		by[left]++
		row += " " + strings.TrimPrefix(left, "wan")
	}
	r.out.line(plain, "connect", "%s x%d by wan:%s", describeTarget(c, to), c.Times, row)
	if e := c.Expect; e.Share != "" {
		percent := by[e.Share] * 100 / c.Times
		r.out.line(green, "share", "%d of %d new connections left by %s", by[e.Share], c.Times, e.Share)
		if percent < e.Lo || percent > e.Hi {
			return fmt.Errorf("%d of %d connections (%d%%) left by %s, want %d%% to %d%%", by[e.Share], c.Times, percent, e.Share, e.Lo, e.Hi)
		}
	}
	return nil
}

func describeTarget(c Connect, to string) string {
	if c.Host == strings.Trim(to[:strings.LastIndexByte(to, ':')], "[]") {
		return c.Kind + " " + to
	}
	return fmt.Sprintf("%s %s:%s (%s)", c.Kind, c.Host, c.Port, strings.Trim(to[:strings.LastIndexByte(to, ':')], "[]"))
}

// connectOnce opens one connection, prints it if show is set, and fails when it
// did not become what its decision, or the script, says. It returns the uplink.
func (r *run) connectOnce(ctx context.Context, c Connect, to string, show bool) (string, error) {
	var a attempt
	var err error
	r.l.quiet.measure(func() {
		var before, after Counters
		if before, err = r.l.Counters(); err != nil {
			return
		}
		r.try(ctx, c, to, &a)
		if after, err = r.l.Counters(); err == nil {
			a.delta = after.Since(before)
		}
	})
	if err != nil {
		return "", err
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	r.fetchRecords(ctx, c, &a)
	left := a.delta.LeftBy(payload)
	if show {
		r.show(c, to, &a, left)
	}
	if err := r.judge(c, &a, left); err != nil {
		if !show {
			r.show(c, to, &a, left)
		}
		return "", err
	}
	r.total.Connections++
	return left, nil
}

// try opens the connection and sends the payload there and back.
func (r *run) try(ctx context.Context, c Connect, to string, a *attempt) {
	limit := connectTime
	if c.Expect.Outcome == Blocked {
		limit = blockTime
	}
	deadline := time.Now().Add(limit)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	network, proto := "tcp", flow.TCP
	if c.Kind == "udp" {
		network, proto = "udp", flow.UDP
	}
	conn, local, err := r.l.Client().dial(ctx, network, to)
	a.conn = tuple{proto, local, netip.MustParseAddrPort(to)}
	if err == nil {
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		if c.Kind == "tls" {
			sni := c.SNI
			if sni == "" {
				sni = c.Host
			}
			conn, err = r.l.Client().TLS(ctx, conn, sni)
		}
		if err == nil {
			err = exchange(conn, payload, deadline)
		}
	}
	a.err = err
	a.outcome = outcomeOf(err)
}

// outcomeOf tells silence from a refusal.
func outcomeOf(err error) Outcome {
	var timeout net.Error
	switch {
	case err == nil:
		return Connected
	case errors.Is(err, syscall.ETIMEDOUT), errors.As(err, &timeout) && timeout.Timeout():
		return Blocked
	}
	return Rejected
}

// brief is the heart of a dial's error.
func brief(err error) string {
	var number syscall.Errno
	switch {
	case outcomeOf(err) == Blocked:
		return "no answer"
	case errors.As(err, &number):
		return number.Error()
	}
	return err.Error()
}

// fetchRecords waits for the connection's decision. A blocked connection that no
// rule logs is known to the kernel alone: then the daemon is asked how it would
// decide it.
func (r *run) fetchRecords(parent context.Context, c Connect, a *attempt) {
	limit := recordTime
	if a.outcome != Connected && !c.Expect.Logged {
		limit = recordTime / 6
	}
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	a.records = r.watch.seen.wait(ctx, a.conn, func(list []Record) bool {
		last := list[len(list)-1]
		return (c.Expect.Rule == "" || ruleName(last) == c.Expect.Rule) && (!c.Expect.Logged || bool(last.Log))
	})
	if len(a.records) > 0 || a.outcome == Connected {
		return
	}
	question, err := json.Marshal(a.conn.String())
	if err != nil {
		return
	}
	answer, err := r.l.API().Explain(parent, api.ExplainRequest{Flow: question})
	if err != nil {
		r.out.line(yellow, "explain", "%v: %v", a.conn, err)
		return
	}
	var rec Record
	if err := json.Unmarshal(answer, &rec); err != nil {
		r.out.line(yellow, "explain", "%v: %v", a.conn, err)
		return
	}
	a.asked, a.records = true, []Record{rec}
}

func ruleName(r Record) string {
	if r.Rule == "" {
		return "default"
	}
	return r.Rule
}

func (r *run) show(c Connect, to string, a *attempt, left string) {
	what := "left by " + left
	switch {
	case a.outcome != Connected:
		what = fmt.Sprintf("%v (%s)", a.outcome, brief(a.err))
	case left == "":
		what = "left by no single uplink"
	}
	text := fmt.Sprintf("%s %s", describeTarget(c, to), what)
	if a.outcome == Connected {
		text += "  (" + describeCounters(a.delta) + ")"
	}
	if n := len(a.records); n > 0 {
		label := "decision: "
		if a.asked {
			label = "explain: "
		}
		text += "\n" + label + describeRecord(a.records[n-1])
	}
	r.out.line(plain, "connect", "%s", text)
}

// judge compares a connection with its decision and with the script.
func (r *run) judge(c Connect, a *attempt, left string) error {
	e := c.Expect
	if a.outcome != e.Outcome {
		return fmt.Errorf("the connection was %v (%v), want %v", a.outcome, a.err, e.Outcome)
	}
	if len(a.records) == 0 {
		return fmt.Errorf("the daemon reports no decision for %v", a.conn)
	}
	last := a.records[len(a.records)-1]
	if a.outcome == Connected {
		want, err := r.uplinkOf(last)
		if err != nil {
			return err
		}
		if left != want {
			return fmt.Errorf("MISMATCH: it left by %q, but the decision (%s) means %q: %s",
				left, describeRecord(last), want, describeCounters(a.delta))
		}
	}
	switch {
	case e.Rule != "" && ruleName(last) != e.Rule:
		return fmt.Errorf("decided by %s, want %s", ruleName(last), e.Rule)
	case e.Route != "" && last.Route != e.Route:
		return fmt.Errorf("given route %q, want %s", last.Route, e.Route)
	case e.Uplink != "" && left != e.Uplink:
		return fmt.Errorf("left by %q, want %s", left, e.Uplink)
	case e.Logged && !bool(last.Log):
		return errors.New("the decision is not logged")
	case a.outcome == Connected && last.Action == "block":
		return errors.New("MISMATCH: the connection works, but the decision blocks it")
	}
	return nil
}

// uplinkOf is the uplink over which a decision leads.
func (r *run) uplinkOf(rec Record) (string, error) {
	name := rec.Route
	if rec.Pinned && rec.PinnedRoute != "" {
		name = rec.PinnedRoute
	}
	if name == "" {
		return r.l.opts.Main, nil // left to the kernel
	}
	for _, route := range r.policy.Routes {
		if route.Name != name {
			continue
		}
		switch route.Kind {
		case rules.RouteMain:
			return r.l.opts.Main, nil
		case rules.RouteUplink:
			return r.policy.Uplinks[route.Uplink].Dev, nil
		case rules.RouteDev:
			return route.Dev, nil
		case rules.RouteOther:
			if route.Uplink >= 0 {
				return r.policy.Uplinks[route.Uplink].Dev, nil
			}
		}
		return "", fmt.Errorf("the lab can't tell the uplink of route %q", name)
	}
	return "", fmt.Errorf("the decision names route %q, which the policy does not have", name)
}
