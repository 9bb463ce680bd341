package telemetry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"sync"

	"netpolicy.dev/netpolicy/internal/durable"
)

const (
	toldSchema = "np.told/1"
	// maxTold bounds the file that is read: maxAlertKeys keys and titles are far below it.
	maxTold = 1 << 20
)

// told is what all receivers know to be firing, kept in a file over restarts: title by key. What one
// of them has yet to get is not in it, so that a restart tells it again rather than never. The
// path "" keeps nothing. It is safe for concurrent use.
type told struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	firing map[string]string
}

// toldFile is the file's content.
type toldFile struct {
	Schema string            `json:"schema"`
	Firing map[string]string `json:"firing"`
}

// load reads what an earlier run has told. A file that can't be used is none.
func (t *told) load() map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.firing = map[string]string{}
	if t.path == "" {
		return nil
	}
	f, err := t.read()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			t.log.Warn("what was told before is not known", "error", err)
		}
		return nil
	}
	maps.Copy(t.firing, f.Firing)
	return f.Firing
}

func (t *told) read() (f toldFile, err error) {
	file, err := os.Open(t.path)
	if err != nil {
		return f, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxTold))
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("read %s: %w", t.path, err)
	}
	if f.Schema != toldSchema || len(f.Firing) > maxAlertKeys {
		return f, fmt.Errorf("read %s: schema %q, %d keys", t.path, f.Schema, len(f.Firing))
	}
	return f, nil
}

// note takes that no receiver waits for an alert any more.
func (t *told) note(a *Alert) {
	t.mu.Lock()
	defer t.mu.Unlock()
	title, known := t.firing[a.Key]
	switch {
	case a.Status == Firing && !(known && title == a.Title):
		t.firing[a.Key] = a.Title
	case a.Status == Resolved && known:
		delete(t.firing, a.Key)
	default:
		return
	}
	if t.path == "" {
		return
	}
	b, err := json.Marshal(toldFile{toldSchema, t.firing})
	if err == nil {
		err = durable.Replace(t.path, b)
	}
	if err != nil {
		t.log.Warn("what was told is not kept for the next start", "error", err)
	}
}
