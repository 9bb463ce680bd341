//go:build amd64 || arm64

package ebpf

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/owner"
)

const (
	// maxPrograms bounds the programs and the control groups whose names are
	// remembered, each: those of a host with thousands of short-lived ones.
	maxPrograms = 4096
	// maxGroups bounds the folders looked at in a search for a control group.
	maxGroups = 16384
	// searchEvery is how often such a search may happen: it takes some ten milliseconds.
	searchEvery = time.Second
)

// programs finds the names of what owns sockets. A program that has ended before
// it was first looked at keeps its name (comm), and has no path.
type programs struct {
	proc, top string // of /proc, and of the control groups
	users     owner.Users
	paths     map[program]flow.Value[string]
	groups    map[uint64]flow.Value[string]
	searched  time.Time
}

// program identifies a running program: a number may be used again, and a
// process may run another program.
type program struct {
	pid         uint32
	start, exec uint64
}

func newPrograms(proc, top string) *programs {
	return &programs{proc: proc, top: top, paths: make(map[program]flow.Value[string]), groups: make(map[uint64]flow.Value[string])}
}

// describe adds to f what is known of its owner.
func (p *programs) describe(f *flow.Flow, o *observeOwner) {
	name, _, _ := bytes.Cut(o.Comm[:], []byte{0})
	f.Process, f.User = flow.Some(string(name)), p.users.Name(o.Uid)
	dir := filepath.Join(p.proc, strconv.FormatUint(uint64(o.Pid), 10))
	k := program{o.Pid, o.Start, o.Exec}
	path, known := p.paths[k]
	if !known {
		path = owner.Executable(dir)
		if len(p.paths) >= maxPrograms {
			clear(p.paths)
		}
		p.paths[k] = path
	}
	f.ProcessPath = path
	group, known := p.groups[o.Cgroup]
	if !known {
		group = p.group(o.Cgroup, dir)
	}
	f.Cgroup = group
}

// group finds the path of a control group: that of the process, if it lives and
// has not moved, or else by a search for the folder with this number.
func (p *programs) group(id uint64, dir string) flow.Value[string] {
	if path, ok := owner.Cgroup(dir).Get(); ok && inode(filepath.Join(p.top, path)) == id {
		p.remember(id, path)
		return flow.Some(path)
	}
	if now := time.Now(); now.Sub(p.searched) < searchEvery {
		return flow.Value[string]{}
	}
	looked := 0
	_ = filepath.WalkDir(p.top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it went meanwhile
		}
		if !d.IsDir() {
			return nil
		}
		if looked++; looked > maxGroups {
			return filepath.SkipAll
		}
		rel, err := filepath.Rel(p.top, path)
		if err == nil {
			p.remember(inode(path), filepath.Join("/", rel))
		}
		return nil
	})
	p.searched = time.Now()
	return p.groups[id]
}

func (p *programs) remember(id uint64, path string) {
	if len(p.groups) >= maxPrograms {
		clear(p.groups)
	}
	p.groups[id] = flow.Some(path)
}

// inode returns the number of a control group's folder, which is the group's own
// (on machines of 64 bits); 0 if it is not there.
func inode(path string) uint64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Sys().(*syscall.Stat_t).Ino
}
