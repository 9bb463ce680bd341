package sockdiag

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/inspector/owner"
)

const (
	// maxFiles bounds the open files looked at in one search for owners: some
	// tens of milliseconds. A host with more shows fewer programs.
	maxFiles = 200_000
)

// owners finds the programs and users that sockets belong to.
type owners struct {
	proc     string
	counters *Counters
	users    owner.Users
}

func newOwners(proc string, c *Counters) *owners {
	return &owners{proc: proc, counters: c}
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
				n.flow.Process, n.flow.ProcessPath = owner.Program(dir), owner.Executable(dir)
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

// String shows the counters for logs.
func (c *Counters) String() string {
	return fmt.Sprintf("polls %d, partial %d, full %d, scans %d", c.Polls.Load(), c.Partial.Load(), c.Full.Load(), c.Scans.Load())
}
