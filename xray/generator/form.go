package generator

import (
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// Input describes one field of a form.
type Input struct {
	Key      string   `json:"key"`
	Kind     Kind     `json:"kind"`
	Group    string   `json:"group"` // server, transport or security
	Choices  []string `json:"choices,omitempty"`
	Default  string   `json:"default,omitempty"` // what holds while the key is not there
	Required bool     `json:"required,omitempty"`
	Help     string   `json:"help"`
}

// Kind is how a value is entered.
type Kind string

// The kinds.
const (
	Text   Kind = "text"
	Secret Kind = "secret"
	Number Kind = "number"
	Choice Kind = "choice" // one of Choices
	Toggle Kind = "toggle" // 1 or 0
	List   Kind = "list"   // divided by commas
	JSON   Kind = "json"   // an object
)

var (
	server = []Input{
		{Key: keyName, Kind: Text, Help: "what to call it"},
		{Key: keyHost, Kind: Text, Required: true, Help: "the server's name or address"},
		{Key: keyPort, Kind: Number, Required: true, Help: "the server's port"},
	}
	users = map[string][]Input{
		"vless": {
			{Key: keyUser, Kind: Secret, Required: true, Help: "the user's id: a UUID, or up to 30 bytes"},
			{Key: "encryption", Kind: Text, Default: "none", Help: "none, or what `xray vlessenc` printed for clients"},
			{Key: "flow", Kind: Choice, Choices: []string{"", "xtls-rprx-vision", "xtls-rprx-vision-udp443"}, Help: "as the server has it"},
		},
		"vmess": {
			{Key: keyUser, Kind: Secret, Required: true, Help: "the user's id: a UUID, or up to 30 bytes"},
			{Key: "encryption", Kind: Choice, Choices: []string{"auto", "aes-128-gcm", "chacha20-poly1305", "none", "zero"}, Default: "auto", Help: "the cipher; 26.7 has no none and no zero"},
		},
		"trojan": {{Key: keyUser, Kind: Secret, Required: true, Help: "the password"}},
		"ss": {
			{
				Key: keyUser, Kind: Choice, Required: true, Help: "the method, as the server has it",
				Choices: []string{
					"2022-blake3-aes-128-gcm", "2022-blake3-aes-256-gcm", "2022-blake3-chacha20-poly1305", "aes-128-gcm", "aes-256-gcm",
					"chacha20-ietf-poly1305", "xchacha20-ietf-poly1305", "none",
				},
			},
			{Key: keyPassword, Kind: Secret, Required: true, Help: "the password; of the 2022 methods a key in base64, or several divided by colons"},
			{Key: "plugin", Kind: Text, Help: "name;key=value; Xray can only stand in for v2ray-plugin with mux=0"},
		},
		"socks": {{Key: keyUser, Kind: Text, Help: "the user, if the proxy asks for one"}, {Key: keyPassword, Kind: Secret, Help: "the password"}},
		"http":  {{Key: keyUser, Kind: Text, Help: "the user, if the proxy asks for one"}, {Key: keyPassword, Kind: Secret, Help: "the password"}},
		"hysteria2": {
			{Key: keyUser, Kind: Secret, Help: "the password, or user:password"},
			{Key: "obfs", Kind: Choice, Choices: []string{"", "salamander"}, Help: "the obfuscation, as the server has it"},
			{Key: "obfs-password", Kind: Secret, Help: "the obfuscation's password"},
			{Key: "mport", Kind: List, Help: "ports to hop between, such as 20000-50000"},
			{Key: "hop-interval", Kind: Text, Help: "seconds between hops, or a range of them; at least 5"},
			{Key: "up", Kind: Text, Help: "the rate up, such as 100 mbps; without one there is no brutal"},
			{Key: "down", Kind: Text, Help: "the rate down"},
		},
		"wireguard": {
			{Key: keyUser, Kind: Secret, Required: true, Help: "our private key"},
			{Key: "publickey", Kind: Text, Required: true, Help: "the peer's public key"},
			{Key: "presharedkey", Kind: Secret, Help: "the shared key, if there is one"},
			{Key: "address", Kind: List, Help: "our addresses in the tunnel"},
			{Key: "allowedips", Kind: List, Default: "0.0.0.0/0,::/0", Help: "what goes through the peer"},
			{Key: "reserved", Kind: Text, Help: "three bytes, as 1,2,3"},
			{Key: "mtu", Kind: Number, Default: "1420", Help: "bytes of a packet in the tunnel"},
			{Key: "keepalive", Kind: Number, Help: "seconds between signs of life; never without"},
		},
	}
	transports = map[string][]Input{
		"tcp": {
			{Key: "headerType", Kind: Choice, Choices: []string{"none", "http"}, Default: "none", Help: "begin as a request of HTTP does"},
			{Key: "host", Kind: List, Help: "hosts of that request"},
			{Key: "path", Kind: List, Help: "paths of that request"},
		},
		"ws":          {hostInput, pathInput},
		"httpupgrade": {hostInput, pathInput},
		"xhttp": {
			hostInput, pathInput,
			{Key: "mode", Kind: Choice, Choices: []string{"auto", "packet-up", "stream-up", "stream-one"}, Default: "auto", Help: "how bytes go up"},
			{Key: "extra", Kind: JSON, Help: "more of xhttpSettings"},
		},
		"grpc": {
			{Key: "serviceName", Kind: Text, Help: "the service's name, as the server has it"},
			{Key: "authority", Kind: Text, Help: "the host to ask for"},
			{Key: "mode", Kind: Choice, Choices: []string{"gun", "multi"}, Default: "gun", Help: "multi carries several connections in one"},
		},
		"kcp": {
			{
				Key: "headerType", Kind: Choice, Default: "none", Choices: []string{"none", "srtp", "utp", "wechat-video", "dtls", "wireguard", "dns"},
				Help: "what packets look like; it becomes a mask in finalmask",
			},
			{Key: "seed", Kind: Secret, Help: "the password of the obfuscation; it becomes a mask in finalmask"},
			{Key: "mtu", Kind: Number, Default: "1350", Help: "bytes of a packet"},
			{Key: "tti", Kind: Number, Default: "50", Help: "milliseconds between sendings, from 10 to 5000"},
		},
	}
	hostInput = Input{Key: "host", Kind: Text, Help: "the host to ask for; without it the server name, then the address"}
	pathInput = Input{Key: "path", Kind: Text, Default: "/", Help: "the path to ask for; ?ed=2048 asks for early data"}

	names = []Input{
		{Key: "sni", Kind: Text, Help: "the name to ask for; without it the host, then the address"},
		{Key: "fp", Kind: Choice, Choices: []string{"chrome", "firefox", "safari", "ios", "android", "edge", "360", "qq", "random", "randomized"}, Default: "chrome", Help: "whose ClientHello to imitate"},
	}
	securities = map[string][]Input{
		"none": {},
		"tls": slices.Concat(names, []Input{
			{Key: "alpn", Kind: List, Help: "protocols to offer, such as h2,http/1.1"},
			{Key: "pcs", Kind: List, Help: "SHA-256 of certificates to take, in hexadecimal digits"},
			{Key: "vcn", Kind: List, Help: "names of which the certificate must have one"},
			{Key: "ech", Kind: Text, Help: "configurations of ECH in base64, or where to ask for them"},
		}),
		"reality": slices.Concat(names, []Input{
			{Key: "pbk", Kind: Text, Required: true, Help: "the server's public key"},
			{Key: "sid", Kind: Secret, Help: "the short id: an even number of up to 16 hexadecimal digits"},
			{Key: "spx", Kind: Text, Default: "/", Help: "where the crawler starts"},
			{Key: "pqv", Kind: Text, Help: "the server's key of ML-DSA-65"},
		}),
	}
	mask = []Input{{Key: "fm", Kind: JSON, Help: "finalmask: masks around everything"}}
)

// Protocols are those that have a form.
var Protocols = []string{"vless", "vmess", "trojan", "ss", "socks", "http", "hysteria2", "wireguard"}

// Fields describes the form of a protocol over a transport with a security, in the
// order to show it. Transports are tcp, ws, httpupgrade, xhttp, grpc and kcp; securities none, tls and
// reality. hysteria2 has no transport of its own, wireguard neither.
func Fields(protocol, transport, security string) ([]Input, error) {
	user, ok := users[protocol]
	if !ok {
		return nil, fmt.Errorf("protocol %s: it is one of %s", diag.Quote(protocol), strings.Join(Protocols, ", "))
	}
	var stream, protection []Input
	switch protocol {
	case "wireguard":
	case "hysteria2":
		protection = slices.Clone(securities["tls"])
		for i := range protection {
			if protection[i].Key == "pcs" {
				protection[i].Key = "pinSHA256" // as its own links spell it
			}
		}
	default:
		var okT, okS bool
		all := []string{"tcp", "ws", "httpupgrade", "xhttp", "grpc", "kcp"}
		if stream, okT = transports[transport]; !okT {
			return nil, fmt.Errorf("transport %s: it is one of %s", diag.Quote(transport), strings.Join(all, ", "))
		}
		if protection, okS = securities[security]; !okS {
			return nil, fmt.Errorf("security %s: it is one of none, tls and reality", diag.Quote(security))
		}
		stream = slices.Concat([]Input{{Key: "type", Kind: Choice, Choices: all, Default: "tcp", Help: "the transport, as the server has it"}}, stream)
		choose := Input{Key: "security", Kind: Choice, Choices: []string{"none", "tls"}, Default: "none", Help: "what protects the transport, as the server has it"}
		if transport == "tcp" || transport == "xhttp" || transport == "grpc" {
			choose.Choices = append(choose.Choices, "reality")
		}
		if protocol == "trojan" {
			choose.Default = "tls"
		}
		protection = slices.Concat([]Input{choose}, protection)
	}
	return slices.Concat(group("server", server), group("server", user), group("transport", stream), group("security", protection), group("transport", mask)), nil
}

// group returns inputs of one group.
func group(name string, inputs []Input) []Input {
	out := slices.Clone(inputs)
	for i := range out {
		out[i].Group = name
	}
	return out
}
