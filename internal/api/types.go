// Package api is how people and programs speak with a running netpolicyd: HTTP
// over a unix socket, and over TCP where the policy asks for it; and the Go client that
// `netpolicy` uses. It knows nothing of the daemon but small interfaces.
//
// openapi.yaml is the contract; a test holds the two together. Errors are problem
// objects (RFC 9457).
package api

import (
	"encoding/json"
	"time"
)

// Status is what `netpolicy status` shows.
type Status struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Now     time.Time `json:"now"`
	Mode    string    `json:"mode"` // "enforce" or "observe"
	// StateDir is the state folder, whose ledger lists what is netpolicyd's.
	StateDir string `json:"state_dir,omitempty"`

	Policy Policy `json:"policy"`
	// Error is the last reload that was rejected (NP501), nil once one succeeded.
	Error *ReloadError `json:"error"`
	// Enforcement is "" while the kernel holds the plan, else why it does not.
	Enforcement string `json:"enforcement,omitempty"`
	// Drift is the last change that others made to what is enforced, nil for none.
	Drift *Drift `json:"drift,omitempty"`
	// Confirm is the change that waits for its confirmation, nil for none; Reverted
	// the last one that was taken back, until the next change.
	Confirm  *Confirm `json:"confirm,omitempty"`
	Reverted *Revert  `json:"reverted,omitempty"`

	State string `json:"state"` // the global state
	// Since is when the primary uplink entered its state; zero without uplinks.
	Since   time.Time `json:"since,omitzero"`
	Uplinks []Uplink  `json:"uplinks"`
	Sources []Source  `json:"sources"`
	// Schedules (open), Conditions and Quotas are those of the policy, by name.
	Schedules  []Truth `json:"schedules,omitempty"`
	Conditions []Truth `json:"conditions,omitempty"`
	Quotas     []Quota `json:"quotas,omitempty"`

	// Xray is what runs for routes via xray, nil for none.
	Xray *Xray `json:"xray,omitempty"`

	Flows     int    `json:"flows"` // flows followed now
	Names     int    `json:"names"` // addresses with a live DNS name
	Decisions uint64 `json:"decisions"`
	// Hits are the rules that have decided most often since the policy became live,
	// the most first.
	Hits []Hits `json:"hits"`
	// Drops counts what full queues lost, by queue, and under the name with OnDisk what a disk did not take.
	Drops map[string]uint64 `json:"drops"`
}

// OnDisk is the end of the keys of Drops that count what was to go to a disk that was full or not there.
const OnDisk = " (disk)"

// Drift is a change by another process of our table, rules or routes. It is put back.
type Drift struct {
	Time  time.Time `json:"time"`
	What  string    `json:"what"`
	Count uint64    `json:"count"` // changes since the daemon started
}

// Truth is a schedule or condition and whether it holds: "true", "false" or "unknown".
type Truth struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Quota is a quota's usage in its present period.
type Quota struct {
	Name     string    `json:"name"`
	Used     int64     `json:"used"` // bytes
	Limit    int64     `json:"limit"`
	Per      string    `json:"per"` // hour, day, week, month
	Since    time.Time `json:"since,omitzero"`
	Exceeded bool      `json:"exceeded"`
}

// Hits is how often a rule has decided.
type Hits struct {
	Rule      string `json:"rule"`
	Decisions uint64 `json:"decisions"`
}

// Policy names the policy that decides.
type Policy struct {
	File   string    `json:"file"`
	Hash   string    `json:"hash"`
	Since  time.Time `json:"since"` // when it became live
	Rules  int       `json:"rules"`
	Routes int       `json:"routes"`
}

// ReloadError is NP501: a new policy was rejected and the old one kept.
type ReloadError struct {
	Code        string       `json:"code"`
	Time        time.Time    `json:"time"`
	Message     string       `json:"message"`
	Diagnostics []Diagnostic `json:"diagnostics"` // the first errors
}

