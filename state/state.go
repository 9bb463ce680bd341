package state

import "strings"

// State is the health of an uplink, or of the whole host.
type State uint8

// The four states; the zero value is Normal.
const (
	Normal State = iota
	Degraded
	Failover
	Recovery
)

var stateNames = [...]string{"NORMAL", "DEGRADED", "FAILOVER", "RECOVERY"}

// String returns the state's name in capitals.
func (s State) String() string { return stateNames[s] }

// Parse reads a state's name in any case.
func Parse(name string) (State, bool) {
	for i, n := range stateNames {
		if strings.EqualFold(n, name) {
			return State(i), true
		}
	}
	return 0, false
}

// Set is a set of states, bit i for State i. The zero Set is empty.
type Set uint8

// AllStates contains every state.
const AllStates Set = 1<<len(stateNames) - 1

// Has reports whether s is in the set.
func (t Set) Has(s State) bool { return t>>s&1 == 1 }

// With returns the set with s added.
func (t Set) With(s State) Set { return t | 1<<s }
