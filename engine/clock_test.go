package engine_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// monday is a Monday at noon.
var monday = time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC)

func lasting(e rules.Expr, d time.Duration) rules.Expr {
	e.Pred.For = d
	return e
}

// clockPolicy has the conditions c0, c1 ... over two uplinks.
func clockPolicy(conditions ...rules.Expr) *rules.Policy {
	p := policy()
	for i, e := range conditions {
		p.Conditions = append(p.Conditions, rules.Condition{Name: fmt.Sprint("c", i), Expr: e})
	}
	return p
}

// TestClockLasts: a comparison counts after it held for so long without a break.
func TestClockLasts(t *testing.T) {
	slow := metric(rules.FieldUplink, 0, rules.MetricRTT, rules.Gt, 100_000)
	unequal := metric(rules.FieldUplink, 0, rules.MetricRTT, rules.Eq, 200_000)
	unequal.Pred.Unequal = true
	p := clockPolicy(
		lasting(slow, 3*time.Second),
		no(lasting(slow, 3*time.Second)),
		no(lasting(unequal, 3*time.Second)),
		anyOf(refer(rules.FieldCondition, 0), refer(rules.FieldCondition, 4)), // one that is declared later
		pred(rules.Pred{Field: rules.FieldState, States: 1 << state.Failover}),
	)
	clock := engine.NewClock(p, time.UTC)
	const no, yes, unset = state.False, state.True, state.Unset
	for _, k := range []struct {
		at   int // seconds
		rtt  int // milliseconds, -1: not measured
		want [5]state.Truth
		next int // seconds, 0: never
	}{
		{0, -1, [5]state.Truth{unset, unset, unset, unset, no}, 0},
		{1, 150, [5]state.Truth{no, yes, no, no, no}, 4},
		{3, 200, [5]state.Truth{no, yes, no, no, no}, 4}, // it is 200 ms now, but is slow all the same
		{4, 150, [5]state.Truth{yes, no, no, yes, no}, 7},
		{6, 50, [5]state.Truth{no, yes, no, no, no}, 7}, // fast again; unequal since 4 s
		{7, 150, [5]state.Truth{no, yes, yes, no, no}, 10},
		{9, -1, [5]state.Truth{unset, unset, unset, unset, no}, 0}, // unknown breaks it
		{10, 150, [5]state.Truth{no, yes, no, no, no}, 13},
		{14, 150, [5]state.Truth{yes, no, yes, yes, no}, 0},
	} {
		w := engine.OfflineWorld(p, state.Normal)
		if k.rtt >= 0 {
			w.Uplinks[0].RTT = time.Duration(k.rtt) * time.Millisecond
		}
		next := clock.Step(monday.Add(time.Duration(k.at)*time.Second), w)
		if got := [5]state.Truth(w.Conditions); got != k.want {
			t.Errorf("at %d s: %v, want %v", k.at, got, k.want)
		}
		want := time.Time{}
		if k.next > 0 {
			want = monday.Add(time.Duration(k.next) * time.Second)
		}
		if !next.Equal(want) {
			t.Errorf("at %d s: next at %v, want %v", k.at, next, want)
		}
	}
}

// TestClockSchedules: schedules, and conditions over them and over quotas.
func TestClockSchedules(t *testing.T) {
	p := clockPolicy(all(refer(rules.FieldSchedule, 0), refer(rules.FieldQuota, 0)))
	p.Schedules = []rules.Schedule{{Name: "night", From: 20 * 60, To: 6 * 60}, {Name: "always"}}
	p.Quotas = []rules.Quota{{Name: "daily"}}
	clock := engine.NewClock(p, time.UTC)
	for _, k := range []struct {
		at    time.Duration
		open  state.Truth
		quota state.Truth
		want  state.Truth
		next  time.Duration
	}{
		{0, state.False, state.True, state.False, 8 * time.Hour},
		{7 * time.Hour, state.False, state.Unset, state.False, 8 * time.Hour},
		{8 * time.Hour, state.True, state.Unset, state.Unset, 18 * time.Hour},
		{9 * time.Hour, state.True, state.True, state.True, 18 * time.Hour},
		{19 * time.Hour, state.False, state.True, state.False, 32 * time.Hour},
		{2 * time.Hour, state.False, state.True, state.False, 8 * time.Hour}, // somebody set the clock back
	} {
		w := &state.World{Quotas: []state.Truth{k.quota}}
		next := clock.Step(monday.Add(k.at), w)
		if w.Schedules[0] != k.open || w.Schedules[1] != state.True || w.Conditions[0] != k.want || !next.Equal(monday.Add(k.next)) {
			t.Errorf("at %v: %v %v, next %v", k.at, w.Schedules, w.Conditions, next)
		}
	}
}

