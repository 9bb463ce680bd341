// Package owner gives what the kernel tells of a socket's owner by number its
// names: users, programs and control groups (Linux). All it remembers is bounded.
package owner

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/flow"
)

const (
	// maxUsers bounds the user names remembered.
	maxUsers = 1024
	// maxComm is the kernel's TASK_COMM_LEN with room.
	maxComm = 64
	// maxCgroup bounds what is read of a process's list of control groups: a dozen
	// lines with paths.
	maxCgroup = 64 << 10
)

// Users remembers the names of users. The zero Users is empty; it is for one goroutine.
type Users struct{ names map[uint32]flow.Value[string] }

// Name returns the user's name, or the number where there is no name.
func (u *Users) Name(uid uint32) flow.Value[string] {
	if v, ok := u.names[uid]; ok {
		return v
	}
	id := strconv.FormatUint(uint64(uid), 10)
	v := flow.Some(id)
	if found, err := user.LookupId(id); err == nil && found.Username != "" {
		v = flow.Some(found.Username)
	}
	if u.names == nil || len(u.names) >= maxUsers {
		u.names = make(map[uint32]flow.Value[string])
	}
	u.names[uid] = v
	return v
}

// Program returns the name (comm) of the process with this folder in /proc.
func Program(dir string) flow.Value[string] {
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return flow.Value[string]{}
	}
	s := strings.TrimSuffix(string(comm), "\n")
	if len(s) > maxComm {
		s = s[:maxComm]
	}
	return flow.Some(s)
}

// Executable returns the file that the process with this folder in /proc runs.
func Executable(dir string) flow.Value[string] {
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return flow.Value[string]{}
	}
	return flow.Some(strings.TrimSuffix(exe, " (deleted)"))
}

// Cgroup returns the version 2 control group of the process with this folder in
// /proc, as a path from the topmost: "/system.slice/ssh.service".
func Cgroup(dir string) flow.Value[string] {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil || len(b) > maxCgroup {
		return flow.Value[string]{}
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return flow.Some(strings.TrimSuffix(path, "\n"))
		}
	}
	return flow.Value[string]{}
}
