package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// inside names the mode that a re-executed test binary installs.
const inside = "NETPOLICY_TEST_SECCOMP"

func TestMain(m *testing.M) {
	if mode := os.Getenv(inside); mode != "" {
		os.Exit(underFilter(mode))
	}
	os.Exit(m.Run())
}

// underFilter installs the filter and prints what then becomes of some calls.
func underFilter(mode string) int {
	m, err := ParseMode(mode)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	// A thread that is there before: the filter must hold for it, too.
	ready, ask, answer := make(chan bool), make(chan bool), make(chan error)
	go func() {
		runtime.LockOSThread()
		ready <- true
		<-ask
		answer <- unix.Mount("none", "/nowhere", "tmpfs", 0, "")
	}()
	<-ready
	if err := Install(m); err != nil {
		fmt.Println("install:", err)
		if errors.Is(err, ErrUnsupported) {
			return 2
		}
		return 1
	}
	ask <- true
	fmt.Println("mount on a former thread:", <-answer)
	fmt.Println("mount:", unix.Mount("none", "/nowhere", "tmpfs", 0, ""))
	fmt.Println("unshare:", unix.Unshare(unix.CLONE_NEWUTS))
	_, err = unix.PtraceGetEventMsg(1)
	fmt.Println("ptrace:", err)
	fmt.Println("init_module:", unix.InitModule(nil, ""))
	_, err = unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	fmt.Println("AF_ALG:", err)
	_, err = unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, 0, 0, 0, 0)
	fmt.Println("keyctl:", err)
	// What is needed works: threads, files, sockets, and programs that inherit the filter.
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { runtime.LockOSThread() })
	}
	all.Wait()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	fmt.Println("netlink:", err)
	unix.Close(fd)
	out, err := exec.Command("sh", "-c", "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; unshare -u true && echo unshared").CombinedOutput()
	fmt.Printf("%sshell: %v\n", out, err)
	return 0
}

// again runs this binary with the filter of that mode.
func again(t *testing.T, mode Mode) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), inside+"="+mode.String())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 {
		t.Skipf("%s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestRefused(t *testing.T) {
	out := again(t, On)
	for _, want := range []string{
		"mount on a former thread: operation not permitted\n",
		"mount: operation not permitted\n",
		"unshare: operation not permitted\n",
		"ptrace: operation not permitted\n",
		"init_module: operation not permitted\n",
		"AF_ALG: operation not permitted\n",
		"keyctl: operation not permitted\n",
		"netlink: <nil>\n",
		"NoNewPrivs:\t1\nSeccomp:\t2\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "unshared") {
		t.Errorf("a program that was started is not under the filter:\n%s", out)
	}
}

// In mode log everything goes as without the filter: mounting on a folder that is
// not there is refused to root because there is none.
func TestLogged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root is refused nothing")
	}
	out := again(t, Log)
	if want := "mount: no such file or directory\n"; !strings.Contains(out, want) {
		t.Errorf("no %q in\n%s", want, out)
	}
	if !strings.Contains(out, "Seccomp:\t2\n") {
		t.Errorf("no filter in\n%s", out)
	}
}

// BenchmarkCall is the cost of the cheapest call without and with the filter, in
// processor time too: that is what counts on a busy machine.
func BenchmarkCall(b *testing.B) {
	install := sync.OnceValue(func() error { return Install(On) })
	for _, mode := range []Mode{Off, On} {
		b.Run(mode.String(), func(b *testing.B) {
			// On this process: the benchmark is the last that it does.
			if mode == On {
				if err := install(); err != nil {
					b.Skip(err)
				}
			}
			before := spent(b)
			for b.Loop() {
				unix.Getppid()
			}
			b.ReportMetric(float64(spent(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// spent is the processor time of this process, in nanoseconds.
func spent(b *testing.B) int64 {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return r.Utime.Nano() + r.Stime.Nano()
}
