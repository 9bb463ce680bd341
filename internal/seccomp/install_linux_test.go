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
	switch mode := os.Getenv(inside); mode {
	case "":
	case "helpers":
		os.Exit(helpersUnderFilter())
	default:
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

// helpers are the programs that appliers start, with what they are given.
var helpers = []struct {
	name  string
	args  []string
	stdin string
}{
	{"nft", []string{"-f", "-"}, "table inet t { set s { type ipv4_addr; elements = { 192.0.2.1 } }\nchain c { type filter hook input priority 0; ip saddr @s drop; }\n}\n"},
	{"nft", []string{"list", "ruleset"}, ""},
	{"iptables-legacy-restore", nil, "*mangle\n:np - [0:0]\n-A np -p tcp --dport 80 -j MARK --set-xmark 0x1/0x1\nCOMMIT\n"},
	{"iptables-legacy-save", nil, ""},
	{"ip6tables-legacy-restore", nil, "*mangle\n:np - [0:0]\nCOMMIT\n"},
	{"iptables-nft-restore", nil, "*mangle\n:np - [0:0]\n-A np -p tcp --dport 80 -j MARK --set-xmark 0x1/0x1\nCOMMIT\n"},
	{"iptables-nft-save", nil, ""},
	{"ipset", []string{"restore"}, "create np hash:net family inet\nadd np 192.0.2.0/24\n"},
	{"ip", []string{"-batch", "-"}, "link set lo up\nrule add priority 20000 lookup 20000\nroute add unreachable default table 20000\n"},
	{"tc", []string{"-batch", "-"}, "qdisc add dev lo root handle 1: htb\nclass add dev lo parent 1: classid 1:1 htb rate 1mbit\n"},
}

// helpersUnderFilter starts each helper before and after the filter is there, in namespaces alike.
func helpersUnderFilter() int {
	filtered := os.Getenv(inside+"_ON") != ""
	if filtered {
		if err := Install(On); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	for _, h := range helpers {
		if _, err := exec.LookPath(h.name); err != nil {
			fmt.Println(h.name, "is not installed")
			continue
		}
		cmd := exec.Command(h.name, h.args...)
		cmd.Stdin = strings.NewReader(h.stdin)
		out, err := cmd.CombinedOutput()
		fmt.Println(h.name, h.args, err)
		if err != nil {
			fmt.Printf("%s", out)
		}
	}
	return 0
}

// TestHelpers checks that programs which inherit the filter do what they do without it.
func TestHelpers(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var said [2]string
	for i, on := range []string{"", "1"} {
		cmd := exec.Command("unshare", "-n", exe)
		cmd.Env = append(os.Environ(), inside+"=helpers", inside+"_ON="+on)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Skipf("needs root and a network namespace: %v %s", err, out)
		}
		said[i] = string(out)
	}
	t.Logf("%s", said[0])
	if said[0] != said[1] {
		t.Errorf("without the filter\n%s\nwith it\n%s", said[0], said[1])
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
