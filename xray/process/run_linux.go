package process

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	helper "netpolicy.dev/netpolicy/internal/child"
	"netpolicy.dev/netpolicy/xray/api"
	"netpolicy.dev/netpolicy/xray/config"
)

const (
	// readyWithin is how long it may take until the API answers, on a slow router
	// with large lists of addresses.
	readyWithin = time.Minute
	// askEvery is how often it is asked meanwhile, and answerWithin how long for.
	askEvery     = 50 * time.Millisecond
	answerWithin = 5 * time.Second
	// testWithin bounds Xray's test of a configuration.
	testWithin = time.Minute
	// maxSocket is sun_path of linux/un.h without its zero byte.
	maxSocket = 107
	// pullEvery is how often what Xray prints is read when nobody asks for it.
	pullEvery = time.Second
)

// What Xray needs of root's rights: marks and TPROXY, and low ports
// (linux/capability.h).
const (
	capNetAdmin       = 12
	capNetBindService = 10
)

// loop is what Run alone knows.
type loop struct {
	*Supervisor
	child    *child
	left     identity // of an earlier run of ours, until we know what to do with it
	leftHash string
	config   Config // the configuration to run; Data nil is none
	good     Config // the last one that became ready
	stopped  bool   // by the user
	restarts restarts
	timer    <-chan time.Time
}

// Run does the work until the context ends, and then ends Xray unless it is to be
// left. It returns an error where it can't begin.
func (s *Supervisor) Run(ctx context.Context) error {
	r, err := readRecord(s.o.Dir)
	if err != nil {
		return fmt.Errorf("read what an earlier run of xray left: %w", err)
	}
	if s.out = s.o.Output; s.out == nil {
		if s.out, err = NewOutput(); err != nil {
			return err
		}
		defer s.out.Close()
	}
	defer s.journal.follow(nil)
	l := loop{Supervisor: s, stopped: r.Stopped}
	if r.runs() {
		l.left, l.leftHash = r.identity, r.Hash
	}
	s.set(func(st *Status) { st.ByUser = l.stopped })
	defer s.journal.close()
	defer func() {
		if s.o.Leave != nil && s.o.Leave() {
			return
		}
		l.endLeft(context.Background())
		l.end()
	}()
	pull := time.NewTicker(pullEvery)
	defer pull.Stop()
	for {
		var exit chan int
		if l.child != nil {
			exit = l.child.exit
		}
		select {
		case <-ctx.Done():
			return nil
		case r := <-s.requests:
			r.done <- l.handle(ctx, r)
		case code := <-exit:
			ran := time.Since(l.child.started)
			s.journal.pull()
			l.gone()
			l.failed(ctx, s.exited(code), ran)
		case <-pull.C:
			s.journal.pull()
		case <-l.timer:
			l.timer = nil
			s.set(func(st *Status) { st.Restarts++ })
			if err := l.launch(ctx, l.config); err != nil {
				l.failed(ctx, err, 0)
			}
		}
	}
}

func (l *loop) handle(ctx context.Context, r request) error {
	switch r.kind {
	case apply:
		return l.apply(ctx, r.config)
	case amend:
		return l.amend(ctx, r.config, r.added)
	case stop:
		l.stopped = true
		l.endLeft(ctx)
		l.end()
		l.set(func(st *Status) { st.ByUser = true })
		return l.keep()
	case start:
		if l.child != nil {
			return nil
		}
		if l.stopped {
			l.stopped = false
			l.endLeft(ctx)
			l.set(func(st *Status) { st.ByUser = false })
			if err := l.keep(); err != nil {
				return err
			}
		}
	case restart:
		l.end()
	}
	if l.stopped {
		return errors.New("xray is stopped; start it")
	}
	if l.config.Data == nil {
		return ErrNoConfig
	}
	l.restarts = restarts{}
	if err := l.launch(ctx, l.config); err != nil {
		l.failed(ctx, err, 0)
		return fmt.Errorf("start xray: %w", err)
	}
	return nil
}

func (l *loop) apply(ctx context.Context, c Config) error {
	if path := Socket(l.o.Dir); !c.API.IsValid() && len(path) > maxSocket {
		return fmt.Errorf("run xray: the path of its API's socket, %s, has %d bytes, and can have %d: the state directory needs a shorter one", path, len(path), maxSocket)
	}
	if l.child != nil && l.hash(c) == l.hash(l.good) {
		l.config = c
		return nil
	}
	if !l.stopped && l.adopt(ctx, c) {
		return nil
	}
	if err := l.test(ctx, c.Data); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if l.stopped {
		l.config = c
		return nil
	}
	l.endLeft(ctx)
	l.end()
	l.config, l.restarts = c, restarts{}
	err := l.launch(ctx, c)
	if err == nil {
		return nil
	}
	l.failed(ctx, err, 0)
	if l.child != nil {
		return fmt.Errorf("start xray; the configuration before runs again: %w", err)
	}
	return fmt.Errorf("start xray: %w", err)
}

