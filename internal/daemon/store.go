package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"netpolicy.dev/netpolicy/internal/durable"
)

// The files of the state directory.
const (
	stateFile   = "state.json"
	usageFile   = "quotas.json"
	journalFile = "journal.ndjson"
	lockFile    = "lock"
)

// maxJournal is the size at which the journal becomes journal.ndjson.1 and a new
// one begins: two files of a mebibyte hold the last hours of two uplinks that are
// probed each second, and a router has room for them.
const maxJournal = 1 << 20

// maxState bounds the state file that is read, as package state does.
const maxState = 4 << 20

// store is the state directory: what survives a restart. The zero store keeps
// nothing (dry runs, --observe). It is for one goroutine.
type store struct {
	dir  string
	lock *os.File
}

// openStore makes the state directory, mode 0700, where there is none, and locks
// it, so that two daemons never share one. The lock goes with the process.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the state directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s: another netpolicyd uses it", dir)
		}
		return nil, fmt.Errorf("lock the state directory %s: %w", dir, err)
	}
	return &store{dir: dir, lock: f}, nil
}

// Close lets the state directory go.
func (s *store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// loadState returns the last state saved, nil where there is none.
func (s *store) loadState() ([]byte, error) { return s.load(stateFile) }

// loadUsage returns the last usage of quotas saved, nil where there is none.
func (s *store) loadUsage() ([]byte, error) { return s.load(usageFile) }

// saveState replaces the state file: after a crash at any moment it holds either
// the former bytes or these.
func (s *store) saveState(b []byte) error { return s.save(stateFile, b) }

// saveUsage replaces the file of the quotas' usage in the same way.
func (s *store) saveUsage(b []byte) error { return s.save(usageFile, b) }

func (s *store) load(name string) ([]byte, error) {
	if s.dir == "" {
		return nil, nil
	}
	path := filepath.Join(s.dir, name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("read %s: %d bytes are more than %d", name, info.Size(), maxState)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

func (s *store) save(name string, b []byte) error {
	if s.dir == "" {
		return nil
	}
	if err := durable.Replace(filepath.Join(s.dir, name), b); err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	return nil
}

// appendJournal appends whole lines. With fresh set the journal so far becomes
// journal.ndjson.1 first. The journal is a help for people and for replays: it is
// not synced, and a torn last line is no harm.
func (s *store) appendJournal(lines []byte, fresh bool) error {
	if s.dir == "" {
		return nil
	}
	path := filepath.Join(s.dir, journalFile)
	if fresh {
		if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotate the journal: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	_, err = f.Write(lines)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// BootID names this boot of the machine: a state saved under another one tells
// nothing about the lines of now.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot's id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
