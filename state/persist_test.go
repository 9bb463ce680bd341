package state

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// same reports whether two machines are the same in every bit.
func same(a, b Machine) bool { return reflect.DeepEqual(a, b) }

func TestResume(t *testing.T) {
	cfg := twoUplinks(false)
	l := drive(t, cfg).pair(5, 10, 10).pair(3, lost, 100).pair(3, 10, 100)
	l.m, _ = l.m.Force(cfg, 1, Degraded, l.now+400*sec, "wiring", l.now)
	file := l.m.Encode(cfg, "p1", "boot1")
	saved := l.m.now
	for _, c := range []struct {
		name         string
		file         []byte
		boot, policy string
		after        time.Duration
		fresh, err   bool
		why          string
	}{
		{"same boot, young", file, "boot1", "p1", 299 * sec, false, false, "resumed"},
		{"same boot, five minutes", file, "boot1", "p1", 300 * sec, true, false, "5m0s old"},
		{"another boot", file, "boot2", "p1", sec, true, false, "another boot"},
		{"the future", file, "boot1", "p1", -sec, true, false, "future"},
		{"another policy", file, "boot1", "p2", sec, false, false, "the policy has changed"},
		{"cut off", file[:len(file)/2], "boot1", "p1", sec, true, true, "damaged"},
		{"another version", bytes.Replace(file, []byte(`"version": 1`), []byte(`"version": 2`), 1), "boot1", "p1", sec, true, true, "damaged"},
		{"nonsense state", bytes.ReplaceAll(file, []byte(`"FAILOVER"`), []byte(`"TIRED"`)), "boot1", "p1", sec, true, true, "damaged"},
		{"empty", nil, "boot1", "p1", sec, true, true, "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, r, err := Resume(cfg, c.file, c.boot, c.policy, saved+c.after)
			if r.Fresh != c.fresh || (err != nil) != c.err || !strings.Contains(r.Why, c.why) {
				t.Fatalf("%+v, %v", r, err)
			}
			w := m.World(cfg)
			if c.fresh {
				if !w.Uplinks[0].Unknown || w.Global != Normal {
					t.Errorf("%+v", w)
				}
				return
			}
			a, s := &m.uplinks[0], m.Status(cfg)
			if a.state != Failover || a.good != 0 || a.n != 0 || w.Uplinks[0].Unknown {
				t.Errorf("%+v", a)
			}
			if w.Global != Failover || w.Selected[0] != 1 || s[1].State != Degraded || s[1].Forced.Reason != "wiring" {
				t.Errorf("%+v %+v", w, s)
			}
		})
	}
}

func TestResumeDecaysAndExpires(t *testing.T) {
	cfg := oneUplink()
	l := drive(t, cfg).rounds(3, lost)
	l.m, _ = l.m.Force(cfg, -1, Normal, l.now+10*sec, "x", l.now)
	l.now += 250 * sec
	l.step(Round{At: l.now, Probes: ms(lost)})
	m, r, err := Resume(cfg, l.m.Encode(cfg, "", ""), "", "", l.now+100*sec)
	if err != nil || r.Fresh || m.uplinks[0].penalty != 500 || m.Host().Forced.On || m.World(cfg).Global != Failover {
		t.Errorf("%+v %v %+v", r, err, m)
	}
}

// TestRestartAtAnyTick restarts a machine after every round of a long, bad day
// and checks that what comes next is legal, and that a line that is bad stays so.
func TestRestartAtAnyTick(t *testing.T) {
	cfg := oneUplink()
	l := drive(t, cfg)
	script := strings.Repeat("g", 5) + strings.Repeat("b", 12) + strings.Repeat("g", 40) + "dddd" + strings.Repeat("g", 60) + strings.Repeat("yb", 20) + "ddd" + strings.Repeat("g", 700)
	for i, r := range script {
		l.script(string(r))
		before := l.m.Status(cfg)[0]
		m, res, err := Resume(cfg, l.m.Encode(cfg, "p", "b"), "b", "p", l.now)
		if err != nil || res.Fresh {
			t.Fatalf("round %d: %+v %v", i, res, err)
		}
		after := m.Status(cfg)[0]
		if after.State != before.State || after.Suppressed && !before.Suppressed || after.Penalty > before.Penalty || after.HoldUntil != before.HoldUntil {
			t.Fatalf("round %d:\n%+v\n%+v", i, before, after)
		}
		// From anywhere: dead input gives FAILOVER within three rounds, good
		// input gives NORMAL again.
		d := &driver{t: t, cfg: cfg, m: m, now: l.now}
		if n := d.until(Failover, lost); n > 3 {
			t.Fatalf("round %d: FAILOVER after %d rounds", i, n)
		}
		if i%50 == 0 {
			d = &driver{t: t, cfg: cfg, m: m, now: l.now}
			d.until(Normal, 10)
		}
	}
}

