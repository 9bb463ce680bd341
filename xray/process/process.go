// Package process runs Xray as a child: it starts, watches and replaces it, and
// keeps what it prints.
//
//	s := process.New(process.Options{Binary: "/usr/bin/xray", Dir: dir, API: api})
//	go s.Run(ctx)
//	err := s.Apply(ctx, data) // a configuration whose API listens at api
//
// A configuration that Xray's own test refuses never takes the place of one that
// runs, and one that fails at start gives it back. A process that ends is started
// again after one second, then two, up to a minute; it is not where the
// configuration is at fault. Stop holds until Start. Configurations go through
// standard input and never lie on the disk. Xray ends with us; what an earlier run
// left behind, killed in between, is found by its pid, its start and its program.
//
// Xray takes SIGHUP for the end, so none is sent.
package process

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// Options say what is run and as whom.
type Options struct {
	Binary string // the path of the program
	// Dir is a directory of ours, which only we can write to: the pid is there.
	Dir string
	// API is where the API of every configuration listens; by it we know that Xray is ready.
	API     netip.AddrPort
	LogFile string // "" is none; three files of 1 MiB are kept
	Assets  string // where geoip.dat and geosite.dat are; "" is beside the program
	// UID and GID are whom it runs as; zero is as whom we run.
	UID, GID uint32
	Cgroup   string // the directory of a cgroup of version 2 to start in; "" is ours
}

// State is what a Supervisor is doing.
type State uint8

// The states.
const (
	Stopped  State = iota // nobody wants it to run, or there is no configuration
	Running               // its API answers
	Waiting               // it has ended and is started again soon
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
	Restarts int       // after it has ended by itself
	Reason   string    // why it is not running; without secrets
	Next     time.Time // when it is started again; zero is not
	Memory   int64     // bytes in memory
	CPU      time.Duration
}

// Supervisor runs one Xray. Its methods can be called at any time and from
// anywhere, and wait for Run.
type Supervisor struct {
	o        Options
	journal  journal
	requests chan request
	mu       sync.Mutex
	status   Status
}

type request struct {
	kind requestKind
	data []byte
	done chan error // has room for the answer
}

type requestKind uint8

const (
	apply requestKind = iota
	start
	stop
	restart
)

// New returns a Supervisor; Run does the work.
func New(o Options) *Supervisor {
	return &Supervisor{o: o, requests: make(chan request), journal: journal{path: o.LogFile}}
}

// Apply tests a configuration and runs it in the place of the one before. If it
// fails, the last one that ran runs on or again, and the error says why, without
// secrets. While Xray is stopped it is kept for Start.
func (s *Supervisor) Apply(ctx context.Context, data []byte) error {
	return s.ask(ctx, request{kind: apply, data: data})
}

// Start takes back a Stop.
func (s *Supervisor) Start(ctx context.Context) error { return s.ask(ctx, request{kind: start}) }

// Stop ends Xray, which stays so until Start.
func (s *Supervisor) Stop(ctx context.Context) error { return s.ask(ctx, request{kind: stop}) }

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
