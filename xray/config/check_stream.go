package config

import (
	"encoding/hex"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// stream checks streamSettings and returns network and security by their usual
// names; "" where there is none of that name.
func (c *checker) stream(path string, s object) (network, security string) {
	c.keys(path, "stream", s)
	key := "network"
	if _, ok := get(s, "method"); ok && c.v >= V26_7 {
		key = "method"
	}
	network, ok := networks[strings.ToLower(text(s, key))]
	if !ok {
		c.report(diag.Error, at(path, key), "Xray does not have this transport", "the transports are raw, ws, httpupgrade, xhttp, grpc, kcp and hysteria")
	} else if help, gone := removed[network]; gone {
		c.report(diag.Error, at(path, key), "Xray has removed the transport "+text(s, key), help)
	}
	security = strings.ToLower(text(s, "security"))
	switch security {
	case "", "none":
		security = "none"
	case "tls":
		c.tls(at(path, "tlsSettings"), child(s, "tlsSettings"))
	case "reality":
		if ok && network != "raw" && network != "xhttp" && network != "grpc" {
			c.report(diag.Error, at(path, "security"), "REALITY goes over raw, xhttp and grpc only", "use TLS, or another transport where the server has one")
		}
		c.reality(at(path, "realitySettings"), child(s, "realitySettings"))
	case "xtls":
		c.report(diag.Error, at(path, "security"), "Xray has removed the old XTLS", "the server has to change to the flow xtls-rprx-vision over TLS or REALITY")
	default:
		c.report(diag.Error, at(path, "security"), "there is no such security", "it is none, tls or reality")
	}
	c.transports(path, s)
	c.masks(at(path, "finalmask"), child(s, "finalmask"))
	return network, security
}

// transports checks the settings of each transport that has some.
func (c *checker) transports(path string, s object) {
	if kcp := child(s, "kcpSettings"); kcp != nil {
		for _, key := range []string{"header", "seed"} {
			if _, ok := get(kcp, key); ok {
				c.report(diag.Error, at(path, "kcpSettings."+key), "Xray has removed it", "a mask in finalmask.udp does the same; `netpolicy xray config` writes it for links")
			}
		}
		if n, ok := integer(kcp, "tti"); ok && (n < 10 || n > 5000) {
			c.report(diag.Error, at(path, "kcpSettings.tti"), "not from 10 to 5000 milliseconds", "leave it out")
		}
	}
	for _, key := range []string{"wsSettings", "httpupgradeSettings", "xhttpSettings", "splithttpSettings"} {
		headers := child(child(s, key), "headers")
		if _, ok := get(headers, "Host"); ok {
			c.report(diag.Error, at(path, key+".headers.Host"), "the host does not stand among the headers", "write it into host")
		}
	}
	for _, key := range []string{"xhttpSettings", "splithttpSettings"} {
		if x := child(s, key); x != nil {
			c.xhttp(at(path, key), x)
		}
	}
}

func (c *checker) xhttp(path string, x object) {
	if m := text(x, "mode"); !slices.Contains([]string{"", "auto", "packet-up", "stream-up", "stream-one"}, m) {
		c.report(diag.Error, at(path, "mode"), "xhttp has no such mode", "it is auto, packet-up, stream-up or stream-one")
	}
	if v, ok := get(x, "extra"); ok {
		extra, isObject := v.(object)
		if !isObject {
			c.report(diag.Error, at(path, "extra"), "not a JSON object", "")
		}
		if d := child(extra, "downloadSettings"); d != nil {
			c.stream(at(path, "extra.downloadSettings"), d)
		}
	}
	if d := child(x, "downloadSettings"); d != nil {
		c.stream(at(path, "downloadSettings"), d)
	}
}

func (c *checker) tls(path string, t object) {
	if v, ok := get(t, "allowInsecure"); ok && v != false {
		c.report(diag.Error, at(path, "allowInsecure"), "Xray no longer takes any certificate", pinHelp)
	}
	for _, gone := range []struct{ key, message, help string }{
		{"pinnedPeerCertificateChainSha256", "Xray passes over this pin in silence", "write pinnedPeerCertSha256 with the SHA-256 of the certificate in hexadecimal digits"},
		{"verifyPeerCertInNames", "Xray has renamed this key", "write verifyPeerCertByName with the names divided by commas"},
	} {
		if _, ok := get(t, gone.key); ok {
			c.report(diag.Error, at(path, gone.key), gone.message, gone.help)
		}
	}
	if v, ok := get(t, "pinnedPeerCertSha256"); ok {
		pins, isText := v.(string)
		for pin := range strings.SplitSeq(pins, ",") {
			raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(pin), ":", ""))
			if !isText || err != nil || len(raw) != 32 {
				c.report(diag.Error, at(path, "pinnedPeerCertSha256"), "a pin is not a SHA-256 in hexadecimal digits", "`openssl x509 -noout -fingerprint -sha256` prints it for a certificate")
				break
			}
		}
	}
	c.fingerprint(path, t, false)
	if name := text(t, "serverName"); strings.ContainsAny(name, " /:[]") && !strings.Contains(name, "::") && strings.Count(name, ":") < 2 {
		c.report(diag.Error, at(path, "serverName"), "not the name of a server", "write the name alone, without a scheme or a port")
	}
}

