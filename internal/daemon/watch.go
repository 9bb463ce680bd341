package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must be left alone before it is read again: editors
// write in several steps (truncate, write, rename) within a few milliseconds,
// and a reload must be live within a second.
const settle = 150 * time.Millisecond

// watchFile calls changed after the file at path was written, replaced or made,
// until ctx ends. It watches the directory, because editors and deployment tools
// replace files by rename; where the file is a symbolic link (Kubernetes swaps
// one), it watches the directory of the target too. changed must not block.
func watchFile(ctx context.Context, path string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer w.Close()
	dir := filepath.Dir(path)
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	target := watchTarget(w, path, "")

	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err, ok := <-w.Errors:
			if !ok {
				return nil
			}
			// An overflow of the kernel's queue may have hidden a change: look.
			if err != nil {
				quiet.Reset(settle)
			}
		case e, ok := <-w.Events:
			if !ok {
				return nil
			}
			if e.Op == fsnotify.Chmod {
				continue
			}
			if now := watchTarget(w, path, target); now != target {
				target = now
			} else if clean := filepath.Clean(e.Name); clean != filepath.Clean(path) && clean != target {
				continue
			}
			quiet.Reset(settle)
		case <-quiet.C:
			changed()
		}
	}
}

// watchTarget follows path to the file that it names now, and watches that
// file's directory when it is not the former one's.
func watchTarget(w *fsnotify.Watcher, path, former string) string {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return former // between two steps of an editor there may be no file
	}
	if target != former && filepath.Dir(target) != filepath.Dir(path) {
		// Without the watch, a change of the target's content goes unseen; a
		// swap of the link is still seen.
		_ = w.Add(filepath.Dir(target))
	}
	return target
}
