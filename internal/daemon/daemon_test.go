package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/state"
)

// brokenPolicy names a route that is not there, in line 12, column 87.
var brokenPolicy = strings.Replace(zoomPolicy, "{route: ha, log: true}", "{route: hx, log: true}", 1)

// otherPolicy is a good one with another meaning.
var otherPolicy = strings.Replace(zoomPolicy, "priority: 80", "priority: 81", 1)

func TestReloadIsATransaction(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	first := r.Status().Policy
	reload := func() api.ReloadResult {
		t.Helper()
		res, err := r.Reload(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := reload(); res.Result != api.Unchanged {
		t.Errorf("same file: %+v", res)
	}

	r.write(brokenPolicy)
	res := reload()
	if res.Result != api.Rejected || len(res.Diagnostics) != 1 || res.Policy.Hash != first.Hash {
		t.Fatalf("broken file: %+v", res)
	}
	if d := res.Diagnostics[0]; d.Code != "NP110" || d.Line == 0 || d.Column == 0 || d.File != r.path {
		t.Errorf("place: %+v", d)
	}
	s := r.Status()
	if s.Error == nil || s.Error.Code != "NP501" || s.Error.Diagnostics[0].Line != res.Diagnostics[0].Line {
		t.Errorf("status: %+v", s.Error)
	}
	for _, want := range []string{`"code":"NP501"`, `"line":`, `"column":`, `NP110`} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log lacks %s", want)
		}
	}

	r.write(otherPolicy)
	res = reload()
	if res.Result != api.Applied || res.Policy.Hash == first.Hash {
		t.Errorf("good file: %+v", res)
	}
	if s := r.Status(); s.Error != nil || s.Policy.Hash != res.Policy.Hash {
		t.Errorf("status after a good reload: %+v", s)
	}
	if n := len(r.host.applied); n != 2 {
		t.Errorf("%d plans applied, want 2", n)
	}
}

func TestReloadThatTheKernelRefuses(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	first := r.Status().Policy.Hash
	r.host.mu.Lock()
	r.host.fail = errors.New("no memory")
	r.host.mu.Unlock()
	r.write(otherPolicy)
	res, err := r.Reload(t.Context())
	if err != nil || res.Result != api.Rejected || !strings.Contains(res.Error, "no memory") || r.Status().Policy.Hash != first {
		t.Errorf("%+v, %v", res, err)
	}
	r.host.mu.Lock()
	r.host.fail = nil
	r.host.mu.Unlock()
	if res, err := r.Reload(t.Context()); err != nil || res.Result != api.Applied {
		t.Errorf("second try: %+v, %v", res, err)
	}
}

// TestDeviceGoesDownMeanwhile: a policy is applied as if the device had been down before.
func TestDeviceGoesDownMeanwhile(t *testing.T) {
	for _, errno := range []error{syscall.ENETDOWN, syscall.ENODEV, errors.New("no memory")} {
		c := startChanging(t)
		c.host.mu.Lock()
		c.host.once = fmt.Errorf("ip -4 route add default via 192.0.2.1 dev eth1: %w", errno)
		c.host.mu.Unlock()
		r := c.apply(t, otherPolicy, "60s")
		applied := c.host.applied[len(c.host.applied)-1].String()
		history, err := c.History(t.Context(), "", false)
		if err != nil {
			t.Fatal(err)
		}
		if _, device := errno.(syscall.Errno); !device {
			if r.Result != api.Rejected || len(history) != 1 {
				t.Errorf("%v: %+v, %d policies", errno, r, len(history))
			}
			continue
		}
		if r.Result != api.Pending || strings.Contains(applied, "dev eth1") || len(history) != 2 {
			t.Errorf("%v: %+v, %d policies, applied\n%s", errno, r, len(history), applied)
		}
		if r, err := c.Change(t.Context(), "root", c.settle(api.DoConfirm)); err != nil || r.Result != api.Confirmed {
			t.Errorf("%v: %+v, %v", errno, r, err)
		}
	}
}