// adopt takes over what an earlier run of ours left, if it runs the configuration.
func (l *loop) adopt(ctx context.Context, c Config) bool {
	if l.left.PID == 0 || l.leftHash != l.hash(c) {
		return false
	}
	found, err := adopt(l.left)
	if err != nil {
		return false // it is ended, and another one started
	}
	l.left = identity{}
	l.journal.hide(config.Secrets(c.Data))
	l.begin(found)
	if err := l.ready(ctx, found, c); err != nil {
		l.end()
		return false
	}
	l.config = c
	l.running(c)
	return true
}

// endLeft ends what an earlier run of ours left.
func (l *loop) endLeft(ctx context.Context) {
	if l.left.PID == 0 {
		return
	}
	// One that does not end keeps its ports: the next start fails and says so.
	_ = l.left.end(ctx)
	l.left = identity{}
	_ = l.keep()
}

func (l *loop) amend(ctx context.Context, c Config, added []byte) error {
	if l.child == nil || l.stopped || c.API != l.good.API {
		return l.apply(ctx, c)
	}
	if err := l.test(ctx, c.Data); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	// What is added prints its secrets from now on; those before may still.
	l.journal.hide(config.Secrets(both(c.Data, l.good.Data)))
	if added != nil {
		if err := l.add(ctx, c, added); err != nil {
			return fmt.Errorf("add outbounds to xray: %w", err)
		}
	}
	l.config, l.good = c, c
	return l.keep()
}

// both is JSON that holds both texts, for what looks for secrets in them.
func both(a, b []byte) []byte {
	return bytes.Join([][]byte{[]byte(`{"a":`), a, []byte(`,"b":`), b, []byte(`}`)}, nil)
}

// add has Xray's own command translate outbounds and give them to what runs.
func (l *loop) add(ctx context.Context, c Config, added []byte) error {
	ctx, cancel := context.WithTimeout(ctx, testWithin)
	defer cancel()
	at := c.API.String()
	var files []*os.File
	if !c.API.IsValid() {
		at = "unix://" + API
		dir, err := os.Open(filepath.Dir(Socket(l.o.Dir)))
		if err != nil {
			return err
		}
		defer dir.Close()
		files = []*os.File{dir}
	}
	cmd := l.command(ctx, "api", "ado", "--server="+at, "stdin:")
	cmd.ExtraFiles = files
	var out journal
	out.hide(config.Secrets(added))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(added), &out, &out
	err := helper.Run(cmd)
	if line := strings.TrimSpace(out.last()); err != nil && line != "" {
		return errors.New(line)
	}
	return err
}

// failed decides what follows a process that ended by itself or never got ready.
// The last configuration that ran comes back at once.
func (l *loop) failed(ctx context.Context, err error, ran time.Duration) {
	if l.good.Data != nil && l.hash(l.config) != l.hash(l.good) {
		l.config = l.good
		if err = l.launch(ctx, l.config); err == nil {
			return
		}
		ran = 0
	}
	used := exitCode(err) == exitBind && strings.Contains(err.Error(), "address already in use")
	wait, retry := l.restarts.exited(exitCode(err), ran)
	if !retry {
		l.set(func(st *Status) { st.State, st.Reason, st.Next = Failed, err.Error(), time.Time{} })
		return
	}
	l.timer = time.After(wait)
	state := Waiting
	if l.restarts.degraded() {
		state = Degraded
	}
	l.set(func(st *Status) {
		st.State, st.Reason, st.PortUsed, st.Next = state, err.Error(), used, time.Now().Add(wait)
	})
}

// launch starts Xray and waits until it is ready.
func (l *loop) launch(ctx context.Context, c Config) error {
	l.timer = nil
	l.journal.hide(config.Secrets(c.Data))
	started, err := l.spawn(c, func(id identity) error {
		return record{id, l.hash(c), c.Note, l.stopped}.write(l.o.Dir)
	})
	if err != nil {
		return err
	}
	l.begin(started)
	if err := l.ready(ctx, started, c); err != nil {
		if exitCode(err) < 0 {
			l.end()
		} else {
			l.gone()
		}
		return err
	}
	l.running(c)
	return nil
}

