package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// space is one network namespace, named under /run/netns.
type space struct {
	name string
	fd   netns.NsHandle
	nl   *netlink.Handle
}

// netnsDir is where iproute2 keeps named namespaces.
const netnsDir = "/run/netns/"

// newSpace makes a namespace with loopback up.
func newSpace(name string) (*space, error) {
	s := &space{name: name, fd: netns.None()}
	errs := make(chan error, 1)
	go func() {
		// The thread is never unlocked: it ends with this goroutine, so no
		// other can run in the new namespace by accident.
		runtime.LockOSThread()
		home, err := netns.Get()
		if err == nil {
			defer home.Close()
			s.fd, err = netns.NewNamed(name)
			err = errors.Join(err, netns.Set(home))
		}
		errs <- err
	}()
	if err := <-errs; err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	var err error
	if s.nl, err = netlink.NewHandleAt(s.fd); err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink in %s: %w", name, err), s.close())
	}
	if err := s.up("lo"); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close removes the namespace and, with it, all that is in it. It does no harm twice.
func (s *space) close() error {
	if s.nl != nil {
		s.nl.Close()
		s.nl = nil
	}
	if s.fd.IsOpen() {
		s.fd.Close()
	}
	return removeSpace(s.name)
}

// removeSpace removes a named namespace; one that is gone is no error.
func removeSpace(name string) error {
	err := netns.DeleteNamed(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		// A name whose mount failed is a plain file.
		if err2 := os.Remove(netnsDir + name); err2 != nil && !errors.Is(err2, os.ErrNotExist) {
			return fmt.Errorf("remove namespace %s: %w", name, err)
		}
	}
	return nil
}

// do runs f on a thread inside the namespace; sockets and processes that f makes stay there.
func (s *space) do(f func() error) error {
	errs := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				errs <- fmt.Errorf("panic in namespace %s: %v", s.name, p)
			}
		}()
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			errs <- err
			return
		}
		defer home.Close()
		if err := netns.Set(s.fd); err != nil {
			errs <- fmt.Errorf("enter namespace %s: %w", s.name, err)
			return
		}
		err = f()
		// A thread that can't go home stays locked and ends with the goroutine.
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		errs <- err
	}()
	return <-errs
}

// run executes a program inside the namespace, with input, and returns what it printed.
func (s *space) run(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + netnsDir + s.name, "--"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}                                // Ctrl-C is ours to handle
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with what it has started
	cmd.Stdin = strings.NewReader(input)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("in %s: %s: %w: %s", s.name, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// sysctl writes values like "net/ipv4/ip_forward=1".
func (s *space) sysctl(settings ...string) error {
	return s.do(func() error {
		for _, setting := range settings {
			key, value, _ := strings.Cut(setting, "=")
			if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
				return fmt.Errorf("sysctl in %s: %w", s.name, err)
			}
		}
		return nil
	})
}

func (s *space) up(dev string) error {
	link, err := s.nl.LinkByName(dev)
	if err == nil {
		err = s.nl.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up in %s: %w", dev, s.name, err)
	}
	return nil
}

func (s *space) down(dev string) error {
	link, err := s.nl.LinkByName(dev)
	if err == nil {
		err = s.nl.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("set %s down in %s: %w", dev, s.name, err)
	}
	return nil
}

// veth links dev in s with peerDev in peer; both stay down.
func (s *space) veth(dev string, peer *space, peerDev string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = dev
	err := s.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peerDev, PeerNamespace: netlink.NsFd(int(peer.fd))})
	if err != nil {
		return fmt.Errorf("link %s in %s with %s in %s: %w", dev, s.name, peerDev, peer.name, err)
	}
	return nil
}

// address gives dev its addresses, "192.0.2.1/24" or IPv6, and sets it up. Repeating it does no harm.
func (s *space) address(dev string, addrs ...string) error {
	link, err := s.nl.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", dev, s.name, err)
	}
	if err := s.up(dev); err != nil {
		return err
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("parse address %s: %w", text, err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = syscall.IFA_F_NODAD
		}
		if err := s.nl.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("address %s on %s in %s: %w", text, dev, s.name, err)
		}
	}
	return nil
}

// route leads dst ("default4", "default6" or a prefix) to a gateway. Repeating it does no harm.
func (s *space) route(dst, via string) error {
	gw, err := netlink.ParseAddr(via + "/32")
	if err != nil {
		return fmt.Errorf("parse gateway %s: %w", via, err)
	}
	route := netlink.Route{Gw: gw.IP}
	switch dst {
	case "default4", "default6":
	default:
		if route.Dst, err = netlink.ParseIPNet(dst); err != nil {
			return fmt.Errorf("parse prefix %s: %w", dst, err)
		}
	}
	if err := s.nl.RouteReplace(&route); err != nil {
		return fmt.Errorf("route %s via %s in %s: %w", dst, via, s.name, err)
	}
	return nil
}

// own makes every address of the prefix a local one (AnyIP).
func (s *space) own(prefix string) error {
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		return fmt.Errorf("parse prefix %s: %w", prefix, err)
	}
	lo, err := s.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo in %s: %w", s.name, err)
	}
	route := netlink.Route{
		Dst: dst, LinkIndex: lo.Attrs().Index, Type: syscall.RTN_LOCAL,
		Table: syscall.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
	}
	if err := s.nl.RouteReplace(&route); err != nil {
		return fmt.Errorf("own %s in %s: %w", prefix, s.name, err)
	}
	return nil
}

// start starts a program inside the namespace. The caller's goroutine is locked
// to its thread, which is the parent that Pdeathsig watches.
func (s *space) start(cmd *exec.Cmd) error {
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	if err := netns.Set(s.fd); err != nil {
		return fmt.Errorf("enter namespace %s: %w", s.name, err)
	}
	return errors.Join(cmd.Start(), netns.Set(home))
}

// linkLocal reports whether dev has its IPv6 link-local address: the last thing
// that the kernel gives a link that has come up.
func (s *space) linkLocal(dev string) bool {
	link, err := s.nl.LinkByName(dev)
	if err != nil {
		return false
	}
	addrs, err := s.nl.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() && a.Flags&syscall.IFA_F_TENTATIVE == 0 {
			return true
		}
	}
	return false
}
