package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
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
	broken  bool // the segments; what is lost is counted and not logged again
	nearBad bool // finding near misses has failed; that is logged once
	tell    func(error)
	keep    keeper
	mask    *mask // nil: nothing is replaced
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
	// Broken is told when the disk does not take segments, and with nil when it does again; nil: nobody is.
	Broken func(error)
	// Sample keeps one of so many decisions of each rule on the disk; 0 and 1 keep all. What
	// blocks or asks for failover is always kept.
	Sample int
	// Mask names what is replaced by hashes on the disk and in the log; see NewMask. The
	// ring, which never leaves this host's memory but to who may ask, has everything.
	Mask []string
}

// NewDecisionLog returns a log that has to be run.
func NewDecisionLog(o DecisionOptions) *DecisionLog {
	if o.Broken == nil {
		o.Broken = func(error) {}
	}
	return &DecisionLog{
		tell: o.Broken,
		ring: o.Ring, log: o.Log, dropped: o.Dropped, queue: make(chan Record, Queue), segs: o.Segments,
		keep: keeper{every: max(o.Sample, 1), seen: map[string]int{}}, mask: newMask(o.Mask),
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

// Bytes is what the segments take on the disk.
func (l *DecisionLog) Bytes() int64 {
	if l.segs == nil {
		return 0
	}
	return l.segs.Bytes()
}

// Run writes records down until ctx ends, and then those that wait.
func (l *DecisionLog) Run(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	if l.segs != nil {
		l.tell(nil)
		l.note(l.segs.prepare())
		defer func() { l.note(l.segs.Close()) }()
	}
	for {
		select {
		case r := <-l.queue:
			l.write(&r)
		case <-tick.C:
			l.flush()
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
	r.Context.Near = l.near(r)
	line, err := r.MarshalJSON()
	if err != nil {
		l.log.Error("decision record not written", "error", err)
		return
	}
	l.ring.Append(line)
	kept := l.segs != nil && l.keep.wants(r)
	if !kept && !r.Log {
		return
	}
	if every := l.keep.every; kept && every > 1 && !r.Always {
		r.Context.Sampled = every
	}
	if l.mask != nil || r.Context.Sampled > 0 {
		l.mask.apply(r)
		if line, err = r.MarshalJSON(); err != nil {
			l.log.Error("decision record not written", "error", err)
			return
		}
	}
	if r.Log {
		l.log.Info("decision", "record", json.RawMessage(line))
	}
	if !kept {
		return
	}
	l.note(l.segs.Append(line, r.Context.Time))
}

// near finds the near misses of a record. They are help for people: a fault in finding them costs the
// record its near misses, and nothing else.
func (l *DecisionLog) near(r *Record) (found json.RawMessage) {
	if r.Near == nil {
		return r.Context.Near
	}
	defer func() {
		if fault := recover(); fault != nil {
			found = nil
			if !l.nearBad {
				l.nearBad = true
				l.log.Error("near misses of a decision not found", "error", fmt.Sprintf("%v\n%s", fault, debug.Stack()))
			}
		}
	}()
	return r.Near()
}

// flush brings what was written to the disk. Only then is it known whether a disk that failed works again.
func (l *DecisionLog) flush() {
	if l.segs == nil {
		return
	}
	if l.broken {
		if err := l.segs.Resume(); err != nil {
			return
		}
	}
	err := l.segs.Flush()
	l.note(err)
	if err == nil && l.broken {
		l.broken = false
		l.tell(nil)
		l.log.Info("decision log goes on")
	}
}

// note counts what the disk has not taken, and tells of the first error until it works again.
func (l *DecisionLog) note(err error) {
	if err == nil {
		return
	}
	if n := l.segs.Lost(); n > 0 {
		l.dropped(DropDisk, n)
	}
	if !l.broken {
		l.broken = true
		l.tell(err)
		l.log.Warn("decision log interrupted; what is lost is counted", "error", err)
	}
}

// keeper chooses which records go to the disk.
type keeper struct {
	every int
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
