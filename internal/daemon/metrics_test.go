package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/porttest"
	"netpolicy.dev/netpolicy/internal/recorder"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/state"
)

// busy returns a daemon that has decided, changed its state and lost something.
func busy(t *testing.T, set func(*Options, *Parts)) *rig {
	t.Helper()
	r := start(t, zoomPolicy, set)
	r.send(event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.1:443 sni=secret.zoom.us process=spy user=mallory"))
	r.round(0, state.Answer{RTT: 10 * time.Millisecond}, state.Answer{Lost: true})
	if err := r.Force(t.Context(), forceWan1); err != nil {
		t.Fatal(err)
	}
	r.metrics.Drop("events", 1)
	r.sync()
	if err := r.countFlows(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

var (
	metricName = regexp.MustCompile(`netpolicy_[a-z0-9_]+`)
	seriesLine = regexp.MustCompile(`^(netpolicy_[a-z0-9_]+)(?:\{(.*)\})? `)
	labelName  = regexp.MustCompile(`([a-z_]+)="`)
)

// namesIn lists the metrics of a text in the Prometheus format, and their labels.
func namesIn(text string) (names, labels map[string]bool) {
	names, labels = map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(text) {
		m := seriesLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		names[m[1]] = true
		for _, l := range labelName.FindAllStringSubmatch(m[2], -1) {
			labels[l[1]] = true
		}
	}
	return names, labels
}

// TestMetricNames: the dashboard and the alert rules name metrics that are there, the
// documents name all that are there, and no label tells whose connection something was.
func TestMetricNames(t *testing.T) {
	r := busy(t, nil)
	var b bytes.Buffer
	r.metrics.WritePrometheus(&b)
	names, labels := namesIn(b.String())
	if len(names) < 30 {
		t.Fatalf("only %d metrics:\n%s", len(names), b.String())
	}
	for _, file := range []string{"../../packaging/grafana/netpolicy.json", "../../packaging/prometheus/netpolicy.rules.yml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		used := metricName.FindAllString(string(text), -1)
		if len(used) < 8 {
			t.Errorf("%s names %d metrics", file, len(used))
		}
		for _, name := range used {
			if !names[name] {
				t.Errorf("%s: %s is not in /metrics", file, name)
			}
		}
	}
	doc, err := os.ReadFile("../../docs/telemetry.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range names {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if !strings.Contains(string(doc), "`"+base) {
			t.Errorf("docs/telemetry.md says nothing of %s", base)
		}
	}
	harmless := []string{"action", "event", "from", "le", "op", "queue", "reason", "result", "route", "rule", "source", "state", "to", "uplink", "version", "why"}
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		if !slices.Contains(harmless, label) {
			t.Errorf("the label %s is not among those that are known to be harmless", label)
		}
	}
	for _, secret := range []string{"203.0.113.1", "10.0.0.5", "secret", "spy", "mallory", "5000"} {
		if strings.Contains(b.String(), secret) {
			t.Errorf("%s is in /metrics", secret)
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	text, err := os.ReadFile("../../packaging/prometheus/netpolicy.rules.yml")
	if err == nil {
		err = yaml.Unmarshal(text, &rules)
	}
	if err != nil || len(rules.Groups) != 1 || len(rules.Groups[0].Rules) < 5 {
		t.Errorf("alert rules: %v, %+v", err, rules)
	}
}

// TestPrometheus has a real Prometheus scrape a daemon, take our alert rules, and answer with what it has read.
func TestPrometheus(t *testing.T) {
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed: make setup")
	}
	r := busy(t, nil)
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		r.metrics.WritePrometheus(w)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	defer server.Close()

	dir := t.TempDir()
	rules, err := filepath.Abs("../../packaging/prometheus/netpolicy.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n"+
		"  - {job_name: netpolicy, authorization: {credentials: token}, static_configs: [{targets: [%q]}]}\n", rules, l.Addr().String())
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := porttest.Free(t).String()
	var out bytes.Buffer
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, prometheus, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stop(); _ = cmd.Wait() }()

	ask := func(path string) string {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	for query, want := range map[string]string{
		"/api/v1/query?query=netpolicy_uplink_up":                                     `"uplink":"wan2"},"value":[`,
		"/api/v1/query?query=up":                                                      `"1"]`,
		"/api/v1/query?query=histogram_quantile(0.9,netpolicy_update_seconds_bucket)": `"value":[`,
		"/api/v1/query?query=netpolicy_rule_hits_total%7Brule%3D%22zoom%22%7D":        `"rule":"zoom"},"value":[`,
		"/api/v1/rules": `"name":"NetpolicyUplinkDown"`,
	} {
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			got := ask(query)
			if strings.Contains(got, want) {
				break
			}
			if time.Now().After(deadline) {
				stop()
				_ = cmd.Wait()
				t.Fatalf("%s: %s, want %s\n%s", query, got, want, out.String())
			}
		}
	}
	if got := ask("/api/v1/rules"); strings.Contains(got, `"health":"err"`) {
		t.Errorf("an alert rule fails: %s", got)
	}
}

// TestSegmentsOfTheDaemon: with a folder for them, records go to the disk, and what is masked is not there.
func TestSegmentsOfTheDaemon(t *testing.T) {
	dir := t.TempDir()
	r := busy(t, func(o *Options, _ *Parts) {
		o.Telemetry = Telemetry{DecisionDir: dir, Mask: []string{"name", "src", "process", "user"}}
	})
	var tail bytes.Buffer
	for _, line := range r.records.Read(0, 100).Lines {
		tail.Write(append(line, '\n'))
	}
	if !strings.Contains(tail.String(), "secret.zoom.us") {
		t.Errorf("the tail is masked: %s", tail.String())
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	text := readSegments(t, dir)
	if n := strings.Count(text, "\n"); n < 1 || !strings.Contains(text, `"schema":"`+telemetry.Schema+`"`) || !strings.Contains(text, "203.0.113.1:443") {
		t.Errorf("%d records on the disk: %s", n, text)
	}
	for _, secret := range []string{"secret", "10.0.0.5", "spy", "mallory", `"near"`} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is on the disk: %s", secret, text)
		}
	}
	if log := r.log.String(); strings.Contains(log, "secret.zoom.us") {
		t.Errorf("a name is in the log: %s", log)
	}
}

func readSegments(t *testing.T, dir string) string {
	t.Helper()
	names, err := recorder.Files(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range names {
		f, err := recorder.File(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(&b, f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return b.String()
}

// forceWan1 is an override.
var forceWan1 = api.ForceRequest{State: "FAILOVER", Uplink: "wan1", For: "10m", Reason: "test"}
