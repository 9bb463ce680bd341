package rules

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/state"
)

// place is where a condition stands: it says which fields can be read there.
type place uint8

const (
	inMatch place = iota
	inWhen
	inCondition
	inQuota
	inAssert
)

// available reports fields that can't be read where the predicate stands.
func (c *checker) available(n *PredNode) bool {
	field := n.Field
	switch {
	case c.place == inWhen || c.place == inCondition:
		if field.OfWorld() {
			return true
		}
		what := "when"
		if c.place == inCondition {
			what = "a condition"
		}
		c.report("NP207", n.Key.Span, "%s can't be used in %s", n.Key.Text, what).Help = "conditions on the flow belong into match"
	case c.place == inQuota && field.OfWorld():
		c.report("NP207", n.Key.Span, "%s can't be used in a quota", n.Key.Text).Help = "a quota counts flows by what they are"
	case field == FieldState || field == FieldSchedule || field == FieldQuota || field == FieldCondition:
		help := c.form("write `when "+field.String()+" ...`", "write `when: {"+field.String()+": ...}`")
		if field == FieldCondition {
			help = c.form("write `when "+n.Key.Text+"`", "write `when: {condition: "+n.Key.Text+"}`")
		}
		what := "match"
		if c.place == inAssert {
			what, help = "an assertion", "states stand behind `when`"
		}
		c.report("NP207", n.Key.Span, "%s can't be used in %s", n.Key.Text, what).Help = help
	default:
		return true
	}
	return false
}

// lasting reads `for D`, which goes with comparisons of what is measured.
func (c *checker) lasting(n *PredNode, p *Pred, available bool) {
	if !n.For.Given() {
		return
	}
	switch p.Field {
	case FieldLatency, FieldErrorRate, FieldUplink, FieldRoute:
		d := c.duration(n.For, "for", time.Second, 24*time.Hour)
		if available && c.place != inQuota && c.place != inAssert {
			p.For = d
		} else if available {
			c.report("NP214", n.For.Span, "`for` has no meaning here")
		}
	default:
		c.report("NP214", n.For.Span, "%s is not measured over time: `for` can't be used with it", n.Key.Text).
			Help = "it goes with latency, error_rate, uplink.NAME.* and route.NAME.*"
	}
}

// implied makes a condition of a comparison with `for` that stands outside of one;
// equal ones share it.
func (c *checker) implied(n *ExprNode, e Expr, negated bool) Expr {
	key := impliedKey{e.Pred.Field, e.Pred.Ref, e.Pred.Metric, e.Pred.Cmp, e.Pred.Bound, e.Pred.States, e.Pred.For, negated}
	i, ok := c.impliedBy[key]
	if !ok {
		if negated {
			e = Expr{Op: OpNot, Span: e.Span, Kids: []Expr{e}}
		}
		i = len(c.p.Conditions)
		c.p.Conditions = append(c.p.Conditions, Condition{Name: n.Pred.Text, Span: n.Span, Expr: e})
		if c.impliedBy == nil {
			c.impliedBy = map[impliedKey]int{}
		}
		if c.impliedBy[key] = i; i == maxTimed {
			c.report("NP905", n.Span, "a policy has at most %d conditions", maxTimed)
		}
	}
	p := Pred{Field: FieldCondition, Ref: i, Text: n.Pred.Text}
	return Expr{Op: OpPred, Span: n.Span, Pred: p}
}

// impliedKey is all that a comparison with `for` says.
type impliedKey struct {
	field   Field
	ref     int
	metric  Metric
	cmp     Cmp
	bound   int64
	states  state.Set
	lasting time.Duration
	negated bool
}

// maxTimed bounds the schedules, the conditions and the quotas of a policy, each:
// all of them are looked at whenever the world changes.
const maxTimed = 1000

func (p *Pred) ofMetric(m Metric) bool {
	return (p.Field == FieldUplink || p.Field == FieldRoute) && p.Metric == m
}

// metric reads uplink.NAME.metric and route.NAME.metric with what they are compared with.
func (c *checker) metric(n *PredNode, p *Pred) (negated bool) {
	p.Metric = n.Metric
	if p.Field == FieldUplink {
		p.Ref = c.resolve(n.Subject, c.uplinks, c.usedUplinks, "uplink")
	} else if r := c.routeRef(n.Subject); r >= 0 {
		if p.Ref = c.p.firstUplink(r); p.Ref < 0 {
			c.report("NP207", n.Key.Span, "the route %s leads over no uplink: nothing of it is measured", diag.Quote(n.Subject.Text))
		} else {
			c.usedUplinks[p.Ref] = true
		}
	}
	switch n.Metric {
	case MetricUsage:
		c.report("NP502", n.Key.Span, "the usage of an uplink is not measured yet: the condition stays unknown").Help = "count with a quota"
		return c.comparison(n, p)
	case MetricState:
		for _, w := range n.Values {
			p.States |= c.state(w)
		}
		return c.equality(n)
	case MetricUp:
		negated = c.equality(n)
		if len(n.Values) != 1 {
			c.report("NP004", n.Key.Span, "expected true or false for %s", n.Key.Text)
			return negated
		}
		if c.boolean(n.Values[0], n.Key.Text) {
			p.Bound = 1
		}
		return negated
	default:
		return c.comparison(n, p)
	}
}

