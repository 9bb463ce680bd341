package config

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/xray/link"
)

// wire is one combination: a profile and the server's inbound for it.
type wire struct {
	name    string
	profile link.Profile
	inbound object
	// refused says that this version of the server is known not to take it.
	refused bool
}

// wires makes combinations whose servers share an address, a certificate and keys.
type wires struct {
	t              testing.TB
	addr           netip.Addr
	client, server Version
	ports          []netip.AddrPort // free ones
	cert, key      []string         // PEM, by lines
	pin            string           // SHA-256 of cert
	private        *ecdh.PrivateKey // of REALITY, of the encryption of vless and of WireGuard's server
	peer           *ecdh.PrivateKey // of WireGuard's client
	target         string           // what REALITY pretends to be
}

const (
	certName = "proxy.example.com"
	shortID  = "0123456789abcdef"
	key16    = "AAECAwQFBgcICQoLDA0ODw=="
)

// freePorts returns ports of an address that nobody has, for TCP and UDP. The address is this
// process's alone, so that no other test takes one of them meanwhile.
func freePorts(t testing.TB, addr netip.Addr, n int) (ports []netip.AddrPort) {
	t.Helper()
	for len(ports) < n {
		tcp, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close() // all are held until the last is found
		at := tcp.Addr().(*net.TCPAddr).AddrPort()
		udp, err := net.ListenPacket("udp", at.String())
		if err != nil {
			continue
		}
		defer udp.Close()
		ports = append(ports, at)
	}
	return ports
}

func newWires(t testing.TB, client, server Version) wires {
	t.Helper()
	pid := os.Getpid()
	w := wires{t: t, client: client, server: server, addr: netip.AddrFrom4([4]byte{127, 70 + byte(pid>>16&3), byte(pid >> 8), byte(pid)})}
	if w.addr.As4()[3] == 0 || w.addr.As4()[3] == 255 {
		w.addr = netip.AddrFrom4([4]byte{127, 80, byte(pid >> 8), 1})
	}
	w.private, w.peer = curve(t), curve(t)
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: certName}, DNSNames: []string{certName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, own.Public(), own)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	lines := func(kind string, der []byte) []string {
		return strings.Split(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))), "\n")
	}
	w.cert, w.key = lines("CERTIFICATE", der), lines("PRIVATE KEY", pkcs8)
	sum := sha256.Sum256(der)
	w.pin = hex.EncodeToString(sum[:])

	// REALITY borrows the handshake of this server, many at once.
	listener, err := tls.Listen("tcp", netip.AddrPortFrom(w.addr, 0).String(), &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: own}}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: log.New(io.Discard, "", 0)} // Xray probes it
	go func() { _ = web.Serve(listener) }()
	t.Cleanup(func() { _ = web.Close() })
	w.target = listener.Addr().String()
	w.ports = freePorts(t, w.addr, 60)
	return w
}

