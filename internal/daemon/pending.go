package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/durable"
)

// pendingFile says in the state directory that a change is not settled. It is
// written before the kernel is touched, and removed when the old policy or the new
// one is in force for good.
const pendingFile = "pending.json"

const pendingVersion = 1

// The phases of a change. In waiting the policy's file is still the old one; in
// confirmed it is being replaced, which the next start goes on with.
const (
	phaseWaiting   = "waiting"
	phaseConfirmed = "confirmed"
)

// pending is the file's content. Times are those of the logical clock, which counts
// since boot: setting the wall clock moves no deadline, and a change does not outlive
// a reboot.
type pending struct {
	Version  int           `json:"version"`
	Phase    string        `json:"phase"`
	Mode     string        `json:"mode"` // "time" or "probe"
	Boot     string        `json:"boot"`
	Began    time.Duration `json:"began_ns"`
	Deadline time.Duration `json:"deadline_ns"`
	Since    time.Time     `json:"since"` // for people
	Who      string        `json:"who"`
	N        int           `json:"n"` // the new policy in the history
	Hash     string        `json:"hash"`
	Before   int           `json:"before"` // the old one
	Old      string        `json:"old"`
	// Replaced is a checksum of the files that the confirmation replaces: who has
	// edited one meanwhile is not overwritten.
	Replaced string `json:"replaced"`

	// Why is why the change is taken back, as far as a start knows.
	Why string `json:"-"`
}

// loadPending returns the change that is not settled, nil for none. A damaged file
// is moved out of the way and told of: the policy's file is the old one until a
// confirmation, so that nothing is lost without it.
func (s *store) loadPending() (*pending, error) {
	b, err := s.load(pendingFile)
	if b == nil || err != nil {
		return nil, err
	}
	var p pending
	err = json.Unmarshal(b, &p)
	if err == nil && (p.Version != pendingVersion || p.N <= 0 || p.Phase != phaseWaiting && p.Phase != phaseConfirmed) {
		err = fmt.Errorf("version %d, phase %q, policy %d", p.Version, p.Phase, p.N)
	}
	if err == nil {
		return &p, nil
	}
	path := filepath.Join(s.dir, pendingFile)
	return nil, fmt.Errorf("read %s, which is %s.damaged now: %w", path, path, errors.Join(err, os.Rename(path, path+".damaged")))
}

func (s *store) savePending(p *pending) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save %s: %w", pendingFile, err)
	}
	return s.save(pendingFile, append(b, '\n'))
}

// clearPending settles the change.
func (s *store) clearPending() error {
	if s.dir == "" {
		return nil
	}
	err := os.Remove(filepath.Join(s.dir, pendingFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", pendingFile, err)
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return fmt.Errorf("sync the state directory: %w", err)
	}
	return nil
}

// FinishChange goes on with a confirmed change whose files a crash kept from being
// replaced, and reports whether there was one. Nobody else may use the state
// directory meanwhile. It is for a start that can't read its policy.
func FinishChange(stateDir, config string) (bool, error) {
	if _, err := os.Stat(filepath.Join(stateDir, pendingFile)); err != nil {
		return false, nil //nolint:nilerr // no change, or no directory
	}
	s, err := openStore(stateDir)
	if err != nil {
		return false, err
	}
	defer s.Close()
	p, err := s.loadPending()
	if err != nil || p == nil || p.Phase != phaseConfirmed {
		return false, err
	}
	h := &history{dir: filepath.Join(stateDir, historyDir)}
	_, b, err := h.read(p.N)
	if err != nil {
		return false, err
	}
	return true, b.Install(config)
}

// unfinished returns the change that the last run left to be taken back or to go
// on waiting, nil for none. A confirmed one is finished here.
func (d *Daemon) unfinished() *pending {
	p, err := d.store.loadPending()
	if err != nil {
		d.log.Error("change that waited for its confirmation is not known any more; the policy's file counts", "error", err)
	}
	if p == nil || d.opts.Observe {
		return nil
	}
	if p.Phase != phaseConfirmed {
		return p
	}
	_, b, err := d.historyText(p.N)
	if err == nil {
		err = b.Install(d.opts.Config)
	}
	if err != nil {
		d.log.Error("confirmed policy not written to its file", "n", p.N, "error", err)
		return nil
	}
	if err := errors.Join(d.history.mark(p.N, api.Confirmed, "by "+p.Who), d.store.clearPending()); err != nil {
		d.log.Warn("confirmed policy not noted", "n", p.N, "error", err)
	}
	d.log.Info("confirmed policy written to its file", "n", p.N)
	return nil
}

// resumable reports whether the change goes on waiting after a restart, and sets Why
// where it does not.
func (p *pending) resumable(d *Daemon) bool {
	now := d.parts.Now()
	switch {
	case p.Boot != d.parts.Boot || now < p.Began:
		p.Why = "the machine was restarted"
	case p.Mode == api.ConfirmProbe:
		p.Why = "the daemon ended while probes were under way"
	case now >= p.Deadline:
		p.Why = "nobody confirmed it in time; the daemon did not run when time was up"
	default:
		return true
	}
	return false
}
