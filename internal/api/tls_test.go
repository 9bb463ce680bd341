package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPublicBind: an address that others can reach is refused without TLS.
func TestPublicBind(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := new(Server).RunTCP(t.Context(), l, TCP{}); !errors.Is(err, ErrPublic) {
		t.Errorf("got %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("the listener is open still")
	}
	unix, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if err := new(Server).RunTCP(t.Context(), unix, TCP{}); err == nil {
		t.Error("a unix socket was served as if it were TCP")
	}
	for _, o := range []TCP{{CertFile: "x"}, {InsecureLAN: true}} {
		l, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Check(l); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
		l.Close()
	}
}

// certOf writes a certificate of a name and its key.
func certOf(t *testing.T, cert, key, name string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	o := TCP{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	certOf(t, o.CertFile, o.KeyFile, "router.lan")
	k := newSite(t, o, nil)
	cookie := k.login(RoleAdmin)
	if !cookie.Secure || cookie.Name != "__Host-"+cookieName+"-"+k.url[strings.LastIndexByte(k.url, ':')+1:] {
		t.Errorf("the cookie is %v", cookie)
	}
	resp, body := k.ask("GET", "/api/v1/status", "", func(r *http.Request) { r.AddCookie(cookie) })
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		t.Errorf("%d %s over %s", resp.StatusCode, body, resp.Proto)
	}
	c := &certificate{cert: o.CertFile, key: o.KeyFile}
	first, err := c.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	certOf(t, o.CertFile, o.KeyFile, "renewed.lan")
	if err := os.Chtimes(o.CertFile, time.Now(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c.looked = time.Time{}
	second, err := c.get(nil)
	if err != nil || second == first {
		t.Errorf("the renewed certificate is not used: %v", err)
	}
	if err := os.WriteFile(o.KeyFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(o.CertFile, time.Now(), time.Now().Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	c.looked = time.Time{}
	if third, err := c.get(nil); err != nil || third != second {
		t.Errorf("a certificate that is half written: %v", err)
	}
}
