package rules

import (
	"time"
)

// Open reports whether the schedule holds at t. local is the zone of schedules
// without one of their own.
//
// A window belongs to the day on which it starts, by which its weekday and date
// count. It opens at the first instant whose local time is at or after its start,
// and closes at the first at or after its end: a time that a clock change skips
// counts as the moment of the change, of one that comes twice the first counts.
func (s *Schedule) Open(t time.Time, local *time.Location) bool {
	zone := s.zone(local)
	first := dateOf(t, zone).add(-windowDays)
	for i := range 2*windowDays + 1 {
		if from, to := s.window(first.add(i), zone); !from.After(t) && to.After(t) {
			return true
		}
	}
	return false
}

const (
	// windowDays is how far from a day a window of it may reach: into the next day,
	// and one more as clocks change.
	windowDays = 2
	// searchDays is how long a schedule can be without a change and change again,
	// but for its dates: a week, and another where a clock change swallowed a window.
	searchDays = 22
)

// NextChange returns the first instant after t at which Open changes; the zero Time
// if it never does.
func (s *Schedule) NextChange(t time.Time, local *time.Location) time.Time {
	zone := s.zone(local)
	open := s.Open(t, local)
	day := dateOf(t, zone).add(-windowDays)
	if next, ok := s.changeFrom(day, t, open, zone, local); ok {
		return next
	}
	// From here on every week is as the last one, up to the dates.
	for _, d := range [...]Date{s.First, s.Last} {
		if d != (Date{}) && d.after(day) {
			if next, ok := s.changeFrom(d.add(-windowDays), t, open, zone, local); ok {
				return next
			}
		}
	}
	return time.Time{}
}

// changeFrom looks for the next change at the ends of the windows of some days.
func (s *Schedule) changeFrom(day Date, t time.Time, open bool, zone, local *time.Location) (time.Time, bool) {
	var next time.Time
	for i := range searchDays {
		from, to := s.window(day.add(i), zone)
		for _, at := range [...]time.Time{from, to} {
			if at.After(t) && (next.IsZero() || at.Before(next)) && s.Open(at, local) != open {
				next = at
			}
		}
		if !next.IsZero() && next.Before(instant(day.add(i), 0, zone)) {
			break // later days begin later
		}
	}
	return next, !next.IsZero()
}

func (s *Schedule) zone(local *time.Location) *time.Location {
	if s.Zone != nil {
		return s.Zone
	}
	return local
}

// window returns when the window of a day opens and closes; both are zero if the
// day has none.
func (s *Schedule) window(d Date, zone *time.Location) (from, to time.Time) {
	weekday := time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, time.UTC).Weekday()
	switch {
	case s.Days != 0 && s.Days>>weekday&1 == 0,
		s.First != (Date{}) && s.First.after(d),
		s.Last != (Date{}) && d.after(s.Last):
		return from, to
	case s.From == s.To:
		return instant(d, 0, zone), instant(d.add(1), 0, zone)
	case s.To < s.From:
		return instant(d, s.From, zone), instant(d.add(1), s.To, zone)
	default:
		return instant(d, s.From, zone), instant(d, s.To, zone)
	}
}

// dateOf is the day at t in a zone.
func dateOf(t time.Time, zone *time.Location) Date {
	y, m, d := t.In(zone).Date()
	return Date{y, m, d}
}

// add returns the day n days later.
func (d Date) add(n int) Date {
	return dateOf(time.Date(d.Year, d.Month, d.Day+n, 0, 0, 0, 0, time.UTC), time.UTC)
}

func (d Date) after(e Date) bool {
	return d.Year > e.Year || d.Year == e.Year && (d.Month > e.Month || d.Month == e.Month && d.Day > e.Day)
}

// instant returns the first instant at which the clocks of a zone show a day and
// a minute of it, or a later time.
func instant(d Date, minute int, zone *time.Location) time.Time {
	const farthest = 26 * time.Hour // no zone's clocks are so far from UTC
	shown := time.Date(d.Year, d.Month, d.Day, 0, minute, 0, 0, time.UTC)
	t := shown.Add(-farthest).In(zone)
	for {
		_, offset := t.Zone()
		_, end := t.ZoneBounds()
		at := shown.Add(-time.Duration(offset) * time.Second)
		switch {
		case at.Before(t):
			return t // the clocks were set past it
		case end.IsZero() || at.Before(end):
			return at.In(zone)
		}
		t = end
	}
}
