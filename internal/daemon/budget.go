package daemon

import (
	"fmt"
	"path/filepath"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// nearRate is how many rules a second may be looked at to tell which came nearest: some
// hundredths of a core. With a hundred rules two thousand decisions a second have their near misses
// in their records; beyond that, records have none.
const nearRate = 200_000

// budget is what is left of nearRate; the zero budget is full.
type budget struct {
	left float64
	at   time.Time
}

// take reports whether there is enough for n rules, and takes it. One look a second is always possible.
func (b *budget) take(now time.Time, n int) bool {
	since := now.Sub(b.at).Seconds()
	if b.at.IsZero() || since < 0 || since > 1 {
		b.left, b.at = nearRate, now
	} else {
		b.left, b.at = min(b.left+since*nearRate, nearRate), now
	}
	if b.left < min(float64(n), nearRate) {
		return false
	}
	b.left -= float64(n)
	return true
}

// maxPlaces is how many policies' places are kept: the one that decides, and the one that may return.
const maxPlaces = 2

// placed are the places of a policy's rules.
type placed struct {
	of   *rules.Policy
	list []string
}

// placesOf returns where each rule of a candidate stands; of a policy that was read before, from memory.
func (d *Daemon) placesOf(c *candidate) []string {
	for _, p := range d.places {
		if p.of == c.policy {
			return p.list
		}
	}
	if c.places != nil {
		d.places = append([]placed{{c.policy, c.places}}, d.places[:min(len(d.places), maxPlaces-1)]...)
	}
	return c.places
}

// placesIn finds where each rule of a policy stands in its sources, "file:line".
func placesIn(p *rules.Policy, sources []*diag.Source) []string {
	files := make(map[string]*diag.Source, len(sources))
	for _, s := range sources {
		files[s.Name] = s
	}
	list := make([]string, len(p.Rules))
	for i := range p.Rules {
		span := &p.Rules[i].Span
		if s := files[span.File]; s != nil {
			line, _ := s.Position(span.Start)
			list[i] = fmt.Sprintf("%s:%d", filepath.Base(span.File), line)
		}
	}
	return list
}
