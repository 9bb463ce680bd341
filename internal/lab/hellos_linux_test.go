package lab

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// clientHello returns what a client's first flight is, as crypto/tls writes it.
func clientHello(t *testing.T, c *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		_ = tls.Client(b, c).Handshake()
		b.Close()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(a, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(a, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// echConfig is a list of ECH configurations (RFC 9849, 4) with one key that nobody
// has, for a public name.
func echConfig(t *testing.T, public string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var c []byte
	c = append(c, 1)       // config_id
	c = append(c, 0, 0x20) // DHKEM(X25519, HKDF-SHA256)
	c = append(c, 0, 32)   // public_key
	c = append(c, key.PublicKey().Bytes()...)
	c = append(c, 0, 4, 0, 1, 0, 1) // HKDF-SHA256, AES-128-GCM
	c = append(c, 64, byte(len(public)))
	c = append(c, public...)
	c = append(c, 0, 0)
	one := binary.BigEndian.AppendUint16([]byte{0xfe, 0x0d}, uint16(len(c)))
	one = append(one, c...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(one))), one...)
}

// leavesBytes sends first bytes to an echo server and returns the uplink by which they went.
func leavesBytes(t *testing.T, l *Lab, addr string, first []byte) string {
	t.Helper()
	return leftBy(t, l, "tcp", addr, func(_ context.Context, conn net.Conn) (net.Conn, error) {
		for part := range bytes.Lines(first) { // in pieces, as lines may cut it
			if _, err := conn.Write(part); err != nil {
				return nil, err
			}
		}
		_, err := io.ReadFull(conn, make([]byte, len(first)))
		return conn, err
	})
}

// TestRelayHellos: hellos of real clients, post-quantum ones of more than a segment
// encrypted ones and a browser's QUIC among them, steer the very first connection. With ECH it is
// the outer name that the policy sees.
func TestRelayHellos(t *testing.T) {
	l, policy := daemonLab(t)
	if err := WriteFile(policy, testPolicy(", tproxy: [tcp/80, tcp/443, udp/443]", "")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	const echo4, echo6 = "203.0.113.10:80", "[2001:db8:cafe::10]:80"
	for _, c := range []struct {
		name   string
		config *tls.Config
		least  int // bytes
		want   string
	}{
		{"Go, post-quantum", &tls.Config{ServerName: "api.zoom.us"}, 1300, Wan1},
		{"Go, X25519 alone", &tls.Config{ServerName: "api.zoom.us", CurvePreferences: []tls.CurveID{tls.X25519}}, 100, Wan1},
		{"Go, TLS 1.2", &tls.Config{ServerName: "api.zoom.us", MaxVersion: tls.VersionTLS12}, 100, Wan1},
		{"another name", &tls.Config{ServerName: "www.other.example"}, 1300, Wan2},
		{"ECH, outer name of the rule", &tls.Config{ServerName: "inner.example", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfig(t, "api.zoom.us")}, 1300, Wan1},
		{"ECH, inner name of the rule", &tls.Config{ServerName: "api.zoom.us", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfig(t, "cover.example")}, 1300, Wan2},
	} {
		hello := clientHello(t, c.config)
		if len(hello) < c.least {
			t.Errorf("%s: a hello of %d bytes", c.name, len(hello))
		}
		for _, addr := range []string{echo4, echo6} {
			if left := leavesBytes(t, l, addr, hello); left != c.want {
				t.Errorf("%s at %s left by %q, want %s\n%s", c.name, addr, left, c.want, l.tail())
			}
		}
	}
	for name, want := range map[string]string{"api.zoom.us": Wan1, "www.other.example": Wan2} {
		for _, c := range programs(t, name) {
			t.Run(c.name+", "+name, func(t *testing.T) {
				if _, err := exec.LookPath(c.args[0]); err != nil {
					t.Logf("%s is not installed", c.args[0])
					return
				}
				if left := leavesProgram(t, l, c); !slices.Equal(left, []string{want + " " + c.proto}) {
					t.Errorf("left by %q, want %s alone\n%s", left, want, l.tail())
				}
			})
		}
	}
}

// program is a client that others made.
type program struct {
	name  string
	proto string
	args  []string
}

// programs open a connection to a server under a name, one that no DNS tells.
func programs(t *testing.T, name string) []program {
	const at = "203.0.113.10"
	chromium := func(more ...string) []string {
		return append(append([]string{
			"chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir(),
			"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
			"--ignore-certificate-errors", "--host-resolver-rules=MAP " + name + " " + at + ", MAP * ~NOTFOUND",
		}, more...), "--timeout=5000", "--dump-dom", "https://"+name+"/")
	}
	return []program{
		{"curl", "tcp", []string{"curl", "-sk", "--max-time", "5", "--resolve", name + ":443:" + at, "https://" + name + "/"}},
		{"openssl", "tcp", []string{"openssl", "s_client", "-connect", at + ":443", "-servername", name, "-verify_quiet"}},
		// Its hello is a post-quantum one with ECH for show (GREASE).
		{"Chromium", "tcp", chromium("--disable-quic")},
		{"Chromium, QUIC", "udp", chromium("--enable-quic", "--origin-to-force-quic-on="+name+":443")},
	}
}

// programTime is how long a program may take: a browser starts slowly on a busy machine.
const programTime = 90 * time.Second

// leavesProgram runs a program until something of it has left, which is after the relay
// has heard its hello, and returns the uplinks and protocols by which it did. Its
// session ends with whatever it makes of an echo.
func leavesProgram(t *testing.T, l *Lab, c program) (left []string) {
	t.Helper()
	counted := count(t, l, "tcp 443", "udp 443")
	look := func() (list []string) {
		for _, u := range []string{Wan1, Wan2} {
			for _, proto := range []string{"tcp", "udp"} {
				if counted(u, proto+" 443") {
					list = append(list, u+" "+proto)
				}
			}
		}
		return list
	}
	ctx, cancel := context.WithTimeout(t.Context(), programTime)
	defer cancel()
	said := make(chan string, 1)
	go func() {
		out, err := l.client.run(ctx, "", c.args...)
		said <- fmt.Sprint(out, err)
	}()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case out := <-said:
			if left = look(); left == nil {
				t.Logf("%s says %s", c.name, out)
			}
			return left
		case <-again.C:
		}
		if left = look(); left != nil {
			time.Sleep(100 * time.Millisecond) // whatever else it does
			cancel()
			<-said
			return look()
		}
	}
}
