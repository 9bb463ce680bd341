//go:build amd64 || arm64

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/owner"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/internal/privilege"
	"netpolicy.dev/netpolicy/internal/seccomp"
)

// childTask says, in the environment, what a re-executed test binary is to do.
const childTask = "NETPOLICY_TEST_CHILD"

func TestMain(m *testing.M) {
	if task := os.Getenv(childTask); task != "" {
		if err := child(strings.Fields(task)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	nstest.Main(m)
}

// child does a task: "dial N NETWORK ADDRESS", "refused",
// "confined CGROUP", which prints what could be served, or "as OBSERVER CGROUP".
func child(task []string) error {
	switch task[0] {
	case "dial":
		n, _ := strconv.Atoi(task[1])
		for range n {
			c, err := net.Dial(task[2], task[3])
			if err != nil {
				return err
			}
			_, port, _ := net.SplitHostPort(c.LocalAddr().String())
			fmt.Println(port)
			if task[2] == "udp" {
				_, _ = c.Write([]byte("x"))
			}
			_ = c.Close()
		}
		_, err := io.Copy(io.Discard, os.Stdin) // it stays as long as that is open
		return err
	case "refused":
		if err := refuseBPF(); err != nil {
			return err
		}
		return New(Options{}).Run(context.Background(), func(inspector.Event) {})
	case "confined":
		if err := confine(); err != nil {
			return err
		}
		list, err := Detect(Options{Cgroup: task[1], Ifaces: []string{"lo"}})
		for _, f := range list {
			fmt.Println(f)
		}
		return err
	case "as":
		return observeAs(task[1], task[2])
	default:
		return errors.New("no such task")
	}
}

// confine leaves this process what the service's unit and filter leave netpolicyd.
func confine() error {
	caps := privilege.Of(privilege.NetAdmin, privilege.NetRaw, privilege.BPF, privilege.Perfmon)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{}
	for i := range data {
		half := uint32(caps >> (32 * i))
		data[i] = unix.CapUserData{Effective: half, Permitted: half}
	}
	runtime.LockOSThread() // whose the capabilities are
	if err := unix.Capset(&header, &data[0]); err != nil {
		return err
	}
	return seccomp.Install(seccomp.On)
}

// refuseBPF makes the kernel refuse this process the bpf call.
func refuseBPF() error {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4}, // the call's number
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_BPF, SkipFalse: 1},
		bpf.RetConstant{Val: 0x00050000 | uint32(unix.EPERM)}, // SECCOMP_RET_ERRNO
		bpf.RetConstant{Val: 0x7fff0000},                      // SECCOMP_RET_ALLOW
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// runChild runs a task as a program of the given name, and returns what it printed. One that
// dials ends with stay, where that is not nil.
func runChild(t testing.TB, name, task string, stay *os.File) (pid int, out string, err error) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := command(t, name, task)
	if stay != nil {
		cmd.Stdin = stay
	}
	b, err := cmd.Output()
	return cmd.ProcessState.Pid(), string(b), err
}

// command is a task as a program of the given name, which is killed when the thread that
// starts it ends: who starts it stays on its thread.
func command(t testing.TB, name, task string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(exe, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(link)
	cmd.Env = append(os.Environ(), childTask+"="+task)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// group makes a control group with this process in it, until the test ends.
func group(t testing.TB) string {
	t.Helper()
	top, err := topCgroup("/proc")
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp(top, "netpolicy-test-")
	if err != nil {
		t.Skip("no control group can be made: ", err)
	}
	before, _ := owner.Cgroup("/proc/self").Get()
	home := filepath.Join(top, before)
	move := func(to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644)
	}
	t.Cleanup(func() {
		if err := move(home); err != nil {
			t.Error(err)
		}
		// The last socket of the group may be gone a little later.
		for range 3000 {
			if err = os.Remove(dir); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("the control group stays: %v", err)
	})
	if err := move(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start runs a source until the test ends, and returns it when all is attached.
func start(t testing.TB, opt Options, emit func(inspector.Event)) (s *Source, stop func()) {
	t.Helper()
	nstest.Need(t)
	if opt.Cgroup == "" {
		opt.Cgroup = group(t)
	}
	s = New(opt)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, emit) }()
	for s.Features() == nil {
		time.Sleep(time.Millisecond)
	}
	served := func(f Feature) bool { return f.Err == nil }
	if !slices.ContainsFunc(s.Features(), served) {
		cancel()
		t.Skip(<-done)
	}
	for _, f := range s.Features() {
		if !served(f) && !mayLack(&f) {
			t.Errorf("%s: %v", f.Fact, f.Err)
		}
	}
	stopped := false
	stop = func() {
		cancel()
		if !stopped {
			stopped = true
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// mayLack tells what kernels refuse also to root, as some do with iterators, from what
// is wrong with our programs.
func mayLack(f *Feature) bool {
	return f.Fact == factFigures && errors.Is(f.Err, os.ErrPermission)
}

// figuresBy are the ways to read figures, with what is to be left out for each.
var figuresBy = []struct {
	hook    string
	without []string
}{
	{hookStorage, []string{hookTCP, hookUDP}},
	{hookUDP + ", " + hookTCP, []string{hookStorage}},
}

// byEach runs a test that needs figures for each way to read them that the kernel
// allows, and skips it where that is none.
func byEach(t *testing.T, test func(t *testing.T, without []string)) {
	nstest.Need(t)
	dir, refused := group(t), 0
	for _, by := range figuresBy {
		list, err := Detect(Options{Cgroup: dir, without: by.without})
		if err != nil {
			t.Skip(err)
		}
		if f := figuresOf(t, list); mayLack(f) {
			refused++
			t.Logf("not by %s: %v", by.hook, f.Err)
			continue
		}
		t.Run(by.hook, func(t *testing.T) { test(t, by.without) })
	}
	if refused == len(figuresBy) {
		t.Skip("the kernel refuses every way to read figures")
	}
}

func figuresOf(t testing.TB, list []Feature) *Feature {
	t.Helper()
	i := slices.IndexFunc(list, func(f Feature) bool { return f.Fact == factFigures })
	if i < 0 {
		t.Fatalf("no word of figures: %v", list)
	}
	return &list[i]
}

// wait waits until ok is true.
func wait(t testing.TB, ok func() bool) {
	t.Helper()
	for range 60_000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it never comes about")
}