func TestEncodeIsExact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg, m, _ := randomRun(t, rt)
		file := m.Encode(cfg, "p", "b")
		s, err := parseSnapshot(file)
		if err != nil {
			rt.Fatal(err)
		}
		back, err := s.machine(cfg)
		if err != nil {
			rt.Fatal(err)
		}
		if again := back.Encode(cfg, "p", "b"); !bytes.Equal(file, again) {
			rt.Fatalf("%s\n%s", file, again)
		}
		// It also goes on in the same way.
		e := RoundEvent(Round{Uplink: 0, At: m.now + sec, Probes: ms(lost)})
		a, ta := m.Apply(cfg, e)
		b, tb := back.Apply(cfg, e)
		if !reflect.DeepEqual(ta, tb) || !bytes.Equal(a.Encode(cfg, "", ""), b.Encode(cfg, "", "")) {
			rt.Fatalf("%v %v", ta, tb)
		}
	})
}

// randomRun runs a random machine for a while and returns it with its journal.
func randomRun(t *testing.T, rt *rapid.T) (Config, Machine, []byte) {
	cfg := twoUplinks(rapid.Bool().Draw(rt, "plain"))
	cfg.Uplinks[1].Required = rapid.Bool().Draw(rt, "required")
	if rapid.Bool().Draw(rt, "unprobed") {
		cfg.Uplinks[1].Every = 0
	}
	m := New(cfg)
	journal := AppendStart(nil, cfg, m, "p", "b")
	now := time.Duration(0)
	mood := [2]string{"good", "good"}
	for i := range rapid.IntRange(1, 120).Draw(rt, "rounds") {
		if rapid.IntRange(0, 9).Draw(rt, fmt.Sprint("change", i)) == 0 {
			u := rapid.IntRange(0, 1).Draw(rt, "whose")
			mood[u] = rapid.SampledFrom([]string{"good", "slow", "dead", "grey", "lossy", "silent"}).Draw(rt, "mood")
		}
		var events []Event
		for u := range 2 {
			r := Round{Uplink: u, At: now}
			switch mood[u] {
			case "good":
				r.Probes = ms(10, 20)
			case "slow":
				r.Probes = ms(300, 350)
			case "dead":
				r.Probes = ms(lost, lost)
			case "grey":
				r.Probes = ms(100, 101)
			case "lossy":
				r.Probes = ms(lost, 20)
			case "silent":
				continue
			}
			events = append(events, RoundEvent(r))
		}
		u := rapid.IntRange(-1, 1).Draw(rt, "uplink")
		switch rapid.IntRange(0, 30).Draw(rt, "event") {
		case 0:
			to := rapid.SampledFrom([]State{Normal, Degraded, Failover, Recovery}).Draw(rt, "to")
			events = append(events, Event{Kind: EventForce, At: now, Uplink: u, To: to, Until: now + 20*sec, Reason: "why \"not\" <x>"})
		case 1:
			events = append(events, Event{Kind: EventClear, At: now, Uplink: u})
		case 2:
			events = append(events, Event{Kind: EventFailover, At: now, Uplink: -1})
		case 3:
			events = append(events, Event{Kind: EventLink, At: now, Uplink: u, Up: rapid.Bool().Draw(rt, "up")})
		case 4:
			events = append(events, RoundEvent(Round{Uplink: max(u, 0), At: now, Dials: 7, Failures: 6}))
		}
		events = append(events, TickEvent(now))
		for _, e := range events {
			before := m
			beforeBytes := before.Encode(cfg, "", "")
			var ts []Transition
			m, ts = m.Apply(cfg, e)
			journal = AppendEvent(journal, cfg, e, ts)
			checkStep(rt, cfg, before, m, ts)
			if !bytes.Equal(beforeBytes, before.Encode(cfg, "", "")) {
				rt.Fatalf("%+v changed the machine it was given", e)
			}
		}
		now += sec
	}
	return cfg, m, journal
}

