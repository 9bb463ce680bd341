package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/xraytest"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/process"
	"netpolicy.dev/netpolicy/xray/trial"
)

const linkSecret = "Secr3t-of-the-link"

// tunnel is a real Xray that serves trojan with a certificate of its own and
// shadowsocks, and a page behind it.
type tunnel struct {
	binary      string
	trojan, ss  string // host:port
	page        string
	pin         string
	trojanLinks string // without query and name
}

func newTunnel(t *testing.T) *tunnel {
	w := &tunnel{binary: xraytest.Binary(t)}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "through the tunnel") }))
	t.Cleanup(page.Close)
	w.page = page.URL
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "proxy.example"}, DNSNames: []string{"proxy.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	w.pin = hex.EncodeToString(sum[:])
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	lines := func(kind string, b []byte) string {
		text, err := json.Marshal(strings.Split(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))), "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	ports := [3]int{}
	for i := range ports {
		at, err := trial.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = int(at.Port())
	}
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])) }
	w.trojan, w.ss = at(1), at(2)
	w.trojanLinks = "trojan://" + linkSecret + "@" + w.trojan
	data := fmt.Sprintf(`{"api": {"tag": "api", "listen": %q, "services": ["StatsService"]}, "stats": {}, "inbounds": [
		{"listen": "127.0.0.1", "port": %d, "protocol": "trojan", "settings": {"clients": [{"password": %q}]},
		 "streamSettings": {"network": "raw", "security": "tls", "tlsSettings": {"certificates": [{"certificate": %s, "key": %s}]}}},
		{"listen": "127.0.0.1", "port": %d, "protocol": "shadowsocks", "settings": {"method": "aes-256-gcm", "password": %q}}],
		"outbounds": [{"protocol": "freedom"}]}`, at(0), ports[1], linkSecret, lines("CERTIFICATE", der), lines("PRIVATE KEY", private), ports[2], linkSecret)
	api, err := trial.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	data = strings.Replace(data, at(0), api.String(), 1)
	end, err := trial.Start(t.Context(), w.binary, process.Config{Data: []byte(data), API: api}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return w
}

// TestXrayTest: a page through the real core, and why it can't be had.
func TestXrayTest(t *testing.T) {
	w := newTunnel(t)
	good := w.trojanLinks + "?sni=proxy.example&pcs=" + w.pin + "#Good"
	links := strings.Join([]string{
		good,
		"ss://aes-256-gcm:" + linkSecret + "@" + w.ss + "#Also",
		w.trojanLinks + "?sni=proxy.example&pcs=" + strings.Repeat("ab", 32) + "#Wrong",
		w.trojanLinks + "?sni=proxy.example#Unpinned",
		w.trojanLinks + "?sni=proxy.example&type=quic#Removed",
	}, "\n")
	out, errs, err := netpolicy(t.Context(), links, "xray", "test", "--xray", w.binary, "--url", w.page, "-o", "json", "--parallel", "3", "-")
	if err != nil {
		t.Fatal(err, errs)
	}
	if strings.Contains(out+errs, linkSecret) {
		t.Error("told a secret:", out, errs)
	}
	var all []trial.Result
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 5 {
		t.Fatal(err, out)
	}
	for i, x := range all {
		if i < 2 {
			if !x.OK || x.Status != 200 || x.Bytes != int64(len("through the tunnel")) || x.StartMS <= 0 || x.ConnectMS <= 0 || x.FirstMS <= 0 || x.TotalMS < x.FirstMS {
				t.Errorf("%+v", x)
			}
			continue
		}
		want := map[string]string{
			"Wrong":    "key `pcs`: the server's certificate is not the one that is pinned",
			"Unpinned": "key `pcs`: the server's certificate is signed by itself or by nobody that this host trusts, and no pin is given",
			"Removed":  "Xray has removed the transport quic",
		}[x.Name]
		if x.OK || want == "" || !strings.HasPrefix(x.Error, want) {
			t.Errorf("%+v", x)
		}
	}
	if all[0].FirstMS > all[1].FirstMS {
		t.Error("not the fastest first")
	}
	out, _, err = netpolicy(t.Context(), "", "xray", "test", "--xray", w.binary, "--url", w.page, good)
	if err != nil || !strings.Contains(out, "answer       200 OK, 18 bytes") || !strings.Contains(out, "core start") {
		t.Error(err, out)
	}
	out, _, err = netpolicy(t.Context(), "", "xray", "test", "--xray", w.binary, "--url", w.page, strings.Replace(good, w.pin, strings.Repeat("ab", 32), 1))
	if err == nil || !strings.Contains(out, "failed       key `pcs`: ") {
		t.Error(err, out)
	}
	out, _, err = netpolicy(t.Context(), links, "xray", "test", "--xray", w.binary, "--url", w.page, "-")
	if err != nil || !strings.Contains(out, "200, 18 bytes") || strings.Count(out, "\n") != 6 {
		t.Error(err, out)
	}
	// A core that is none.
	if _, errs, err := netpolicy(t.Context(), "", "xray", "test", "--xray", "/bin/echo", good); err == nil || !strings.Contains(errs, "/bin/echo is not Xray") {
		t.Error(err, errs)
	}
	t.Setenv("PATH", t.TempDir())
	if _, errs, err := netpolicy(t.Context(), "", "xray", "test", good); err == nil || !strings.Contains(errs, "there is no xray in PATH") {
		t.Error(err, errs)
	}
}

