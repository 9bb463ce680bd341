package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/recorder"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/state"
)

// source returns what status says of a source, "" while it is in use.
func (r *rig) source(name string) string {
	for _, s := range r.Status().Sources {
		if s.Name == name {
			return s.Error
		}
	}
	return "no such source"
}

// waitSource waits for a source to be in use, or not for a reason.
func (r *rig) waitSource(name, why string) {
	r.t.Helper()
	r.until(name+" "+why, func() bool {
		got := r.source(name)
		return why == "" && got == "" || why != "" && strings.Contains(got, why)
	}, nil)
}

// answers waits until what is dialled answers.
func (r *rig) answers(dial func() (io.Closer, error)) {
	r.t.Helper()
	r.until("an answer", func() bool {
		c, err := dial()
		if err == nil {
			c.Close()
		}
		return err == nil
	}, nil)
}

// inForce checks that the policy is in force.
func (r *rig) inForce() {
	r.t.Helper()
	if s := r.Status(); s.Policy.Rules != 4 || s.Enforcement != "" || len(r.host.applied) != 1 {
		r.t.Errorf("policy %+v, enforcement %q, %d plans applied", s.Policy, s.Enforcement, len(r.host.applied))
	}
}

// TestWebWaitsForItsPort: while another program has the port the policy is in force, and the
// API is served when the port is free.
func TestWebWaitsForItsPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	at := taken.Addr().(*net.TCPAddr).AddrPort()
	r := start(t, zoomPolicy, func(o *Options, _ *Parts) {
		o.StateDir, o.Web = filepath.Join(t.TempDir(), "state"), Web{Listen: at}
	})
	r.waitSource(webName, "address already in use")
	r.inForce()
	var b strings.Builder
	r.metrics.WritePrometheus(&b)
	if !strings.Contains(b.String(), `netpolicy_source_up{source="web"} 0`) {
		t.Error("no metric tells of it")
	}
	taken.Close()
	r.waitSource(webName, "")
	r.answers(func() (io.Closer, error) { return net.Dial("tcp", at.String()) })
	if n := strings.Count(r.log.String(), "the API is not served over TCP"); n != 1 {
		t.Errorf("the log says %d times what is wrong", n)
	}
}

// TestWebWaitsForItsCertificate: the API is served when the certificate has been written.
func TestWebWaitsForItsCertificate(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir, address := t.TempDir(), free.Addr().String()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	r := start(t, zoomPolicy, func(o *Options, _ *Parts) {
		o.StateDir, o.Web = filepath.Join(dir, "state"), Web{Listener: free, TCP: api.TCP{CertFile: cert, KeyFile: key}}
	})
	r.waitSource(webName, "cert.pem: no such file")
	r.inForce()
	certificate(t, cert, key)
	r.waitSource(webName, "")
	r.answers(func() (io.Closer, error) { return tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) })
}

