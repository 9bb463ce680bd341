package telemetry

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"
)

// Queue is how many decision records may wait to be written down: a fifth of a second of
// fifty thousand decisions a second, about ten megabytes when it is full.
const Queue = 8192

// Reasons of dropped decision records.
const (
	DropQueue = "queue" // more were decided than could be written down
	DropDisk  = "disk"  // a segment could not be written
)

// DecisionLog writes decision records down: to the ring of the live tail, and where that is asked for to
// segments on the disk. Who decides never waits for it: what is too much is dropped and counted.
type DecisionLog struct {
	ring    *Ring
	log     *slog.Logger
	dropped func(reason string, n int)
	queue   chan Record
	waiting atomic.Int64 // records that were taken and are not written down yet
	segs    *Segments
	keep    keeper
}

// DecisionOptions are the settings of a DecisionLog.
type DecisionOptions struct {
	Ring *Ring
	// Log gets the records of rules with log.
	Log *slog.Logger
	// Dropped counts what is dropped, by reason.
	Dropped func(reason string, n int)
	// Segments are the files on the disk; nil: there are none. They are closed when Run ends.
	Segments *Segments
	// Sample keeps one of so many decisions of each rule on the disk; 0 and 1 keep all. What
	// blocks or asks for failover is always kept.
	Sample int
	// Mask changes a record before it is written anywhere; nil: nothing is changed.
	Mask func(*Record)
}

// NewDecisionLog returns a log that has to be run.
func NewDecisionLog(o DecisionOptions) *DecisionLog {
	return &DecisionLog{
		ring: o.Ring, log: o.Log, dropped: o.Dropped, queue: make(chan Record, Queue), segs: o.Segments,
		keep: keeper{every: max(o.Sample, 1), mask: o.Mask, seen: map[string]int{}},
	}
}

// Add takes a record, or drops and counts it. It never waits.
func (l *DecisionLog) Add(r Record) {
	l.waiting.Add(1)
	select {
	case l.queue <- r:
	default:
		l.waiting.Add(-1)
		l.dropped(DropQueue, 1)
	}
}

// Idle reports whether everything that was taken is written down.
func (l *DecisionLog) Idle() bool { return l.waiting.Load() == 0 }

// Run writes records down until ctx ends, and then those that wait.
func (l *DecisionLog) Run(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	defer func() {
		if l.segs != nil {
			l.note(l.segs.Close())
		}
	}()
	for {
		select {
		case r := <-l.queue:
			l.write(&r)
		case <-tick.C:
			if l.segs != nil {
				l.note(l.segs.Flush())
			}
		case <-ctx.Done():
			for {
				select {
				case r := <-l.queue:
					l.write(&r)
				default:
					return
				}
			}
		}
	}
}

// write writes one record down.
func (l *DecisionLog) write(r *Record) {
	defer l.waiting.Add(-1)
	if r.Near != nil {
		r.Context.Near = r.Near()
	}
	if l.keep.mask != nil {
		l.keep.mask(r)
	}
	line, err := json.Marshal(r)
	if err != nil {
		l.log.Error("decision record not written", "error", err)
		return
	}
	l.ring.Append(line)
	if r.Log {
		l.log.Info("decision", "record", json.RawMessage(line))
	}
	if l.segs == nil || !l.keep.wants(r) {
		return
	}
	if every := l.keep.every; every > 1 && !r.Always {
		r.Context.Sampled = every
		if line, err = json.Marshal(r); err != nil {
			return
		}
	}
	if err := l.segs.Append(line, r.Context.Time); err != nil {
		l.dropped(DropDisk, 1)
		l.note(err)
	}
}

// note tells of a disk that does not take segments.
func (l *DecisionLog) note(err error) {
	if err != nil {
		l.log.Warn("decision log interrupted", "error", err)
	}
}

// keeper chooses which records go to the disk.
type keeper struct {
	every int
	mask  func(*Record)
	seen  map[string]int // decisions of a rule so far, by its name
}

// wants keeps the first of each so many decisions of a rule.
func (k *keeper) wants(r *Record) bool {
	if k.every <= 1 || r.Always {
		return true
	}
	if len(k.seen) > maxRuleLabels*10 { // of many policies, one after the other
		clear(k.seen)
	}
	n := k.seen[r.Rule]
	k.seen[r.Rule] = n + 1
	return n%k.every == 0
}
