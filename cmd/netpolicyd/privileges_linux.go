package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"netpolicy.dev/netpolicy/internal/privilege"
	"netpolicy.dev/netpolicy/internal/seccomp"
)

// needs are the capabilities that enforcing needs, and what each is for. CAP_BPF and
// CAP_PERFMON are for sources that tell of connections by eBPF: nothing fails without them.
var needs = []struct {
	capability privilege.Cap
	use        string
}{
	{privilege.NetAdmin, "to change nftables, ip rules, routes and connection marks, and to read the kernel's logs of packets"},
	{privilege.NetRaw, "to see names in packets, and to probe lines by ICMP"},
}

// missingError says which capability a process lacks.
type missingError struct {
	capability privilege.Cap
	use        string
}

func (e *missingError) Error() string {
	return fmt.Sprintf("%s is missing: netpolicyd needs it %s", e.capability, e.use)
}

// hint tells how to get it.
func (*missingError) hint() string {
	return "start it by its systemd unit, as root, or with ambient capabilities: setpriv --reuid netpolicy --regid netpolicy " +
		"--clear-groups --inh-caps +net_admin,+net_raw --ambient-caps +net_admin,+net_raw netpolicyd ..."
}

// missing are the needs that are not met.
func missing() ([]*missingError, error) {
	has, err := privilege.Effective()
	if err != nil {
		return nil, err
	}
	var list []*missingError
	for _, n := range needs {
		if !has.Has(n.capability) {
			list = append(list, &missingError{n.capability, n.use})
		}
	}
	return list, nil
}

// enough fails when enforcing lacks a capability. Observing goes on with the sources
// that are left, and the log says why the others are not.
func enough(observe bool, log *slog.Logger) error {
	list, err := missing()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range list {
		if observe {
			log.Warn("a capability is missing", "capability", m.capability.String(), "needed", m.use)
			continue
		}
		errs = append(errs, m)
	}
	return errors.Join(errs...)
}

// canChange fails where cleaning up could not change anything.
func canChange() error {
	list, err := missing()
	for _, m := range list {
		if m.capability == privilege.NetAdmin {
			return m
		}
	}
	return err
}

// programs reports whether the programs that hold other users' sockets can be seen.
func programs() bool {
	has, err := privilege.Effective()
	return err != nil || has.Has(privilege.SysPtrace)
}

// shield installs the seccomp filter. A kernel without filters is no reason to
// leave a network without its policy.
func shield(mode seccomp.Mode, more []seccomp.Group, log *slog.Logger) error {
	err := seccomp.Install(mode, more...)
	switch {
	case errors.Is(err, seccomp.ErrUnsupported):
		log.Warn("no seccomp filter", "error", err)
		return nil
	case err != nil:
		return fmt.Errorf("%w (--seccomp=off goes without it)", err)
	case mode != seccomp.Off:
		log.Info("seccomp filter in force", "filter", mode.String())
	}
	return nil
}

// helperPath are the folders of nft and others, which the PATH of a user who is
// not root often lacks.
var helperPath = []string{"/usr/sbin", "/sbin"}

// findHelpers adds them to PATH, at its end.
func findHelpers() {
	list := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range helperPath {
		if !slices.Contains(list, dir) {
			list = append(list, dir)
		}
	}
	os.Setenv("PATH", strings.Join(list, string(os.PathListSeparator)))
}

// defaultGroup is the group whose members may speak with the daemon where it
// exists and nothing else is said.
const defaultGroup = "netpolicy"

// noGroup keeps the API to the daemon's own user and root.
const noGroup = 0

// socketGroup returns the group that gets the API's socket. The default group is
// taken if it exists and this process may give a file to it; one that was asked for must be.
func socketGroup(name string, asked bool) (int, error) {
	if name == "" {
		return noGroup, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		if !asked {
			return noGroup, nil
		}
		return noGroup, fmt.Errorf("--socket-group: %w", err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return noGroup, fmt.Errorf("--socket-group %s: %w", name, err)
	}
	if os.Geteuid() == 0 || os.Getegid() == gid {
		return gid, nil
	}
	groups, err := os.Getgroups()
	if err == nil && slices.Contains(groups, gid) {
		return gid, nil
	}
	if !asked {
		return noGroup, nil
	}
	return noGroup, fmt.Errorf("--socket-group %s: only root and its members can give a socket to it", name)
}

// giveBack gives files that root made in a state directory of another user to that
// user: a daemon that root started once, or root's cleanup, must not lock out the
// service. It does its best; what is left shows at the next start.
func giveBack(dir string) {
	if os.Geteuid() != 0 {
		return
	}
	info, err := os.Stat(dir)
	if err != nil {
		return
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	defer root.Close()
	_ = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint // what can't be read stays as it is
		}
		if i, err := d.Info(); err == nil {
			if s, ok := i.Sys().(*syscall.Stat_t); ok && s.Uid == 0 && (s.Nlink == 1 || d.IsDir()) {
				_ = root.Lchown(path, int(owner.Uid), int(owner.Gid))
			}
		}
		return nil
	})
}

// permissionHint says what to do about a refusal that is not about a capability.
func permissionHint(err error) string {
	var path *fs.PathError
	if !errors.Is(err, os.ErrPermission) || os.Geteuid() == 0 {
		return ""
	}
	if errors.As(err, &path) {
		return fmt.Sprintf("this process is user %d, and %s must be its own to use; see \"Users and capabilities\" in docs/operations.md", os.Geteuid(), path.Path)
	}
	return "rules and routes need CAP_NET_ADMIN; --dry-run needs no rights for one --flow"
}