func curve(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func raw64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// tls is TLS that takes the server's certificate.
func (w *wires) tls(alpn ...string) link.TLS {
	return link.TLS{ServerName: certName, Pins: []string{w.pin}, ALPN: alpn}
}

func (w *wires) reality() link.Reality {
	return link.Reality{ServerName: certName, PublicKey: raw64(w.private.PublicKey().Bytes()), ShortID: shortID}
}

// add makes a combination. The inbound is written by hand, as a server's admin does.
func (w *wires) add(all *[]wire, name string, proxy link.Proxy, tr link.Transport, sec link.Security, stream object) {
	at := w.ports[len(*all)]
	p := link.Profile{Name: name, Host: at.Addr().String(), Port: at.Port(), Proxy: proxy, Transport: tr, Security: sec}
	in := object{"listen": at.Addr().String(), "port": at.Port()}
	in["protocol"], in["settings"] = w.settings(proxy)
	if stream == nil {
		stream = object{}
	}
	switch sec.(type) {
	case link.TLS:
		stream["security"] = "tls"
		t := object{"certificates": []any{object{"certificate": w.cert, "key": w.key}}}
		switch alpn := sec.(link.TLS).ALPN; proxy.(type) {
		case link.Hysteria2:
			t["alpn"] = []string{"h3"}
		case link.HTTP:
			t["alpn"] = []string{"http/1.1"} // Xray's server would offer h2, which it does not speak
		default:
			if alpn != nil {
				t["alpn"] = alpn
			}
		}
		stream["tlsSettings"] = t
	case link.Reality:
		stream["security"] = "reality"
		stream["realitySettings"] = object{
			"target": w.target, "serverNames": []string{certName}, "privateKey": raw64(w.private.Bytes()), "shortIds": []string{shortID},
		}
	}
	in["streamSettings"] = stream
	*all = append(*all, wire{name: name, profile: p, inbound: in})
}

// settings are those of the inbound that knows the user.
func (w *wires) settings(proxy link.Proxy) (protocol string, settings object) {
	users := "clients"
	if w.server >= V26_7 {
		users = "users"
	}
	one := func(o object) object { return object{users: []any{o}} }
	switch x := proxy.(type) {
	case link.VLESS:
		s := one(object{"id": x.ID.Reveal(), "flow": x.Flow})
		s["decryption"] = "none"
		if x.Encryption != "" {
			s["decryption"] = "mlkem768x25519plus.native.600s." + raw64(w.private.Bytes())
		}
		return "vless", s
	case link.VMess:
		return "vmess", one(object{"id": x.ID.Reveal()})
	case link.Trojan:
		return "trojan", one(object{"password": x.Password.Reveal()})
	case link.Shadowsocks:
		return "shadowsocks", object{"method": x.Method, "password": x.Password.Reveal(), "network": "tcp,udp"}
	case link.Socks:
		return "socks", object{"auth": "password", "accounts": []any{object{"user": x.User, "pass": x.Password.Reveal()}}}
	case link.HTTP:
		return "http", object{"accounts": []any{object{"user": x.User, "pass": x.Password.Reveal()}}}
	case link.Hysteria2:
		s := one(object{"auth": x.Auth.Reveal()})
		s["version"] = 2
		return "hysteria", s
	case link.WireGuard:
		return "wireguard", object{
			"secretKey": base64.StdEncoding.EncodeToString(w.private.Bytes()), "noKernelTun": true, "mtu": 1420,
			"peers": []any{object{"publicKey": base64.StdEncoding.EncodeToString(w.peer.PublicKey().Bytes()), "allowedIPs": []string{"0.0.0.0/0", "::/0"}}},
		}
	}
	w.t.Fatalf("no inbound for %T", proxy)
	return "", nil
}

// combinations are all that is fetched through.
func (w *wires) combinations() (all []wire) {
	vless := link.VLESS{ID: testID}
	vision := link.VLESS{ID: testID, Flow: "xtls-rprx-vision"}
	encrypted := link.VLESS{ID: testID, Encryption: "mlkem768x25519plus.native.0rtt." + raw64(w.private.PublicKey().Bytes())}
	encryptedVision := encrypted
	encryptedVision.Flow = vision.Flow
	vmess, trojan := link.VMess{ID: testID}, link.Trojan{Password: "a password: %?#"}
	ss := link.Shadowsocks{Method: "aes-256-gcm", Password: "a password: %?#"}
	user, pass := "user", link.Secret("pass:word")
	add := func(name string, proxy link.Proxy, tr link.Transport, sec link.Security, stream object) {
		w.add(&all, name, proxy, tr, sec, stream)
	}
	ws := func(path string) object { return object{"network": "ws", "wsSettings": object{"path": path}} }
	upgrade := func() object { return object{"network": "httpupgrade", "httpupgradeSettings": object{"path": "/u"}} }
	xhttp := func() object { return object{"network": "xhttp", "xhttpSettings": object{"path": "/x"}} }
	grpc := func() object { return object{"network": "grpc", "grpcSettings": object{"serviceName": "svc"}} }

	add("vless, raw, reality, vision", vision, nil, w.reality(), nil)
	add("vless, raw, tls, vision", vision, link.Raw{}, w.tls(), nil)
	add("vless with encryption, raw", encrypted, link.Raw{}, link.Plain{}, nil)
	add("vless with encryption, xhttp, vision", encryptedVision, link.XHTTP{Path: "/x"}, nil, xhttp())
	add("vless, xhttp, reality", vless, link.XHTTP{Path: "/x", Host: "h.example"}, w.reality(), xhttp())
	add("vless, xhttp packet-up, no tls", vless, link.XHTTP{Path: "/x", Mode: "packet-up", Extra: `{"xPaddingBytes":"100-200"}`}, link.Plain{}, xhttp())
	add("vless, xhttp stream-up, tls", vless, link.XHTTP{Path: "/x", Mode: "stream-up"}, w.tls("h2"), xhttp())
	add("vless, xhttp stream-one, tls", vless, link.XHTTP{Path: "/x", Mode: "stream-one"}, w.tls("h2"), xhttp())
	add("vless, xhttp over h3", vless, link.XHTTP{Path: "/x"}, w.tls("h3"), xhttp())
	add("vless, grpc, reality", vless, link.GRPC{ServiceName: "svc"}, w.reality(), grpc())
	add("vless, grpc multi, tls", vless, link.GRPC{ServiceName: "svc", Mode: "multi"}, w.tls("h2"), grpc())
	add("vless, ws, tls", vless, link.WebSocket{Path: "/w"}, w.tls(), ws("/w"))
	add("vless, httpupgrade, tls", vless, link.HTTPUpgrade{Path: "/u"}, w.tls(), upgrade())
	add("vless, kcp", vless, link.KCP{}, nil, w.kcp("", ""))
	add("vless, kcp, header and seed", vless, link.KCP{Header: "srtp", Seed: "a seed"}, nil, w.kcp("srtp", "a seed"))
	add("vmess, raw", vmess, link.Raw{}, link.Plain{}, nil)
	add("vmess, raw, http header", vmess, link.Raw{Header: "http", Hosts: []string{"h.example"}, Paths: []string{"/"}}, nil,
		object{"network": "raw", "rawSettings": object{"header": object{"type": "http"}}})
	add("vmess, cipher zero, ws, tls", link.VMess{ID: testID, Cipher: "zero"}, link.WebSocket{Path: "/w"}, w.tls(), ws("/w"))
	all[len(all)-1].refused = w.client < V26_7 && w.server >= V26_7
	add("vmess, cipher none, ws, tls", link.VMess{ID: testID, Cipher: "none"}, link.WebSocket{Path: "/w"}, w.tls(), ws("/w"))
	all[len(all)-1].refused = w.client < V26_7 && w.server >= V26_7
	add("vmess, ws with early data", vmess, link.WebSocket{Path: "/w?ed=2048", Host: "h.example"}, nil, ws("/w"))
	add("vmess, httpupgrade", vmess, link.HTTPUpgrade{Path: "/u"}, nil, upgrade())
	add("vmess, kcp, wechat-video", vmess, link.KCP{Header: "wechat-video"}, nil, w.kcp("wechat-video", ""))
	add("trojan, raw, tls", trojan, nil, w.tls(), nil)
	add("trojan, grpc, tls", trojan, link.GRPC{ServiceName: "svc"}, w.tls(), grpc())
	add("trojan, ws, tls", trojan, link.WebSocket{Path: "/w"}, w.tls(), ws("/w"))
	add("shadowsocks aes-256-gcm", ss, nil, nil, nil)
	add("shadowsocks chacha20-poly1305", link.Shadowsocks{Method: "chacha20-ietf-poly1305", Password: "x"}, nil, nil, nil)
	add("shadowsocks 2022", link.Shadowsocks{Method: "2022-blake3-aes-128-gcm", Password: key16}, nil, nil, nil)
	add("shadowsocks, ws, tls", ss, link.WebSocket{Path: "/w"}, w.tls(), ws("/w"))
	plugin := ss
	plugin.Plugin = link.Plugin{Name: "v2ray-plugin", Options: []link.PluginOption{{Key: "path", Value: "/w"}, {Key: "mux", Value: "0"}}}
	add("shadowsocks, v2ray-plugin", plugin, nil, nil, ws("/w"))
	add("socks", link.Socks{User: user, Password: pass}, nil, nil, nil)
	add("http", link.HTTP{User: user, Password: pass}, nil, nil, nil)
	add("https", link.HTTP{User: user, Password: pass}, nil, w.tls(), nil)
	hysteria := func() object { return object{"network": "hysteria", "hysteriaSettings": object{"version": 2}} }
	add("hysteria2", link.Hysteria2{Auth: "user:pass"}, nil, w.tls(), hysteria())
	obfs := hysteria()
	obfs["finalmask"] = object{"udp": []any{object{"type": "salamander", "settings": object{"password": "salt"}}}}
	add("hysteria2, salamander", link.Hysteria2{Auth: "user:pass", Obfs: "salamander", ObfsPassword: "salt"}, nil, w.tls(), obfs)
	add("wireguard", link.WireGuard{
		PrivateKey: link.Secret(base64.StdEncoding.EncodeToString(w.peer.Bytes())), PublicKey: base64.StdEncoding.EncodeToString(w.private.PublicKey().Bytes()),
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}, MTU: 1420,
	}, nil, nil, nil)
	return all
}

// kcp is the server's mKCP with what header and seed have become in its version.
func (w *wires) kcp(header, seed string) object {
	header = strings.TrimSuffix(header, "-video")
	mask := func(kind string, settings object) any { return object{"type": kind, "settings": settings} }
	var udp []any
	if w.server < V26_7 { // the outermost comes first
		if header != "" {
			udp = append(udp, mask("header-"+header, object{}))
		}
		if seed == "" {
			udp = append(udp, mask("mkcp-original", object{}))
		} else {
			udp = append(udp, mask("mkcp-aes128gcm", object{"password": seed}))
		}
	} else {
		udp = append(udp, mask("mkcp-legacy", object{"value": seed}))
		if header != "" {
			udp = append(udp, mask("mkcp-legacy", object{"header": header}))
		}
	}
	return object{"network": "kcp", "finalmask": object{"udp": udp}}
}
