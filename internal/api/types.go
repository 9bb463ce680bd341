// Package api is how people and programs speak with a running netpolicyd: HTTP
// over a unix socket, and the Go client that `netpolicy status`, `tail`, `top`,
// `uplinks`, `reload` and `state` use. It knows nothing of the daemon but small
// interfaces: Reader, Lister, Admin, Changes, Tunnels.
//
//	GET    /v1/status              Status
//	GET    /v1/uplinks             []Uplink
//	GET    /v1/decisions?last=20&follow=1   NDJSON, one decision record a line
//	GET    /v1/flows?sort=rate&limit=100&offset=0&match=zoom   Flows
//	POST   /v1/explain             ExplainRequest -> the engine's explanation
//	POST   /v1/reload              ReloadResult (422 when the new policy is rejected)
//	PUT    /v1/state               ForceRequest
//	DELETE /v1/state?uplink=U
//	GET    /v1/plan                text
//	POST   /v1/plan                PlanRequest -> PlanAnswer (422 when the policy is rejected)
//	POST   /v1/change              ChangeRequest -> ChangeResult (422 when rejected or reverted)
//	GET    /v1/history?diff=1      []Entry; GET /v1/history/N (or a hash): EntryText
//	GET    /v1/xray                Xray; POST with XrayRequest; GET /v1/xray/log: XrayLog (409 without routes via xray)
//	GET    /metrics                Prometheus text
//
// Errors are problem objects (RFC 9457).
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
	// Drops counts what full queues lost, by queue.
	Drops map[string]uint64 `json:"drops"`
}

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
	Message  string `json:"message"`
	Help     string `json:"help,omitempty"`
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
// the text spelling of flows, or a flow object. State "" is the live state.
type ExplainRequest struct {
	Flow  json.RawMessage `json:"flow"`
	State string          `json:"state,omitempty"`
}

// Problem is an error answer (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}
