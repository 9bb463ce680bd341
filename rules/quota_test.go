package rules

import (
	"testing"
	"time"
)

func TestPeriodStart(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(s string) time.Time {
		at, err := time.ParseInLocation("2006-01-02 15:04:05", s, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for _, c := range []struct {
		per       Period
		reset     int
		at, start string
	}{
		{PerHour, 0, "2026-11-24 10:15:30", "2026-11-24 10:00:00"},
		{PerHour, 30, "2026-11-24 10:15:30", "2026-11-24 09:30:00"},
		{PerHour, 30, "2026-11-24 10:30:00", "2026-11-24 10:30:00"},
		{PerDay, 0, "2026-11-24 00:00:00", "2026-11-24 00:00:00"},
		{PerDay, 4 * 60, "2026-11-24 03:59:59", "2026-11-23 04:00:00"},
		{PerDay, 4 * 60, "2026-11-24 04:00:00", "2026-11-24 04:00:00"},
		{PerWeek, 4 * 60, "2026-11-24 10:00:00", "2026-11-23 04:00:00"}, // a Tuesday
		{PerWeek, 4 * 60, "2026-11-23 03:00:00", "2026-11-16 04:00:00"}, // a Monday
		{PerMonth, 0, "2026-11-24 10:00:00", "2026-11-01 00:00:00"},
		{PerMonth, 60, "2026-01-01 00:30:00", "2025-12-01 01:00:00"},
		{PerDay, 2*60 + 30, "2026-03-29 12:00:00", "2026-03-29 03:00:00"}, // 02:30 is skipped
		{PerDay, 0, "2026-10-25 12:00:00", "2026-10-25 00:00:00"},
	} {
		q := Quota{Per: c.per, Reset: c.reset}
		if got := q.PeriodStart(parse(c.at), berlin); !got.Equal(parse(c.start)) {
			t.Errorf("per %v, reset %d: the period around %s began at %s, want %s", c.per, c.reset, c.at, got, c.start)
		}
	}
}

// TestPeriodsFollowEachOther walks through two years: a period's start lies before
// its end, and starts never go back.
func TestPeriodsFollowEachOther(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for per := PerHour; per <= PerMonth; per++ {
		q := Quota{Per: per, Reset: 2*60 + 30}
		var last time.Time
		for at := time.Date(2026, 1, 1, 0, 0, 0, 0, berlin); at.Year() < 2028; at = at.Add(17 * time.Minute) {
			start := q.PeriodStart(at, berlin)
			if start.After(at) || start.Before(last) {
				t.Fatalf("per %v: at %s the period began at %s, before that at %s", per, at, start, last)
			}
			last = start
		}
	}
}
