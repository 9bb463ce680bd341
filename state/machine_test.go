package state

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script runs rounds written as one letter each: g 10 ms, y 100 ms (grey),
// b 400 ms, d lost.
func (l *driver) script(rounds string) *driver {
	for _, r := range strings.ReplaceAll(rounds, " ", "") {
		l.round(map[rune]int{'g': 10, 'y': 100, 'b': 400, 'd': lost}[r])
	}
	return l
}

func TestEdges(t *testing.T) {
	g5, g15 := "ggggg", "ggggggggggggggg"
	for _, c := range []struct {
		name, rounds string
		want         State
	}{
		{"starts NORMAL", "", Normal},
		{"two slow rounds change nothing", "gggggbbggggg", Normal},
		{"two lost rounds change nothing", "gggggddggggg", Normal},
		{"three slow rounds degrade", "ggggg bbb", Degraded},
		{"grey takes a slow round back", "bbybyb", Normal},
		{"five more slow rounds fail over", "bbb bbbbb", Failover},
		{"four more don't", "bbb bbbb", Degraded},
		{"three dead rounds fail over", "ddd", Failover},
		{"dead rounds go on counting into DEGRADED", "bb d dd", Failover},
		{"DEGRADED is held for 10 s", "bbb ggggggggg", Degraded},
		{"DEGRADED clears after the hold", "bbb gggggggggg", Normal},
		{"DEGRADED needs five good rounds in a row", "bbb ggggggggg y gggg", Degraded},
		{"DEGRADED clears on the fifth", "bbb ggggggggg y ggggg", Normal},
		{"FAILOVER is held for 15 s", "ddd gggggggggggggg", Failover},
		{"FAILOVER revives after the hold", "ddd " + g15, Recovery},
		{"grey keeps FAILOVER", "ddd " + strings.Repeat("y", 100), Failover},
		{"grey keeps RECOVERY", "ddd " + g15 + strings.Repeat("y", 100), Recovery},
		{"grey keeps DEGRADED", "bbb " + strings.Repeat("y", 100), Degraded},
		{"RECOVERY relapses on two slow rounds", "ddd " + g15 + "bb", Failover},
		{"RECOVERY relapses on two dead rounds", "ddd " + g15 + "dd", Failover},
		{"RECOVERY takes one slow round", "ddd " + g15 + "bg", Recovery},
		{"RECOVERY is stable after 15", "ddd " + g15 + g15, Normal},
		{"and not after 14", "ddd " + g15 + g5 + g5 + "gggg", Recovery},
	} {
		t.Run(c.name, func(t *testing.T) {
			drive(t, oneUplink()).script(c.rounds).want(c.want)
		})
	}
}

func TestPenaltyAndHolds(t *testing.T) {
	var c core
	d := standard()
	u := DefaultUplink("u")
	var got []int
	for range 7 {
		c.enter(Failover, u, d, 0)
		got = append(got, c.penalty, int(c.holdUntil/sec))
	}
	if diff := cmp.Diff([]int{1000, 15, 2000, 30, 3000, 60, 4000, 120, 5000, 240, 6000, 240, 6000, 240}, got); diff != "" {
		t.Errorf("FAILOVER penalties and holds:\n%s", diff)
	}
	c, got = core{}, nil
	for range 9 {
		c.enter(Degraded, u, d, 0)
		got = append(got, c.penalty, int(c.holdUntil/sec))
	}
	if diff := cmp.Diff([]int{500, 10, 1000, 20, 1500, 20, 2000, 40, 2500, 40, 3000, 80, 3500, 80, 4000, 120, 4500, 120}, got); diff != "" {
		t.Errorf("DEGRADED penalties and holds:\n%s", diff)
	}
	if !c.suppressed {
		t.Error("not suppressed at 4500")
	}
	for _, w := range []struct {
		at         int
		penalty    int
		suppressed bool
	}{{299, 4500, true}, {300, 2250, true}, {600, 1125, true}, {899, 1125, true}, {900, 562, false}, {3900, 0, false}} {
		c.decay(d, time.Duration(w.at)*sec)
		if c.penalty != w.penalty || c.suppressed != w.suppressed {
			t.Errorf("at %d s: penalty %d, suppressed %v", w.at, c.penalty, c.suppressed)
		}
	}
}

