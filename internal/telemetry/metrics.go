package telemetry

import (
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// maxRuleLabels bounds the series that rule names can make: beyond it, hits are
// counted under "_other". A scrape of a thousand series is still small.
const maxRuleLabels = 1000

// Metrics are the daemon's counters and gauges, in the Prometheus text format,
// with the prefix netpolicy_. Addresses, names of hosts, users and connections
// are never labels. It is safe for concurrent use.
type Metrics struct {
	set    *metrics.Set
	events atomic.Pointer[map[string]*metrics.Counter] // by source

	mu    sync.Mutex
	rules map[string]bool
}

// NewMetrics returns an empty set. live writes the gauges that follow from the
// daemon's present state at every scrape; nil means none.
func NewMetrics(version string, live func(io.Writer)) *Metrics {
	m := &Metrics{set: metrics.NewSet(), rules: map[string]bool{}}
	m.set.GetOrCreateGauge(fmt.Sprintf("netpolicy_build_info{version=%q}", version), func() float64 { return 1 })
	if live != nil {
		m.set.RegisterMetricsWriter(live)
	}
	return m
}

// WritePrometheus writes all metrics to w.
func (m *Metrics) WritePrometheus(w io.Writer) { m.set.WritePrometheus(w) }

// Decision counts one decision: rule "" is the default or none.
func (m *Metrics) Decision(rule, action, route, event string) {
	m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_decisions_total{action=%q,route=%q,event=%q}", action, route, event)).Inc()
	if rule == "" {
		rule = "_default"
	}
	m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_rule_hits_total{rule=%q}", m.ruleLabel(rule))).Inc()
}

func (m *Metrics) ruleLabel(rule string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rules[rule] {
		return rule
	}
	if len(m.rules) >= maxRuleLabels {
		return "_other"
	}
	m.rules[rule] = true
	return rule
}

// Transition counts one change of state of an uplink.
func (m *Metrics) Transition(uplink, from, to string) {
	m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_state_transitions_total{uplink=%q,from=%q,to=%q}", uplink, from, to)).Inc()
}

// Reload counts one reload; result is "applied", "unchanged" or "rejected".
func (m *Metrics) Reload(result string) {
	m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_config_reload_total{result=%q}", result)).Inc()
}

// Apply records how long one write to the kernel took; op is "plan", "update" or "guard".
func (m *Metrics) Apply(op string, took time.Duration, err error) {
	m.set.GetOrCreateHistogram(fmt.Sprintf("netpolicy_executor_apply_seconds{op=%q}", op)).Update(took.Seconds())
	if err != nil {
		m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_executor_errors_total{op=%q}", op)).Inc()
	}
}

// Turned records how long it took from the sample that changed a state, a
// condition or a choice of a group until the kernel decided new flows by it.
func (m *Metrics) Turned(took time.Duration) {
	m.set.GetOrCreateHistogram("netpolicy_update_seconds").Update(took.Seconds())
}

// Drift counts one change that others made to what is enforced.
func (m *Metrics) Drift() { m.set.GetOrCreateCounter("netpolicy_drift_total").Inc() }

// Event counts one event of an inspector source; there are few sources, and many events.
func (m *Metrics) Event(source string) {
	if known := m.events.Load(); known != nil {
		if c := (*known)[source]; c != nil {
			c.Inc()
			return
		}
	}
	c := m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_inspector_events_total{source=%q}", source))
	c.Inc()
	for {
		known, next := m.events.Load(), map[string]*metrics.Counter{source: c}
		if known != nil {
			maps.Copy(next, *known)
		}
		if m.events.CompareAndSwap(known, &next) {
			return
		}
	}
}

// Drop counts n messages lost at a full queue: "events", "answers".
func (m *Metrics) Drop(queue string, n int) {
	m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_queue_dropped_total{queue=%q}", queue)).Add(n)
}

// DecisionDropped counts n decision records that were not written down.
func (m *Metrics) DecisionDropped(reason string, n int) {
	m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_decision_log_dropped_total{reason=%q}", reason)).Add(n)
}

// DecisionDrops returns how many decision records were not written down, for any reason.
func (m *Metrics) DecisionDrops() (n uint64) {
	for _, reason := range []string{DropQueue, DropDisk} {
		n += m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_decision_log_dropped_total{reason=%q}", reason)).Get()
	}
	return n
}

// Drops returns how many messages the named queue has lost.
func (m *Metrics) Drops(queue string) uint64 {
	return m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_queue_dropped_total{queue=%q}", queue)).Get()
}
