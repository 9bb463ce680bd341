//go:build amd64 || arm64

package ebpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/rules/yaml"
	"netpolicy.dev/netpolicy/state"
)

const policy = `version: 1
rules:
  - {name: games, priority: 50, match: {process: np-game}, action: {block: true, log: true}}
  - {name: ports, priority: 40, match: {dst_ip: [192.0.2.0/24, "2001:db8::/64"], port: 9100-9200}, action: {block: true}}
  - {name: hole, priority: 60, match: {dst_ip: 192.0.2.2, port: 9150, user: root}, action: {route: direct}}
routes:
  direct: {via: main}
default: {route: direct}
`

func compile(t testing.TB, text string, host *actions.Host) *actions.Connect {
	t.Helper()
	p, diags := yaml.Load("test.yaml", []byte(text))
	if p == nil {
		t.Fatal(diags)
	}
	return actions.ConnectFor(engine.Compile(p), host, &state.World{Primary: -1})
}

// TestRefused compares what programs get with what the table says of them.
func TestRefused(t *testing.T) {
	_, peer := pair(t)
	var seen log
	src, _ := start(t, Options{}, seen.emit)
	table := compile(t, policy, &actions.Host{Users: map[string]uint32{"root": 0}})
	if err := src.Enforce(table); err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{9000, 9100, 9150, 9200, 9201} {
		peer.Serve(t, fmt.Sprintf("[::]:%d", port), func(net.Conn) {})
	}
	check := func(t *testing.T, program string) {
		t.Helper()
		networks, hosts := []string{"tcp", "udp"}, []string{"192.0.2.2", "2001:db8::2"}
		if testing.Short() { // a race build of this program starts slowly
			networks, hosts = networks[:1], hosts[:1]
		}
		for _, network := range networks {
			for _, dst := range hosts {
				for _, port := range []uint16{9000, 9100, 9150, 9200, 9201} {
					proto := uint8(flow.TCP)
					if network == "udp" {
						proto = uint8(flow.UDP)
					}
					addr := net.JoinHostPort(dst, fmt.Sprint(port))
					_, out, err := runChild(t, program, "dial 1 "+network+" "+addr, nil)
					want := src.wanted != nil && src.wanted.Refuses(proto, netip.MustParseAddr(dst), port, program, 0)
					var exit *exec.ExitError
					if err != nil && !errors.As(err, &exit) {
						t.Fatal(err)
					}
					if refused := strings.Contains(out, syscall.EPERM.Error()); refused != want || !refused && err != nil {
						t.Errorf("%s to %s %s: refused %v, want %v: %s", program, network, addr, refused, want, out)
					}
				}
			}
		}
	}
	check(t, "np-game")
	check(t, "np-tool")
	logged := 18 // of 20: port 9150 is open
	if testing.Short() {
		logged = 4
	}
	wait(t, func() bool { return len(seen.all(inspector.Logged, nil)) == logged })
	e := seen.all(inspector.Logged, nil)[0]
	if e.Prefix != actions.LogPrefix("games") || e.Flow.Process != flow.Some("np-game") || e.PID == 0 ||
		e.Flow.Dst != flow.Some(netip.MustParseAddr("192.0.2.2")) || e.Flow.DstPort != flow.Some(uint16(9000)) ||
		!e.Flow.Src.Unknown() || !e.Flow.SrcPort.Unknown() {
		t.Errorf("%+v", e)
	}
	turns := 5
	if testing.Short() {
		turns = 2
	}
	for i := range turns { // generations take turns
		if i%2 == 0 {
			if err := src.Enforce(nil); err != nil {
				t.Fatal(err)
			}
			if _, out, err := runChild(t, "np-game", "dial 1 tcp 192.0.2.2:9000", nil); err != nil {
				t.Error(err, out)
			}
		} else {
			if err := src.Enforce(table); err != nil {
				t.Fatal(err)
			}
			if _, _, err := runChild(t, "np-game", "dial 1 tcp 192.0.2.2:9000", nil); err == nil {
				t.Error("not refused")
			}
		}
	}
}

// TestAnswersPass sends from a server's UDP socket to a client that it may not call.
func TestAnswersPass(t *testing.T) {
	_, peer := pair(t)
	src, _ := start(t, Options{}, func(inspector.Event) {})
	table := compile(t, strings.ReplaceAll(policy, "process: np-game", "dst_ip: 192.0.2.0/24"), &actions.Host{})
	if err := src.Enforce(table); err != nil {
		t.Fatal(err)
	}
	server, err := net.ListenPacket("udp4", "192.0.2.1:9000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	client := peer.ListenPacket(t, "udp4", "192.0.2.2:9001")
	defer func() { _ = client.Close() }()
	if _, err := server.WriteTo([]byte("x"), client.LocalAddr()); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a first packet: %v", err)
	}
	if _, err := client.WriteTo([]byte("x"), server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := server.ReadFrom(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.WriteTo([]byte("x"), client.LocalAddr()); err != nil {
		t.Errorf("an answer: %v", err)
	}
}