// TestChangedDaemonSection: the hash is the same, the plan is not.
func TestChangedDaemonSection(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	r.write(zoomPolicy + "daemon: {on_crash: closed}\n")
	res, err := r.Reload(t.Context())
	if err != nil || res.Result != api.Applied {
		t.Fatalf("%+v, %v", res, err)
	}
	if len(r.host.applied) != 2 || len(r.host.applied[1].KeepAlive()) == 0 {
		t.Error("on_crash: closed is not in the plan")
	}
}

// TestReloadTriggers waits for the file watch and for SIGHUP.
func TestReloadTriggers(t *testing.T) {
	r := start(t, zoomPolicy, func(_ *Options, p *Parts) { p.WatchFile = watchFile })
	first := r.Status().Policy.Hash
	hash := func() string { return r.Status().Policy.Hash }
	r.write(otherPolicy)
	r.until("the file is not read", func() bool { return hash() != first }, func() { r.write(otherPolicy) })
	// A bad file is noticed too, and changes nothing.
	second := hash()
	r.write(brokenPolicy)
	r.until("the bad file is not noticed", func() bool { return r.Status().Error != nil }, nil)
	if hash() != second {
		t.Error("a broken policy is live")
	}
	// SIGHUP alone: the file is as it was when the watch saw it.
	before := strings.Count(r.log.String(), "NP501")
	r.hup <- syscall.SIGHUP
	r.until("SIGHUP does nothing", func() bool { return strings.Count(r.log.String(), "NP501") > before }, nil)
}