func certificate(t *testing.T, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{key, "EC PRIVATE KEY", raw}, {cert, "CERTIFICATE", der}} {
		if err := os.WriteFile(f.name, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUnsafeWeb: what nobody should be served is refused at the start, with nothing applied.
func TestUnsafeWeb(t *testing.T) {
	host := &fakeHost{host: testHost}
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(zoomPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	d := New(Options{Config: path, Web: Web{Listen: netip.MustParseAddrPort("10.0.0.1:8443")}, Log: slog.New(slog.DiscardHandler)},
		Parts{Host: host, Kernel: host, Connections: host, Now: func() time.Duration { return time.Second }})
	if err := d.Run(t.Context(), nil); !errors.Is(err, api.ErrPublic) || len(host.applied) != 0 {
		t.Errorf("got %v, %d plans applied", err, len(host.applied))
	}
}

// TestBrokenFolders: a place for records, recordings, keys or the socket that can't be used is told, and
// used when it can be.
func TestBrokenFolders(t *testing.T) {
	dir := t.TempDir()
	var blocked []string
	under := func(name string) string {
		path := filepath.Join(dir, name)
		blocked = append(blocked, path)
		if err := os.WriteFile(path, nil, 0o600); err != nil { // a file, where a folder should be
			t.Fatal(err)
		}
		return filepath.Join(path, "x")
	}
	var decisions, recording, socket string
	r := start(t, zoomPolicy, func(o *Options, _ *Parts) {
		decisions, recording, socket = under("decisions"), under("recording"), under("socket")
		o.Socket = socket
		o.Telemetry = Telemetry{DecisionDir: decisions, Alerts: []string{"http://127.0.0.1:1/"}}
		o.Record = &Recording{Options: recorder.Options{Dir: recording}}
	})
	r.waitSource(decisionsName, "not a directory")
	r.waitSource(apiName, "not a directory")
	r.inForce()
	r.send(event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.1:443 sni=secret.zoom.us"))
	r.waitSource(recordingName, "not a directory")
	if drops := r.Status().Drops; drops["decision log (disk)"] != 1 || drops["decision log"] != 0 {
		t.Errorf("lost: %v, want 1 record, to the disk", drops)
	}
	for _, path := range blocked {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	r.waitSource(apiName, "")
	r.answers(func() (io.Closer, error) { return net.Dial("unix", socket) })
}

// TestSocketOfAnother: two daemons on one socket is a mistake, and refused.
func TestSocketOfAnother(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	r := start(t, zoomPolicy, func(o *Options, _ *Parts) { o.Socket = socket })
	r.waitSource(apiName, "")
	d := New(Options{Config: r.path, Socket: socket}, Parts{})
	if err := d.Run(t.Context(), nil); !errors.Is(err, api.ErrInUse) {
		t.Errorf("got %v", err)
	}
}

// TestAlertKey: the key is made once; white space around it is none of it; one that is short, or that others
// may read, is refused.
func TestAlertKey(t *testing.T) {
	dir := t.TempDir()
	made, err := secretIn(dir)
	if again, err2 := secretIn(dir); err != nil || err2 != nil || len(made) != 2*minAlertKey || string(again) != string(made) {
		t.Fatalf("%q, %v; %q, %v", made, err, again, err2)
	}
	path := filepath.Join(dir, alertSecret)
	for text, want := range map[string]string{
		"": "has 0 characters", " \n\n": "has 0 characters", strings.Repeat("k", minAlertKey-1) + "\n": "has 31 characters",
		" " + strings.Repeat("k", minAlertKey) + "\n": "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := secretIn(dir)
		if want == "" && (err != nil || string(key) != strings.TrimSpace(text)) {
			t.Errorf("%q: %q, %v", text, key, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %q, %v", text, key, err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := secretIn(dir); err == nil || !strings.Contains(err.Error(), "others than its owner") {
		t.Errorf("a key that everybody can read: %v", err)
	}
}

// told is a receiver of alerts.
type told struct{ list chan telemetry.Alert }

func (told) String() string { return "test" }

func (r told) Send(_ context.Context, m *telemetry.Alert) error {
	r.list <- *m
	return nil
}

// alerting returns a daemon whose alerts go to a, which run until stop.
func alerting(t *testing.T, a told) (d *Daemon, stop func()) {
	d = New(Options{}, Parts{Now: func() time.Duration { return 20 * time.Second }, Boot: "boot"})
	d.alerts = telemetry.NewAlerts("gw", []telemetry.Receiver{a}, "", slog.New(slog.DiscardHandler), d.metrics.Alert)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.alerts.Run(ctx) }()
	return d, func() { cancel(); <-done }
}

// within returns the alerts of some time, sorted.
func (r told) within(some time.Duration) (got []string) {
	for end := time.After(some); ; {
		select {
		case m := <-r.list:
			got = append(got, m.Status+" "+m.Key+": "+m.Title+": "+m.Detail)
		case <-end:
			slices.Sort(got)
			return got
		}
	}
}

// TestStateAlerts: what is not NORMAL when the daemon starts is told, and what is over, or gone, with another policy.
func TestStateAlerts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := told{make(chan telemetry.Alert, 10)}
		d, stop := alerting(t, a)
		defer stop()
		c, _ := newTestCore(t, zoomPolicy)
		for i := range 20 {
			at := time.Duration(i) * time.Second
			c.apply(state.RoundEvent(state.Round{Uplink: 1, At: at, Probes: []state.Answer{{RTT: time.Millisecond}}}), time.Now())
			c.apply(state.RoundEvent(state.Round{Uplink: 0, At: at, Down: true}), time.Now())
		}
		candidateOf := func(text string, m state.Machine, old state.Config) *candidate {
			p := mustLoad(t, text)
			v := &candidate{policy: p, prog: engine.Compile(p), health: p.Health(), host: &testHost}
			v.world = m.Reconfigure(old, v.health).World(v.health)
			v.plan, _ = actions.PlanFor(v.prog, testHost, &v.world, nil)
			return v
		}
		health := c.live.health
		l := newLoop(d, candidateOf(zoomPolicy, c.machine, health), c.machine)
		want := []string{"firing state: state FAILOVER: ", "firing uplink/wan1: uplink wan1 FAILOVER: link down"}
		if diff := cmp.Diff(want, a.within(time.Minute)); diff != "" {
			t.Error(diff)
		}
		l.swap(candidateOf(`
version: 1
uplinks:
  wan2: {dev: eth2, gateway: 198.51.100.1, probe: {kind: icmp, targets: [9.9.9.9], every: 1s}}
default: {route: wan2}
`, c.machine, health))
		want = []string{"resolved state: state NORMAL: ", "resolved uplink/wan1: uplink wan1: over: it is not in the policy any more"}
		if diff := cmp.Diff(want, a.within(time.Minute)); diff != "" {
			t.Error(diff)
		}
	})
}

// TestSourceAlerts: a source that does not work is told of, and when it works or is not asked for any more.
func TestSourceAlerts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := told{make(chan telemetry.Alert, 10)}
		d, stop := alerting(t, a)
		defer stop()
		self := selfWatch{}
		d.setSource(webName, "no such address")
		d.setSource(relayName, "no such port")
		d.watchSelf(&snapshot{}, &self)
		got := []string{(<-a.list).Title, (<-a.list).Title}
		slices.Sort(got)
		if !slices.Equal(got, []string{"relay is not in use", "web is not in use"}) {
			t.Errorf("told: %q", got)
		}
		d.setSource(webName, "")
		d.clearSource(relayName)
		d.watchSelf(&snapshot{}, &self)
		for range 2 {
			if m := <-a.list; m.Status != telemetry.Resolved {
				t.Errorf("told: %+v", m)
			}
		}
	})
}