// TestClockMembers: a group's condition is asked of each member, with what is
// measured of its own uplink, and lasts for each by itself.
func TestClockMembers(t *testing.T) {
	quick := metric(rules.FieldUplink, 0, rules.MetricRTT, rules.Lt, 100_000)
	p := clockPolicy(all(refer(rules.FieldCondition, 1), refer(rules.FieldSchedule, 0)),
		all(lasting(quick, 5*time.Second), no(latencyOver(80_000)), pred(rules.Pred{Field: rules.FieldState, States: state.AllStates})))
	p.Schedules = []rules.Schedule{{Name: "always"}}
	p.Groups = append(p.Groups, rules.Group{Name: "sla", Strategy: rules.SLA, Members: []int{fast, backup, direct, ha}})
	p.Groups[4].SLA = 0
	clock := engine.NewClock(p, time.UTC)
	step := func(at int, first, second time.Duration) []state.Truth {
		w := engine.OfflineWorld(p, state.Normal)
		w.Uplinks[0].RTT, w.Uplinks[1].RTT = first, second
		clock.Step(monday.Add(time.Duration(at)*time.Second), w)
		return w.Meets[4]
	}
	const ms = time.Millisecond
	check := func(at int, first, second time.Duration, want ...state.Truth) {
		t.Helper()
		if got := step(at, first, second); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("at %d s: %v, want %v", at, got, want)
		}
	}
	no, yes, unset := state.False, state.True, state.Unset
	check(0, 50*ms, -1, no, unset, no, no) // not long enough; not measured; no uplink; as its first member
	check(4, 50*ms, 60*ms, no, no, no, no)
	check(5, 50*ms, 60*ms, yes, no, no, yes)
	check(9, 90*ms, 60*ms, no, yes, no, no)
	old := clock
	clock = engine.NewClock(p, time.UTC)
	clock.Carry(old) // a reload forgets nothing
	check(10, 70*ms, 60*ms, yes, yes, no, yes)
	q := *p
	q.Conditions = []rules.Condition{p.Conditions[0], {Name: "c1", Expr: lasting(quick, 6*time.Second)}}
	clock = engine.NewClock(&q, time.UTC)
	clock.Carry(old)
	check(11, 70*ms, 60*ms, no, no, no, no) // but of a condition that says something else
}

// TestOfflineWorldAt: outside the daemon nothing has a past.
func TestOfflineWorldAt(t *testing.T) {
	p := clockPolicy(
		lasting(pred(rules.Pred{Field: rules.FieldUplink, Metric: rules.MetricUp, Bound: 1}), time.Hour),
		metric(rules.FieldUplink, 0, rules.MetricRTT, rules.Gt, 1),
		refer(rules.FieldSchedule, 0), no(refer(rules.FieldQuota, 0)),
	)
	p.Schedules = []rules.Schedule{{Name: "noon", From: 12 * 60, To: 13 * 60}}
	p.Quotas = []rules.Quota{{Name: "daily"}}
	at := engine.OfflineWorldAt(p, state.Normal, monday, time.UTC)
	without := engine.OfflineWorld(p, state.Normal)
	const want, unknown = "[2] [1] [2 0 2 2]", "[0] [1] [2 0 0 2]"
	for _, k := range []struct {
		w    *state.World
		want string
	}{{at, want}, {without, unknown}} {
		if got := fmt.Sprint(k.w.Schedules, k.w.Quotas, k.w.Conditions); got != k.want {
			t.Errorf("%s, want %s", got, k.want)
		}
	}
}

