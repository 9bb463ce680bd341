package state

import "time"

// Threshold is an enter/exit pair: a state is entered above Enter and left
// below Exit. RTT thresholds are microseconds, loss and errors parts per million.
type Threshold struct{ Enter, Exit int64 }

// UplinkConfig is how one uplink's health is judged. DefaultUplink has the defaults.
type UplinkConfig struct {
	Name string
	// Every is a probe round's interval, and the bound of its timeout. Zero: the
	// uplink is not probed; its health stays unknown and missing rounds mean nothing.
	Every    time.Duration
	Required bool // the global state is DEGRADED when this one is not NORMAL

	DegradeAfter, FailoverAfter, DeadAfter, ClearAfter, ReviveAfter, StableAfter, RelapseAfter int
	HoldDegraded, HoldFailover                                                                 time.Duration
	RTT, Loss, Errors                                                                          Threshold
}

// DefaultUplink returns the defaults of state-machine.md for an uplink called name.
func DefaultUplink(name string) UplinkConfig {
	return UplinkConfig{
		Name: name, Every: time.Second,
		DegradeAfter: 3, FailoverAfter: 5, DeadAfter: 3, ClearAfter: 5, ReviveAfter: 5, StableAfter: 15, RelapseAfter: 2,
		HoldDegraded: 10 * time.Second, HoldFailover: 15 * time.Second,
		RTT: Threshold{120_000, 90_000}, Loss: Threshold{50_000, 20_000}, Errors: Threshold{50_000, 20_000},
	}
}

// GroupConfig is a group whose member is chosen by measurement (lowest_latency).
// Groups that choose per flow have Select false and are carried for their index.
type GroupConfig struct {
	Name   string
	Select bool
	// Members are uplink indices, -1 for a route without an uplink.
	Members            []int
	Tolerance, MinHold time.Duration // Tolerance 30 ms, MinHold 60 s by default
}

// Config is everything the machine needs to know of a policy.
type Config struct {
	Uplinks []UplinkConfig
	Groups  []GroupConfig
	Primary int // index into Uplinks, -1 without uplinks
}
