package telemetry

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"netpolicy.dev/netpolicy/state"
)

// maxRuleLabels bounds the series that rule names can make: beyond it, hits are
// counted under "_other". A scrape of a thousand series is still small.
const maxRuleLabels = 1000

// Metrics are the daemon's counters and gauges, in the Prometheus text format,
// with the prefix netpolicy_. Addresses, names of hosts, users and connections
// are never labels. It is safe for concurrent use.
type Metrics struct {
	set      *metrics.Set
	reloaded atomic.Int64                                // when the last reload succeeded, in Unix time
	events   atomic.Pointer[map[string]*metrics.Counter] // by source

	applied       map[string]*histogram // by op
	turned, evals *histogram

	mu        sync.Mutex
	rules     map[string]*metrics.Counter // by name; beyond maxRuleLabels there are no more
	uplinks   []string                    // whose transitions have series
	decisions map[[3]string]*metrics.Counter
	active    map[string]int // connections by uplink
}

// NewMetrics returns an empty set, in which the losses of the queues count from nothing. live writes the
// gauges that follow from the daemon's present state at every scrape; nil means none.
func NewMetrics(version string, queues []string, live func(io.Writer)) *Metrics {
	m := &Metrics{
		set: metrics.NewSet(), rules: map[string]*metrics.Counter{}, decisions: map[[3]string]*metrics.Counter{},
		applied: map[string]*histogram{}, turned: newHistogram(applyBounds), evals: newHistogram(evalBounds),
	}
	m.set.GetOrCreateGauge("netpolicy_config_last_reload_success_timestamp_seconds", func() float64 { return float64(m.reloaded.Load()) })
	m.reloaded.Store(time.Now().Unix()) // the first policy is loaded, or nothing runs
	// What may happen counts from nothing: a rate of what is not there yet is none.
	for _, series := range []string{
		`config_reload_total{result="applied"}`, `config_reload_total{result="unchanged"}`, `config_reload_total{result="rejected"}`,
		`drift_total`,
		`decision_log_dropped_total{reason="` + DropQueue + `"}`, `decision_log_dropped_total{reason="` + DropDisk + `"}`,
	} {
		m.set.GetOrCreateCounter("netpolicy_" + series)
	}
	for _, op := range applyOps {
		m.applied[op] = newHistogram(applyBounds)
		m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_executor_errors_total{op=%q}", op))
	}
	for _, queue := range queues {
		m.Drop(queue, 0)
	}
	m.set.GetOrCreateGauge(fmt.Sprintf("netpolicy_build_info{version=%q}", version), func() float64 { return 1 })
	if live != nil {
		m.set.RegisterMetricsWriter(live)
	}
	return m
}

// WritePrometheus writes all metrics to w.
func (m *Metrics) WritePrometheus(w io.Writer) {
	m.set.WritePrometheus(w)
	for _, op := range applyOps {
		m.applied[op].write(w, "netpolicy_executor_apply_seconds", fmt.Sprintf("op=%q,", op))
	}
	m.turned.write(w, "netpolicy_update_seconds", "")
	m.evals.write(w, "netpolicy_eval_duration_seconds", "")
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, uplink := range slices.Sorted(maps.Keys(m.active)) {
		fmt.Fprintf(w, "netpolicy_connections_active{uplink=%q} %d\n", uplink, m.active[uplink])
	}
}

// applyOps are the kinds of writes to the kernel.
var applyOps = []string{"plan", "update"}