// Diagnostic is one finding with its place; lines and columns are 1-based
// characters, 0 where there is no place.
type Diagnostic struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	// EndLine and EndColumn are the place of the character behind it.
	EndLine   int    `json:"end_line,omitempty"`
	EndColumn int    `json:"end_column,omitempty"`
	Message   string `json:"message"`
	Help      string `json:"help,omitempty"`
}

// Source is one source of flow events.
type Source struct {
	Name  string `json:"name"`
	Error string `json:"error,omitempty"` // why it is not in use; "" while it runs
	// Facts are what it serves and what it can't, where that is not always the same.
	Facts []Fact `json:"facts,omitempty"`
}

// Fact is one kind of fact of a source.
type Fact struct {
	Fact  string `json:"fact"`
	Hook  string `json:"hook,omitempty"`  // where it comes from
	Error string `json:"error,omitempty"` // why it is not served; "" when it is
}

// Uplink is one line as the machine sees it. Metrics are negative until measured.
type Uplink struct {
	Name    string    `json:"name"`
	Dev     string    `json:"dev"`
	Primary bool      `json:"primary,omitempty"`
	State   string    `json:"state"`
	Since   time.Time `json:"since,omitzero"`
	Unknown bool      `json:"unknown,omitempty"` // no verdict yet
	Up      bool      `json:"up"`
	Share   int       `json:"share"` // percent of new flows that groups give it

	Verdict      string    `json:"verdict,omitempty"` // of the last round: good, grey, bad, dead
	VerdictSince time.Time `json:"verdict_since,omitzero"`
	// Why names what keeps the line from being good, such as "rtt 104 ms, exit 90 ms".
	Why string `json:"why,omitempty"`

	RTTms   float64 `json:"rtt_ms"`
	P90ms   float64 `json:"rtt_p90_ms"`
	Loss    float64 `json:"loss"`       // 0..1
	Errors  float64 `json:"error_rate"` // 0..1
	Penalty int     `json:"penalty"`
	// HoldUntil is when the state may be left at the earliest; zero when it may be now.
	HoldUntil  time.Time `json:"hold_until,omitzero"`
	Suppressed bool      `json:"suppressed,omitempty"`
	Forced     *Forced   `json:"forced,omitempty"`
	// Thresholds are those of the policy.
	Thresholds *Thresholds `json:"thresholds,omitempty"`
}

// Thresholds are what makes a line bad.
type Thresholds struct {
	RTTms  Threshold `json:"rtt_ms"`
	Loss   Threshold `json:"loss"`       // 0..1
	Errors Threshold `json:"error_rate"` // 0..1
}

// Threshold has two values: a line is bad from Enter on, and good at Exit or below.
type Threshold struct {
	Enter float64 `json:"enter"`
	Exit  float64 `json:"exit"`
}

// Forced is a state override.
type Forced struct {
	State  string    `json:"state"`
	Shadow string    `json:"shadow"` // the state that the machine is in by itself
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// ForceRequest asks for a state override. Uplink "" means the primary.
type ForceRequest struct {
	State  string `json:"state"`
	Uplink string `json:"uplink,omitempty"`
	For    string `json:"for"` // a Go duration, such as 10m
	Reason string `json:"reason"`
}

// ReloadResult is the answer to a reload.
type ReloadResult struct {
	Result      string       `json:"result"` // applied, unchanged, rejected
	Policy      Policy       `json:"policy"` // the one that decides now
	Error       string       `json:"error,omitempty"`
	Diagnostics []Diagnostic `json:"diagnostics"`
}

// The results of a reload.
const (
	Applied   = "applied"
	Unchanged = "unchanged"
	Rejected  = "rejected"
)

// ExplainRequest asks how a flow would be decided now. Flow is a JSON string in
// the text spelling of flows, or a flow object. State "" is the live state. With Text
// it is decided by that policy instead of the one in force.
type ExplainRequest struct {
	Flow   json.RawMessage `json:"flow"`
	State  string          `json:"state,omitempty"`
	Text   string          `json:"text,omitempty"`
	Syntax string          `json:"syntax,omitempty"`
}

// Problem is an error answer (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}
