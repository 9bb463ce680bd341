package daemon

import (
	"context"
	"net/netip"
	"reflect"
	"sync"
	"time"
)

// service is what runs beside the loop because the policy or the plan asks for it:
// the answers to the kernel's queues, the relay, the DNS forwarder. It runs as long
// as the same is asked of it. The zero service does not run.
type service struct {
	name string // as a source, in status
	want any    // what it was started for
	end  context.CancelFunc
	done sync.WaitGroup
}

// runs reports whether the service runs.
func (s *service) runs() bool { return s.end != nil }

// become has a service run for want: start begins its goroutines, in done. One that
// runs for something else is stopped first, and one that does so already is left alone.
func (l *loop) become(ctx context.Context, s *service, want any, start func(context.Context)) {
	if s.runs() && reflect.DeepEqual(want, s.want) {
		return
	}
	s.halt()
	s.want = want
	l.allHints()
	ctx, s.end = context.WithCancel(ctx)
	start(ctx)
}

// stop ends a service that is not asked for any more.
func (l *loop) stop(s *service) {
	s.halt()
	l.d.clearSource(s.name)
}

// halt ends what runs, and waits for it.
func (s *service) halt() {
	if s.runs() {
		s.end()
		s.done.Wait()
	}
	s.end, s.want = nil, nil
}

// services are all there are.
func (l *loop) services() []*service {
	return []*service{&l.asked, &l.held, &l.relayed, &l.forwarded, &l.tunnelled}
}

// allHints gives those who do not own the name table all that it holds.
func (l *loop) allHints() {
	now := time.Now()
	for _, a := range l.core.names.Addrs(now, func(string) bool { return true }) {
		l.d.hints.learn(l.core.names, []netip.Addr{a.Addr}, now)
	}
}

// lastPause is the longest pause between two tries to run something.
const lastPause = time.Minute

// keepRunning runs what the policy or the command line asks for until ctx ends, and again when it ends
// before, with a growing pause. Status says why, and the log, once, what that means.
func (d *Daemon) keepRunning(ctx context.Context, name, meanwhile string, run func(context.Context) error) {
	told := ""
	for pause := time.Second; ; pause = min(2*pause, lastPause) {
		d.setSource(name, "")
		began := time.Now()
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= lastPause { // it has worked
			pause, told = time.Second, ""
		}
		why := "ended"
		if err != nil {
			why = err.Error()
		}
		d.setSource(name, why)
		if why != told {
			d.log.Warn("not running, it is tried again", "source", name, "meanwhile", meanwhile, "error", why)
			told = why
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}
