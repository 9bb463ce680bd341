package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/api"
)

func TestXrayStatusText(t *testing.T) {
	s := sampleStatus()
	s.Xray = &api.Xray{
		State: "running", Since: night.Add(-time.Hour), Version: "26.3.27", PID: 900, Adopted: true, Restarts: 2, Memory: 30 << 20, CPUms: 1500,
		Problems: []string{`route c: there is no proxy called "Gone"`},
		Routes: []api.XrayRoute{
			{Route: "a", Proxy: "Pair", Listen: "127.0.0.1:40001", Proxies: []api.XrayProxy{
				{Name: "First", Address: "ss 203.0.113.1:8388", Chosen: true, Alive: "false"},
				{Name: "Second", Address: "trojan [2001:db8::1]:443", Used: true, Alive: "true", DelayMS: 84},
				{Name: "Third", Address: "ss 203.0.113.3:8388", Alive: "unknown"},
			}},
			{Route: "c", Proxy: "Gone"},
		},
	}
	var b bytes.Buffer
	writeXray(&b, s.Xray, night)
	want := `xray 26.3.27 running (pid 900) since 02:00:00 (1h0m ago), started by an earlier netpolicyd, 30 MiB, 1.5s of processor time, restarted 2 times
  not carried: route c: there is no proxy called "Gone"
  route a via "Pair", SOCKS on 127.0.0.1:40001
    First (ss 203.0.113.1:8388): dead, chosen by hand
    Second (trojan [2001:db8::1]:443): alive, 84 ms, used
    Third (ss 203.0.113.3:8388): not measured
  route c via "Gone"
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	writeStatus(&b, &s)
	if !bytes.Contains(b.Bytes(), []byte("restarted 2 times; 1 of 2 routes carried\n  not carried: route c:")) {
		t.Error(b.String())
	}
	waiting := api.Xray{State: "waiting", Reason: "bind: address already in use", Next: night.Add(4 * time.Second)}
	if got := xrayLine(&waiting, night); got != "waiting: bind: address already in use; next start at 03:00:04" {
		t.Error(got)
	}
	stopped := api.Xray{State: "stopped", StoppedByUser: true}
	if got := xrayLine(&stopped, night); got != "stopped by hand" {
		t.Error(got)
	}
}
