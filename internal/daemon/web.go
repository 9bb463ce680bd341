package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/state"
)

// Web says where the API and the web interface are served over TCP. The zero Web is nowhere.
type Web struct {
	api.TCP
	Listen   netip.AddrPort
	Listener net.Listener // one that was handed in, instead of Listen; the daemon closes it
}

// Telemetry says what is told and kept of decisions and states besides what is in memory.
type Telemetry struct {
	// DecisionDir is where decision records are kept; "" keeps none.
	DecisionDir string
	DecisionMax int64 // bytes; 0: telemetry.DefaultSegments
	Sample      int
	Mask        []string
	// Alerts are URLs as the policy spells them, AlertExec a program.
	Alerts    []string
	AlertExec string
	Node      string // this host's name
}

// alertSecret is the file with what signs webhooks, in the state directory.
const alertSecret = "alert.key"

// serveWeb returns a listener for the API over TCP, nil where there is none, and gives the server its tokens.
func (d *Daemon) serveWeb(s *api.Server) (net.Listener, error) {
	w := &d.opts.Web
	if w.Listener == nil && !w.Listen.IsValid() {
		return nil, nil
	}
	l := w.Listener
	err := os.MkdirAll(d.opts.StateDir, 0o700)
	if err == nil {
		s.Tokens, err = api.OpenTokens(d.opts.StateDir)
	}
	if err == nil && l == nil {
		l, err = net.Listen("tcp", w.Listen.String())
	}
	if err == nil {
		err = w.Check(l)
	}
	if err != nil {
		if l != nil {
			l.Close()
		}
		return nil, fmt.Errorf("serve the API over TCP: %w", err)
	}
	d.log.Info("API over TCP", "address", l.Addr().String(), "tls", w.CertFile != "")
	return l, nil
}

// openTelemetry opens what goes to the disk and to others.
func (d *Daemon) openTelemetry() error {
	o := &d.opts.Telemetry
	decisions := telemetry.DecisionOptions{
		Ring: d.records, Log: d.log, Dropped: d.metrics.DecisionDropped, Sample: o.Sample, Mask: o.Mask,
	}
	if o.DecisionDir != "" {
		segments, err := telemetry.OpenSegments(o.DecisionDir, o.DecisionMax)
		if err != nil {
			return err
		}
		decisions.Segments = segments
	}
	d.decisions = telemetry.NewDecisionLog(decisions)
	var receivers []telemetry.Receiver
	if len(o.Alerts) > 0 {
		secret, err := secretIn(d.opts.StateDir)
		if err != nil {
			return err
		}
		for _, url := range o.Alerts {
			receivers = append(receivers, telemetry.ReceiverOf(url, secret))
		}
	}
	if o.AlertExec != "" {
		receivers = append(receivers, telemetry.ExecReceiver(o.AlertExec))
	}
	if len(receivers) > 0 {
		d.alerts = telemetry.NewAlerts(o.Node, receivers, d.log, d.metrics.Alert)
	}
	return nil
}

// secretIn reads what signs webhooks, as text, or makes it.
func secretIn(dir string) ([]byte, error) {
	if dir == "" {
		return nil, errors.New("alerts by webhook need a state directory, for the key that signs them")
	}
	path := filepath.Join(dir, alertSecret)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw := make([]byte, 32)
		_, _ = rand.Read(raw) // never fails
		b = []byte(hex.EncodeToString(raw))
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = replaceFile(path, b)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of alerts: %w", err)
	}
	return b, nil
}

// alertTransition tells people of a change of state; uplink "" is the host's.
func (d *Daemon) alertTransition(uplink string, t state.Transition) {
	status := telemetry.Firing
	if t.To == state.Normal {
		status = telemetry.Resolved
	}
	if uplink == "" {
		d.alerts.Tell(status, "state", "state "+t.To.String(), t.Why)
		return
	}
	d.alerts.Tell(status, "uplink/"+uplink, "uplink "+uplink+" "+t.To.String(), t.Why)
}

// alertPolicy tells people what became of a policy, where that is not what was asked for.
func (d *Daemon) alertPolicy(result, detail string) {
	switch result {
	case api.Rejected:
		d.alerts.Tell(telemetry.Firing, "policy", "new policy rejected", detail)
	case api.Applied, api.Unchanged, api.Confirmed:
		d.alerts.Tell(telemetry.Resolved, "policy", "policy "+result, detail)
	case api.Reverted:
		d.alerts.Tell(telemetry.Event, "policy", "policy reverted", detail)
	}
}

// watchSelf tells people of what is wrong with the daemon itself, at each reading of the meter.
func (d *Daemon) watchSelf(s *snapshot, dropped uint64) {
	say := func(wrong bool, key, title, detail string) {
		status := telemetry.Resolved
		if wrong {
			status = telemetry.Firing
		} else {
			title, detail = title+": over", ""
		}
		d.alerts.Tell(status, key, title, detail)
	}
	say(s.broken != "" && !d.opts.Observe, "enforcement", "the kernel does not hold the plan", s.broken)
	now := d.metrics.DecisionDrops()
	say(now > dropped, "decision log", "decision records are dropped", fmt.Sprintf("%d in all", now))
}

// runWeb serves l until ctx ends; nil is nothing to serve.
func (d *Daemon) runWeb(ctx context.Context, s *api.Server, l net.Listener) error {
	if l == nil {
		return nil
	}
	return s.RunTCP(ctx, l, d.opts.Web.TCP)
}
