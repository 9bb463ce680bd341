// Package nstest runs tests in network namespaces that vanish with them. Main
// re-executes the test binary in a namespace of its own, so that goroutines,
// commands and sockets of a test all live there; New makes further ones for the
// peers. No namespace has a name, so none can be left behind, not even by a
// kill: the kernel removes them with the last process or socket inside.
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
//
//	func TestX(t *testing.T) {
//		nstest.Need(t)
//		peer := nstest.New(t)
//		nstest.Link(t, nstest.Here(t), "veth0", peer, "eth0", "192.0.2.1/24", "192.0.2.2/24")
//		peer.Do(t, func() { listen... })
//	}
package nstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"netpolicy.dev/netpolicy/internal/leaktest"
)

// inside is set in the environment of a re-executed test binary.
const inside = "NETPOLICY_TEST_IN_NAMESPACE"

// Main runs the tests in a new network namespace, where it can make one, and
// fails when they leave goroutines behind. It does not return.
func Main(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(inside) == "" {
		code, err := again()
		if err == nil {
			os.Exit(code)
		}
		fmt.Fprintln(os.Stderr, "tests that need a network namespace are skipped:", err)
	}
	if os.Getenv(inside) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(leaktest.Run(m))
}

// again runs this binary once more, in a new namespace.
func again() (code int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find the test binary: %w", err)
	}
	// A parent's death signal follows the thread that made the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// Need skips the test where there is no namespace to run it in.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("needs root and a network namespace of its own")
	}
}

// NS is a network namespace.
type NS struct{ handle netns.NsHandle }

