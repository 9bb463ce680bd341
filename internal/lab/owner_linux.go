package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runRoot holds one directory for each lab: its owner's lock, the daemon's
// state, its socket and its log. The lock is held while the owner lives, so
// that a killed lab can be told from a running one, whoever has its pid now.
const runRoot = "/run/netpolicy-lab"

// lockName is the file in a lab's directory that its owner holds locked.
const lockName = "owner"

// fresh begins the name of a directory that has no owner's lock yet.
const fresh = ".new-"

// newRunDir makes the directory of a new lab and takes its lock. It has its name
// only when it is locked, so that no other lab takes it for a leftover.
func newRunDir() (id, dir string, lock *os.File, err error) {
	var raw [3]byte
	if _, err = rand.Read(raw[:]); err != nil {
		return "", "", nil, fmt.Errorf("choose a name for the lab: %w", err)
	}
	id = "np" + hex.EncodeToString(raw[:])
	dir = filepath.Join(runRoot, id)
	temp := filepath.Join(runRoot, fresh+id)
	// Another lab that ends may remove the root in between.
	for range 10 {
		if err = os.MkdirAll(runRoot, 0o755); err == nil {
			err = os.Mkdir(temp, 0o700)
		}
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return "", "", nil, fmt.Errorf("make the directory of the lab: %w", err)
	}
	if lock, err = os.OpenFile(filepath.Join(temp, lockName), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600); err == nil {
		fmt.Fprintln(lock, os.Getpid())
		if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			err = os.Rename(temp, dir)
		}
	}
	if err != nil {
		os.RemoveAll(temp)
		return "", "", nil, fmt.Errorf("lock the directory of the lab: %w", err)
	}
	return id, dir, lock, nil
}

// removeRunDir removes a lab's directory, and the root when it was the last.
func removeRunDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the directory of the lab: %w", err)
	}
	os.Remove(runRoot) // fails, as it should, while others are in it
	return nil
}

// youngDir is how old a directory that has no lock yet must be to be a leftover:
// its owner takes the lock within milliseconds.
const youngDir = 10 * time.Second

// Clean removes what killed labs left: processes in their namespaces, the
// namespaces, and their directories. Labs whose owner lives are not touched,
// nor any namespace that no lab made. It returns the names of the labs removed.
func Clean() ([]string, error) {
	entries, err := os.ReadDir(runRoot)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for leftover labs: %w", err)
	}
	var removed []string
	var errs []error
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), fresh) && time.Since(info.ModTime()) > youngDir {
			errs = append(errs, removeRunDir(filepath.Join(runRoot, e.Name())))
		}
		if !e.IsDir() || !strings.HasPrefix(e.Name(), "np") {
			continue
		}
		gone, err := cleanOne(e.Name())
		if gone {
			removed = append(removed, e.Name())
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// cleanOne removes the lab id if its owner is dead, and reports whether it did.
func cleanOne(id string) (bool, error) {
	dir := filepath.Join(runRoot, id)
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|syscall.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		// Its owner is removing it, or was killed while it did.
		if info, err := os.Stat(dir); err != nil || time.Since(info.ModTime()) < youngDir {
			return false, nil
		}
	case err != nil:
		return false, fmt.Errorf("look at lab %s: %w", id, err)
	default:
		defer lock.Close()
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			return false, nil // its owner lives
		}
	}
	names, err := filepath.Glob(netnsDir + id + "-*")
	if err != nil {
		return false, fmt.Errorf("look for namespaces of lab %s: %w", id, err)
	}
	var errs []error
	for _, path := range names {
		errs = append(errs, killInside(path), removeSpace(filepath.Base(path)))
	}
	errs = append(errs, removeRunDir(dir))
	return true, errors.Join(errs...)
}

// killInside ends the processes that still run in a dead lab's namespace, and
// waits for them: a namespace lives as long as they do.
func killInside(path string) error {
	for range 50 {
		pids := inside(path)
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("processes in %s do not end", path)
}

// inside lists the processes whose main thread is in the namespace at path.
func inside(path string) []int {
	var want syscall.Stat_t
	if syscall.Stat(path, &want) != nil {
		return nil
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var have syscall.Stat_t
		if syscall.Stat(filepath.Join("/proc", p.Name(), "ns/net"), &have) == nil && have.Dev == want.Dev && have.Ino == want.Ino {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sleep waits, and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