// TestClockAgainstLog compares a clock with one who keeps a log of everything and
// looks back for each comparison; and one that is asked each second with one that is
// asked only when the world has changed or when it said it was due.
func TestClockAgainstLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var compared []rules.Pred
		var draw func(depth int) rules.Expr
		draw = func(depth int) rules.Expr {
			switch n := rapid.IntRange(0, 5).Draw(t, "op"); {
			case n < 3 && depth > 0:
				e := rules.Expr{Op: []rules.Op{rules.OpAnd, rules.OpOr, rules.OpNot}[n]}
				for range map[bool]int{true: 1, false: 2}[n == 2] {
					e.Kids = append(e.Kids, draw(depth-1))
				}
				return e
			default:
				m := metric(rules.FieldUplink, rapid.IntRange(0, 1).Draw(t, "uplink"), rules.MetricRTT, rules.Gt, 5000)
				m.Pred.For = time.Duration(rapid.IntRange(0, 6).Draw(t, "for")) * time.Second
				compared = append(compared, m.Pred)
				return m
			}
		}
		p := clockPolicy(draw(3), draw(2))
		// Each uplink's RTT: -1, 4 or 6 ms, for some seconds.
		const seconds = 60
		var rtts [2][]time.Duration
		for i := range rtts {
			for len(rtts[i]) < seconds {
				v := rapid.SampledFrom([]time.Duration{-1, 4 * time.Millisecond, 6 * time.Millisecond, 6 * time.Millisecond}).Draw(t, "rtt")
				for range rapid.IntRange(1, 12).Draw(t, "lasts") {
					rtts[i] = append(rtts[i], v)
				}
			}
		}
		world := func(at int) *state.World {
			w := engine.OfflineWorld(p, state.Normal)
			w.Uplinks[0].RTT, w.Uplinks[1].RTT = rtts[0][at], rtts[1][at]
			return w
		}
		looked := func(at int, q *rules.Pred) int { // 0 no, 1 not known, 2 yes
			if rtts[q.Ref][at] < 0 {
				return 1
			}
			for back := range int(q.For/time.Second) + 1 {
				if at-back < 0 || rtts[q.Ref][at-back] <= 5*time.Millisecond {
					return 0
				}
			}
			return 2
		}
		var value func(at int, e *rules.Expr) int
		value = func(at int, e *rules.Expr) int {
			switch e.Op {
			case rules.OpPred:
				return looked(at, &e.Pred)
			case rules.OpNot:
				return 2 - value(at, &e.Kids[0])
			case rules.OpAnd:
				return min(value(at, &e.Kids[0]), value(at, &e.Kids[1]))
			default:
				return max(value(at, &e.Kids[0]), value(at, &e.Kids[1]))
			}
		}
		each, lazy := engine.NewClock(p, time.UTC), engine.NewClock(p, time.UTC)
		var last []state.Truth
		var due time.Time
		for at := range seconds {
			now, w := monday.Add(time.Duration(at)*time.Second), world(at)
			each.Step(now, w)
			for i := range p.Conditions {
				want := []state.Truth{state.False, state.Unset, state.True}[value(at, &p.Conditions[i].Expr)]
				if w.Conditions[i] != want {
					t.Fatalf("condition %d at %d s: %v, want %v (%+v)", i, at, w.Conditions[i], want, compared)
				}
			}
			changed := at == 0 || rtts[0][at] != rtts[0][at-1] || rtts[1][at] != rtts[1][at-1]
			if changed || !due.IsZero() && !now.Before(due) {
				v := world(at)
				due = lazy.Step(now, v)
				last = v.Conditions
			}
			if fmt.Sprint(last) != fmt.Sprint(w.Conditions) {
				t.Fatalf("at %d s: %v by its own times, %v each second", at, last, w.Conditions)
			}
		}
	})
}
