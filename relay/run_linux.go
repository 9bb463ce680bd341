package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/admit"
	"netpolicy.dev/netpolicy/internal/sockmark"
)

// reserve are descriptors that are kept for others: files, netlink, the API,
// handshakes with two sockets for a moment.
const reserve = 512

// callerPart is the part of all handshakes that one client may have under way: a
// scan of dead addresses, or silence, must not keep the others out.
const callerPart = 4

// Relay is made by New and works while Run runs.
type Relay struct {
	cfg      Config
	limits   Limits
	resolver Resolver
	epoch    time.Time
	loops    []*loop
	table    *table
	shaper   shaper
	gate     chan struct{} // Limits.Handshakes
	callers  admit.Gate    // handshakes of each client
	serving  sync.WaitGroup
	counts   counts

	mu        sync.Mutex // of what follows
	inbounds  []*inbound
	work      context.Context // nil before Run
	ended     bool
	accepting sync.WaitGroup
	failed    chan error                          // of an inbound; one is enough
	own       atomic.Pointer[map[uint16]struct{}] // the ports of TCP and UDP listeners

	// maxReplies is maxReplySockets, less in tests.
	maxReplies int
}

// inbound is an open Inbound.
type inbound struct {
	Inbound
	tcp   *net.TCPListener
	udp   int    // TProxy's second socket, -1 without; its front's when Run runs
	loop  *loop  // the front's
	front *front // nil without
}

// counts are for Stats.
type counts struct {
	full, self, dropped, displaced atomic.Uint64
}

// Stats are counters since New, and what is there now.
type Stats struct {
	Conns int // connections and UDP sessions now
	Limit int // how many there may be
	// Full counts connections and datagrams refused because of that limit, or because
	// their client has too many handshakes under way.
	Full uint64
	// Self counts connections to the relay itself that were refused.
	Self uint64
	// Dropped counts datagrams that were dropped while a decision was made or
	// because the way out was full.
	Dropped uint64
	// Displaced counts UDP sessions that ended for a newer one.
	Displaced uint64
}

// New opens the inbounds, so that clients wait in the backlog until Run runs.
// TProxy inbounds and marks need CAP_NET_ADMIN.
func New(cfg Config) (*Relay, error) {
	if cfg.Decider == nil {
		return nil, errors.New("a relay needs a decider")
	}
	if err := cfg.sound(cfg.Inbounds); err != nil {
		return nil, err
	}
	r := &Relay{cfg: cfg, limits: cfg.Limits.withDefaults(), resolver: cfg.Resolver, epoch: time.Now(), maxReplies: maxReplySockets, failed: make(chan error, 1)}
	if r.resolver == nil {
		r.resolver = systemResolver{}
	}
	if r.limits.Conns <= 0 {
		r.limits.Conns = room()
	}
	r.table = newTable(r.limits.Conns)
	r.gate = make(chan struct{}, r.limits.Handshakes)
	r.callers.MaxEach = max(1, r.limits.Handshakes/callerPart)
	for _, in := range cfg.Inbounds {
		open, err := listen(in, cfg.Mark)
		if err != nil {
			r.closeAll()
			return nil, err
		}
		r.inbounds = append(r.inbounds, open)
	}
	r.know()
	for range min(runtime.GOMAXPROCS(0), maxLoops) {
		l, err := newLoop(r)
		if err != nil {
			r.closeAll()
			return nil, err
		}
		r.loops = append(r.loops, l)
	}
	return r, nil
}

// sound reports what is wrong with inbounds.
func (cfg *Config) sound(list []Inbound) error {
	for _, in := range list {
		if in.Kind == TProxy && cfg.Mark == 0 {
			return errors.New("a tproxy inbound needs a mark for the relay's own sockets: else they come back to it")
		}
	}
	return nil
}

// know notes the ports of the inbounds.
func (r *Relay) know() {
	own := map[uint16]struct{}{}
	for _, in := range r.inbounds {
		own[portOf(in.tcp)] = struct{}{}
	}
	r.own.Store(&own)
}

// room is how many connections the descriptor limit holds: two descriptors each.
func room() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(max(min(limit.Cur, 1<<20)-min(limit.Cur, reserve+2*maxPipes*uint64(min(runtime.GOMAXPROCS(0), maxLoops))), 64) / 2)
}

