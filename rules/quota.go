package rules

import "time"

// PeriodStart returns when the period around a time began: the last reset at or
// before it. local is the zone of resets. A reset that a clock change skips comes at
// the change, of one that comes twice the first counts.
func (q *Quota) PeriodStart(t time.Time, local *time.Location) time.Time {
	t = t.In(local)
	year, month, day := t.Date()
	at := func(year int, month time.Month, day int) time.Time {
		return instant(Date{year, month, day}, q.Reset, local)
	}
	var start time.Time
	switch q.Per {
	case PerHour:
		// Hours are of the same length also where the clock changes.
		start = t.Add(-time.Duration(t.Minute())*time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond())).
			Add(time.Duration(q.Reset%60) * time.Minute)
		if start.After(t) {
			start = start.Add(-time.Hour)
		}
		return start
	case PerDay:
		if start = at(year, month, day); start.After(t) {
			start = at(year, month, day-1)
		}
	case PerWeek:
		back := (int(t.Weekday()) + 6) % 7 // days since Monday
		if start = at(year, month, day-back); start.After(t) {
			start = at(year, month, day-back-7)
		}
	default:
		if start = at(year, month, 1); start.After(t) {
			start = at(year, month-1, 1)
		}
	}
	return start
}
