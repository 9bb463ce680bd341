package process

import "time"

const (
	// firstWait and longestWait bound how long to wait before another start: a
	// second bears a slip, a minute spares a router that can't start it at all.
	firstWait   = time.Second
	longestWait = time.Minute
	// healthyFor is how long it has to run for its failures to be forgotten.
	healthyFor = time.Minute
	// degradedAfter is how many failures in a row are no slip any more.
	degradedAfter = 8
	// exitConfig and exitBind are Xray's exit codes for a configuration that it does
	// not take and for what fails at start, such as a port in use.
	exitConfig = 23
	exitBind   = 255
)

// restarts decides what follows an exit. Its zero value has seen none.
type restarts struct {
	failures int
}

// exited is told that Xray has ended by itself, after running for ran. With retry
// false only another configuration helps; otherwise wait is how long to wait.
func (r *restarts) exited(code int, ran time.Duration) (wait time.Duration, retry bool) {
	if ran >= healthyFor {
		r.failures = 0
	}
	r.failures++
	if code == exitConfig {
		return 0, false
	}
	wait = firstWait
	for i := 1; i < r.failures && wait < longestWait; i++ {
		wait *= 2
	}
	return min(wait, longestWait), true
}

func (r *restarts) degraded() bool { return r.failures >= degradedAfter }
