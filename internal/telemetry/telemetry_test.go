package telemetry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

func TestRecordIsTheDecisionWithMore(t *testing.T) {
	r := Record{
		Decision: json.RawMessage(`{"id":"1","rule":"zoom","action":"route"}`),
		Context: Context{
			Time: time.Unix(1, 0).UTC(), Event: "open", Mode: "enforce", Policy: "abc",
			Flow: json.RawMessage(`{"proto":"tcp"}`), Uplink: "wan1",
		},
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"schema":"np.decision/1","id":"1","rule":"zoom","action":"route","time":"1970-01-01T00:00:01Z","event":"open",` +
		`"mode":"enforce","policy":"abc","flow":{"proto":"tcp"},"uplink":"wan1"}`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Error(diff)
	}
	if _, err := json.Marshal(Record{Decision: json.RawMessage(`7`)}); err == nil {
		t.Error("a decision that is no object was encoded")
	}
}

func TestRing(t *testing.T) {
	r := NewRing(3)
	if b := r.Read(0, 10); len(b.Lines) != 0 || b.Next != 0 || b.Missed != 0 {
		t.Fatalf("empty ring: %+v", b)
	}
	more := r.Read(0, 1).More
	for i := range 5 {
		r.Append(fmt.Append(nil, i))
	}
	select {
	case <-more:
	default:
		t.Error("a waiting reader was not woken")
	}
	b := r.Read(0, 2)
	if got := string(bytes.Join(b.Lines, []byte(","))); got != "2,3" || b.Missed != 2 || b.Next != 4 {
		t.Errorf("got %s, missed %d, next %d", got, b.Missed, b.Next)
	}
	select {
	case <-b.More:
	default:
		t.Error("there is more to read, and More waits")
	}
	if got := r.Last(2); got != 3 {
		t.Errorf("Last(2) = %d, want 3", got)
	}
	if got := r.Last(100); got != 2 {
		t.Errorf("Last(100) = %d, want 2", got)
	}
}

// TestRingBytes: long lines leave room for fewer of them, and the newest is always there.
func TestRingBytes(t *testing.T) {
	r := NewRing(4)
	held := func() (n int) {
		for _, line := range r.Read(0, 10).Lines {
			n += len(line)
		}
		return n
	}
	for i := range 10 {
		r.Append(bytes.Repeat([]byte{'x'}, lineSize*(1+i%3)))
		if got := held(); got > 4*lineSize || got == 0 {
			t.Errorf("after %d lines %d bytes are held", i+1, got)
		}
	}
	r.Append(make([]byte, 100*lineSize))
	if b := r.Read(0, 10); len(b.Lines) != 1 || b.Missed != 10 || b.Next != 11 || held() != 100*lineSize {
		t.Errorf("%d lines, %d missed", len(b.Lines), b.Missed)
	}
	for range 4 {
		r.Append([]byte("short"))
	}
	if b := r.Read(0, 10); len(b.Lines) != 4 || b.Missed != 11 || r.bytes != 20 {
		t.Errorf("%d lines of %d bytes, %d missed", len(b.Lines), r.bytes, b.Missed)
	}
}

func TestMetrics(t *testing.T) {
	m := NewMetrics("v1", []string{"events", "answers"}, nil)
	for i := range maxRuleLabels + 5 {
		m.Decision(fmt.Sprint("rule", i), "route", "wan1", "open")
	}
	m.Drop("events", 3)
	m.Reload("rejected")
	m.Apply("update", time.Millisecond, nil)
	m.Transition("wan1", "NORMAL", "FAILOVER")
	var b bytes.Buffer
	m.WritePrometheus(&b)
	for _, want := range []string{
		`netpolicy_build_info{version="v1"} 1`,
		`netpolicy_rule_hits_total{rule="_other"} 5`,
		`netpolicy_decisions_total{action="route",route="wan1",event="open"} 1005`,
		`netpolicy_queue_dropped_total{queue="events"} 3`,
		`netpolicy_config_reload_total{result="rejected"} 1`,
		`netpolicy_state_transitions_total{uplink="wan1",from="NORMAL",to="FAILOVER"} 1`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("missing %s", want)
		}
	}
}

// TestMetricsOfAPolicy: rules that are not there any more leave their place to others, and what can happen has
// its series before it does, so that a rate sees the first time.
func TestMetricsOfAPolicy(t *testing.T) {
	m := NewMetrics("v1", []string{"events"}, nil)
	text := func() string {
		var b bytes.Buffer
		m.WritePrometheus(&b)
		return b.String()
	}
	var old []string
	for i := range maxRuleLabels + 5 {
		old = append(old, fmt.Sprint("old", i))
		m.Decision(old[i], "route", "wan1", "open")
	}
	m.Decision("", "route", "wan1", "open")
	m.Policy(append(old[:10:10], "new"), []string{"wan1"})
	m.Decision("new", "route", "wan1", "open")
	got := text()
	for _, want := range []string{
		`netpolicy_rule_hits_total{rule="new"} 1`, `netpolicy_rule_hits_total{rule="old9"} 1`,
		`netpolicy_state_transitions_total{uplink="wan1",from="NORMAL",to="FAILOVER"} 0`,
		`netpolicy_state_transitions_total{uplink="",from="FAILOVER",to="RECOVERY"} 0`,
		`netpolicy_queue_dropped_total{queue="events"} 0`, `netpolicy_executor_errors_total{op="update"} 0`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("missing %s", want)
		}
	}
	if strings.Contains(got, `"old10"`) || strings.Count(got, "netpolicy_rule_hits_total{") > 13 {
		t.Errorf("rules that are gone have series:\n%.3000s", got)
	}
	m.Transition("wan1", "NORMAL", "FAILOVER")
	m.Policy([]string{"new"}, []string{"wan2"})
	if got := text(); strings.Contains(got, `uplink="wan1"`) || !strings.Contains(got, `uplink="wan2",from="NORMAL",to="DEGRADED"} 0`) {
		t.Errorf("uplinks that are gone have series:\n%.3000s", got)
	}
}

func TestNewLogger(t *testing.T) {
	var b bytes.Buffer
	l, err := NewLogger(&b, "json", "warn")
	if err != nil {
		t.Fatal(err)
	}
	l.Info("no")
	l.Warn("policy rejected", "code", "NP501")
	if got := b.String(); strings.Contains(got, `"no"`) || !strings.Contains(got, `"code":"NP501"`) {
		t.Errorf("got %s", got)
	}
	for _, bad := range [][2]string{{"xml", "info"}, {"json", "loud"}} {
		if _, err := NewLogger(&b, bad[0], bad[1]); err == nil {
			t.Errorf("NewLogger(%q, %q) did not fail", bad[0], bad[1])
		}
	}
}
