package state

import (
	"fmt"
	"testing"
	"time"
)

const sec = time.Second

// driver feeds a machine with one round a second for each uplink.
type driver struct {
	t   *testing.T
	cfg Config
	m   Machine
	now time.Duration
	log []string
}

func oneUplink() Config {
	return Config{Uplinks: []UplinkConfig{DefaultUplink("wan1")}, Primary: 0}
}

func drive(t *testing.T, cfg Config) *driver {
	return &driver{t: t, cfg: cfg, m: New(cfg)}
}

// ms are probe answers in milliseconds; a negative number is a lost probe.
func ms(answers ...int) []Answer {
	var out []Answer
	for _, a := range answers {
		out = append(out, Answer{RTT: time.Duration(a) * time.Millisecond, Lost: a < 0})
	}
	return out
}

const lost = -1

// round runs one round with the same answers for every uplink, then time
// passes to the next one.
func (l *driver) round(answers ...int) *driver {
	for i := range l.cfg.Uplinks {
		l.step(Round{Uplink: i, At: l.now, Probes: ms(answers...)})
	}
	l.now += sec
	return l
}

func (l *driver) step(r Round) {
	var ts []Transition
	l.m, ts = l.m.Step(l.cfg, r)
	l.note(ts)
}

func (l *driver) tick() {
	var ts []Transition
	l.m, ts = l.m.Tick(l.cfg, l.now)
	l.note(ts)
}

func (l *driver) note(ts []Transition) {
	for _, t := range ts {
		if !legal(t.From, t.To) && t.Uplink >= 0 {
			l.t.Errorf("illegal edge: %v", t)
		}
		if t.Uplink >= 0 {
			l.log = append(l.log, fmt.Sprintf("%ds %s", t.At/sec, t.To))
		}
	}
}

func (l *driver) rounds(n int, answers ...int) *driver {
	for range n {
		l.round(answers...)
	}
	return l
}

// until runs rounds until uplink 0 is in state s and returns how many it took.
func (l *driver) until(s State, answers ...int) int {
	l.t.Helper()
	for n := range 5000 {
		if l.m.uplinks[0].state == s {
			return n
		}
		l.round(answers...)
	}
	l.t.Fatalf("never %v", s)
	return 0
}

func (l *driver) want(s State) {
	l.t.Helper()
	if got := l.m.World(l.cfg).Uplinks[0].State; got != s {
		l.t.Errorf("at %v: %v, want %v", l.now-sec, got, s)
	}
}
