package daemon

import (
	"context"
	"math"
	"slices"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
)

const (
	// fineStep and fineSlots are half an hour, coarseStep and coarseSlots a day.
	fineStep, fineSlots     = 2 * time.Second, 900
	coarseStep, coarseSlots = time.Minute, 1440
)

// seriesKey names a series; uplink "" is the host's.
type seriesKey struct{ name, uplink string }

// values are those of a series, by time modulo their number; NaN was not measured.
type values struct {
	fine, coarse []float32
	sum          float32 // of the minute so far
	n            int
}

// meter keeps what was measured of late, in about ten kilobytes a series: at most twice
// as many uplinks as a policy has. It is guarded by Daemon.metering.
type meter struct {
	series       map[seriesKey]*values
	fine, coarse int64 // the newest slots, in steps since 1970
	rx, tx       map[string]uint64
	decided      uint64
	at           time.Time // of the last reading
}

func newMeter() *meter {
	return &meter{series: map[seriesKey]*values{}, rx: map[string]uint64{}, tx: map[string]uint64{}}
}

func unmeasured(n int) []float32 {
	list := make([]float32, n)
	for i := range list {
		list[i] = float32(math.NaN())
	}
	return list
}

// advance empties the slots between the last reading and this one.
func (m *meter) advance(now time.Time) {
	fine, coarse := now.UnixNano()/int64(fineStep), now.UnixNano()/int64(coarseStep)
	for _, v := range m.series {
		clean(v.fine, m.fine, fine)
		clean(v.coarse, m.coarse, coarse)
		if coarse != m.coarse {
			v.sum, v.n = 0, 0
		}
	}
	m.fine, m.coarse = fine, coarse
}

func clean(list []float32, from, to int64) {
	if to < from || to-from > int64(len(list)) {
		from = to - int64(len(list)) // the clock was set
	}
	for i := from + 1; i <= to; i++ {
		list[int(i%int64(len(list)))] = float32(math.NaN())
	}
}

// put notes a value of now.
func (m *meter) put(name, uplink string, value float64) {
	v := m.series[seriesKey{name, uplink}]
	if v == nil {
		v = &values{fine: unmeasured(fineSlots), coarse: unmeasured(coarseSlots)}
		m.series[seriesKey{name, uplink}] = v
	}
	v.fine[m.fine%fineSlots] = float32(value)
	if v.sum, v.n = v.sum+float32(value), v.n+1; name == "state" {
		v.sum, v.n = float32(value), 1 // a mean of states is none
	}
	v.coarse[m.coarse%coarseSlots] = v.sum / float32(v.n)
}

// rate notes how fast a counter grows, per second; the first reading tells nothing.
func (m *meter) rate(name, uplink string, old map[string]uint64, count uint64, since time.Duration) {
	if before, known := old[uplink]; known && count >= before && since > 0 {
		m.put(name, uplink, float64(count-before)/since.Seconds())
	}
	old[uplink] = count
}

// measure takes a reading every fineStep until ctx ends.
func (d *Daemon) measure(ctx context.Context) {
	t := time.NewTicker(fineStep)
	defer t.Stop()
	self := selfWatch{}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			if s := d.snap.Load(); s != nil {
				d.read(s, now)
				d.watchSelf(s, &self)
				if err := d.countFlows(ctx); err != nil {
					return // the daemon stops
				}
			}
		}
	}
}

// countFlows counts the followed connections by uplink, in portions.
func (d *Daemon) countFlows(ctx context.Context) error {
	counts := map[string]int{}
	for place := 0; place >= 0; {
		err := d.call(ctx, func(l *loop) error {
			c := l.core
			end := min(place+portion, len(c.roster))
			for _, t := range c.roster[min(place, end):end] {
				if c.ours(t) {
					continue
				}
				uplink, _ := whereTo(c.live.policy, &t.decision, t.route)
				counts[uplink]++
			}
			if place = end; end == len(c.roster) {
				place = -1
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, u := range d.snap.Load().live.policy.Uplinks {
		counts[u.Name] += 0
	}
	d.metrics.Active(counts)
	return nil
}

// read takes one reading.
func (d *Daemon) read(s *snapshot, now time.Time) {
	d.metering.Lock()
	defer d.metering.Unlock()
	m := d.meter
	since := now.Sub(m.at)
	m.advance(now)
	status := s.machine.Status(s.live.health)
	for key := range m.series { // of uplinks that are not there any more
		if key.uplink != "" && !slices.ContainsFunc(s.live.policy.Uplinks, isNamed(key.uplink)) {
			delete(m.series, key)
		}
	}
	for i, u := range status {
		if u.RTT >= 0 {
			m.put("rtt_ms", u.Name, milliseconds(u.RTT))
		}
		if u.Loss >= 0 {
			m.put("loss", u.Name, ratio(u.Loss))
		}
		if u.ErrorRate >= 0 {
			m.put("error_rate", u.Name, ratio(u.ErrorRate))
		}
		m.put("share", u.Name, float64(u.Share))
		m.put("state", u.Name, float64(u.State))
		if d.parts.Counters == nil {
			continue
		}
		if rx, tx, err := d.parts.Counters(s.live.policy.Uplinks[i].Dev); err == nil {
			m.rate("rx_rate", u.Name, m.rx, rx, since)
			m.rate("tx_rate", u.Name, m.tx, tx, since)
		}
	}
	m.put("state", "", float64(s.machine.Host().State))
	m.put("flows", "", float64(s.flows))
	if !m.at.IsZero() && s.decided >= m.decided && since > 0 {
		m.put("decisions_rate", "", float64(s.decided-m.decided)/since.Seconds())
	}
	m.decided, m.at = s.decided, now
}

// Range returns what was measured: each step of half an hour, or of a day where more is asked for.
func (d *Daemon) Range(q api.RangeRequest) api.Range {
	d.metering.Lock()
	defer d.metering.Unlock()
	m := d.meter
	step, slots, last := fineStep, fineSlots, m.fine
	if q.Back > fineStep*fineSlots {
		step, slots, last = coarseStep, coarseSlots, m.coarse
	}
	n := int(min(q.Back/step, time.Duration(slots)))
	first := last - int64(n) + 1
	out := api.Range{From: time.Unix(0, first*int64(step)), Step: int(step / time.Second), Series: []api.Series{}}
	if m.at.IsZero() {
		out.From = time.Now()
		return out
	}
	for _, name := range api.RangeSeries {
		if len(q.Series) > 0 && !slices.Contains(q.Series, name) {
			continue
		}
		for _, uplink := range m.uplinks(name) {
			if q.Uplink != "" && q.Uplink != uplink {
				continue
			}
			v := m.series[seriesKey{name, uplink}]
			list := v.fine
			if step == coarseStep {
				list = v.coarse
			}
			s := api.Series{Name: name, Uplink: uplink, Values: make([]*float64, n)}
			for i := range n {
				if x := float64(list[int((first+int64(i))%int64(slots))]); !math.IsNaN(x) {
					x = math.Round(x*1e4) / 1e4
					s.Values[i] = &x
				}
			}
			out.Series = append(out.Series, s)
		}
	}
	return out
}

// uplinks lists of what uplinks there is a series, the host's first.
func (m *meter) uplinks(name string) []string {
	var list []string
	for key := range m.series {
		if key.name == name {
			list = append(list, key.uplink)
		}
	}
	slices.Sort(list)
	return list
}
