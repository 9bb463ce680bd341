package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"netpolicy.dev/netpolicy/xray/config"
)

const (
	// readyWithin is how long it may take until the API answers, on a slow router
	// with large lists of addresses.
	readyWithin = time.Minute
	// askEvery is how often it is asked meanwhile.
	askEvery = 50 * time.Millisecond
	// testWithin bounds Xray's test of a configuration.
	testWithin = time.Minute
)

// What Xray needs of root's rights: marks and TPROXY, and low ports
// (linux/capability.h).
const (
	capNetAdmin       = 12
	capNetBindService = 10
)

// child is an Xray that was started.
type child struct {
	process *os.Process
	started time.Time
	exit    chan int // its exit code, once; -1 is by a signal
}

// loop is what Run alone knows.
type loop struct {
	*Supervisor
	child    *child
	data     []byte // the configuration to run; nil is none
	good     []byte // the last one that became ready
	stopped  bool   // by the user
	restarts restarts
	timer    <-chan time.Time
}

// Run does the work until the context ends, and then ends Xray. It returns an
// error where it can't begin.
func (s *Supervisor) Run(ctx context.Context) error {
	if !s.o.API.IsValid() {
		return errors.New("run xray: there is no address for its API")
	}
	if err := endOrphan(ctx, s.pidFile(), s.o.Binary); err != nil {
		return fmt.Errorf("end what an earlier run of xray left: %w", err)
	}
	l := loop{Supervisor: s}
	defer s.journal.close()
	defer l.end()
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
			l.gone()
			l.failed(ctx, s.exited(code), ran)
		case <-l.timer:
			l.timer = nil
			s.set(func(st *Status) { st.Restarts++ })
			if err := l.launch(ctx, l.data); err != nil {
				l.failed(ctx, err, 0)
			}
		}
	}
}

func (s *Supervisor) pidFile() string { return filepath.Join(s.o.Dir, "xray.pid") }

func (l *loop) handle(ctx context.Context, r request) error {
	switch r.kind {
	case apply:
		return l.apply(ctx, r.data)
	case stop:
		l.stopped = true
		l.end()
		return nil
	case start:
		l.stopped = false
		if l.child != nil {
			return nil
		}
	case restart:
		l.end()
	}
	if l.stopped {
		return errors.New("xray is stopped; start it")
	}
	if l.data == nil {
		return errors.New("there is no configuration for xray")
	}
	l.restarts = restarts{}
	if err := l.launch(ctx, l.data); err != nil {
		l.failed(ctx, err, 0)
		return fmt.Errorf("start xray: %w", err)
	}
	return nil
}

func (l *loop) apply(ctx context.Context, data []byte) error {
	if err := l.test(ctx, data); err != nil {
		return fmt.Errorf("test the configuration of xray: %w", err)
	}
	if l.stopped {
		l.data = data
		return nil
	}
	l.end()
	l.data, l.restarts = data, restarts{}
	err := l.launch(ctx, data)
	if err == nil {
		return nil
	}
	l.failed(ctx, err, 0)
	if l.child != nil {
		return fmt.Errorf("start xray; the configuration before runs again: %w", err)
	}
	return fmt.Errorf("start xray: %w", err)
}

// failed decides what follows a process that ended by itself or never got ready.
// The last configuration that ran comes back at once.
func (l *loop) failed(ctx context.Context, err error, ran time.Duration) {
	if l.good != nil && !bytes.Equal(l.data, l.good) {
		l.data = l.good
		if err = l.launch(ctx, l.data); err == nil {
			return
		}
		ran = 0
	}
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
	l.set(func(st *Status) { st.State, st.Reason, st.Next = state, err.Error(), time.Now().Add(wait) })
}

// launch starts Xray and waits until it is ready.
func (l *loop) launch(ctx context.Context, data []byte) error {
	l.timer = nil
	l.journal.hide(config.Secrets(data))
	c, err := l.spawn(data)
	if err != nil {
		return err
	}
	l.child = c
	if err := remember(l.pidFile(), c.process.Pid); err != nil {
		// It may have ended already, which is told below.
		if _, alive := identify(c.process.Pid); alive == nil {
			l.end()
			return fmt.Errorf("keep the pid: %w", err)
		}
	}
	if err := l.ready(ctx, c); err != nil {
		if exitCode(err) < 0 {
			l.end()
		} else {
			l.gone()
		}
		return err
	}
	l.good = data
	l.set(func(st *Status) { st.State, st.PID, st.Reason, st.Next = Running, c.process.Pid, "", time.Time{} })
	return nil
}

// command returns Xray with arguments, as whom it has to run.
func (s *Supervisor) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.o.Binary, args...)
	cmd.Env = []string{} // variables of Xray's own can lead it to other files
	if s.o.Assets != "" {
		cmd.Env = append(cmd.Env, "XRAY_LOCATION_ASSET="+s.o.Assets)
	}
	cmd.WaitDelay = killWait
	// A group of its own: a terminal that hangs up sends SIGHUP to ours.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if s.o.UID != 0 || s.o.GID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.o.UID, Gid: s.o.GID}
		cmd.SysProcAttr.AmbientCaps = []uintptr{capNetAdmin, capNetBindService}
	}
	return cmd
}

// spawn starts Xray. The thread that does has to live on: its end would be the
// child's.
func (s *Supervisor) spawn(data []byte) (*child, error) {
	cmd := s.command(context.Background(), "run", "-config", "stdin:")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &s.journal, &s.journal
	if s.o.Cgroup != "" {
		dir, err := os.Open(s.o.Cgroup)
		if err != nil {
			return nil, fmt.Errorf("open the cgroup: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	c := &child{exit: make(chan int, 1), started: time.Now()}
	began := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		began <- err
		if err == nil {
			_ = cmd.Wait() // the code says it
			c.exit <- cmd.ProcessState.ExitCode()
		}
	}()
	if err := <-began; err != nil {
		return nil, err
	}
	c.process = cmd.Process
	return c, nil
}

// ready waits until the API answers. An error with a code means that Xray ended.
func (s *Supervisor) ready(ctx context.Context, c *child) error {
	end := time.Now().Add(readyWithin)
	for time.Now().Before(end) {
		select {
		case code := <-c.exit:
			c.exit <- code // for who ends it
			return s.exited(code)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askEvery):
		}
		if conn, err := net.DialTimeout("tcp", s.o.API.String(), time.Second); err == nil {
			conn.Close()
			asked, cancel := context.WithDeadline(ctx, end)
			err := runLocked(s.command(asked, "api", "statssys", "--server="+s.o.API.String()))
			cancel()
			// A port that somebody else has answers too.
			if err == nil && len(c.exit) == 0 {
				return nil
			}
		}
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

// runLocked is cmd.Run on a thread that lives as long.
func runLocked(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// end ends the child, if there is one, and waits for it: its ports are free then.
func (l *loop) end() {
	l.timer = nil
	if l.child != nil {
		l.child.end()
	}
	l.gone()
}

func (c *child) end() {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, termWait}, {syscall.SIGKILL, killWait}} {
		_ = c.process.Signal(step.signal) // it may have ended already
		select {
		case <-c.exit:
			return
		case <-time.After(step.wait):
		}
	}
}

// gone forgets the child, which has ended.
func (l *loop) gone() {
	if l.child != nil {
		_ = os.Remove(l.pidFile())
	}
	l.child = nil
	l.set(func(st *Status) { st.State, st.PID, st.Reason, st.Next = Stopped, 0, "", time.Time{} })
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
	err := runLocked(cmd)
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
