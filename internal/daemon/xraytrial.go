package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/sockmark"
	"netpolicy.dev/netpolicy/xray/link"
	xraytrial "netpolicy.dev/netpolicy/xray/trial"
)

const (
	// trialWithin bounds trying a link, and pageWithin the page of it.
	trialWithin = 30 * time.Second
	pageWithin  = 15 * time.Second
	// maxLink bounds a link, in bytes: those of post-quantum encryption have a few thousand.
	maxLink = 16 << 10
)

// trialDir is where it stands which Xray tries a link, in the state directory.
func trialDir(stateDir string) string { return filepath.Join(stateDir, "xray-test") }

var errTrying = fmt.Errorf("another link is being tried: %w", api.ErrConflict)

// TryXray asks for a page with a link, by an Xray of its own that has ended when it
// returns. One link is tried at a time.
func (d *Daemon) TryXray(ctx context.Context, q api.XrayTrialRequest) (api.XrayTrial, error) {
	fail := func(err, kind error) (api.XrayTrial, error) { return api.XrayTrial{}, fmt.Errorf("%w: %w", err, kind) }
	if q.URL == "" {
		q.URL = xraytrial.DefaultPage
	}
	if err := xraytrial.CheckPage(q.URL); err != nil {
		return fail(fmt.Errorf("url: %w", err), api.ErrBadRequest)
	}
	if len(q.Link) > maxLink {
		return fail(fmt.Errorf("the link is longer than %d bytes", maxLink), api.ErrBadRequest)
	}
	p, findings := link.Parse(q.Link)
	if link.Refused(findings) {
		i := slices.IndexFunc(findings, func(f link.Finding) bool { return f.Severity == diag.Error })
		return fail(errors.New("link: "+strings.TrimPrefix(findings[i].String(), "error: ")), api.ErrBadRequest)
	}
	s := d.snap.Load()
	if s == nil || d.opts.StateDir == "" {
		return fail(errors.New("no policy is in force yet, or there is no state directory"), api.ErrConflict)
	}
	if !d.trying.TryLock() {
		return api.XrayTrial{}, errTrying
	}
	defer d.trying.Unlock()
	ctx, cancel := context.WithTimeout(ctx, trialWithin)
	defer cancel()
	o := xraytrial.Options{Page: q.URL, Timeout: pageWithin, Dir: trialDir(d.opts.StateDir), Output: d.parts.TrialOutput}
	if s.plan != nil && !d.opts.Observe { // observing may lack the right to mark
		// Nothing of it is decided: what is measured is the link.
		o.Mark = s.plan.Bypass()
		o.Control = sockmark.Control(o.Mark, "")
	}
	var err error
	if o.Binary, o.UID, o.GID, err = program(s.live.policy.Daemon.Xray); err == nil {
		o.Version, err = xraytrial.Core(ctx, o.Binary)
	}
	if err != nil {
		return fail(err, api.ErrConflict)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return api.XrayTrial{}, fmt.Errorf("try a link: %w", err)
	}
	r := xraytrial.Run(ctx, o, p)
	if !r.OK && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		r.Fail(fmt.Sprintf("it takes longer than %v", trialWithin), "")
	}
	d.log.Info("link tried", "protocol", r.Protocol, "ok", r.OK, "who", api.Who(ctx))
	return api.XrayTrial(r), nil
}