// TestNoDecisionWaitsForAReload holds an apply back and decides meanwhile.
func TestNoDecisionWaitsForAReload(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	gate := make(chan struct{})
	r.host.mu.Lock()
	r.host.gate = gate
	r.host.mu.Unlock()
	r.write(otherPolicy)
	done := make(chan api.ReloadResult)
	go func() {
		res, _ := r.Reload(t.Context())
		done <- res
	}()
	for busy := false; !busy; {
		if err := r.call(t.Context(), func(l *loop) error { busy = l.busy && l.applying; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	r.events <- event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:443 sni=us01.zoom.us")
	r.events <- inspector.Event{Kind: inspector.Close}
	for r.Status().Decisions == 0 {
		if err := r.call(t.Context(), func(*loop) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := r.Explain(api.ExplainRequest{Flow: json.RawMessage(`"tcp 10.0.0.5:5000 > 203.0.113.7:443 sni=us01.zoom.us"`)}); err != nil || !bytes.Contains(out, []byte(`"rule":"zoom"`)) {
		t.Errorf("explain: %s, %v", out, err)
	}
	select {
	case res := <-done:
		t.Fatalf("the reload was done: %+v", res)
	default:
	}
	r.host.mu.Lock()
	r.host.gate = nil
	r.host.mu.Unlock()
	close(gate)
	if res := <-done; res.Result != api.Applied {
		t.Errorf("%+v", res)
	}
}

func TestNamesReachTheKernelAndSurviveAReload(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	addr := netip.MustParseAddr("203.0.113.7")
	r.send(inspector.Event{Kind: inspector.Answered, Answer: inspector.Answer{Name: "us01.zoom.us", Addrs: []netip.Addr{addr}, TTL: time.Hour}})
	if !slices.ContainsFunc(r.host.updates, func(u string) bool { return strings.Contains(u, addr.String()) }) {
		t.Errorf("no element for the address: %v", r.host.updates)
	}
	r.write(otherPolicy)
	if res, err := r.Reload(t.Context()); err != nil || res.Result != api.Applied {
		t.Fatalf("%+v, %v", res, err)
	}
	table := &r.host.applied[1].Table
	if !strings.Contains(table.Text(), addr.String()) {
		t.Error("the new table does not know the name for a moment")
	}
}

func TestFailoverReachesTheKernel(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	r.send(event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:443 sni=us01.zoom.us"))
	err := r.call(t.Context(), func(l *loop) error { // the kernel's mark of the flow
		k := mustKey(t, "tcp 10.0.0.5:5000 > 203.0.113.7:443")
		mark, _ := l.plan.CTMark(1)
		l.core.marked(l.core.flows[k], mark)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.round(1, state.Answer{RTT: time.Millisecond})
		r.round(0, state.Answer{Lost: true})
	}
	s := r.Status()
	if s.State != "FAILOVER" || s.Uplinks[0].State != "FAILOVER" || s.Uplinks[1].State != "NORMAL" {
		t.Errorf("status: %+v", s)
	}
	if !slices.ContainsFunc(r.host.updates, func(u string) bool { return strings.Contains(u, " fw ") }) {
		t.Errorf("no fw element: %v", r.host.updates)
	}
	if len(r.host.forgot) != 1 || r.host.forgot[0].Dst.Port() != 443 {
		t.Errorf("forgotten: %v", r.host.forgot)
	}
}

func TestForceAndClear(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	for _, bad := range []api.ForceRequest{
		{State: "BAD", For: "1m", Reason: "x"},
		{State: "FAILOVER", For: "1y", Reason: "x"},
		{State: "FAILOVER", For: "-1m", Reason: "x"},
		{State: "FAILOVER", For: "1m"},
		{State: "FAILOVER", For: "1m", Reason: "x", Uplink: "wan9"},
	} {
		if err := r.Force(t.Context(), bad); !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := r.Force(t.Context(), api.ForceRequest{State: "failover", For: "10m", Reason: "cable works"}); err != nil {
		t.Fatal(err)
	}
	s := r.Status()
	if u := s.Uplinks[0]; s.State != "FAILOVER" || u.Forced == nil || u.Forced.Shadow != "NORMAL" || u.Forced.Reason != "cable works" {
		t.Errorf("status: %s, %+v", s.State, u.Forced)
	}
	if err := r.Clear(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if s := r.Status(); s.State != "NORMAL" || s.Uplinks[0].Forced != nil {
		t.Errorf("status: %+v", s)
	}
}

// TestStateSurvivesARestart: FAILOVER goes on, and the state file is private.
func TestStateSurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	with := func(o *Options, p *Parts) { o.StateDir = dir }
	r := start(t, zoomPolicy, with)
	for range 3 {
		r.round(0, state.Answer{Lost: true})
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, journalFile)); err != nil || !bytes.Contains(b, []byte(`"to":"FAILOVER"`)) {
		t.Errorf("journal: %s, %v", b, err)
	}
	r = start(t, zoomPolicy, with)
	if s := r.Status(); s.State != "FAILOVER" {
		t.Errorf("state %s after a restart", s.State)
	}
	r = startAgain(t, r, func(o *Options, p *Parts) { o.StateDir = dir; p.Boot = "another" })
	if s := r.Status(); s.State != "NORMAL" || !s.Uplinks[0].Unknown {
		t.Errorf("state %s after another boot", s.State)
	}
}

func startAgain(t *testing.T, r *rig, set func(*Options, *Parts)) *rig {
	t.Helper()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	return start(t, zoomPolicy, set)
}

// TestLinkGoesAndComes: a device that vanishes is noticed, and planned around.
func TestLinkGoesAndComes(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	r.until("nobody watches the host", func() bool {
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		return r.host.changed != nil
	}, nil)
	changed := func(up bool) {
		r.host.mu.Lock()
		r.host.host.Links = slices.Clone(r.host.host.Links)
		r.host.host.Links[1].Up = up
		tell := r.host.changed
		r.host.mu.Unlock()
		tell()
		r.until("the device is not noticed", func() bool { return r.Status().Uplinks[0].Up == up }, nil)
	}
	changed(false)
	changed(true)
	if r.Status().Policy.Hash == "" {
		t.Error("no policy")
	}
}

// TestLostKernelStateIsPutBack: somebody flushed the ruleset.
func TestLostKernelStateIsPutBack(t *testing.T) {
	r := start(t, zoomPolicy+"daemon: {on_crash: open}\n", nil)
	r.host.mu.Lock()
	r.host.lost = errors.New("no such table")
	r.host.mu.Unlock()
	// The next keep-alive fails, then the plan is applied.
	r.until("the plan is not applied again", func() bool {
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		return len(r.host.applied) == 2
	}, nil)
	r.sync()
	if why := r.Status().Enforcement; why != "" {
		t.Errorf("status says %q", why)
	}
}

func TestObserveEnforcesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	r := start(t, zoomPolicy, func(o *Options, p *Parts) {
		o.Observe, o.StateDir = true, dir
		p.Kernel, p.Connections = nil, nil
	})
	r.send(event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:443 sni=bad.example"))
	r.until("nothing is decided", func() bool { return r.Status().Decisions > 0 }, nil)
	r.write(otherPolicy)
	if res, err := r.Reload(t.Context()); err != nil || res.Result != api.Applied {
		t.Errorf("%+v, %v", res, err)
	}
	b := r.records.Read(0, 1)
	if len(b.Lines) != 1 || !bytes.Contains(b.Lines[0], []byte(`"mode":"observe"`)) {
		t.Errorf("record: %s", b.Lines)
	}
	if len(r.host.applied)+len(r.host.marks)+len(r.host.updates) > 0 {
		t.Error("something was enforced")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("a state directory was made")
	}
}

func TestFirstPolicyIsBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte(brokenPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &fakeHost{host: testHost}
	d := New(Options{Config: path}, Parts{Host: h, Kernel: h, Connections: h, Now: func() time.Duration { return 0 }})
	var text *PolicyError
	if err := d.Run(t.Context(), nil); !errors.As(err, &text) || len(text.Diagnostics) == 0 {
		t.Errorf("got %v", err)
	}
	if len(h.applied) > 0 {
		t.Error("something was applied")
	}
}

func TestFullQueuesDropAndCount(t *testing.T) {
	d := New(Options{}, Parts{})
	for range eventQueue + 3 {
		d.offer(inspector.Event{Source: "mock"})
	}
	for i := range answerQueue + 5 {
		d.offer(inspector.Event{Kind: inspector.Answered, Answer: inspector.Answer{TTL: time.Duration(i)}})
	}
	if e, a := d.metrics.Drops("events"), d.metrics.Drops("answers"); e != 3 || a != 5 {
		t.Errorf("dropped %d events and %d answers", e, a)
	}
	if first := <-d.answers; first.Answer.TTL != 5 {
		t.Errorf("the oldest answer is %d: not the oldest was dropped", first.Answer.TTL)
	}
}

func TestFoldedUpdatesAreInTheTable(t *testing.T) {
	table := actions.Table{Sets: []actions.Set{{Name: "s"}}}
	fold(&table, actions.Update{Kind: actions.PutElem, Set: "s", Elem: actions.Elem{Key: "a", Value: "1"}})
	fold(&table, actions.Update{Kind: actions.PutElem, Set: "s", Elem: actions.Elem{Key: "a", Value: "2"}})
	fold(&table, actions.Update{Kind: actions.PutElem, Set: "s", Elem: actions.Elem{Key: "b"}})
	fold(&table, actions.Update{Kind: actions.DelElem, Set: "s", Elem: actions.Elem{Key: "b"}})
	for range 2 {
		fold(&table, actions.Update{Kind: actions.PutChain, Chain: actions.Chain{Name: "c"}})
	}
	if s := table.Sets[0].Elems; len(s) != 1 || s[0].Value != "2" || len(table.Chains) != 1 {
		t.Errorf("%+v", table)
	}
}