// checkStep holds what is true of every step.
func checkStep(rt *rapid.T, cfg Config, before, after Machine, ts []Transition) {
	b, a := before.World(cfg), after.World(cfg)
	moved := map[int]Transition{}
	for _, t := range ts {
		moved[t.Uplink] = t
	}
	for i := range a.Uplinks {
		from, to := b.Uplinks[i].State, a.Uplinks[i].State
		if t, ok := moved[i]; ok != (from != to) || ok && (t.From != from || t.To != to || t.Why == "") {
			rt.Fatalf("uplink %d went from %v to %v: %v", i, from, to, ts)
		}
		u := after.uplinks[i]
		if x, y := before.uplinks[i].state, u.state; x != y && !legal(x, y) {
			rt.Fatalf("uplink %d: %v -> %v", i, x, y)
		}
		if s := a.Uplinks[i].Share; (to == Failover) != (s == 0) && !a.Uplinks[i].Unknown {
			rt.Fatalf("share %d in %v", s, to)
		}
		if u.penalty < 0 || u.penalty > 6000 || u.holdUntil-u.since > 240*sec || u.bad > 1000 {
			rt.Fatalf("%+v", u)
		}
	}
	if t, ok := moved[-1]; ok != (a.Global != b.Global) || ok && t.To != a.Global {
		rt.Fatalf("global went from %v to %v: %v", b.Global, a.Global, ts)
	}
	for i, g := range cfg.Groups {
		if s := a.Selected[i]; s < 0 || s >= len(g.Members) {
			rt.Fatalf("selected %d", s)
		}
	}
}

func TestReplayGivesTheSameBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg, m, journal := randomRun(t, rt)
		back, again, err := Replay(cfg, journal)
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(journal, again) {
			rt.Fatalf("--- recorded\n%s--- replayed\n%s", journal, again)
		}
		if !same(m.clone(cfg), back.clone(cfg)) && !bytes.Equal(m.Encode(cfg, "", ""), back.Encode(cfg, "", "")) {
			rt.Fatal("the machines differ")
		}
	})
}

func TestReplayErrors(t *testing.T) {
	cfg := oneUplink()
	start := string(AppendStart(nil, cfg, New(cfg), "p", "b"))
	for _, c := range []struct{ journal, want string }{
		{`{"ev":"tick","at_ns":0}`, "does not begin with a start line"},
		{start + `{"ev":"nap","at_ns":0}`, `line 2: unknown event "nap"`},
		{start + `{"ev":"round","at_ns":0,"uplink":"wan9"}`, `line 2: the policy has no uplink "wan9"`},
		{start + `{"ev":"force","at_ns":0,"to":"FINE"}`, `line 2: unknown state "FINE"`},
		{start + `{"ev":"tick","at_ns":9000000000000000000}`, "line 2: a value is out of range"},
		{start + `{`, "line 2: unexpected end"},
		{`{"ev":"start","state":{"version":1}}`, "other uplinks"},
	} {
		if _, _, err := Replay(cfg, []byte(c.journal)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.journal, err, c.want)
		}
	}
	if _, out, err := Replay(cfg, []byte(start+"\n"+`{"ev":"moved","at_ns":0,"from":"NORMAL","to":"FAILOVER"}`)); err != nil || string(out) != start {
		t.Errorf("%s %v", out, err)
	}
}

func FuzzResume(f *testing.F) {
	cfg := twoUplinks(true)
	l := drive(&testing.T{}, cfg).pair(5, 10, 10).pair(3, lost, 100).pair(3, 10, 100)
	f.Add(l.m.Encode(cfg, "p", "b"))
	f.Add(New(cfg).Encode(cfg, "p", "b"))
	f.Add([]byte(`{"version":1,"boot":"b","uplinks":[{"name":"a"}]}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		m, r, err := Resume(cfg, file, "b", "p", 15*sec)
		if err != nil && !r.Fresh {
			t.Fatal("damaged, and yet resumed")
		}
		// Whatever the file said, the machine lives: it reaches FAILOVER and is
		// NORMAL again in bounded time.
		d := &driver{t: t, cfg: cfg, m: m, now: 15 * sec}
		if d.m.uplinks[0].forced.on {
			d.m, _ = d.m.Clear(cfg, 0, d.now)
		}
		if n := d.until(Failover, lost); n > 3 {
			t.Fatalf("FAILOVER after %d rounds", n)
		}
		d.until(Normal, 10)
		w := d.m.World(cfg)
		if w.Selected[0] < 0 || w.Selected[0] > 2 {
			t.Fatalf("%+v", w)
		}
	})
}