func (r *Relay) closeAll() {
	for _, in := range r.inbounds {
		in.close()
	}
	for _, l := range r.loops {
		l.close()
	}
}

// close ends what comes in; what has come in by TCP goes on.
func (in *inbound) close() {
	_ = in.tcp.Close()
	if in.front != nil {
		in.loop.post(func(l *loop) { in.front.end(l, Stopped) })
	} else if in.udp >= 0 {
		_ = unix.Close(in.udp)
	}
}

// listen opens the sockets of an inbound.
func listen(in Inbound, mark uint32) (*inbound, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			// The sockets of connections have all this as well.
			stayAlive(int(fd))
			if err = sockmark.Set(int(fd), mark); err == nil && in.Kind == TProxy {
				err = transparent(int(fd), in.Listen.Addr())
			}
		})
		return errors.Join(ctlErr, err)
	}}
	lc.SetMultipathTCP(false) // TPROXY and splice are for plain TCP
	network := "tcp4"
	if in.Listen.Addr().Is6() {
		network = "tcp6"
	}
	l, err := lc.Listen(context.Background(), network, in.Listen.String())
	if err != nil {
		return nil, fmt.Errorf("open %s inbound on %s: %w", in.Kind, in.Listen, err)
	}
	open := &inbound{Inbound: in, udp: -1}
	open.tcp, _ = l.(*net.TCPListener)
	if in.Kind == TProxy {
		at := netip.AddrPortFrom(in.Listen.Addr(), portOf(open.tcp))
		if open.udp, err = listenDatagrams(at, mark); err != nil {
			_ = l.Close()
			return nil, fmt.Errorf("open tproxy inbound on udp %s: %w", at, err)
		}
	}
	return open, nil
}

// transparent lets a socket have addresses that are not this host's.
func transparent(fd int, a netip.Addr) error {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if a.Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("make the socket transparent: %w", err)
	}
	return nil
}

func portOf(l *net.TCPListener) uint16 {
	a, _ := l.Addr().(*net.TCPAddr)
	return a.AddrPort().Port()
}

// Addrs returns where the inbounds listen, in the order in which they were opened.
func (r *Relay) Addrs() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]netip.AddrPort, len(r.inbounds))
	for i, in := range r.inbounds {
		list[i] = netip.AddrPortFrom(in.Listen.Addr(), portOf(in.tcp))
	}
	return list
}

// Run serves until ctx ends, lets connections go on for Limits.Drain, ends those
// that are left, and returns having stopped all it started. It is called once.
func (r *Relay) Run(ctx context.Context) error {
	// Work goes on after ctx ended, while connections drain.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, len(r.loops)) // one from each
	var looping sync.WaitGroup
	for _, l := range r.loops {
		looping.Go(func() {
			if err := l.run(work); err != nil {
				failed <- err
			}
		})
	}
	r.mu.Lock()
	r.work = work
	for _, in := range r.inbounds {
		r.begin(in)
	}
	r.mu.Unlock()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-r.failed:
	}
	r.mu.Lock()
	r.ended = true
	for _, in := range r.inbounds {
		_ = in.tcp.Close()
	}
	r.mu.Unlock()
	r.accepting.Wait()
	if r.limits.Drain > 0 && err == nil {
		drain, cancel := context.WithTimeout(work, r.limits.Drain)
		r.table.drain(drain)
		cancel()
	}
	stop()
	looping.Wait()
	r.serving.Wait()
	for _, l := range r.loops {
		l.close()
	}
	return err
}

// begin serves an inbound. r.mu is held.
func (r *Relay) begin(in *inbound) {
	if in.udp >= 0 {
		in.loop, in.front = r.pick(), tproxyFront(in.udp)
		if !in.loop.post(func(l *loop) { l.open(in.front) }) {
			closeFD(in.udp) // the loop has failed, and Run is about to end
		}
	}
	work := r.work
	r.accepting.Go(func() {
		if err := r.accept(work, in); err != nil {
			select {
			case r.failed <- err:
			default: // Run ends already
			}
		}
	})
}

