package state

import "time"

// World is what decisions depend on besides the flow, as one immutable
// snapshot. The zero World has no uplinks and is NORMAL.
type World struct {
	// Global is what `when: state` reads.
	Global State
	// Primary is the index of the primary uplink, -1 without uplinks.
	Primary int
	// Uplinks has one entry for each uplink of the policy, in its order.
	Uplinks []Link
	// Selected has one entry for each group of the policy, in its order: the
	// index of the member that lowest_latency has chosen, -1 where nothing was
	// chosen or the group's strategy does not select.
	Selected []int
	// Meets has one entry for each group of the policy, in its order: which of its
	// members meet what the strategy sla asks of them; nil for other strategies.
	Meets [][]Truth
	// Alive has one entry for each route of the policy, in its order: False is a way
	// that is known to be dead beside its uplink, such as a tunnel. What is missing is
	// Unset, which is taken as alive.
	Alive []Truth
	// Schedules, Quotas (exceeded) and Conditions have one entry for each of the
	// policy's, in its order. What is missing is Unset: not known.
	Schedules, Quotas, Conditions []Truth
}

// Truth is whether a fact of the world holds.
type Truth uint8

// The truth values; Unset, the zero value, is not known.
const (
	Unset Truth = iota
	False
	True
)

// TruthOf returns True or False.
func TruthOf(b bool) Truth {
	if b {
		return True
	}
	return False
}

// Link is one uplink as decisions see it.
type Link struct {
	State State
	// Unknown is true until the first verdict.
	Unknown bool
	// Up is false when the device is down or gone.
	Up bool
	// Share is the percentage of new flows that groups give it: 0, 10, 25, 50
	// or 100. 0 means not usable.
	Share int
	// RTT and P90 are the smoothed and 90th-percentile round-trip times;
	// negative until measured.
	RTT, P90 time.Duration
	// Jitter is the smoothed difference between a round-trip time and the next (RFC 3550,
	// section 6.4.1); negative until measured. A dead round leaves it.
	Jitter time.Duration
	// Loss and ErrorRate are parts per million over the last ten rounds;
	// negative until measured.
	Loss, ErrorRate int64
	// Usage is how much the uplink has carried, in bytes; negative until measured.
	Usage int64
	// Lost is the number of lost probes in the last ten rounds, for "best of bad".
	Lost int
}
