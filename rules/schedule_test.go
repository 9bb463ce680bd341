package rules

import (
	"testing"
	"time"
	_ "time/tzdata" // the tests need no zones of the host

	"pgregory.net/rapid"
)

func mustZone(t interface{ Fatal(...any) }, name string) *time.Location {
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

const (
	minutes      = 1
	hours        = 60 * minutes
	schoolNights = 1<<time.Monday | 1<<time.Tuesday | 1<<time.Wednesday | 1<<time.Thursday
)

func TestSchedule(t *testing.T) {
	berlin, newYork := mustZone(t, "Europe/Berlin"), mustZone(t, "America/New_York")
	night := Schedule{Days: schoolNights | 1<<time.Sunday, From: 20*hours + 30, To: 6*hours + 30}
	const layout = "2006-01-02 15:04 MST"
	for _, c := range []struct {
		name string
		s    Schedule
		zone *time.Location
		// from is where one looks from; the changes are as the zone's clocks show them.
		from    string
		open    bool
		changes []string
	}{
		{"a window past midnight belongs to the day on which it starts", night, berlin, "2026-11-27 12:00 CET", false, []string{ // a Friday
			"2026-11-29 20:30 CET", "2026-11-30 06:30 CET", "2026-11-30 20:30 CET",
		}},
		{"on Saturday morning Thursday's is over", night, berlin, "2026-11-26 23:00 CET", true, []string{"2026-11-27 06:30 CET", "2026-11-29 20:30 CET"}},
		{"always", Schedule{}, berlin, "2026-11-27 12:00 CET", true, nil},
		{"whole days", Schedule{Days: 1<<time.Saturday | 1<<time.Sunday}, berlin, "2026-11-27 12:00 CET", false, []string{
			"2026-11-28 00:00 CET", "2026-11-30 00:00 CET", "2026-12-05 00:00 CET",
		}},
		{"until midnight", Schedule{From: 22 * hours, To: 24 * hours}, berlin, "2026-11-27 22:30 CET", true, []string{"2026-11-28 00:00 CET", "2026-11-28 22:00 CET"}},
		{"dates", Schedule{First: Date{2027, 1, 1}, Last: Date{2028, 2, 1}}, berlin, "2026-11-27 12:00 CET", false, []string{
			"2027-01-01 00:00 CET", "2028-02-02 00:00 CET", "",
		}},
		{"the last window may end after its date", Schedule{From: 20 * hours, To: 6 * hours, First: Date{2026, 11, 27}, Last: Date{2026, 11, 27}}, berlin, "2026-11-27 05:00 CET", false, []string{
			"2026-11-27 20:00 CET", "2026-11-28 06:00 CET", "",
		}},
		{"a day that the dates leave out", Schedule{Days: 1 << time.Sunday, First: Date{2026, 11, 30}, Last: Date{2026, 12, 5}}, berlin, "2026-11-27 05:00 CET", false, nil},
		{"the schedule's zone counts", Schedule{From: 8 * hours, To: 9 * hours, Zone: newYork}, berlin, "2026-11-27 12:00 CET", false, []string{
			"2026-11-27 14:00 CET", "2026-11-27 15:00 CET",
		}},

		// Berlin, 2026-03-29: at 02:00 CET the clocks show 03:00 CEST.
		{"spring: over the hour that is not", Schedule{From: 1 * hours, To: 4 * hours}, berlin, "2026-03-28 12:00 CET", false, []string{
			"2026-03-29 01:00 CET", "2026-03-29 04:00 CEST", "2026-03-30 01:00 CEST",
		}},
		{"spring: opens in it", Schedule{From: 2*hours + 30, To: 4 * hours}, berlin, "2026-03-29 00:00 CET", false, []string{
			"2026-03-29 03:00 CEST", "2026-03-29 04:00 CEST",
		}},
		{"spring: closes in it", Schedule{From: 1 * hours, To: 2*hours + 30}, berlin, "2026-03-29 00:00 CET", false, []string{
			"2026-03-29 01:00 CET", "2026-03-29 03:00 CEST",
		}},
		{"spring: all in it is nothing", Schedule{From: 2*hours + 15, To: 2*hours + 45}, berlin, "2026-03-28 12:00 CET", false, []string{
			"2026-03-30 02:15 CEST", "2026-03-30 02:45 CEST",
		}},
		{"spring: on Sundays", Schedule{Days: 1 << time.Sunday, From: 2*hours + 15, To: 2*hours + 45}, berlin, "2026-03-28 12:00 CET", false, []string{"2026-04-05 02:15 CEST"}},
		// Berlin, 2026-10-25: at 03:00 CEST the clocks show 02:00 CET.
		{"autumn: opens at the first of both", Schedule{From: 2*hours + 30, To: 4 * hours}, berlin, "2026-10-25 00:00 CEST", false, []string{
			"2026-10-25 02:30 CEST", "2026-10-25 04:00 CET",
		}},
		{"autumn: closes at the first of both", Schedule{From: 1 * hours, To: 2*hours + 30}, berlin, "2026-10-25 00:00 CEST", false, []string{
			"2026-10-25 01:00 CEST", "2026-10-25 02:30 CEST", "2026-10-26 01:00 CET",
		}},
		{"autumn: all in it comes once", Schedule{From: 2*hours + 15, To: 2*hours + 45}, berlin, "2026-10-25 00:00 CEST", false, []string{
			"2026-10-25 02:15 CEST", "2026-10-25 02:45 CEST", "2026-10-26 02:15 CET",
		}},
		{"autumn: closes after both", Schedule{From: 22 * hours, To: 3 * hours}, berlin, "2026-10-24 12:00 CEST", false, []string{
			"2026-10-24 22:00 CEST", "2026-10-25 03:00 CET",
		}},
		// New York, 2026-03-08: at 02:00 EST the clocks show 03:00 EDT; 2026-11-01: at 02:00 EDT 01:00 EST.
		{"New York, spring", Schedule{From: 2*hours + 1, To: 3*hours + 1}, newYork, "2026-03-08 00:00 EST", false, []string{
			"2026-03-08 03:00 EDT", "2026-03-08 03:01 EDT", "2026-03-09 02:01 EDT",
		}},
		{"New York, autumn", Schedule{Days: 1 << time.Sunday, From: 1*hours + 30, To: 2 * hours}, newYork, "2026-11-01 00:00 EDT", false, []string{
			"2026-11-01 01:30 EDT", "2026-11-01 02:00 EST", "2026-11-08 01:30 EST",
		}},
	} {
		at, err := time.ParseInLocation(layout, c.from, c.zone)
		if err != nil {
			t.Fatal(err)
		}
		open := c.s.Open(at, c.zone)
		if open != c.open {
			t.Errorf("%s: open %v at the beginning", c.name, open)
		}
		if c.changes == nil {
			c.changes = []string{""}
		}
		for _, want := range c.changes {
			next := c.s.NextChange(at, c.zone)
			got := ""
			if !next.IsZero() {
				got = next.In(c.zone).Format(layout)
			}
			if got != want {
				t.Errorf("%s: after %v it changes at %q, want %q", c.name, at, got, want)
				break
			}
			if want == "" {
				break
			}
			if before := c.s.Open(next.Add(-1), c.zone); before != open || c.s.Open(next, c.zone) == open {
				t.Errorf("%s: no change at %v", c.name, next)
			}
			open, at = !open, next
		}
	}
}

// minuteByMinute is Open as a clock on the wall would tell it: somebody looks at it
// each minute, opens a day's window when it first shows its start or later, and
// closes it when it first shows its end or later.
func minuteByMinute(s *Schedule, from time.Time, n int) []bool {
	type window struct {
		start, end   time.Time // as the clock shows them
		opened, shut bool
	}
	show := func(t time.Time) time.Time {
		t = t.In(s.Zone)
		return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
	}
	const before = 4 * 24 * hours // no window is as long
	t := from.Add(-before * time.Minute)
	var list []window
	first := show(t).Truncate(24 * time.Hour)
	for i := range before/(24*hours) + n/(24*hours) + 5 {
		d := first.AddDate(0, 0, i)
		if s.Days != 0 && s.Days>>d.Weekday()&1 == 0 {
			continue
		}
		if s.First != (Date{}) && d.Before(midnight(s.First)) || s.Last != (Date{}) && d.After(midnight(s.Last)) {
			continue
		}
		w := window{start: d.Add(time.Duration(s.From) * time.Minute), end: d.Add(time.Duration(s.To) * time.Minute)}
		switch {
		case s.From == s.To:
			w.start, w.end = d, d.AddDate(0, 0, 1)
		case s.To < s.From:
			w.end = w.end.AddDate(0, 0, 1)
		}
		list = append(list, w)
	}
	var out []bool
	for i := range before + n {
		now, open := show(t.Add(time.Duration(i)*time.Minute)), false
		for k := range list {
			w := &list[k]
			w.opened = w.opened || !now.Before(w.start)
			w.shut = w.shut || !now.Before(w.end)
			open = open || w.opened && !w.shut
		}
		if i >= before {
			out = append(out, open)
		}
	}
	return out
}

func midnight(d Date) time.Time { return time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, time.UTC) }