func TestRoundRTT(t *testing.T) {
	for _, c := range []struct {
		answers []Answer
		rtt     int64
		lost    int64
	}{
		{ms(10), 10_000, 0},
		{ms(10, 30), 10_000, 0}, // the lower median
		{ms(30, 10, 20), 20_000, 0},
		{ms(40, lost, 10, 30, lost, 20), 20_000, 2},
		{ms(lost, lost), -1, 2},
		{[]Answer{{RTT: 1999 * time.Nanosecond}}, 1, 0},
		{[]Answer{{RTT: -5 * time.Second}}, 0, 0},
		{nil, -1, 0},
	} {
		if rtt, n := roundRTT(c.answers); rtt != c.rtt || n != c.lost {
			t.Errorf("roundRTT(%v) = %d, %d; want %d, %d", c.answers, rtt, n, c.rtt, c.lost)
		}
	}
}

func TestMetrics(t *testing.T) {
	l := drive(t, oneUplink())
	l.round(100)
	link := func() Link { return l.m.World(l.cfg).Uplinks[0] }
	if got := link().RTT; got != 100*time.Millisecond {
		t.Errorf("the first value: %v", got)
	}
	l.round(20)
	if got := link().RTT; got != 80*time.Millisecond {
		t.Errorf("EWMA after 100, 20: %v", got)
	}
	l.round(lost)
	if got := link(); got.RTT != 80*time.Millisecond || got.Loss != 333_333 || got.Lost != 1 {
		t.Errorf("after a dead round: %+v", got)
	}
	for i := range 12 {
		l.round(i + 1) // the last ten: 3..12
	}
	if got := link(); got.P90 != 11*time.Millisecond || got.Loss != 0 || got.ErrorRate != -1 {
		t.Errorf("p90 of 3..12: %+v", got)
	}
	var w window
	w.ewma, w.nRTT = 10, 1
	w.push(1, 0, 3)
	if w.ewma != 9 { // 10 + (-7/4 truncated toward zero)
		t.Errorf("EWMA %d", w.ewma)
	}
	for n, want := range map[int]int64{1: 1, 2: 2, 5: 5, 9: 9, 10: 9} {
		var w window
		for i := range n {
			w.push(1, 0, int64(i+1))
		}
		if got := w.p90(); got != want {
			t.Errorf("p90 of 1..%d = %d, want %d", n, got, want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	u := DefaultUplink("u")
	clean := []int{10, 10, 10, 10}
	one := []int{10, 10, 10, lost}
	rounds := func(spec string) *window {
		w := &window{}
		for _, r := range spec {
			a := clean
			if r == 'l' {
				a = one
			}
			rtt, n := roundRTT(ms(a...))
			w.push(4, n, rtt)
		}
		return w
	}
	for _, c := range []struct {
		name string
		w    *window
		rtt  int64
		want verdict
	}{
		{"clean", rounds("gggggggggg"), 10_000, good},
		{"at enter is not above it", rounds("g"), 120_000, grey},
		{"above enter", rounds("g"), 120_001, bad},
		{"at exit is not below it", rounds("g"), 90_000, grey},
		{"below exit", rounds("g"), 89_999, good},
		{"one lossy round is below exit", rounds("lggg"), 10_000, good},
		{"one lossy round of one too", rounds("l"), 10_000, good},
		{"two lossy rounds are grey", rounds("lgl"), 10_000, grey},
		{"three lossy rounds are bad", rounds("lglgl"), 10_000, bad},
		{"they leave after ten rounds", rounds("lglglggggg" + "g"), 10_000, grey},
		{"and all but one", rounds("lglgl" + "ggggggggg"), 10_000, good},
	} {
		if got, why := c.w.judge(u, c.rtt); got != c.want {
			t.Errorf("%s: %v (%s), want %v", c.name, got, why, c.want)
		}
	}
}

func TestErrorRate(t *testing.T) {
	u := DefaultUplink("u")
	for _, c := range []struct {
		dials, failures int
		want            verdict
	}{
		{0, 0, good},
		{100, 1, good}, // 1 %
		{100, 2, grey}, // 2 %
		{10, 4, grey},  // 40 %, but only four events
		{10, 5, bad},
		{100, 5, grey}, // 5 % is not above 5 %
		{100, 6, bad},
	} {
		var w window
		w.addDials(c.dials, c.failures)
		w.push(1, 0, 10_000)
		if got, why := w.judge(u, 10_000); got != c.want {
			t.Errorf("%d of %d: %v (%s), want %v", c.failures, c.dials, got, why, c.want)
		}
	}
	// Passive reports join the next round and bring no verdict of their own.
	l := drive(t, oneUplink())
	for range 3 {
		l.step(Round{Dials: 10, Failures: 10})
		if l.m.uplinks[0].known && l.now == 0 {
			t.Error("a passive report gave a verdict")
		}
		l.round(10)
	}
	l.want(Degraded)
	if got := l.m.World(l.cfg).Uplinks[0].ErrorRate; got != 1_000_000 {
		t.Errorf("error rate %d ppm", got)
	}
}

func TestEvidenceIsUsedOnce(t *testing.T) {
	// Loss of 1 in 4 probes in each of five rounds: DEGRADED; then clean rounds
	// count as good at once, though the last ten rounds still hold the losses.
	l := drive(t, oneUplink())
	l.rounds(5, 10, 10, 10, lost)
	l.want(Degraded)
	if got := l.m.World(l.cfg).Uplinks[0].Loss; got != 250_000 {
		t.Errorf("people see loss %d ppm", got)
	}
	l.rounds(10, 10, 10, 10, 10)
	l.want(Normal)
}

func TestMissingRounds(t *testing.T) {
	for _, c := range []struct {
		every time.Duration
		want  []int // seconds at which a missing round counts
	}{{sec, []int{5, 6, 7}}, {5 * sec, []int{15, 20, 25}}, {sec / 2, nil}} {
		cfg := oneUplink()
		cfg.Uplinks[0].Every = c.every
		l := drive(t, cfg)
		l.round(10)
		var got []int
		for l.now = sec; l.now <= 25*sec && len(l.log) == 0; l.now += sec {
			before := l.m.uplinks[0].dead
			l.tick()
			if l.m.uplinks[0].dead != before {
				got = append(got, int(l.now/sec))
			}
		}
		if c.want != nil {
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("every %v:\n%s", c.every, diff)
			}
		}
		l.want(Failover)
	}
	// An uplink without probes is never missed.
	cfg := oneUplink()
	cfg.Uplinks[0].Every = 0
	l := drive(t, cfg)
	l.now = 0
	l.tick()
	l.now = time.Hour
	l.tick()
	l.step(Round{At: l.now, Down: true})
	w := l.m.World(cfg).Uplinks[0]
	if !w.Unknown || w.Up || w.Share != 0 || w.State != Normal {
		t.Errorf("%+v", w)
	}
	// A machine that never heard of an uplink waits for it as long.
	l = drive(t, oneUplink())
	for l.now = 0; l.now <= 6*sec; l.now += sec {
		l.tick()
	}
	l.want(Normal)
	l.tick()
	l.want(Failover)
	if l.m.World(l.cfg).Uplinks[0].Unknown {
		t.Error("missing rounds are verdicts")
	}
	// A host that slept, or a daemon that was stopped, waits anew.
	l = drive(t, oneUplink())
	l.round(10)
	l.tick()
	l.now = 1000 * time.Hour
	l.tick()
	l.want(Normal)
	for range 6 {
		l.now += sec
		l.tick()
	}
	l.want(Normal)
	l.now += sec
	l.tick()
	l.want(Failover)
}

func TestLinkDown(t *testing.T) {
	l := drive(t, oneUplink())
	l.round(10)
	l.m, _ = l.m.Link(l.cfg, 0, false, l.now)
	if w := l.m.World(l.cfg).Uplinks[0]; w.Up || w.State != Normal {
		t.Errorf("%+v", w)
	}
	for range 3 {
		l.step(Round{At: l.now, Down: true, Probes: ms(10)})
		l.now += sec
	}
	l.want(Failover)
	l.step(Round{At: l.now, Dials: 1})
	if l.m.World(l.cfg).Uplinks[0].Up {
		t.Error("a passive report says nothing about the link")
	}
	l.round(10)
	if !l.m.World(l.cfg).Uplinks[0].Up {
		t.Error("a round through the link says that it is up")
	}
}

func TestGlobal(t *testing.T) {
	for _, c := range []struct {
		name              string
		primary, other    State
		required, forcing bool
		want              State
	}{
		{"both fine", Normal, Normal, true, false, Normal},
		{"primary degraded", Degraded, Normal, false, false, Degraded},
		{"primary failed", Failover, Normal, false, false, Failover},
		{"primary recovering", Recovery, Failover, true, false, Recovery},
		{"other failed", Normal, Failover, false, false, Normal},
		{"required other failed", Normal, Failover, true, false, Degraded},
		{"required other recovering", Normal, Recovery, true, false, Degraded},
	} {
		cfg := Config{Uplinks: []UplinkConfig{DefaultUplink("a"), DefaultUplink("b")}, Primary: 0}
		cfg.Uplinks[1].Required = c.required
		m := New(cfg).clone(cfg)
		m.uplinks[0].state, m.uplinks[1].state = c.primary, c.other
		if got := m.globalState(cfg); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := New(Config{Primary: -1}).World(Config{Primary: -1}).Global; got != Normal {
		t.Errorf("without uplinks: %v", got)
	}
	// The global transition names the uplink and the reason.
	l := drive(t, oneUplink())
	l.round(10).round(lost).round(lost)
	_, ts := l.m.Step(l.cfg, Round{At: l.now, Probes: ms(lost)})
	want := []Transition{
		{3 * sec, 0, Normal, Failover, "3 dead rounds (no answer)"},
		{3 * sec, -1, Normal, Failover, "uplink wan1: 3 dead rounds (no answer)"},
	}
	if diff := cmp.Diff(want, ts); diff != "" {
		t.Error(diff)
	}
}

func TestRecoveryShare(t *testing.T) {
	l := drive(t, oneUplink())
	l.script("ddd ggggggggggggggg").want(Recovery)
	var got []int
	for range 16 {
		got = append(got, l.m.World(l.cfg).Uplinks[0].Share)
		l.round(10)
	}
	if diff := cmp.Diff([]int{10, 10, 10, 10, 25, 25, 25, 25, 50, 50, 50, 50, 100, 100, 100, 100}, got); diff != "" {
		t.Error(diff)
	}
}

func TestGreyInStatus(t *testing.T) {
	l := drive(t, oneUplink())
	l.script("ddd")
	l.rounds(3, 100).round(104)
	s := l.m.Status(l.cfg)[0]
	if s.Grey != "rtt 104 ms, exit 90 ms" || s.GreySince != 3*sec || s.State != Failover {
		t.Errorf("%+v", s)
	}
	l.round(10)
	if s := l.m.Status(l.cfg)[0]; s.Grey != "" || s.Verdict != "good" || s.VerdictSince != 7*sec {
		t.Errorf("%+v", s)
	}
	l.rounds(2, 400)
	if s := l.m.Status(l.cfg)[0]; s.Verdict != "bad" || s.VerdictSince != 8*sec || s.VerdictWhy != "rtt 400 ms, enter 120 ms" {
		t.Errorf("%+v", s)
	}
}

func TestAskFailover(t *testing.T) {
	l := drive(t, oneUplink())
	l.rounds(3, 10)
	var ts []Transition
	l.m, ts = l.m.AskFailover(l.cfg, l.now)
	if len(ts) != 2 || ts[0].To != Failover || ts[0].Why != "a rule asked for failover" {
		t.Fatalf("%v", ts)
	}
	if l.m, ts = l.m.AskFailover(l.cfg, l.now); ts != nil {
		t.Errorf("asked in FAILOVER: %v", ts)
	}
	if n := l.until(Recovery, 10); n != 16 { // rounds at 3..18, held until 18
		t.Errorf("RECOVERY after %d rounds", n)
	}
	if l.m, ts = l.m.AskFailover(l.cfg, l.now); ts != nil {
		t.Errorf("asked in RECOVERY: %v", ts)
	}
	cfg := oneUplink()
	cfg.Uplinks[0].Every = 0
	if _, ts := New(cfg).AskFailover(cfg, 0); ts != nil {
		t.Errorf("asked without probes: %v", ts)
	}
}

func TestForce(t *testing.T) {
	cfg := Config{Uplinks: []UplinkConfig{DefaultUplink("a"), DefaultUplink("b")}, Primary: 0}
	l := drive(t, cfg)
	l.rounds(3, 10)
	m, ts := l.m.Force(cfg, -1, Failover, l.now+10*sec, "maintenance", l.now)
	want := []Transition{
		{3 * sec, 0, Normal, Failover, "forced: maintenance"},
		{3 * sec, -1, Normal, Failover, "uplink a: forced: maintenance"},
	}
	if diff := cmp.Diff(want, ts); diff != "" {
		t.Error(diff)
	}
	if w := m.World(cfg); w.Global != Failover || w.Uplinks[0].Share != 0 || w.Uplinks[1].State != Normal {
		t.Errorf("%+v", w)
	}
	if s := m.Status(cfg)[0]; s.Under != Normal || s.Since != 3*sec || !s.Forced.On || s.Forced.Reason != "maintenance" {
		t.Errorf("%+v", s)
	}
	ts = nil
	for i := sec; i <= 9*sec; i += sec {
		var more []Transition
		m, more = m.Tick(cfg, l.now+i)
		ts = append(ts, more...)
	}
	if len(ts) != 1 || ts[0].Uplink != 1 || ts[0].To != Failover {
		t.Errorf("b went missing, and a in the shadow: %v", ts)
	}
	if m.uplinks[0].state != Failover {
		t.Error("the machine does not go on in the shadow")
	}
	if _, ts := m.Tick(cfg, l.now+10*sec); len(ts) != 0 {
		t.Errorf("forced FAILOVER ends in FAILOVER: %v", ts)
	}
	// It expires; it can be cleared; the past forces nothing.
	m, _ = l.m.Force(cfg, 1, Recovery, l.now+sec, "x", l.now)
	if w := m.World(cfg); w.Uplinks[1].Share != 10 || w.Global != Normal {
		t.Errorf("%+v", w)
	}
	_, ts = m.Clear(cfg, 1, l.now)
	if len(ts) != 1 || ts[0].To != Normal {
		t.Errorf("%v", ts)
	}
	m, ts = m.Tick(cfg, l.now+sec)
	if len(ts) != 1 || ts[0].Why != "the override has expired" || m.uplinks[1].forced.on {
		t.Errorf("%v", ts)
	}
	if _, ts := l.m.Force(cfg, 0, Failover, l.now, "x", l.now); ts != nil {
		t.Errorf("%v", ts)
	}
	// An uplink's own override is stronger than the host's.
	m, _ = l.m.Force(cfg, 0, Normal, l.now+sec, "x", l.now)
	m, _ = m.Force(cfg, -1, Failover, l.now+sec, "x", l.now)
	if w := m.World(cfg); w.Global != Failover || w.Uplinks[0].State != Normal {
		t.Errorf("%+v", w)
	}
	// A long reason is cut between characters.
	if got := clip(strings.Repeat("é", 150)); got != strings.Repeat("é", 100) {
		t.Errorf("%q", got)
	}
}

func TestReconfigure(t *testing.T) {
	old := Config{Uplinks: []UplinkConfig{DefaultUplink("a"), DefaultUplink("b")}, Primary: 0}
	l := drive(t, old)
	l.rounds(3, lost)
	cfg := Config{Uplinks: []UplinkConfig{DefaultUplink("c"), DefaultUplink("a")}, Primary: 0}
	m := l.m.Reconfigure(old, cfg)
	w := m.World(cfg)
	if w.Global != Normal || !w.Uplinks[0].Unknown || w.Uplinks[1].State != Failover || w.Uplinks[1].Lost != 3 {
		t.Errorf("%+v", w)
	}
	if w := l.m.World(old); w.Global != Failover {
		t.Errorf("the old machine changed: %+v", w)
	}
	// The new uplink is waited for from now on, not since the beginning.
	m, ts := m.Tick(cfg, l.now+4*sec)
	if len(ts) != 0 {
		t.Errorf("%v", ts)
	}
	if m, _ = m.Tick(cfg, l.now+5*sec); m.uplinks[0].known {
		t.Error("missed too early")
	}
}

func TestWrongInputIsHarmless(t *testing.T) {
	cfg := oneUplink()
	m := New(cfg)
	for _, i := range []int{-2, -1, 1, 99} {
		m, _ = m.Step(cfg, Round{Uplink: i, Probes: ms(lost), Down: true})
		m, _ = m.Link(cfg, i, false, 0)
	}
	m, _ = m.Force(cfg, 7, Failover, sec, "", 0)
	m, _ = m.Force(cfg, 0, 9, sec, "", 0)
	m, _ = m.Step(cfg, Round{Dials: -1 << 62, Failures: 1 << 62})
	m, _ = m.Step(cfg, Round{At: -time.Hour, Probes: make([]Answer, 1000)})
	if w := m.World(cfg); w.Uplinks[0].State != Normal || w.Uplinks[0].ErrorRate != 1_000_000 {
		t.Errorf("%+v", w)
	}
	if w := (Machine{}).World(Config{Primary: -1}); w.Global != Normal {
		t.Errorf("%+v", w)
	}
	// Another config than the machine's gives a new start, not a crash.
	if w := m.World(Config{Primary: 1, Uplinks: make([]UplinkConfig, 2)}); len(w.Uplinks) != 2 {
		t.Errorf("%+v", w)
	}
}
