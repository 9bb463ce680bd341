package api

import (
	"time"

	"netpolicy.dev/netpolicy/internal/policyfile"
)

// ChangeRequest asks for another policy, or settles the change that waits.
type ChangeRequest struct {
	Do string // DoApply, DoConfirm, DoRollback
	// Policy is the one to apply; of no use to others.
	Policy *policyfile.Bundle
	// N is the policy that waits and is to be confirmed, or taken back: if another one
	// waits by now, or none, nothing is done and the error wraps ErrConflict.
	N int
	// To is what a rollback without N goes to: a policy of the history by its number or
	// the beginning of its hash, or ToPrevious.
	To string
	// IfMatch are the ETags of the policies that may be replaced, as the header spells
	// them, for DoApply and To; "" is any. The error wraps ErrPrecondition.
	IfMatch string
	// Confirm is "" to keep the new policy at once, a Go duration within which it
	// has to be confirmed, or ConfirmProbe.
	Confirm string
	// Within is how long probes may take, a Go duration; "" leaves it to the daemon.
	Within string
	// Control is the connection by which the caller came, in the text spelling of
	// flows ("tcp 192.0.2.7:51000 > 198.51.100.1:22"), if there is one: a policy that
	// blocks it is refused under ConfirmProbe, and warned of otherwise.
	Control string
	// Confined: the policy comes from somebody who must not read files of this host by naming
	// them. It gets those that are sent, in force, or below the policy's folder.
	Confined bool
}

// What a ChangeRequest can do, and the confirmation by probes.
const (
	DoApply    = "apply"
	DoConfirm  = "confirm"
	DoRollback = "rollback"

	ConfirmProbe = "probe"

	// ToPrevious is the policy that was in force before the present one.
	ToPrevious = "previous"
)

// Replaces reports whether the request may replace the policy b.
func (q *ChangeRequest) Replaces(b *policyfile.Bundle) bool {
	return q.IfMatch == "" || matches(ofPolicy.Replace(q.IfMatch), etag(b))
}

// The results of a change besides those of a reload.
const (
	Pending   = "pending"
	Confirmed = "confirmed"
	Reverted  = "reverted"
)

// ChangeResult is what came of a change.
type ChangeResult struct {
	Result      string       `json:"result"` // applied, unchanged, rejected, pending, confirmed, reverted
	Policy      Policy       `json:"policy"` // the one that decides now
	N           int          `json:"n"`      // its number in the history; 0 where none is kept
	Error       string       `json:"error,omitempty"`
	Diagnostics []Diagnostic `json:"diagnostics"`
	Warnings    []string     `json:"warnings,omitempty"`
	Confirm     *Confirm     `json:"confirm,omitempty"`  // of a pending change
	Reverted    *Revert      `json:"reverted,omitempty"` // of one that was taken back
	Probes      []string     `json:"probes,omitempty"`   // what probes found, a line each
}

// Confirm is a change that waits for its confirmation.
type Confirm struct {
	N        int       `json:"n"`    // the new policy in the history
	Hash     string    `json:"hash"` // the new policy's
	Before   int       `json:"before"`
	Old      string    `json:"old"`  // the hash of the policy that returns
	Mode     string    `json:"mode"` // "time" or "probe"
	Who      string    `json:"who"`
	Since    time.Time `json:"since"`
	Deadline time.Time `json:"deadline"`
	Left     float64   `json:"left_seconds"`
	// Error says why the old policy could not be brought back yet.
	Error string `json:"error,omitempty"`
}

// Revert is a change that was taken back.
type Revert struct {
	N    int       `json:"n"`    // the policy that was taken back
	To   int       `json:"to"`   // the one that returned
	Hash string    `json:"hash"` // of the one that returned
	Time time.Time `json:"time"`
	Why  string    `json:"why"`
	// Verified is true when the kernel's state was read back and is the old plan's.
	// Where nothing can be read back it is false.
	Verified bool `json:"verified"`
}

// Entry is a policy of the history.
type Entry struct {
	N       int       `json:"n"`
	Hash    string    `json:"hash"`
	Time    time.Time `json:"time"`
	Who     string    `json:"who"`     // "root (uid 0)", "file", "SIGHUP", "start"
	Trigger string    `json:"trigger"` // "apply new.npl", "file changed", ...
	// Outcome is "" for a policy that was simply applied, or pending, confirmed,
	// reverted, or damaged when its file can't be read.
	Outcome string `json:"outcome,omitempty"`
	Note    string `json:"note,omitempty"` // who confirmed it, why it was reverted, what is damaged
	Before  int    `json:"before"`         // the policy that it replaced; 0 for none
	Rules   int    `json:"rules"`
	Added   int    `json:"added"` // lines, against that policy
	Removed int    `json:"removed"`
	Live    bool   `json:"live,omitempty"` // it decides now
	Diff    string `json:"diff,omitempty"` // where asked for
}

// Damaged is the outcome of an entry whose file can't be read.
const Damaged = "damaged"

// EntryText is a policy of the history with its text.
type EntryText struct {
	Entry
	Policy policyfile.Bundle `json:"policy"`
}

// PlanRequest asks what a policy would change in the kernel. Without one it is
// about the daemon's own file as it is now.
type PlanRequest struct {
	Policy *policyfile.Bundle `json:"policy,omitempty"`
	JSON   bool               `json:"json,omitempty"`
	// Confined is as in ChangeRequest.
	Confined bool `json:"-"`
}

// PlanAnswer is the plan as `netpolicyd --dry-run` prints it, text or JSON.
type PlanAnswer struct {
	Output      string       `json:"output"`
	Error       string       `json:"error,omitempty"` // the policy is rejected, or the kernel refuses it
	Diagnostics []Diagnostic `json:"diagnostics"`
	// Of one that is not rejected: what it is, and how its texts, and the plan, differ from those in force.
	Hash    string `json:"hash,omitempty"`
	Rules   int    `json:"rules,omitempty"`
	Tried   int    `json:"tried,omitempty"` // its assertions, all of which hold
	Diff    string `json:"diff,omitempty"`
	Added   int    `json:"added,omitempty"`
	Removed int    `json:"removed,omitempty"`
	Kernel  string `json:"kernel,omitempty"` // how what the kernel holds would differ, unified
}