// TestXrayRun: the core in the foreground, until it is told to end.
func TestXrayRun(t *testing.T) {
	w := newTunnel(t)
	in, err := trial.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	root := newRoot()
	said, out := io.Pipe()
	var errs bytes.Buffer
	root.SetIn(strings.NewReader(w.trojanLinks + "?sni=proxy.example&pcs=" + w.pin))
	root.SetOut(out)
	root.SetErr(&errs)
	root.SetArgs([]string{"xray", "run", "--xray", w.binary, "--listen", in.String(), "--log-level", "debug", "-"})
	done := make(chan error, 1)
	go func() {
		err := root.ExecuteContext(ctx)
		out.CloseWithError(err)
		done <- err
	}()
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil || line != "SOCKS and HTTP on "+in.String()+"\n" {
		t.Fatal(line, err)
	}
	var x trial.Result
	if err := x.Fetch(ctx, in, w.page, time.Minute); err != nil || x.Bytes != 18 {
		t.Errorf("%+v, %v", x, err)
	}
	stop()
	if err := <-done; err != nil || !strings.Contains(errs.String(), "tunneling request") || strings.Contains(errs.String(), linkSecret) {
		t.Error(err, errs.String())
	}
	if conn, err := net.Dial("tcp", in.String()); err == nil {
		conn.Close()
		t.Error("it runs on")
	}
	// A port that is taken ends it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, told, err := netpolicy(t.Context(), "", "xray", "run", "--xray", w.binary, "--listen", l.Addr().String(), w.trojanLinks+"?pcs="+w.pin)
	if err == nil || !strings.Contains(told, "address already in use") {
		t.Error(err, told)
	}
}