// Reopen makes the inbounds those of list. One that is open already stays as it is;
// connections that have come in by one that is closed go on, but for datagrams by TPROXY.
// The error says which could not be opened; the others are.
func (r *Relay) Reopen(list []Inbound) error {
	if err := r.cfg.sound(list); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return errors.New("the relay has ended")
	}
	wanted := func(in *inbound) bool { return slices.ContainsFunc(list, in.same) }
	r.inbounds = slices.DeleteFunc(r.inbounds, func(in *inbound) bool {
		if !wanted(in) {
			in.close()
		}
		return !wanted(in)
	})
	var errs []error
	for _, want := range list {
		if slices.ContainsFunc(r.inbounds, func(in *inbound) bool { return in.same(want) }) {
			continue
		}
		in, err := listen(want, r.cfg.Mark)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if r.inbounds = append(r.inbounds, in); r.work != nil {
			r.begin(in)
		}
	}
	r.know()
	return errors.Join(errs...)
}

// same reports whether the inbound is what is wanted.
func (in *inbound) same(want Inbound) bool {
	return in.Kind == want.Kind && in.Listen == want.Listen && maps.Equal(in.Users, want.Users)
}

// accept takes connections until the listener is closed.
func (r *Relay) accept(ctx context.Context, in *inbound) error {
	for pause := time.Millisecond; ; {
		c, err := in.tcp.AcceptTCP()
		if err == nil {
			pause = time.Millisecond
			remote, _ := c.RemoteAddr().(*net.TCPAddr)
			src := unmap(remote.AddrPort())
			if !r.callers.Enter(src.Addr()) {
				r.counts.full.Add(1)
				refuse(c)
				continue
			}
			select {
			case r.gate <- struct{}{}:
			case <-ctx.Done():
				refuse(c)
				return nil
			}
			r.serving.Go(func() {
				defer func() { r.callers.Leave(src.Addr()); <-r.gate }()
				r.serve(ctx, in, c, src)
			})
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ENOBUFS) &&
			!errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ECONNABORTED) {
			return fmt.Errorf("accept on %s: %w", in.tcp.Addr(), err)
		}
		// Descriptors come back with the connections that end.
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, time.Second)
	}
}

// clock is the time since New, in nanoseconds.
func (r *Relay) clock() int64 { return int64(time.Since(r.epoch)) }

// pick chooses a loop for a connection.
func (r *Relay) pick() *loop { return r.loops[rand.IntN(len(r.loops))] }

// Conns returns the connections and UDP sessions there are, the oldest first.
func (r *Relay) Conns() []Conn { return r.table.list(r.epoch) }

// Kill ends a connection, and reports whether there was one. Its sockets are
// closed soon after, with a reset.
func (r *Relay) Kill(id uint64) bool { return r.table.kill(id) }

// Stats returns the counters.
func (r *Relay) Stats() Stats {
	return Stats{
		Conns: r.table.len(), Limit: r.limits.Conns, Full: r.counts.full.Load(),
		Self: r.counts.self.Load(), Dropped: r.counts.dropped.Load(), Displaced: r.counts.displaced.Load(),
	}
}

// opened tells that payload moves from now on.
func (r *Relay) opened(e *entry) {
	if r.cfg.Reporter == nil {
		return
	}
	var c Conn
	e.show(&c, r.epoch)
	r.cfg.Reporter.Opened(&c)
}

// closed takes an entry that was opened out of the table.
func (r *Relay) closed(e *entry, end *End) {
	r.table.remove(e)
	if r.cfg.Reporter == nil {
		return
	}
	var c Conn
	e.show(&c, r.epoch)
	r.cfg.Reporter.Closed(&c, end)
}

// isSelf reports whether an address is that of one of our own listeners. It
// looks at this host's addresses only for their ports.
func (r *Relay) isSelf(a netip.AddrPort) bool {
	if _, own := (*r.own.Load())[a.Port()]; !own {
		return false
	}
	if a.Addr().IsLoopback() || a.Addr().IsUnspecified() {
		r.counts.self.Add(1)
		return true
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, own := range list {
		if p, err := netip.ParsePrefix(own.String()); err == nil && p.Addr().Unmap() == a.Addr() {
			r.counts.self.Add(1)
			return true
		}
	}
	return false
}