// when types the clause of that name: the states that it allows, and what else it asks for.
func (c *checker) when(n *ExprNode) (state.Set, *Expr) {
	was := c.place
	c.place = inWhen
	defer func() { c.place = was }()
	return c.splitWhen(n)
}

func (c *checker) splitWhen(n *ExprNode) (state.Set, *Expr) {
	switch {
	case onlyStates(n):
		return c.states(n), nil
	case n.Op == OpAnd:
		set, rest := state.AllStates, []Expr(nil)
		for i := range n.Kids {
			s, e := c.splitWhen(&n.Kids[i])
			set &= s
			if e != nil {
				rest = append(rest, *e)
			}
		}
		if len(rest) == 1 {
			return set, &rest[0]
		}
		return set, &Expr{Op: OpAnd, Span: n.Span, Kids: rest}
	default:
		e := c.expr(n)
		return state.AllStates, &e
	}
}

// onlyStates reports whether a condition reads nothing but the state.
func onlyStates(n *ExprNode) bool {
	if n.Op == OpPred {
		return n.Pred.Field == FieldState
	}
	for i := range n.Kids {
		if !onlyStates(&n.Kids[i]) {
			return false
		}
	}
	return true
}

func (c *checker) readConditions() {
	for i, d := range c.ast.Conditions {
		to := &c.p.Conditions[i]
		to.Name, to.Span = d.Name.Text, d.Name.Span
		if reserved := slices.Contains([]string{"any", "not", "schedule", "quota"}, d.Name.Text); reserved || slices.Contains(fieldNames[:], d.Name.Text) {
			c.report("NP106", d.Name.Span, "a condition can't be called %s: that is a word of the language", diag.Quote(d.Name.Text))
		}
		if d.Expr == nil {
			if !d.Bad {
				c.report("NP107", d.Name.Span, "the condition %s does not say what it is", diag.Quote(d.Name.Text))
			}
			continue
		}
		c.place = inCondition
		to.Expr = c.expr(d.Expr)
		c.place = inMatch
	}
	c.conditionCycles()
}

// conditionCycles reports conditions that read themselves.
func (c *checker) conditionCycles() {
	const open, done = 1, 2
	mark := make([]uint8, len(c.p.Conditions))
	var walk func(i int) bool
	var reads func(e *Expr) bool
	reads = func(e *Expr) bool {
		if e.Op == OpPred && e.Pred.Field == FieldCondition && e.Pred.Ref >= 0 {
			return walk(e.Pred.Ref)
		}
		for i := range e.Kids {
			if reads(&e.Kids[i]) {
				return true
			}
		}
		return false
	}
	walk = func(i int) bool {
		switch mark[i] {
		case open:
			c.report("NP114", c.p.Conditions[i].Span, "the condition %s reads itself", diag.Quote(c.p.Conditions[i].Name))
			return true
		case done:
			return false
		}
		mark[i] = open
		found := reads(&c.p.Conditions[i].Expr)
		mark[i] = done
		return found
	}
	for i := range mark {
		walk(i)
	}
}

var quotaKeys = []string{"limit", "per", "reset"}

func (c *checker) readQuotas() {
	for i, d := range c.ast.Quotas {
		q := &c.p.Quotas[i]
		*q = Quota{Name: d.Name.Text, Span: d.Name.Span, Per: PerDay}
		c.items(d.Items, "a quota", quotaKeys)
		if d.Expr != nil {
			c.place = inQuota
			q.Match = c.expr(d.Expr)
			c.place = inMatch
		} else if !d.Bad {
			c.report("NP107", d.Name.Span, "the quota %s does not say what it counts", diag.Quote(d.Name.Text)).Help = "add `match`"
		}
		for _, key := range []string{"limit", "per"} {
			if find(d.Items, key) == nil && !d.Bad && (key == "limit" || find(d.Items, "limit") != nil) {
				c.report("NP107", d.Name.Span, "the quota %s has no %s", diag.Quote(d.Name.Text), key).Help = "for example `limit 3GiB per day`"
			}
		}
		for j := range d.Items {
			item := &d.Items[j]
			w, ok := c.single(item)
			if !ok {
				continue
			}
			switch item.Key.Text {
			case "limit":
				q.Limit = c.amount(w, "the limit of a quota", "3GiB", sizeUnits)
			case "per":
				q.Per = Period(max(0, slices.Index(periods, c.oneOf(w, "per", periods...))))
			case "reset":
				if m, ok := parseTime(w.Text); ok && m < 24*60 {
					q.Reset = m
				} else {
					c.report("NP004", w.Span, "expected a time of day such as 04:00, found %s", diag.Quote(w.Text))
				}
			}
		}
	}
}

