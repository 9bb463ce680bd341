package sockdiag

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/flow"
)

const (
	// maxFiles bounds the open files looked at in one search for owners: some
	// tens of milliseconds. A host with more shows fewer programs.
	maxFiles = 200_000
	// maxUsers bounds the user names remembered.
	maxUsers = 1024
	// maxComm is the kernel's TASK_COMM_LEN with room.
	maxComm = 64
)

// owners finds the programs and users that sockets belong to.
type owners struct {
	proc     string
	counters *Counters
	users    map[uint32]flow.Value[string]
}

func newOwners(proc string, c *Counters) *owners {
	return &owners{proc: proc, counters: c, users: make(map[uint32]flow.Value[string])}
}

// user returns the user's name, or the number where there is no name.
func (o *owners) user(uid uint32) flow.Value[string] {
	if v, ok := o.users[uid]; ok {
		return v
	}
	id := strconv.FormatUint(uint64(uid), 10)
	v := flow.Some(id)
	if u, err := user.LookupId(id); err == nil && u.Username != "" {
		v = flow.Some(u.Username)
	}
	if len(o.users) >= maxUsers {
		clear(o.users)
	}
	o.users[uid] = v
	return v
}

// find searches /proc for the programs that hold the sockets, by inode. Those
// not found stay unknown. Programs that end meanwhile are passed over.
func (o *owners) find(sockets map[uint32]*socket) {
	o.counters.Scans.Add(1)
	processes, err := os.ReadDir(o.proc)
	if err != nil {
		return
	}
	left, files := len(sockets), 0
	for _, p := range processes {
		if _, err := strconv.ParseUint(p.Name(), 10, 32); err != nil {
			continue
		}
		dir := filepath.Join(o.proc, p.Name())
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if files++; files > maxFiles || left == 0 {
				return
			}
			link, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			if err != nil {
				continue
			}
			inode, ok := socketInode(link)
			if n := sockets[inode]; ok && n != nil && n.flow.Process.Unknown() {
				n.flow.Process, n.flow.ProcessPath = program(dir)
				left--
			}
		}
	}
}

// socketInode reads "socket:[123]".
func socketInode(link string) (uint32, bool) {
	digits, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 32)
	return uint32(n), err == nil
}

// program returns a process's name (comm) and executable.
func program(dir string) (name, path flow.Value[string]) {
	if comm, err := os.ReadFile(filepath.Join(dir, "comm")); err == nil {
		s := strings.TrimSuffix(string(comm), "\n")
		if len(s) > maxComm {
			s = s[:maxComm]
		}
		name = flow.Some(s)
	}
	if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		path = flow.Some(strings.TrimSuffix(exe, " (deleted)"))
	}
	return name, path
}

// String shows the counters for logs.
func (c *Counters) String() string {
	return fmt.Sprintf("polls %d, partial %d, full %d, scans %d", c.Polls.Load(), c.Partial.Load(), c.Full.Load(), c.Scans.Load())
}
