// Package process keeps one Xray running: it starts, watches and replaces it, and
// keeps what it prints.
//
//	s := process.New(process.Options{Binary: "/usr/bin/xray", Dir: dir})
//	go s.Run(ctx)
//	err := s.Apply(ctx, process.Config{Data: data}) // whose API listens at process.API
//
// A configuration that Xray's own test refuses never takes the place of one that
// runs, and one that fails at start gives it back. A process that ends is started
// again after one second, then two, up to a minute; it is not where the
// configuration is at fault. Stop holds until Start, also over a restart of ours.
//
// Xray does not end when we are killed: it goes on serving, and our next start
// takes it over if it is asked for the same configuration, and else replaces it. It
// is found by its pid, its start and its program. Configurations go through
// standard input and what it prints through memory, so that neither lies on the
// disk; what we keep of that has no secrets.
//
// Xray takes SIGHUP for the end, so none is sent.
package process

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/xray/api"
)

// Options say what is run and as whom.
type Options struct {
	Binary string // the path of the program
	// Dir is a directory of ours, which only we can write to: who runs is written there.
	Dir     string
	LogFile string // "" is none; three files of 1 MiB are kept
	// Lines gets each line of the log too, as it is kept; nil is nowhere. It must not
	// block, and its errors are not heard.
	Lines  io.Writer
	Assets string // where geoip.dat and geosite.dat are; "" is beside the program
	// UID and GID are whom it runs as; zero is as whom we run.
	UID, GID uint32
	Cgroup   string // the directory of a cgroup of version 2 to start in; "" is ours
	// Output is what Xray prints into, for one Supervisor at a time; nil makes one.
	Output *Output
	// Ready is called whenever an Xray has begun to answer, before it counts as
	// running: what is told to it through its API is lost with the one before. nil is nothing.
	Ready func(context.Context, *api.Client)
	// Gone is called whenever an Xray has ended; it must not block. nil is nothing.
	Gone func()
	// Leave is asked when Run ends: true leaves Xray to a next start of ours. nil ends it.
	Leave func() bool
}

// Config is what Xray runs.
type Config struct {
	Data []byte // JSON; it holds secrets
	// API is where its API listens; by it we know that Xray is ready. The zero value is
	// the socket called API, which nobody else can use.
	API netip.AddrPort
	// Note is kept beside the pid for who takes Xray over, see Left. It must be JSON
	// without secrets of others: only we can read it there. nil is none.
	Note []byte
}

// API is the socket for the API of a configuration that a Supervisor runs, by the name that
// Xray finds it under: in the directory that it gets as its third descriptor. So another
// user's Xray needs no way to Options.Dir, and the configuration does not say where that is.
const API = "/proc/self/fd/3/" + socketName

// Socket is the path of the same socket for us, by Options.Dir.
func Socket(dir string) string { return filepath.Join(dir, socketDir, socketName) }

const (
	socketDir  = "api"
	socketName = "socket"
)

// State is what a Supervisor is doing.
type State uint8

// The states.
const (
	Stopped  State = iota // nobody wants it to run, or there is no configuration
	Running               // its API answers
	Waiting               // it is starting, or has ended and is started again soon
	Degraded              // as Waiting, after many failures in a row
	Failed                // the configuration is at fault; another one is needed
)

// String returns the state's name.
func (s State) String() string {
	return [...]string{"stopped", "running", "waiting", "degraded", "failed"}[s]
}

// Status is what there is to know at one time.
type Status struct {
	State    State
	PID      int       // 0 is none
	Since    time.Time // of the state
	Adopted  bool      // it was started by an earlier run of ours
	ByUser   bool      // stopped by Stop
	Restarts int       // after it has ended by itself
	Reason   string    // why it is not running; without secrets
	PortUsed bool      // the reason is a port that somebody else has
	Next     time.Time // when it is started again; zero is not
	Memory   int64     // bytes in memory
	CPU      time.Duration
}

// Supervisor runs one Xray. Its methods can be called at any time and from
// anywhere, and wait for Run.
type Supervisor struct {
	o        Options
	journal  journal
	out      *Output
	requests chan request
	stopping atomic.Int32 // how many wait for Stop
	mu       sync.Mutex
	status   Status
}

type request struct {
	kind   requestKind
	config Config
	added  []byte
	done   chan error // has room for the answer
}

type requestKind uint8

const (
	apply requestKind = iota
	amend
	start
	stop
	restart
)

// New returns a Supervisor; Run does the work.
func New(o Options) *Supervisor {
	return &Supervisor{o: o, requests: make(chan request), journal: journal{path: o.LogFile, out: o.Lines}}
}

// Apply tests a configuration and runs it in the place of the one before. If it
// fails, the last one that ran runs on or again, and the error says why, without
// secrets. While Xray is stopped it is kept for Start. What runs already, be it of
// an earlier run of ours, is left alone.
func (s *Supervisor) Apply(ctx context.Context, c Config) error {
	return s.ask(ctx, request{kind: apply, config: c})
}

// Amend goes over to a configuration that has other outbounds and is else the same,
// without another start: added is a JSON object with the outbounds that are not
// there yet; nil is none. Those that are not wanted any more are the caller's to
// remove, once nothing leads to them. Where Xray does not run it is Apply.
func (s *Supervisor) Amend(ctx context.Context, c Config, added []byte) error {
	return s.ask(ctx, request{kind: amend, config: c, added: added})
}

// Start takes back a Stop.
func (s *Supervisor) Start(ctx context.Context) error { return s.ask(ctx, request{kind: start}) }

// Stop ends Xray, which stays so until Start. One that is not ready yet is not waited for.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.stopping.Add(1)
	defer s.stopping.Add(-1)
	return s.ask(ctx, request{kind: stop})
}

// Restart ends Xray and starts it again at once, also where it was waiting.
func (s *Supervisor) Restart(ctx context.Context) error { return s.ask(ctx, request{kind: restart}) }

func (s *Supervisor) ask(ctx context.Context, r request) error {
	r.done = make(chan error, 1)
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Log returns the last 200 lines that Xray has printed, without secrets.
func (s *Supervisor) Log() []string { return s.journal.tail() }

// set changes the status.
func (s *Supervisor) set(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.status.State
	change(&s.status)
	if s.status.State != old {
		s.status.Since = time.Now()
	}
}

// ErrNoConfig says that there is nothing to run yet.
var ErrNoConfig = errors.New("there is no configuration for xray")

// ErrRefused says that a configuration has not passed Xray's own test.
var ErrRefused = errors.New("test the configuration of xray")

// exitError is an Xray that ended, or did not become ready.
type exitError struct {
	code int // -1 is by a signal, or not at all
	line string
}

func (e exitError) Error() string {
	if e.line == "" {
		return "xray ended"
	}
	return e.line
}

// exitCode returns the code that an error comes with, -1 if none.
func exitCode(err error) int {
	var e exitError
	if errors.As(err, &e) {
		return e.code
	}
	return -1
}