// fingerprints are the names that the core takes, apart from those of uTLS itself,
// which begin with hello.
var fingerprints = []string{
	"", "chrome", "firefox", "safari", "ios", "android", "edge", "360", "qq", "random", "randomized", "randomizednoalpn", "unsafe",
}

func (c *checker) fingerprint(path string, o object, reality bool) {
	fp := strings.ToLower(text(o, "fingerprint"))
	if !slices.Contains(fingerprints, fp) && !strings.HasPrefix(fp, "hello") || reality && (fp == "unsafe" || fp == "hellogolang") {
		c.report(diag.Error, at(path, "fingerprint"), "the core does not know this fingerprint", "chrome is the usual one")
	}
}

func (c *checker) reality(path string, r object) {
	// The inbound has a private key and is not read here.
	if text(r, "privateKey") != "" {
		return
	}
	key := "password"
	if text(r, key) == "" && text(r, "publicKey") != "" {
		key = "publicKey"
	}
	switch {
	case text(r, key) == "":
		c.report(diag.Error, at(path, key), "the server's key is missing", "it is pbk in links; `xray x25519 -i PRIVATEKEY` prints it at the server")
	case rawLen(text(r, key)) != 32:
		c.report(diag.Error, at(path, key), "not a key of 32 bytes in URL-safe base64 without padding", "it is pbk in links; `xray x25519 -i PRIVATEKEY` prints it at the server")
	}
	id := text(r, "shortId")
	if i := strings.IndexFunc(id, func(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF", r) }); i >= 0 {
		c.report(diag.Error, at(path, "shortId"), "not hexadecimal digits", "it is sid in links")
	} else if len(id)%2 != 0 || len(id) > 16 {
		c.report(diag.Error, at(path, "shortId"), "not an even number of up to 16 digits", "it is sid in links")
	}
	if x := text(r, "spiderX"); x != "" && !strings.HasPrefix(x, "/") {
		c.report(diag.Error, at(path, "spiderX"), "does not begin with /", "it is spx in links")
	}
	if v := text(r, "mldsa65Verify"); v != "" && rawLen(v) != 1952 {
		c.report(diag.Error, at(path, "mldsa65Verify"), "not a key of 1952 bytes in URL-safe base64", "it is pqv in links")
	}
	c.fingerprint(path, r, true)
}

// udpMasks are the masks that each version has for UDP.
var udpMasks = [...][]string{
	V26_3: {
		"header-custom", "header-dns", "header-dtls", "header-srtp", "header-utp", "header-wechat", "header-wireguard",
		"mkcp-original", "mkcp-aes128gcm", "noise", "salamander", "sudoku", "xdns", "xicmp",
	},
	V26_7: {"header-custom", "mkcp-legacy", "noise", "salamander", "sudoku", "xdns", "xicmp"},
}

var tcpMasks = []string{"header-custom", "fragment", "sudoku"}

func (c *checker) masks(path string, m object) {
	for _, part := range []struct {
		key string
		all []string
	}{{"tcp", tcpMasks}, {"udp", udpMasks[c.v]}} {
		for i, e := range list(m, part.key) {
			o, _ := e.(object)
			kind := strings.ToLower(text(o, "type"))
			if slices.Contains(part.all, kind) {
				continue
			}
			help, severity := "", diag.Error
			switch {
			case kind == "mkcp-legacy":
				help = "26.3 calls it mkcp-original, mkcp-aes128gcm and header-..."
			case c.v >= V26_7 && slices.Contains(udpMasks[V26_3], kind):
				help = "this version calls it mkcp-legacy"
			case c.v >= V26_7:
				severity = diag.Warning // what is new there is not known in full
			}
			c.report(severity, at(item(path, part.key, i), "type"), "Xray "+c.v.String()+" is not known to have this mask", help)
		}
	}
	hop := child(child(m, "quicParams"), "udpHop")
	for part := range strings.SplitSeq(text(hop, "interval"), "-") {
		if part != "" && (strings.Trim(part, "0123456789") != "" || len(strings.TrimLeft(part, "0")) == 1 && part[len(part)-1] < '5' || strings.Trim(part, "0") == "") {
			c.report(diag.Error, at(path, "quicParams.udpHop.interval"), "not a number of seconds of at least 5, or a range of them", "")
			break
		}
	}
	if n, ok := integer(hop, "interval"); ok && text(hop, "interval") == "" && n < 5 && n != 0 {
		c.report(diag.Error, at(path, "quicParams.udpHop.interval"), "shorter than 5 seconds", "")
	}
}
