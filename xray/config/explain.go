package config

import (
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

// Explain says in plain words why a connection through a profile failed, and what to
// do. The log is what Xray printed meanwhile at the level info, where the causes
// stand, and which it writes a moment after the connection ends. Nothing of the log is repeated. It is false where the log has
// nothing that is known. A server that does not know the user says nothing, so that the
// answer then is a guess, and a Warning; the others are an Error.
func Explain(p link.Profile, log string) (Finding, bool) {
	if p.Proxy == nil {
		return Finding{}, false
	}
	protocol, _ := (&builder{p: p}).proxy()
	_, reality := p.Security.(link.Reality)
	for _, c := range causes {
		if (!c.reality || reality) && strings.Contains(log, c.in) {
			f := Finding{Severity: diag.Error, Profile: label(protocol, p), Key: c.key, Message: c.message, Help: c.help}
			if c.guess {
				f.Severity = diag.Warning
			}
			return f, true
		}
	}
	return Finding{}, false
}

// cause is a piece of what Xray 26.3 and 26.7 print, and what it means.
type cause struct {
	in, key, message, help string
	reality                bool // only with REALITY
	guess                  bool
}

const (
	realityHelp = "compare sid with the server's shortIds, pbk with what `xray x25519 -i PRIVATEKEY` prints, and sni with its serverNames"
	pathHelp    = "compare path and host with the server's; a web server in between may also lead elsewhere"
	udpHelp     = "the port may be wrong, UDP may be blocked on the way, or the obfuscation differs; the server stays silent in each case"
)

// causes, the most telling first: one failure leaves several lines.
var causes = []cause{
	{
		in: "against pinnedPeerCertSha256", key: "pcs", message: "the server's certificate is not the one that is pinned",
		help: "it has been renewed, or somebody stands in between: ask `openssl x509 -noout -fingerprint -sha256` at the server, and pin that",
	},
	{
		in: "against root CAs and verifyPeerCertByName", key: "vcn", message: "the server's certificate has none of the names that are asked for, or is signed by nobody that is trusted",
		help: "compare vcn with the names in the certificate; " + pinHelp,
	},
	// Whoever is not known to a server with REALITY is led on to the site that it borrows.
	{in: "received real certificate", key: "sid", message: "the server answered as the site that it imitates: short id, key or name are not its own", help: realityHelp, reality: true},
	{in: "x509: certificate", key: "sid", message: "the server answered with a real certificate: short id, key or name are not its own, or it has no REALITY", help: realityHelp, reality: true},
	{in: "certificate signed by unknown authority", key: "pcs", message: "the server's certificate is signed by itself or by nobody that this host trusts, and no pin is given", help: pinHelp},
	{in: "certificate is valid for", key: "sni", message: "the server's certificate is for another name", help: "write a name of the certificate into sni, or " + pinHelp},
	{in: "cannot validate certificate for", key: "sni", message: "the server's certificate is for a name, and only an address is known", help: "write the name into sni, or " + pinHelp},
	{in: "certificate has expired or is not yet valid", key: "sni", message: "the server's certificate is out of date", help: "or this host's clock is wrong"},
	{in: "no application protocol", key: "alpn", message: "the server takes none of the protocols that alpn offers", help: "leave alpn out, or write what the server has"},
	{in: "first record does not look like a TLS handshake", key: "security", message: "the server does not speak TLS on this port", help: "compare security and the port with the server's"},
	{in: "unrecognized name", key: "sni", message: "the server does not know the name in sni", help: "compare sni with the server's"},
	{in: "407 Proxy Authentication Required", key: "user", message: "the proxy does not take user and password"},
	{in: "server rejects account", key: "user", message: "the proxy does not take user and password"},
	{in: "auth method not supported", key: "user", message: "the proxy wants a user and a password, or wants none"},
	{in: "hysteria: auth failed", key: "user", message: "the server does not take the password"},
	{in: "ML-KEM-768 handshake failed", key: "encryption", message: "the server does not take the encryption's key", help: "compare encryption with the server's decryption; `xray vlessenc` prints the pair"},
	{in: "XTLS only supports TLS and REALITY directly", key: "flow", message: "the flow xtls-rprx-vision needs TLS or REALITY over raw", help: "leave the flow out where the server does"},
	{in: "404 Not Found", key: "path", message: "the server has nothing at this path", help: pathHelp},
	{in: "unexpected status 404", key: "path", message: "the server has nothing at this path", help: pathHelp},
	{in: "Unimplemented desc = unknown service", key: "serviceName", message: "the server has no such service of gRPC", help: "compare serviceName with the server's"},
	{in: "websocket: bad handshake", key: "path", message: "what answers is no WebSocket for this path and host, or wants TLS", help: pathHelp},
	{in: "httpupgrade: failed to dial request", key: "path", message: "what answers takes no upgrade for this path and host, or wants TLS", help: pathHelp},
	{in: "frame header looked like an HTTP/1.1 header", key: "alpn", message: "the server offers h2 and then speaks HTTP/1.1", help: "write alpn=http/1.1"},
	{in: "no such host", key: "host", message: "DNS does not know the server's name"},
	{in: "dial tcp: lookup", key: "host", message: "the server's name could not be looked up", help: "DNS does not answer on this host"},
	{in: "connection refused", key: "port", message: "nobody listens on the server's port", help: "the port is wrong, or the server is down"},
	{in: "network is unreachable", key: "host", message: "this host has no route to the server", help: "an address of IPv6 needs a line that has it"},
	{in: "no route to host", key: "host", message: "this host has no route to the server"},
	{in: "no recent network activity", key: "port", message: "the server did not answer over UDP", help: udpHelp},
	{in: "i/o timeout", key: "host", message: "the server did not answer", help: "the address or the port is wrong, or something on the way drops the packets"},
	{in: "failed to read response version", key: "user", message: "the server closed the connection instead of answering", help: "compare encryption, flow and id with the server's"},
	{
		in: "tunneling request to", key: "user", message: "the server was reached and did not answer the request", guess: true,
		help: "that is what servers do with an id, a password, a flow or a method that is not theirs; over UDP also where header, seed or obfuscation differ",
	},
}
