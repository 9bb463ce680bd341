package telemetry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/nstest"
)

// smallDisk is a folder on a file system of a mebibyte in a mount namespace of the test's thread, named
// so that all threads find it.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	runtime.LockOSThread() // never unlocked: the thread, and with it the namespace, ends with the test
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")
	}
	if err != nil {
		t.Skip("needs a mount namespace of its own: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return fmt.Sprintf("/proc/%d/task/%d/root%s", os.Getpid(), unix.Gettid(), dir)
}

// lockedBuffer is a writer for a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// TestFullDisk: on a full disk every record is on the disk or counted, those too that waited in the
// compressor; the log tells of the first failure and of the end; no segment stays that nothing is in.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t)
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		var told []error
		lost := &drops{}
		l := NewDecisionLog(DecisionOptions{
			Ring: NewRing(0), Log: slog.New(slog.NewTextHandler(&out, nil)), Dropped: lost.count,
			Segments: NewSegments(dir, 0), Broken: func(err error) { told = append(told, err) },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		added := 0
		add := func(n int) {
			for range n {
				r := record("r", added)
				chance := make([]byte, 300) // which can't be compressed
				_, _ = rand.Read(chance)
				r.Context.Flow = json.RawMessage(`"` + hex.EncodeToString(chance) + `"`)
				l.Add(r)
				added++
			}
			synctest.Wait()
		}
		add(100)
		time.Sleep(flushEvery)
		add(10) // they wait in the compressor
		free := nstest.Fill(t, dir)
		for range 10 {
			add(500)
			time.Sleep(3 * time.Second)
		}
		free()
		time.Sleep(pauseAfterError)
		add(100)
		time.Sleep(flushEvery)
		add(50)
		// It is full by what is written itself, too.
		for range 10 {
			add(1000)
			time.Sleep(3 * time.Second)
		}
		cancel()
		<-done

		onDisk := len(segmentLines(t, dir))
		if n := int(lost.disk.Load()); onDisk+n != added || n < 5000 || onDisk < 300 || lost.queue.Load() > 0 {
			t.Errorf("%d records: %d on the disk, %d counted as lost", added, onDisk, n)
		}
		for i, err := range told { // at the end there may be room for a while
			if i%2 == 0 && err != nil || i%2 == 1 && !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("told: %v", told)
				break
			}
		}
		if n := strings.Count(out.b.String(), "\n"); len(told) < 4 || n != len(told)-1 {
			t.Errorf("%d lines in the log, want one for each change:\n%.2000s", n, out.b.String())
		}
		names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
		if err != nil || len(names) < 2 {
			t.Errorf("%v, segments %v", err, names)
		}
		for _, name := range names {
			if info, err := os.Stat(name); err != nil || info.Size() == 0 {
				t.Errorf("%s: %v, nothing is in it", name, err)
			}
		}
	})
}