// TestXrayPingPin: how far the server is, and what its certificate says.
func TestXrayPingPin(t *testing.T) {
	w := newTunnel(t)
	page := strings.TrimPrefix(w.page, "http://")
	closed, err := trial.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	unpinned := w.trojanLinks + "?sni=proxy.example&allowInsecure=1#Home"
	links := strings.Join([]string{
		"trojan://" + linkSecret + "@" + closed.String() + "#Closed", unpinned, "ss://aes-256-gcm:" + linkSecret + "@" + w.ss + "#SS",
		"hysteria2://" + linkSecret + "@" + w.ss + "#UDP", "trojan://" + linkSecret + "@" + page + "#NoTLS",
	}, "\n")
	out, errs, err := netpolicy(t.Context(), links, "xray", "ping", "-o", "json", "-")
	if err != nil || strings.Contains(out+errs, linkSecret) {
		t.Fatal(err, out, errs)
	}
	var all []ping
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 5 {
		t.Fatal(err, out)
	}
	for _, p := range all {
		ok := map[string]bool{"Home": true, "SS": true}[p.Name]
		if p.OK != ok || (p.TLSMS > 0) != (p.Name == "Home") || ok && p.ConnectMS <= 0 || (p.Error != "") == ok {
			t.Errorf("%+v", p)
		}
		if p.Name == "UDP" && p.Error != "not measured: QUIC runs over UDP, and only those who are known get an answer" {
			t.Errorf("%+v", p)
		}
	}
	if out, _, err = netpolicy(t.Context(), links, "xray", "ping", "-"); err != nil || strings.Count(out, "\n") != 6 {
		t.Error(err, out)
	}
	if _, _, err := netpolicy(t.Context(), "", "xray", "ping", "trojan://p@"+closed.String()); err == nil {
		t.Error("nobody answers, and that is fine")
	}

	var p pinned
	out, _, err = netpolicy(t.Context(), "", "xray", "pin", "-o", "json", "--sni", "proxy.example", w.trojan)
	if err := json.Unmarshal([]byte(out), &p); err != nil || p.Pin != w.pin || p.Verified || !strings.Contains(p.Why, "unknown authority") ||
		len(p.Chain) != 1 || p.Chain[0].Subject != "CN=proxy.example" || p.Chain[0].Names[0] != "proxy.example" || p.Link != "" {
		t.Errorf("%v, %+v", err, p)
	}
	if err != nil {
		t.Error(err)
	}
	out, _, err = netpolicy(t.Context(), "", "xray", "pin", unpinned)
	if err != nil || !strings.Contains(out, "pcs        "+w.pin) || !strings.Contains(out, "verified   no: ") || strings.Contains(out, linkSecret) {
		t.Error(err, out)
	}
	out, _, err = netpolicy(t.Context(), unpinned, "xray", "pin", "--write", "-")
	got, findings := link.Parse(strings.TrimSpace(out))
	if s, ok := got.Security.(link.TLS); err != nil || link.Refused(findings) || !ok || s.Pins[0] != w.pin || s.AllowInsecure != link.Unset || got.Name != "Home" {
		t.Error(err, out)
	}
	// A form that has no place for the pin becomes one that has.
	vmess, _ := link.Parse("vmess://11111111-2222-4333-8444-555555555555@" + w.trojan + "?security=tls&sni=proxy.example")
	out, _, err = netpolicy(t.Context(), vmess.Link(), "xray", "pin", "--write", "-")
	got, _ = link.Parse(strings.TrimSpace(out))
	if s, ok := got.Security.(link.TLS); err != nil || !ok || len(s.Pins) != 1 {
		t.Error(err, out)
	}
	for arg, want := range map[string]string{
		"hysteria2://p@h.example": "speaks QUIC",
		"vless://11111111-2222-4333-8444-555555555555@h.example:443?security=reality&pbk=x": "REALITY has no certificate",
		"ss://aes-256-gcm:p@h.example:1": "this link has no TLS",
		"ssr://" + linkSecret:            "Xray does not speak ssr",
		closed.String():                  "connection refused",
		page:                             "look at the certificate of " + page,
		filepath.Join("x", "y") + ":":    "want HOST",
	} {
		if _, errs, err := netpolicy(t.Context(), "", "xray", "pin", "--timeout", "1m", arg); err == nil || !strings.Contains(errs, want) || strings.Contains(errs, linkSecret) {
			t.Errorf("%s: %v, %s", arg, err, errs)
		}
	}
	if _, errs, err := netpolicy(t.Context(), "", "xray", "pin", "--write", w.trojan); err == nil || !strings.Contains(errs, "--write needs a link") {
		t.Error(err, errs)
	}
}
