package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
)

// startTime is how long netpolicyd may take until it enforces its policy.
const startTime = 20 * time.Second

// stopTime is how long it may take to stop by itself before it is killed.
const stopTime = 10 * time.Second

// logTail is how many of its last lines a message about its failure quotes.
const logTail = 8

// daemon is a netpolicyd in the gateway.
type daemon struct {
	process *os.Process
	exited  chan struct{} // closed when it has ended
	err     error         // valid once exited is closed
}

// DaemonPath finds netpolicyd: the option, beside the running executable, or in PATH.
func (l *Lab) DaemonPath() (string, error) {
	if l.opts.Daemon != "" {
		return l.opts.Daemon, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "netpolicyd")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath("netpolicyd")
	if err != nil {
		return "", errors.New("netpolicyd is neither beside this program nor in PATH; `make build` makes both")
	}
	return path, nil
}

// SocketPath is the API socket of the lab's daemon.
func (l *Lab) SocketPath() string { return filepath.Join(l.Dir, "api.sock") }

// LogPath is the file that collects what the daemon prints.
func (l *Lab) LogPath() string { return filepath.Join(l.Dir, "netpolicyd.log") }

// API returns a client of the lab's daemon.
func (l *Lab) API() *api.Client { return api.NewClient(l.SocketPath()) }

// StartDaemon starts netpolicyd in the gateway with its own state directory and
// socket, and waits until it enforces the policy at path
// and observes traffic. The state directory
// outlives a kill, so that the next start finds what the last one left.
func (l *Lab) StartDaemon(ctx context.Context, policy string) error {
	if err := l.SpawnDaemon(policy); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	d := l.running()
	client := l.API()
	for {
		s, err := client.Status(ctx)
		if err == nil && s.Mode == "enforce" && s.Enforcement == "" && s.PID == d.process.Pid {
			l.warm(ctx)
			return nil
		}
		select {
		case <-d.exited:
			return fmt.Errorf("netpolicyd ended while it started: %w\n%s", d.err, l.tail())
		default:
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return fmt.Errorf("netpolicyd does not enforce the policy after %v (status: %q, %v)\n%s", startTime, s.Enforcement, err, l.tail())
		}
	}
}

// warmTime is how long the daemon may take until it sees traffic.
const warmTime = 3 * time.Second

// warm asks the resolver, from the client, until the daemon has seen a
// connection and the name in an answer: only then does it observe. A policy may
// keep the client from its resolver, so this gives up quietly.
func (l *Lab) warm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, warmTime)
	defer cancel()
	client := l.API()
	for {
		asking, stop := context.WithTimeout(ctx, time.Second/2)
		_, _ = l.Client().resolveAt(asking, Resolver4, "dns.example.net", false)
		stop()
		for range 5 {
			if s, err := client.Status(ctx); err == nil && s.Names > 0 && s.Flows > 0 {
				return
			}
			if !sleep(ctx, 10*time.Millisecond) {
				return
			}
		}
	}
}

// SpawnDaemon starts netpolicyd and waits for nothing.
func (l *Lab) SpawnDaemon(policy string) error {
	if l.Running() {
		return errors.New("netpolicyd runs already")
	}
	path, err := l.DaemonPath()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(l.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the daemon's log: %w", err)
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(path, "--config", policy, "--state-dir", filepath.Join(l.Dir, "state"), "--socket", l.SocketPath())
	cmd.Stdout, cmd.Stderr = log, log
	if l.web != nil {
		cmd.ExtraFiles = []*os.File{l.web}
		cmd.Args = append(cmd.Args, "--api-fd", "3")
	}
	// It dies with the lab, and Ctrl-C in the terminal is the lab's alone to handle.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	d := &daemon{exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// Pdeathsig is sent when the thread that forked ends, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := l.gw.start(cmd)
		started <- err
		if err == nil {
			d.err = cmd.Wait()
			close(d.exited)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	d.process = cmd.Process
	l.daemonMu.Lock()
	l.daemon = d
	l.daemonMu.Unlock()
	return nil
}

func (l *Lab) running() *daemon {
	l.daemonMu.Lock()
	defer l.daemonMu.Unlock()
	return l.daemon
}

// Running reports whether the daemon runs.
func (l *Lab) Running() bool {
	d := l.running()
	if d == nil {
		return false
	}
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// KillDaemon kills the daemon with SIGKILL and waits for its end; without one it does nothing.
func (l *Lab) KillDaemon() error { return l.end(syscall.SIGKILL) }

// StopDaemon asks the daemon to stop, and kills it if it doesn't.
func (l *Lab) StopDaemon() error { return l.end(syscall.SIGTERM) }

// SignalDaemon sends it a signal, such as SIGHUP.
func (l *Lab) SignalDaemon(sig os.Signal) error {
	d := l.running()
	if d == nil {
		return errors.New("netpolicyd does not run")
	}
	return d.process.Signal(sig)
}

func (l *Lab) end(sig os.Signal) error {
	d := l.running()
	if d == nil {
		return nil
	}
	if err := d.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end netpolicyd: %w", err)
	}
	select {
	case <-d.exited:
	case <-time.After(stopTime):
		_ = d.process.Kill()
		<-d.exited
		return fmt.Errorf("netpolicyd did not end within %v", stopTime)
	}
	return nil
}

// Cleanup runs `netpolicyd cleanup` in the gateway, for the lab's state directory.
func (l *Lab) Cleanup(ctx context.Context) error {
	path, err := l.DaemonPath()
	if err != nil {
		return err
	}
	_, err = l.gw.run(ctx, "", path, "cleanup", "--state-dir", filepath.Join(l.Dir, "state"))
	return err
}

// tail quotes the end of the daemon's log.
func (l *Lab) tail() string {
	f, err := os.Open(l.LogPath())
	if err != nil {
		return ""
	}
	defer f.Close()
	var last []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		last = append(last, sc.Text())
		if len(last) > logTail {
			last = last[1:]
		}
	}
	out := ""
	for _, line := range last {
		out += "  | " + line + "\n"
	}
	return out
}