// Decision counts one decision: rule "" is the default or none.
func (m *Metrics) Decision(rule, action, route, event string) {
	if rule == "" {
		rule = defaultRule
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [3]string{action, route, event}
	c := m.decisions[key]
	if c == nil {
		c = m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_decisions_total{action=%q,route=%q,event=%q}", action, route, event))
		m.decisions[key] = c
	}
	c.Inc()
	m.ruleHits(rule).Inc()
}

func (m *Metrics) ruleHits(rule string) *metrics.Counter {
	c := m.rules[rule]
	if c == nil && len(m.rules) >= maxRuleLabels {
		rule = otherRules
	}
	if c == nil {
		c = m.set.GetOrCreateCounter(ruleSeries(rule))
		if rule != otherRules {
			m.rules[rule] = c
		}
	}
	return c
}

// Policy forgets the rules and uplinks of former policies, which else would take the place of new ones
// for ever, and has the changes of state of these uplinks count from nothing. rules are all that the policy has.
func (m *Metrics) Policy(rules, uplinks []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := make(map[string]bool, len(rules))
	for _, name := range rules {
		now[name] = true
	}
	for name := range m.rules {
		if !now[name] && name != defaultRule {
			m.set.UnregisterMetric(ruleSeries(name))
			delete(m.rules, name)
		}
	}
	for _, name := range m.uplinks {
		if !slices.Contains(uplinks, name) {
			transitions(name, func(series string) { m.set.UnregisterMetric(series) })
		}
	}
	m.uplinks = append([]string{""}, uplinks...) // "" is the host
	for _, name := range m.uplinks {
		transitions(name, func(series string) { m.set.GetOrCreateCounter(series) })
	}
}

// transitions calls each with the series of all changes of state of an uplink.
func transitions(uplink string, each func(series string)) {
	states := []state.State{state.Normal, state.Degraded, state.Failover, state.Recovery}
	for _, from := range states {
		for _, to := range states {
			if from != to {
				each(transitionSeries(uplink, from.String(), to.String()))
			}
		}
	}
}

func transitionSeries(uplink, from, to string) string {
	return fmt.Sprintf("netpolicy_state_transitions_total{uplink=%q,from=%q,to=%q}", uplink, from, to)
}

func ruleSeries(rule string) string { return fmt.Sprintf("netpolicy_rule_hits_total{rule=%q}", rule) }

// defaultRule is the label of what no rule decides.
const defaultRule = "_default"

// otherRules is the label of the rules beyond maxRuleLabels.
const otherRules = "_other"

// Transition counts one change of state of an uplink.
func (m *Metrics) Transition(uplink, from, to string) {
	m.set.GetOrCreateCounter(transitionSeries(uplink, from, to)).Inc()
}

// Reload counts one reload; result is "applied", "unchanged" or "rejected".
func (m *Metrics) Reload(result string) {
	m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_config_reload_total{result=%q}", result)).Inc()
	if result != "rejected" {
		m.reloaded.Store(time.Now().Unix())
	}
}

// Apply records how long one write to the kernel took; op is "plan" or "update".
func (m *Metrics) Apply(op string, took time.Duration, err error) {
	if h := m.applied[op]; h != nil {
		h.add(took.Seconds())
	}
	if err != nil {
		m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_executor_errors_total{op=%q}", op)).Inc()
	}
}

// Turned records how long it took from the sample that changed a state, a
// condition or a choice of a group until the kernel decided new flows by it.
func (m *Metrics) Turned(took time.Duration) {
	m.turned.add(took.Seconds())
}

// Evaluated records how long the daemon took over one event: what it learned, and the decision.
func (m *Metrics) Evaluated(took time.Duration) { m.evals.add(took.Seconds()) }

// Active notes how many connections are followed by uplink; "" leaves by none.
func (m *Metrics) Active(byUplink map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.active = byUplink
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

// DecisionDrops returns how many decision records were not written down, for any of the reasons.
func (m *Metrics) DecisionDrops(reasons ...string) (n uint64) {
	for _, reason := range reasons {
		n += m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_decision_log_dropped_total{reason=%q}", reason)).Get()
	}
	return n
}

// Alert counts what became of an alert: sent, failed, dropped.
func (m *Metrics) Alert(what, receiver string) {
	m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_alerts_total{result=%q,receiver=%q}", what, receiver)).Inc()
}

// Drops returns how many messages the named queue has lost.
func (m *Metrics) Drops(queue string) uint64 {
	return m.set.GetOrCreateCounter(fmt.Sprintf("netpolicy_queue_dropped_total{queue=%q}", queue)).Get()
}
