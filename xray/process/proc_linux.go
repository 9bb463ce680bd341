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

	"netpolicy.dev/netpolicy/internal/durable"
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

// record is what a start of ours finds of the one before. It has no secrets but those
// that a Note has.
type record struct {
	identity                 // PID 0 is none
	Hash     string          `json:"hash,omitempty"` // of the configuration, and of whom it runs as
	Note     json.RawMessage `json:"note,omitempty"`
	Stopped  bool            `json:"stopped,omitempty"` // by the user
}

// recordFile is its name in Options.Dir.
const recordFile = "xray.json"

// readRecord returns the record in a directory; one that is not there or damaged is
// the zero record.
func readRecord(dir string) (r record, err error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, err
	}
	if json.Unmarshal(data, &r) != nil || r.PID < 0 || r.PID == 1 {
		return record{}, nil
	}
	return r, nil
}

// write keeps the record; one that says nothing is no file.
func (r record) write(dir string) error {
	path := filepath.Join(dir, recordFile)
	if r.PID == 0 && !r.Stopped {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return durable.Replace(path, append(data, '\n'))
}

// Left is an Xray that an earlier run of ours has left.
type Left struct {
	Note []byte // see Config
}

// FindLeft looks for an Xray that an earlier run with the directory has left and that
// still runs.
func FindLeft(dir string) (Left, bool) {
	r, err := readRecord(dir)
	if err != nil || !r.runs() {
		return Left{}, false
	}
	return Left{r.Note}, true
}

// EndLeft ends what FindLeft would find, for those who want no Xray any more.
func EndLeft(ctx context.Context, dir string) error {
	r, err := readRecord(dir)
	if err != nil || r.PID == 0 {
		return err
	}
	if err := r.end(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, socketDir)); err != nil {
		return err
	}
	return record{Stopped: r.Stopped}.write(dir)
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

// runs reports whether the process runs still, and is the same.
func (id identity) runs() bool {
	if id.PID == 0 {
		return false
	}
	now, err := identify(id.PID)
	return err == nil && now == id
}

// end ends the process, if it is still the same.
func (id identity) end(ctx context.Context) error {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, termWait}, {syscall.SIGKILL, killWait}} {
		if !id.runs() {
			return nil
		}
		if err := syscall.Kill(id.PID, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		for end := time.Now().Add(step.wait); id.runs() && time.Now().Before(end); {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	if id.runs() {
		return fmt.Errorf("process %d does not end", id.PID)
	}
	return nil
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
