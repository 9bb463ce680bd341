package lab

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/socks"
)

// TestKill: a connection that is ended by hand is refused by the kernel; another one of its
// kind goes on, and a new one is made.
func TestKill(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	if err := WriteFile(policy, testPolicy("", "")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	doomed, err := l.StartTransfer(ctx, "198.51.100.40:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer doomed.Stop()
	other, err := l.StartTransfer(ctx, "198.51.100.40:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Stop()
	id := followed(t, l, doomed.Local, "198.51.100.40:5001")
	if err := l.API().Kill(ctx, id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is refused", func() bool { _, _, err := doomed.Progress(); return err != nil })
	if err := other.Alive(ctx, chunk); err != nil {
		t.Errorf("another connection to the same server: %v", err)
	}
	if err := reach(ctx, l, "198.51.100.40:5001", 10*time.Second); err != nil {
		t.Errorf("a new connection to the same server: %v", err)
	}
	if err := l.API().Kill(ctx, "99999999"); err == nil || !strings.Contains(err.Error(), "no connection 99999999") {
		t.Errorf("a connection that is none: %v", err)
	}
	log, err := os.ReadFile(l.LogPath())
	if err != nil || !strings.Contains(string(log), `"msg":"connection ended by hand","id":`+id+",") {
		t.Errorf("the log, %v:\n%s", err, log)
	}
	for line := range strings.Lines(string(log)) {
		var x struct {
			Time       time.Time
			Level, Msg string
		}
		if err := json.Unmarshal([]byte(line), &x); err != nil || x.Time.IsZero() || x.Level == "" || x.Msg == "" {
			t.Errorf("a line of the log without time, level and msg, %v: %s", err, line)
		}
	}
}

// followed waits until the daemon follows the connection between two addresses, and returns its id.
func followed(t *testing.T, l *Lab, from, to string) (id string) {
	t.Helper()
	eventually(t, "the daemon follows the connection", func() bool {
		list, err := l.API().Flows(t.Context(), api.FlowsRequest{Limit: api.MaxFlows, Match: from})
		if err != nil {
			return false
		}
		for _, f := range list.Flows {
			if strings.Contains(string(f.Flow), `"src":"`+from+`","dst":"`+to+`"`) {
				id = f.ID
			}
		}
		return id != ""
	})
	return id
}

// TestKillRelayed: what goes through the relay is ended at both ends, TCP and UDP, by a line and through a SOCKS
// server, and others go on.
func TestKillRelayed(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	server := serveTunnel(t, l.inet, "203.0.113.80:1080")
	text := string(testPolicy(`, tproxy: [tcp/7, udp/7], relay: ["`+lanGateway4+`:1081"]`, "  - {name: far, priority: 50, match: {dst_ip: 198.51.100.30}, action: {route: tunnel}}\n"))
	text = strings.Replace(text, "default: {route: ha}", "routes: {tunnel: {via: \"socks 203.0.113.80:1080 on wan1\"}}\ndefault: {route: ha}", 1)
	if err := WriteFile(policy, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	other, err := l.Client().Dial(ctx, "tcp", "203.0.113.30:7")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	goesOn := func() {
		t.Helper()
		if err := exchange(other, 1000, time.Now().Add(30*time.Second)); err != nil {
			t.Fatalf("another connection: %v\n%s", err, l.tail())
		}
	}
	goesOn()
	// relayed is what the relay has: connections and sessions.
	relayed := func() string {
		text, err := l.API().Metrics(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ = strings.Cut(text, "\nnetpolicy_relay_connections ")
		text, _, _ = strings.Cut(text, "\n")
		return text
	}
	straight := l.Client().Dial
	asked := func(_ context.Context, _, addr string) (net.Conn, error) {
		return proxied(t, l, lanGateway4+":1081", socks.TargetOf(netip.MustParseAddrPort(addr)))
	}
	for _, c := range []struct {
		name, network, addr string
		dial                func(ctx context.Context, network, addr string) (net.Conn, error)
	}{
		{"tcp", "tcp", "203.0.113.30:7", straight},
		{"tcp, v6", "tcp", "[2001:db8:cafe::30]:7", straight},
		{"udp", "udp", "203.0.113.30:7", straight},
		{"tcp through SOCKS", "tcp", "198.51.100.30:7", straight},
		{"tcp of a SOCKS client", "tcp", "203.0.113.30:7", asked},
		{"tcp of a SOCKS client through SOCKS", "tcp", "198.51.100.30:7", asked},
	} {
		conn, err := c.dial(ctx, c.network, c.addr)
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, l.tail())
		}
		if err := exchange(conn, datagram, time.Now().Add(30*time.Second)); err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, l.tail())
		}
		if n := relayed(); n != "2" {
			t.Errorf("%s: the relay has %s connections", c.name, n)
		}
		if err := l.API().Kill(ctx, followed(t, l, conn.LocalAddr().String(), c.addr)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		eventually(t, c.name+": the far end is closed", func() bool { return relayed() == "1" })
		eventually(t, c.name+": the SOCKS server has no connection", func() bool { return server.Conns() == 0 })
		if c.network == "tcp" { // it hears of it without sending anything
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the client hears %v", c.name, err)
			}
		} else {
			eventually(t, c.name+": the client is refused", func() bool {
				return exchange(conn, datagram, time.Now().Add(300*time.Millisecond)) != nil
			})
			if n := relayed(); n != "1" {
				t.Errorf("%s: the relay has %s connections after another datagram", c.name, n)
			}
		}
		conn.Close()
		goesOn()
	}
}
