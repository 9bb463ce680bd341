package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is an Xray that runs: one that we have started, or adopted.
type child struct {
	id      identity
	started time.Time
	adopted bool
	exit    chan int // its exit code, once; -1 is by a signal, or not known
	signal  func(syscall.Signal) error
	watch   *os.File // of one that is not our child
	output  *Output  // nil where it can't be read
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.o.UID != 0 || s.o.GID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.o.UID, Gid: s.o.GID}
		cmd.SysProcAttr.AmbientCaps = []uintptr{capNetAdmin, capNetBindService}
	}
	return cmd
}

// spawn starts Xray. It gets its configuration only when known has written down who
// it is: one that we lose before reads none and ends.
func (s *Supervisor) spawn(c Config, known func(identity) error) (*child, error) {
	out := s.out
	out.skip()
	cmd := s.command(context.Background(), "run", "-config", "stdin:")
	if !c.API.IsValid() {
		room, err := s.makeRoom()
		if err != nil {
			return nil, err
		}
		defer room.Close()
		cmd.ExtraFiles = []*os.File{room}
	}
	cmd.Stdout, cmd.Stderr = out.file, out.file
	if s.o.Cgroup != "" {
		dir, err := os.Open(s.o.Cgroup)
		if err != nil {
			return nil, fmt.Errorf("open the cgroup: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	ch := &child{exit: make(chan int, 1), started: time.Now(), signal: func(sig syscall.Signal) error { return cmd.Process.Signal(sig) }, output: out}
	ch.id, err = identify(cmd.Process.Pid)
	if err == nil {
		err = known(ch.id)
	}
	go func() {
		if err == nil {
			_, _ = stdin.Write(c.Data) // where it has ended its exit tells
		}
		stdin.Close()
		_ = cmd.Wait() // the code says it
		ch.exit <- cmd.ProcessState.ExitCode()
	}()
	if err != nil {
		ch.end()
		return nil, fmt.Errorf("keep the pid: %w", err)
	}
	return ch, nil
}

// makeRoom makes the directory of the API's socket anew, closed to all but whom Xray runs
// as, and opens it. A socket that one before has left would keep the next from listening.
func (s *Supervisor) makeRoom() (*os.File, error) {
	dir := filepath.Dir(Socket(s.o.Dir))
	err := os.RemoveAll(dir)
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil && (s.o.UID != 0 || s.o.GID != 0) {
		err = os.Chown(dir, int(s.o.UID), int(s.o.GID))
	}
	if err != nil {
		return nil, fmt.Errorf("make the directory of xray's API: %w", err)
	}
	return os.Open(dir)
}

// adopt takes over a process of an earlier run of ours. It needs Linux 5.3.
func adopt(id identity) (*child, error) {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", id.PID, err)
	}
	// Not to block makes it a file that the runtime waits for.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch process %d: %w", id.PID, err)
	}
	c := &child{id: id, adopted: true, exit: make(chan int, 1), watch: os.NewFile(uintptr(fd), "pidfd")}
	// The pid could have been given to another before it was opened.
	if !id.runs() {
		c.watch.Close()
		return nil, errors.New("it has ended")
	}
	c.started = time.Now() // what it ran before is at least that long
	c.signal = func(sig syscall.Signal) error { return unix.PidfdSendSignal(fd, sig, nil, 0) }
	c.output, _ = openOutput(id.PID) // without it nothing but its log is missing
	conn, err := c.watch.SyscallConn()
	if err != nil {
		c.watch.Close()
		return nil, err
	}
	go func() {
		ended := conn.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 && err == nil
		})
		if ended == nil { // else it was let go
			c.exit <- -1
		}
	}()
	return c, nil
}

// end ends the child and waits for it: its ports are free then.
func (c *child) end() {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, termWait}, {syscall.SIGKILL, killWait}} {
		_ = c.signal(step.signal) // it may have ended already
		select {
		case <-c.exit:
			return
		case <-time.After(step.wait):
		}
	}
}

// letGo ends the watching of what is not our child.
func (c *child) letGo() {
	if !c.adopted {
		return
	}
	c.watch.Close()
	if c.output != nil {
		c.output.Close()
	}
}
