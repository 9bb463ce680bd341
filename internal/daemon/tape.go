package daemon

import (
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/recorder"
	"netpolicy.dev/netpolicy/sim"
	"netpolicy.dev/netpolicy/state"
)

const (
	// tapeQueue bounds the parts of a recording that wait for the disk.
	tapeQueue = 64
	// tapeFlush is how much of a recording a crash may cost.
	tapeFlush = 10 * time.Second
)

// tape is a recording in the making: all that the machine was told, and each flow
// when it was decided, in segments of which each begins with the whole machine.
type tape struct {
	size int                 // of the present segment; 0: none has begun
	mask func(string) string // what becomes of names; nil: nothing
}

// toTape adds lines to the recording. The machine has taken in already what they say.
func (c *core) toTape(add func([]byte) []byte) {
	if c.tape == nil {
		return
	}
	if c.tape.size == 0 || c.tape.size >= recorder.Segment {
		c.rewind()
		return
	}
	if len(c.out.taped) == 0 {
		c.out.taped = append(c.out.taped, journalPart{})
	}
	part := &c.out.taped[len(c.out.taped)-1]
	before := len(part.lines)
	part.lines = add(part.lines)
	c.tape.size += len(part.lines) - before
}

// rewind begins a segment, with the machine as it is now.
func (c *core) rewind() {
	start := state.AppendStart(nil, c.live.health, c.machine, shortHash(c.live.policy.Hash), c.boot)
	c.out.taped = append(c.out.taped, journalPart{start, true})
	c.tape.size = len(start)
}

// tapeFlow records a flow that has been decided.
func (c *core) tapeFlow(f *flow.Flow, now time.Duration) {
	if c.tape == nil {
		return
	}
	if c.tape.size == 0 || c.tape.size >= recorder.Segment {
		c.rewind()
	}
	taped := *f
	if c.tape.mask != nil {
		taped = masked(f, c.tape.mask)
	}
	c.toTape(func(b []byte) []byte { return sim.AppendFlow(b, now, taped) })
}

// masked returns the flow with other names.
func masked(f *flow.Flow, mask func(string) string) flow.Flow {
	g := *f
	for _, v := range []*flow.Value[string]{&g.SNI, &g.HTTPHost, &g.Domain} {
		if name, known := v.Get(); known {
			*v = flow.Some(mask(name))
		}
	}
	var names []string
	for name := range f.DNS.All() {
		names = append(names, mask(name))
	}
	if names != nil {
		g.DNS = flow.NewNames(names...)
	}
	return g
}

// keepTape hands what was recorded to the disk; what that is too slow for is lost,
// counted, and followed by a new segment.
func (l *loop) keepTape(parts []journalPart) {
	if len(parts) == 0 {
		return
	}
	select {
	case l.d.tapes <- parts:
	default:
		l.d.metrics.Drop(recordingName, 1)
		l.core.tape.size = 0
	}
	if l.d.torn.Swap(false) {
		l.core.tape.size = 0
	}
}

// tapeTo writes the recording until there is no more. After an error, what comes
// before the next segment is lost.
func (d *Daemon) tapeTo(w *recorder.Writer) {
	broken := false
	note := func(err error) {
		if err == nil {
			return
		}
		d.torn.Store(true)
		d.metrics.Drop(recordingName+api.OnDisk, 1)
		if !broken {
			d.log.Warn("recording interrupted", "error", err)
			d.setSource(recordingName, err.Error())
			broken = true
		}
	}
	d.setSource(recordingName, "")
	tick := time.NewTicker(tapeFlush)
	defer tick.Stop()
	for {
		select {
		case parts, more := <-d.tapes:
			if !more {
				note(w.Close())
				return
			}
			for _, p := range parts {
				if err := w.Append(p.lines, p.fresh); err != nil {
					note(err)
					break
				}
			}
		case <-tick.C:
			err := w.Flush()
			note(err)
			if broken && err == nil && w.Writing() { // it has reached the disk again
				broken = false
				d.log.Info("recording goes on")
				d.setSource(recordingName, "")
			}
		}
	}
}

// Recording says what is recorded.
type Recording struct {
	recorder.Options
	Mask bool // names are replaced by hashes
}

// startTape begins the recording that the options ask for and returns how to end it.
func (d *Daemon) startTape(l *loop) (end func()) {
	if d.opts.Record == nil {
		return func() {}
	}
	w := recorder.New(d.opts.Record.Options)
	l.core.tape = &tape{}
	if d.opts.Record.Mask {
		l.core.tape.mask = recorder.Mask()
	}
	d.tapes = make(chan []journalPart, tapeQueue)
	done := make(chan struct{})
	go func() { defer close(done); d.tapeTo(w) }()
	return func() { close(d.tapes); <-done }
}