// Here returns the namespace that the test runs in.
func Here(t testing.TB) *NS {
	t.Helper()
	h, err := netns.Get()
	if err != nil {
		t.Fatal("get this network namespace:", err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return &NS{h}
}

// New makes a namespace whose lo is up. It lives until the test ends.
func New(t testing.TB) *NS {
	t.Helper()
	var ns *NS
	var err error
	onThread(func() {
		var h netns.NsHandle
		if h, err = netns.New(); err == nil {
			ns = &NS{h}
			err = prepare()
		}
	})
	if err != nil {
		t.Fatal("make a network namespace:", err)
	}
	t.Cleanup(func() { _ = ns.handle.Close() })
	return ns
}

// prepare makes the namespace of this thread ready: lo up, and no duplicate
// address detection, which would hold IPv6 back for seconds.
func prepare() error {
	for _, which := range []string{"all", "default"} {
		file := "/proc/sys/net/ipv6/conf/" + which + "/accept_dad"
		if err := os.WriteFile(file, []byte("0"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("turn duplicate address detection off: %w", err)
		}
	}
	if err := up("lo"); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// Do runs f on a thread inside ns: sockets made and commands started there
// belong to it. Goroutines started by f do not.
func (ns *NS) Do(t testing.TB, f func()) {
	t.Helper()
	var err error
	onThread(func() {
		if err = netns.Set(ns.handle); err == nil {
			f()
		}
	})
	if err != nil {
		t.Fatal("enter a network namespace:", err)
	}
}

// Enter moves the test's goroutine, with its thread, into ns until the test ends.
// Goroutines that it starts do not follow, and so neither do subtests.
func (ns *NS) Enter(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err == nil {
		err = netns.Set(ns.handle)
	}
	if err != nil {
		t.Fatal("enter a network namespace:", err)
	}
	t.Cleanup(func() {
		if netns.Set(home) == nil { // a thread that can't come back ends with its goroutine
			runtime.UnlockOSThread()
		}
		_ = home.Close()
	})
}

// onThread runs f on a thread that is thrown away afterwards.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		f()
	}()
	<-done
}

// Run runs a command inside ns and fails the test when it fails.
func (ns *NS) Run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	ns.Do(t, func() {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Set writes a sysctl, such as "net/ipv4/ip_forward", inside ns.
func (ns *NS) Set(t testing.TB, sysctl, value string) {
	t.Helper()
	var err error
	ns.Do(t, func() { err = os.WriteFile("/proc/sys/"+sysctl, []byte(value), 0o644) })
	if err != nil {
		t.Fatalf("set %s: %v", sysctl, err)
	}
}

// Link joins a and b by a pair of interfaces with the given addresses
// ("192.0.2.1/24 2001:db8::1/64", none for ""), up, and without waiting for
// duplicate address detection.
func Link(t testing.TB, a *NS, nameA string, b *NS, nameB, addrsA, addrsB string) {
	t.Helper()
	a.Do(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = nameA
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(b.handle)})
		if err != nil {
			t.Errorf("make veth %s: %v", nameA, err)
		}
	})
	address(t, a, nameA, addrsA)
	address(t, b, nameB, addrsB)
	for _, end := range []struct {
		ns          *NS
		name, addrs string
	}{{a, nameA, addrsA}, {b, nameB, addrsB}} {
		end.ns.Do(t, func() {
			waitUp(t, end.name)
			waitLocal(t, end.addrs)
		})
	}
	if t.Failed() {
		t.FailNow()
	}
}

// Address gives a link that is up more addresses, and waits until they work.
func (ns *NS) Address(t testing.TB, name, addrs string) {
	t.Helper()
	address(t, ns, name, addrs)
	ns.Do(t, func() { waitLocal(t, addrs) })
	if t.Failed() {
		t.FailNow()
	}
}

func address(t testing.TB, ns *NS, name, addrs string) {
	t.Helper()
	ns.Do(t, func() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Errorf("find %s: %v", name, err)
			return
		}
		for s := range strings.FieldsSeq(addrs) {
			addr, err := netlink.ParseAddr(s)
			if err != nil {
				t.Errorf("address %q: %v", s, err)
				return
			}
			addr.Flags = syscall.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				t.Errorf("add %s to %s: %v", s, name, err)
			}
		}
		if err := up(name); err != nil {
			t.Errorf("set %s up: %v", name, err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
}

// patience is how many times the kernel is looked at, a millisecond apart.
const patience = 60_000

// waitUp waits until the kernel says that both ends of a pair are up.
func waitUp(t testing.TB, name string) {
	for range patience {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			t.Errorf("find %s: %v", name, err)
			return
		}
		if ifi.Flags&net.FlagRunning != 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%s does not come up", name)
}

// waitLocal waits until the kernel takes packets for the addresses: of IPv6 it does some
// time after they were added, even without duplicate address detection, and says until
// then that there is no way to them.
func waitLocal(t testing.TB, addrs string) {
	for s := range strings.FieldsSeq(addrs) {
		ip, _, err := net.ParseCIDR(s)
		local := false
		for n := 0; err == nil && !local && n < patience; n++ {
			routes, _ := netlink.RouteGet(ip)
			if local = len(routes) == 1 && routes[0].Type == syscall.RTN_LOCAL; !local {
				time.Sleep(time.Millisecond)
			}
		}
		if !local {
			t.Errorf("%s is not taken: %v", s, err)
		}
	}
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// Listen waits for TCP connections on addr inside the namespace. The caller closes it.
func (ns *NS) Listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	ns.Do(t, func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// ListenPacket opens a socket on addr inside the namespace; network is "udp",
// "udp4" or "udp6". The caller closes it.
func (ns *NS) ListenPacket(t testing.TB, network, addr string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	var err error
	ns.Do(t, func() { c, err = net.ListenPacket(network, addr) })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Serve accepts TCP connections on addr inside the namespace, one at a time,
// hands each to handle and closes it, until the test ends.
func (ns *NS) Serve(t testing.TB, addr string, handle func(net.Conn)) {
	t.Helper()
	l := ns.Listen(t, addr)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(c)
			_ = c.Close()
		}
	}()
}
