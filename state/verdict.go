package state

import (
	"fmt"
	"slices"
	"time"
)

// verdict is what one finished probe round says about an uplink.
type verdict uint8

// The verdicts, from best to worst. Each says that nothing worse holds.
const (
	good verdict = iota // everything below the exit thresholds
	grey                // between exit and enter
	bad                 // an enter threshold is crossed
	dead                // nothing came back
)

var verdictNames = [...]string{"good", "grey", "bad", "dead"}

func (v verdict) String() string { return verdictNames[v] }

const (
	// windowRounds is how many rounds loss, error rate and p90 look back.
	windowRounds = 10
	// lossRounds is in how many different rounds probes must be lost before loss
	// counts as bad: one or two lost rounds are noise.
	lossRounds = 3
	// errorEvents is how many dials must fail before the error rate counts as bad.
	errorEvents = 5
	// maxCount bounds every counter that comes in, so that parts per million
	// can't overflow.
	maxCount = 1 << 30
	// maxRTT bounds a measured RTT: no probe waits longer than its interval, and
	// sums of it can't overflow.
	maxRTT = int64(time.Hour / time.Microsecond)
)

// sample is one finished round, boiled down.
type sample struct{ probes, lost, dials, failures int64 }

// window holds the last rounds of an uplink. The evidence for verdicts is the
// youngest `fresh` of them: entering a state empties it. What people and facts
// see is all of them. It has no pointers, so a copy of it is deep.
type window struct {
	rounds        [windowRounds]sample // rounds[0] is the youngest
	n, fresh      int
	rtts          [windowRounds]int64 // of answered rounds, the youngest first; microseconds
	nRTT          int
	ewma          int64 // microseconds, valid when nRTT > 0
	jitter        int64 // sixteenths of microseconds, valid when nRTT > 1
	pendingDials  int64 // outcomes reported since the last finished round
	pendingFailed int64
}

// addDials takes the outcomes of dials; they join the next finished round.
func (w *window) addDials(dials, failures int) {
	d, f := clampCount(dials), clampCount(failures)
	w.pendingDials = min(w.pendingDials+max(d, f), maxCount)
	w.pendingFailed = min(w.pendingFailed+f, maxCount)
}

// push takes a finished round: probes sent and lost, and the RTT in
// microseconds, negative when nothing was answered.
func (w *window) push(probes, lost, rtt int64) {
	copy(w.rounds[1:], w.rounds[:])
	w.rounds[0] = sample{probes, lost, w.pendingDials, w.pendingFailed}
	w.pendingDials, w.pendingFailed = 0, 0
	w.n = min(w.n+1, windowRounds)
	w.fresh = min(w.fresh+1, windowRounds)
	if rtt < 0 {
		return
	}
	if w.nRTT == 0 {
		w.ewma = rtt
	} else {
		w.ewma += (rtt - w.ewma) / 4
	}
	// As RFC 3550, section A.8, but from the first difference instead of from 0.
	switch difference := max(rtt-w.rtts[0], w.rtts[0]-rtt); {
	case w.nRTT == 1:
		w.jitter = 16 * difference
	case w.nRTT > 1:
		w.jitter += difference - (w.jitter+8)/16
	}
	copy(w.rtts[1:], w.rtts[:])
	w.rtts[0] = rtt
	w.nRTT = min(w.nRTT+1, windowRounds)
}

// totals sums the youngest n rounds; lossy is in how many of them a probe was lost.
func (w *window) totals(n int) (t sample, lossy int) {
	for _, r := range w.rounds[:n] {
		t.probes += r.probes
		t.lost += r.lost
		t.dials += r.dials
		t.failures += r.failures
		if r.lost > 0 {
			lossy++
		}
	}
	return t, lossy
}

// p90 is the element ceil(0.9 n) of the sorted last n answered rounds, in
// microseconds; -1 without any.
func (w *window) p90() int64 {
	if w.nRTT == 0 {
		return -1
	}
	sorted := w.rtts
	slices.Sort(sorted[:w.nRTT])
	return sorted[(9*w.nRTT+9)/10-1]
}

// judge classifies the round that was pushed last; rtt is its RTT, negative
// for a dead round. why names what kept the verdict from being better.
func (w *window) judge(c UplinkConfig, rtt int64) (v verdict, why string) {
	if rtt < 0 {
		return dead, "no answer"
	}
	t, lossy := w.totals(w.fresh)
	loss, errs := perMillion(t.lost, t.probes), perMillion(t.failures, t.dials)
	switch {
	case rtt > c.RTT.Enter:
		return bad, fmt.Sprintf("rtt %s, enter %s", formatRTT(rtt), formatRTT(c.RTT.Enter))
	case loss > c.Loss.Enter && lossy >= lossRounds:
		return bad, fmt.Sprintf("loss %s, enter %s", formatPart(loss), formatPart(c.Loss.Enter))
	case errs > c.Errors.Enter && t.failures >= errorEvents:
		return bad, fmt.Sprintf("errors %s, enter %s", formatPart(errs), formatPart(c.Errors.Enter))
	case !c.RTT.below(rtt):
		return grey, fmt.Sprintf("rtt %s, exit %s", formatRTT(rtt), formatRTT(c.RTT.Exit))
	case lossy > 1 && !c.Loss.below(loss):
		return grey, fmt.Sprintf("loss %s, exit %s", formatPart(loss), formatPart(c.Loss.Exit))
	case !c.Errors.below(errs):
		return grey, fmt.Sprintf("errors %s, exit %s", formatPart(errs), formatPart(c.Errors.Exit))
	}
	return good, "all below exit"
}

// below reports whether x is below the exit threshold; nothing at all is below any.
func (t Threshold) below(x int64) bool { return x < t.Exit || x == 0 }

// roundRTT is the lower median of the answered probes, in whole microseconds,
// and how many were lost; the RTT is -1 when nothing was answered. Only the
// first maxProbes answers are looked at.
func roundRTT(answers []Answer) (rtt, lost int64) {
	var rtts [maxProbes]int64
	n := 0
	for _, a := range answers[:min(len(answers), maxProbes)] {
		if a.Lost {
			lost++
			continue
		}
		rtts[n] = min(max(a.RTT.Microseconds(), 0), maxRTT)
		n++
	}
	if n == 0 {
		return -1, lost
	}
	slices.Sort(rtts[:n])
	return rtts[(n-1)/2], lost
}

// perMillion is part of whole in parts per million, rounded down; 0 of nothing is 0.
func perMillion(part, whole int64) int64 {
	if whole == 0 {
		return 0
	}
	return part * 1_000_000 / whole
}

func clampCount(n int) int64 { return int64(min(max(n, 0), maxCount)) }

// formatRTT writes microseconds as milliseconds: "104 ms", "0.8 ms".
func formatRTT(us int64) string {
	if us < 10_000 && us%1000 != 0 {
		return fmt.Sprintf("%d.%d ms", us/1000, us%1000/100)
	}
	return fmt.Sprintf("%d ms", us/1000)
}

// formatPart writes parts per million as per cent: "5 %", "2.5 %".
func formatPart(ppm int64) string {
	if tenth := ppm / 1000 % 10; tenth != 0 {
		return fmt.Sprintf("%d.%d %%", ppm/10_000, tenth)
	}
	return fmt.Sprintf("%d %%", ppm/10_000)
}
