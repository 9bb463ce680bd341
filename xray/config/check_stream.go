package config

import (
	"cmp"
	"encoding/hex"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
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
	if network == "xhttp" {
		c.requests(path, s)
	}
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
		c.wayBack(at(path, "extra.downloadSettings"), child(extra, "downloadSettings"))
	}
	c.wayBack(at(path, "downloadSettings"), child(x, "downloadSettings"))
}

// requests checks what xhttp makes requests of, and how large they are: Xray makes none
// of what is no URL, ends by that, and takes the memory for any padding.
func (c *checker) requests(path string, s object) {
	for _, key := range []string{"xhttpSettings", "splithttpSettings"} {
		x := child(s, key)
		host := cmp.Or(text(x, "host"), text(child(s, "tlsSettings"), "serverName"), text(child(s, "realitySettings"), "serverName"))
		route, query, _ := strings.Cut(text(x, "path"), "?")
		u := url.URL{Scheme: "https", Host: host, Path: route, RawQuery: query}
		if _, err := url.Parse(u.String()); err != nil {
			c.report(diag.Error, at(path, key), "no URL can be made of its host, or the server's name, and its path", "look for spaces and what can't be printed")
		}
		for _, o := range []object{x, child(x, "extra")} {
			if low, high, ok := bounds(o, "xPaddingBytes"); ok && max(low, high) > maxPadding {
				c.report(diag.Error, at(path, key+".xPaddingBytes"), "more than servers take, all of it in memory", "leave it out")
			}
			if low, high, ok := bounds(o, "scMaxEachPostBytes"); ok && min(low, high) <= 0 {
				c.report(diag.Error, at(path, key+".scMaxEachPostBytes"), "not more than 0: Xray ends by it", "leave it out")
			}
		}
	}
}

// maxPadding is the most of padding, 1 MiB, and of what a mask puts before a datagram.
const maxPadding = 1 << 20

// wayBack checks downloadSettings; nil is none. Xray takes any, and ends by one that is
// not whole as soon as somebody connects, for all who use it.
func (c *checker) wayBack(path string, d object) {
	if d == nil {
		return
	}
	network, _ := c.stream(path, d)
	port, _ := integer(d, "port")
	if network != "xhttp" || text(d, "address") == "" || port < 1 || port > 65535 {
		c.report(diag.Error, path, "Xray ends when it comes to use it: it needs an address, a port, and xhttp as its network", "write all three")
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

func (c *checker) fingerprint(path string, o object, reality bool) {
	fp := strings.ToLower(text(o, "fingerprint"))
	if !link.ValidFingerprint(fp) || reality && (fp == "unsafe" || fp == "hellogolang") {
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
	case link.KeyLen(text(r, key)) != 32:
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
	if v := text(r, "mldsa65Verify"); v != "" && link.KeyLen(v) != 1952 {
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
	V26_7: {"header-custom", "mkcp-legacy", "noise", "realm", "salamander", "sudoku", "xdns", "xicmp"},
}

// tcpMasks are those for TCP.
var tcpMasks = [...][]string{V26_3: {"header-custom", "fragment", "sudoku"}, V26_7: {"header-custom", "fragment", "sudoku", "xmc"}}

func (c *checker) masks(path string, m object) {
	for _, part := range []struct {
		key string
		all []string
	}{{"tcp", tcpMasks[c.v]}, {"udp", udpMasks[c.v]}} {
		for i, e := range list(m, part.key) {
			o, _ := e.(object)
			kind := strings.ToLower(text(o, "type"))
			c.noise(item(path, part.key, i), o)
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
	if quic := child(m, "quicParams"); quic != nil {
		c.quic(at(path, "quicParams"), quic)
	}
}

// noise checks how much a mask sends of what means nothing.
func (c *checker) noise(path string, v any) {
	switch x := v.(type) {
	case object:
		if low, high, ok := bounds(x, "rand"); ok && (min(low, high) < 0 || max(low, high) > maxPadding) {
			c.report(diag.Error, path, "more than there is room for in a datagram, all of it in memory", "make `rand` smaller")
		}
		for _, key := range sortedKeys(x) {
			c.noise(path, x[key])
		}
	case []any:
		for _, e := range x {
			c.noise(path, e)
		}
	}
}

// quicBounds are what the core takes of numbers, beside 0 and none.
var quicBounds = []struct {
	key      string
	min, max int64
}{
	{"initStreamReceiveWindow", 16384, 1 << 62},
	{"maxStreamReceiveWindow", 16384, 1 << 62},
	{"initConnectionReceiveWindow", 16384, 1 << 62},
	{"maxConnectionReceiveWindow", 16384, 1 << 62},
	{"maxIdleTimeout", 4, 120},
	{"keepAlivePeriod", 2, 60},
	{"maxIncomingStreams", 8, 1 << 62},
}

func (c *checker) quic(path string, q object) {
	if s := strings.ToLower(text(q, "congestion")); !slices.Contains([]string{"", "brutal", "reno", "bbr", "force-brutal"}, s) {
		c.report(diag.Error, at(path, "congestion"), "there is no such control of congestion", "it is reno, bbr, brutal or force-brutal")
	}
	for _, key := range []string{"brutalUp", "brutalDown"} {
		if v, ok := get(q, key); ok && !isRate(v) {
			c.report(diag.Error, at(path, key), "not a rate of at least 65536 bytes a second", "write it as in 100 mbps")
		}
	}
	for _, b := range quicBounds {
		if n, ok := integer(q, b.key); ok && n != 0 && (n < b.min || n > b.max) {
			help := "at least " + strconv.FormatInt(b.min, 10)
			if b.max < 1<<62 {
				help = "from " + strconv.FormatInt(b.min, 10) + " to " + strconv.FormatInt(b.max, 10)
			}
			c.report(diag.Error, at(path, b.key), "the core does not take this number", help)
		}
	}
	if hop := child(q, "udpHop"); hop != nil {
		_, ports := get(hop, "ports")
		if _, ok := get(hop, "interval"); ports && !ok {
			c.report(diag.Error, at(path, "udpHop.interval"), "missing: Xray's own default overflows, and it ends by that", "write "+hopInterval)
		}
	}
	interval := text(child(q, "udpHop"), "interval")
	if n, ok := integer(child(q, "udpHop"), "interval"); ok {
		interval = strconv.FormatInt(n, 10)
	}
	for part := range strings.SplitSeq(interval, "-") {
		if n, err := strconv.ParseUint(part, 10, 31); interval != "" && err == nil && n < 5 {
			c.report(diag.Error, at(path, "udpHop.interval"), "shorter than 5 seconds", "")
			return
		}
	}
}

// isRate reports whether v is a rate that the core takes, such as "100 mbps": bits
// a second with a unit, of at least 65536 bytes.
func isRate(v any) bool {
	s, ok := v.(string)
	if !ok {
		return false
	}
	s = strings.ToLower(strings.TrimSpace(s))
	end := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(s)
	}
	if s == "" {
		return true
	}
	unit := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(s[end:]), "ps"), "b")
	power, ok := map[string]int{"": 0, "k": 1, "m": 2, "g": 3, "t": 4}[unit] // of 1024, in Xray
	whole, fraction, _ := strings.Cut(s[:end], ".")
	// In thousandths, whole: three digits behind the point are enough for a rate.
	n, err := strconv.ParseUint(whole+(fraction + "000")[:3], 10, 40)
	if !ok || err != nil || strings.Contains(fraction, ".") {
		return false
	}
	for ; power > 0 && n < 1<<40; power-- {
		n *= 1024
	}
	return n == 0 || n/1000/8 >= 65536
}