// begin takes a process as the one that is watched.
func (l *loop) begin(c *child) {
	l.child = c
	l.set(func(st *Status) {
		st.State, st.PID, st.Adopted, st.Reason, st.PortUsed, st.Next = Waiting, c.id.PID, c.adopted, "it is starting", false, time.Time{}
	})
	if l.journal.follow(nil); c.output != nil {
		l.journal.follow(c.output)
	}
}

func (l *loop) running(c Config) {
	l.good = c
	l.set(func(st *Status) {
		st.State, st.PID, st.Adopted, st.Reason, st.PortUsed, st.Next = Running, l.child.id.PID, l.child.adopted, "", false, time.Time{}
	})
}

// hash is of all that decides what runs.
func (s *Supervisor) hash(c Config) string {
	h := sha256.New()
	who, err := json.Marshal([]any{s.o.Binary, s.o.Assets, s.o.UID, s.o.GID, s.o.Cgroup})
	if err != nil {
		panic("process: " + err.Error()) // texts and numbers
	}
	h.Write(who)
	h.Write(c.Data)
	return hex.EncodeToString(h.Sum(nil))
}

// keep writes down who runs now.
func (l *loop) keep() error {
	r := record{Stopped: l.stopped}
	if l.child != nil {
		r.identity, r.Hash, r.Note = l.child.id, l.hash(l.good), l.good.Note
	}
	if err := r.write(l.o.Dir); err != nil {
		return fmt.Errorf("write down which xray runs: %w", err)
	}
	return nil
}

// ready waits until the API answers. An error with a code means that Xray ended.
func (s *Supervisor) ready(ctx context.Context, c *child, cfg Config) error {
	client := api.NewUnix(Socket(s.o.Dir))
	if cfg.API.IsValid() {
		client = api.New(cfg.API)
	}
	defer client.Close()
	end := time.Now().Add(readyWithin)
	for wait := time.Duration(0); time.Now().Before(end); wait = askEvery {
		select {
		case code := <-c.exit:
			c.exit <- code // for who ends it
			s.journal.pull()
			return s.exited(code)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if s.stopping.Load() > 0 {
			return exitError{-1, "it is stopped before it is ready"}
		}
		asked, cancel := context.WithTimeout(ctx, answerWithin)
		_, err := client.Uptime(asked)
		cancel()
		// A port that somebody else has answers too.
		if err != nil || len(c.exit) > 0 {
			continue
		}
		if s.o.Ready != nil {
			s.o.Ready(ctx, client)
		}
		return nil
	}
	return exitError{-1, "its API does not answer"}
}

// exited says why Xray has ended: its last line, unless somebody killed it.
func (s *Supervisor) exited(code int) error {
	if code < 0 {
		return exitError{code, "xray was killed"}
	}
	return exitError{code, s.journal.last()}
}

// end ends the child, if there is one, and waits for it: its ports are free then.
func (l *loop) end() {
	l.timer = nil
	if l.child != nil {
		l.child.end()
	}
	l.gone()
}

// gone forgets the child, which has ended.
func (l *loop) gone() {
	if l.child != nil {
		l.journal.follow(nil)
		l.child.letGo()
		l.child = nil
		_ = l.keep() // what it says then is that of a process which is not there
		if l.o.Gone != nil {
			defer l.o.Gone()
		}
	}
	l.set(func(st *Status) {
		st.State, st.PID, st.Adopted, st.Reason, st.PortUsed, st.Next = Stopped, 0, false, "", false, time.Time{}
	})
}

// test runs Xray's own test. It makes the devices of tun inbounds, so that those
// are tested in a network namespace that ends with it.
func (s *Supervisor) test(ctx context.Context, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, testWithin)
	defer cancel()
	cmd := s.command(ctx, "run", "-test", "-config", "stdin:")
	if config.HasTun(data) {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	}
	var out journal
	out.hide(config.Secrets(data))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &out, &out
	err := helper.Run(cmd)
	if err == nil {
		return nil
	}
	if line := strings.TrimSpace(out.last()); line != "" && cmd.ProcessState != nil {
		return exitError{cmd.ProcessState.ExitCode(), line}
	}
	return err
}

// Status returns what there is to know now.
func (s *Supervisor) Status() Status {
	s.mu.Lock()
	st := s.status
	s.mu.Unlock()
	if st.PID != 0 {
		st.Memory, st.CPU = usage(st.PID)
	}
	return st
}