var (
	periods     = []string{"hour", "day", "week", "month"}
	dayNames    = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	scheduleKey = []string{"weekday", "time", "date", "tz"}
)

// String returns the period's name as policies spell it.
func (p Period) String() string { return periods[p] }

func (c *checker) readSchedules() {
	for i, d := range c.ast.Schedules {
		s := &c.p.Schedules[i]
		*s = Schedule{Name: d.Name.Text, Span: d.Name.Span}
		c.items(d.Items, "a schedule", scheduleKey)
		limits := 0
		for j := range d.Items {
			item := &d.Items[j]
			if item.Key.Text != "tz" {
				limits++
			}
			if item.Bad {
				continue
			}
			if item.Key.Text == "weekday" {
				for _, w := range c.plain(item) {
					s.Days |= c.days(w)
				}
				continue
			}
			w, ok := c.single(item)
			if !ok {
				continue
			}
			switch item.Key.Text {
			case "time":
				c.window(w, s)
			case "date":
				c.dates(w, s)
			case "tz":
				zone, err := time.LoadLocation(w.Text)
				if err != nil || w.Text == "" || w.Text == "Local" {
					c.report("NP213", w.Span, "no time zone is called %s", diag.Quote(w.Text)).Help = "names are those of the IANA database: Europe/Berlin"
					continue
				}
				s.Zone = zone
			}
		}
		if limits == 0 && !d.Bad {
			c.report("NP213", d.Name.Span, "the schedule %s says nothing: it would always hold", diag.Quote(d.Name.Text)).
				Help = "add `weekday`, `time` or `date`"
		}
	}
}

// days reads mon, mon-thu or fri-mon.
func (c *checker) days(w Word) uint8 {
	from, to, isRange := strings.Cut(strings.ToLower(w.Text), "-")
	if !isRange {
		to = from
	}
	first, last := weekday(from), weekday(to)
	if first < 0 || last < 0 {
		c.report("NP213", w.Span, "expected days such as mon-thu, found %s", diag.Quote(w.Text)).Help = "the days are " + orList(dayNames)
		return 0
	}
	var set uint8
	for d := first; ; d = (d + 1) % 7 {
		set |= 1 << d
		if d == last {
			return set
		}
	}
}

// weekday reads a day's name, short or in full; -1 for none.
func weekday(s string) int {
	for d := time.Sunday; d <= time.Saturday; d++ {
		if s == dayNames[d] || s == strings.ToLower(d.String()) {
			return int(d)
		}
	}
	return -1
}

// window reads 20:30-06:30.
func (c *checker) window(w Word, s *Schedule) {
	from, to, ok := strings.Cut(w.Text, "-")
	a, ok1 := parseTime(strings.TrimSpace(from))
	b, ok2 := parseTime(strings.TrimSpace(to))
	if !ok || !ok1 || !ok2 || a == 24*60 {
		c.report("NP213", w.Span, "expected a window such as 20:30-06:30, found %s", diag.Quote(w.Text))
		return
	}
	if a == b {
		c.report("NP213", w.Span, "the window %s is empty", diag.Quote(w.Text)).Help = "00:00-24:00 is the whole day"
		return
	}
	s.From, s.To = a, b
}

// parseTime reads HH:MM as minutes; 24:00 is the end of the day.
func parseTime(s string) (int, bool) {
	h, m, ok := strings.Cut(s, ":")
	hours, err := strconv.ParseUint(h, 10, 8)
	minutes, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || err != nil || err2 != nil || len(m) != 2 || len(h) > 2 || hours > 24 || minutes > 59 || hours == 24 && minutes > 0 {
		return 0, false
	}
	return int(hours*60 + minutes), true
}

// dates reads 2026-12-24 or 2026-12-24-2027-01-02.
func (c *checker) dates(w Word, s *Schedule) {
	const day = len("2026-12-24")
	first, last := w.Text, w.Text
	if len(w.Text) > day+1 && w.Text[day] == '-' {
		first, last = w.Text[:day], w.Text[day+1:]
	}
	a, err := time.Parse(time.DateOnly, first)
	b, err2 := time.Parse(time.DateOnly, last)
	switch {
	case err != nil || err2 != nil:
		c.report("NP213", w.Span, "expected a date such as 2026-12-24 or 2026-12-24-2027-01-02, found %s", diag.Quote(w.Text))
	case b.Before(a):
		c.report("NP213", w.Span, "the range of dates %s is empty", diag.Quote(w.Text))
	default:
		s.First, s.Last = Date{a.Year(), a.Month(), a.Day()}, Date{b.Year(), b.Month(), b.Day()}
	}
}