// TestScheduleMinuteByMinute draws schedules around clock changes, also such as set
// the clocks back over midnight, by half an hour, or by a whole day.
func TestScheduleMinuteByMinute(t *testing.T) {
	places := []struct{ zone, day string }{
		{"Europe/Berlin", "2026-03-29"},
		{"Europe/Berlin", "2026-10-25"},
		{"America/New_York", "2026-03-08"},
		{"America/New_York", "2026-11-01"},
		{"Australia/Lord_Howe", "2026-04-05"},
		{"America/Havana", "2026-03-08"},
		{"America/Havana", "2026-11-01"},
		{"Pacific/Apia", "2011-12-30"},
		{"America/Santiago", "2026-04-05"},
		{"Asia/Kathmandu", "2026-01-01"},
		{"UTC", "2026-12-31"},
	}
	rapid.Check(t, func(t *rapid.T) {
		place := rapid.SampledFrom(places).Draw(t, "place")
		day, err := time.Parse(time.DateOnly, place.day)
		if err != nil {
			t.Fatal(err)
		}
		s := Schedule{Zone: mustZone(t, place.zone), Days: uint8(rapid.IntRange(0, 127).Draw(t, "days"))}
		minute := rapid.OneOf(rapid.IntRange(0, 24*hours), rapid.Map(rapid.IntRange(0, 8), func(n int) int { return n * 30 }))
		s.From, s.To = min(minute.Draw(t, "from"), 24*hours-1), minute.Draw(t, "to")
		date := rapid.Custom(func(t *rapid.T) Date {
			d := day.AddDate(0, 0, rapid.IntRange(-3, 3).Draw(t, "date"))
			return Date{d.Year(), d.Month(), d.Day()}
		})
		if rapid.Bool().Draw(t, "dated") {
			s.First, s.Last = date.Draw(t, "first"), date.Draw(t, "last")
		}
		const looked = 4 * 24 * hours
		from := day.AddDate(0, 0, -2).Add(time.Duration(rapid.IntRange(0, 24*hours).Draw(t, "begin")) * time.Minute)
		want := minuteByMinute(&s, from, looked)
		next := s.NextChange(from.Add(-time.Minute), nil)
		last := s.Open(from.Add(-time.Minute), nil)
		for i, open := range want {
			now := from.Add(time.Duration(i) * time.Minute)
			if got := s.Open(now, nil); got != open {
				t.Fatalf("%+v at %v: %v, want %v", s, now.In(s.Zone), got, open)
			}
			if open != last {
				if !next.Equal(now) {
					t.Fatalf("%+v changes at %v, said was %v", s, now.In(s.Zone), next)
				}
				next = s.NextChange(now, nil)
			}
			last = open
		}
		if end := from.Add(looked * time.Minute); !next.IsZero() && next.Before(end) {
			t.Fatalf("%+v does not change at %v", s, next)
		}
	})
}
