package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// termWait and killWait are how long it may take to end after SIGTERM and SIGKILL.
	termWait = 5 * time.Second
	killWait = 2 * time.Second
)

// identity tells a process from another that has its pid later.
type identity struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of /proc/PID/stat, ticks since boot
	Exe   string `json:"exe"`
}

// identify returns the identity of a process that runs.
func identify(pid int) (identity, error) {
	fields, err := statFields(pid)
	if err != nil {
		return identity{}, err
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return identity{}, err
	}
	return identity{PID: pid, Start: fields[19], Exe: strings.TrimSuffix(exe, " (deleted)")}, nil
}

// statFields returns /proc/PID/stat from its field 3 on: what is before may hold spaces.
func statFields(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return nil, fs.ErrNotExist
	}
	return fields, nil
}

// usage returns the memory and the processor time of a process.
func usage(pid int) (rss int64, cpu time.Duration) {
	fields, err := statFields(pid)
	if err != nil || len(fields) < 22 {
		return 0, 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	pages, _ := strconv.ParseInt(fields[21], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all of Linux's architectures that Go knows
	return pages * int64(os.Getpagesize()), time.Duration(user+system) * tick
}

// remember writes who runs, so that a later start of ours can end it.
func remember(path string, pid int) error {
	id, err := identify(pid)
	if err != nil {
		return err
	}
	data, err := json.Marshal(id)
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// endOrphan ends the process that an earlier run of ours left behind. It is only
// ended if it is the same to the tick of its start, and the same program.
func endOrphan(ctx context.Context, path, binary string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var id identity
	if json.Unmarshal(data, &id) != nil || id.PID <= 1 {
		return os.Remove(path)
	}
	real, err := filepath.EvalSymlinks(binary)
	if err != nil {
		return err
	}
	same := func() bool {
		now, err := identify(id.PID)
		return err == nil && now == id && now.Exe == real
	}
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, termWait}, {syscall.SIGKILL, killWait}} {
		if !same() {
			return os.Remove(path)
		}
		if err := syscall.Kill(id.PID, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		for end := time.Now().Add(step.wait); same() && time.Now().Before(end); {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	if same() {
		return fmt.Errorf("process %d does not end", id.PID)
	}
	return os.Remove(path)
}
