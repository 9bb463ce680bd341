package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/durable"
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

// Files of alerts in the state directory: what signs webhooks, and what receivers know.
const (
	alertSecret = "alert.key"
	alertsTold  = "alerts.json"
)

// Names of what the daemon does beside the policy, as sources in status.
const (
	apiName       = "api"
	webName       = "web"
	decisionsName = "decision log"
	recordingName = "recording"
)

// wanted reports whether there is anything to serve.
func (w *Web) wanted() bool { return w.Listener != nil || w.Listen.IsValid() }

// safe says why what is asked for must not be served: that is the operator's mistake, and no trouble that passes.
func (w *Web) safe() error {
	switch {
	case w.Listener != nil:
		return w.Check(w.Listener)
	case w.Listen.IsValid():
		return w.CheckAddr(w.Listen)
	}
	return nil
}

// serveSocket serves the API on the unix socket until ctx ends, and makes it when first, which
// may be nil, is none. It is tried again, with a growing pause.
func (d *Daemon) serveSocket(ctx context.Context, s *api.Server, first net.Listener) {
	d.keepRunning(ctx, apiName, "the API's socket is not served", func(ctx context.Context) error {
		l := first
		if first = nil; l == nil {
			var err error
			if l, err = api.Listen(d.opts.Socket, d.opts.SocketGroup); err != nil {
				return err
			}
		}
		return s.Run(ctx, l)
	})
}

// serveWeb serves the API over TCP until ctx ends. What it needs may not be there yet, an
// address or a certificate: it is tried again, with a growing pause.
func (d *Daemon) serveWeb(ctx context.Context, s *api.Server) {
	w := &d.opts.Web
	d.keepRunning(ctx, webName, "the API is not served over TCP", func(ctx context.Context) error {
		err := s.Tokens.Load()
		if err == nil {
			err = w.CheckFiles()
		}
		l := w.Listener
		if err == nil && l == nil {
			l, err = net.Listen("tcp", w.Listen.String())
		}
		if err != nil {
			return fmt.Errorf("serve the API over TCP: %w", err)
		}
		d.log.Info("API over TCP", "address", l.Addr().String(), "tls", w.CertFile != "")
		return s.RunTCP(ctx, l, w.TCP)
	})
}

// openTelemetry prepares what goes to the disk and to others. Nothing of it is waited for, or has to be there.
func (d *Daemon) openTelemetry() {
	o := &d.opts.Telemetry
	decisions := telemetry.DecisionOptions{
		Ring: d.records, Log: d.log, Dropped: d.metrics.DecisionDropped, Sample: o.Sample, Mask: o.Mask,
	}
	if o.DecisionDir != "" {
		decisions.Segments = telemetry.NewSegments(o.DecisionDir, o.DecisionMax)
		decisions.Broken = func(err error) { d.setSource(decisionsName, textOf(err)) }
	}
	d.decisions = telemetry.NewDecisionLog(decisions)
	var receivers []telemetry.Receiver
	key := &alertKey{dir: d.opts.StateDir}
	for _, url := range o.Alerts {
		receivers = append(receivers, telemetry.ReceiverOf(url, key.read))
	}
	if o.AlertExec != "" {
		receivers = append(receivers, telemetry.ExecReceiver(o.AlertExec))
	}
	if len(receivers) > 0 {
		path := ""
		if d.store.dir != "" {
			path = filepath.Join(d.store.dir, alertsTold)
		}
		d.alerts = telemetry.NewAlerts(o.Node, receivers, path, d.log, d.metrics.Alert)
	}
}

// textOf spells an error; nil is "".
func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// alertKey is what signs webhooks, read when the first is sent.
type alertKey struct {
	dir string
	mu  sync.Mutex
	key []byte
}

// minAlertKey is how many characters it has at least, which is what the hash has in bytes: RFC 2104, section 3.
const minAlertKey = sha256.Size

// read returns the key, as text, which it reads or makes.
func (k *alertKey) read() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key == nil {
		var err error
		if k.key, err = secretIn(k.dir); err != nil {
			return nil, err
		}
	}
	return k.key, nil
}

// secretIn reads the key in the state directory, or makes it.
func secretIn(dir string) ([]byte, error) {
	if dir == "" {
		return nil, errors.New("alerts by webhook need a state directory, for the key that signs them")
	}
	path := filepath.Join(dir, alertSecret)
	text, err := api.ReadSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw := make([]byte, minAlertKey)
		_, _ = rand.Read(raw) // never fails
		text = hex.EncodeToString(raw)
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = durable.Replace(path, []byte(text))
		}
	}
	if err == nil && len(text) < minAlertKey {
		err = fmt.Errorf("%s has %d characters, and needs %d: remove the file, and the daemon makes another", path, len(text), minAlertKey)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of alerts: %w", err)
	}
	return []byte(text), nil
}

// alertState tells people how the host, uplink "", or an uplink is.
func (d *Daemon) alertState(uplink string, is state.State, why string) {
	status, key, title := telemetry.Firing, "state", "state "+is.String()
	if is == state.Normal {
		status = telemetry.Resolved
	}
	if uplink != "" {
		key, title = uplinkKey(uplink), "uplink "+uplink+" "+is.String()
	}
	d.alerts.Tell(status, key, title, why)
}

// uplinkKey is the key of alerts of an uplink.
func uplinkKey(uplink string) string { return "uplink/" + uplink }

// alertStates tells people how the host and all uplinks are, where no transition does: at the start, and when
// a policy has taken the place of another, whose uplinks were former.
func (d *Daemon) alertStates(c *core, former []state.UplinkConfig) {
	host := c.machine.Host()
	d.alertState("", host.State, host.Forced.Reason)
	for _, u := range c.machine.Status(c.live.health) {
		why := cmp.Or(u.Forced.Reason, u.VerdictWhy)
		if why == "" && !u.Up {
			why = "link down"
		}
		d.alertState(u.Name, u.State, why)
	}
	for _, u := range former {
		if slices.ContainsFunc(c.live.health.Uplinks, func(x state.UplinkConfig) bool { return x.Name == u.Name }) {
			continue
		}
		d.alerts.Tell(telemetry.Resolved, uplinkKey(u.Name), "uplink "+u.Name+": over", "it is not in the policy any more")
	}
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

// selfWatch is what the last reading of the daemon itself has found.
type selfWatch struct {
	dropped uint64          // decision records
	broken  map[string]bool // sources
}

// watchSelf tells people of what is wrong with the daemon itself, at each reading of the meter.
func (d *Daemon) watchSelf(s *snapshot, last *selfWatch) {
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
	now, broken := d.metrics.DecisionDrops(telemetry.DropQueue, telemetry.DropDisk), map[string]bool{}
	why := ""
	d.mu.Lock()
	sources := slices.Clone(d.sources)
	d.mu.Unlock()
	for _, one := range sources {
		switch {
		case one.Error == "":
		case one.Name == decisionsName:
			why = ": " + one.Error
		default:
			broken[one.Name] = true
			say(true, "source/"+one.Name, one.Name+" is not in use", one.Error)
		}
	}
	for name := range last.broken {
		if !broken[name] {
			say(false, "source/"+name, name+" is not in use", "")
		}
	}
	say(now > last.dropped || why != "", decisionsName, "decision records are dropped", fmt.Sprintf("%d in all%s", now, why))
	*last = selfWatch{now, broken}
}
