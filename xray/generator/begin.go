package generator

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// BeginRequest asks for a profile that nobody has a link of.
type BeginRequest struct {
	Protocol string `json:"protocol"` // one of Protocols
	Random   []byte `json:"random"`   // 80 bytes of which its secrets are made
}

// BeginReply is a link to begin with.
type BeginReply struct {
	Text string `json:"text"`
}

// Begin returns a link with secrets of its own and a server that has to be named yet.
func Begin(r BeginRequest) (BeginReply, error) {
	if len(r.Random) != 80 {
		return BeginReply{}, fmt.Errorf("random: it takes 80 bytes")
	}
	id := [16]byte(r.Random)
	id[6], id[8] = id[6]&15|64, id[8]&63|128 // a UUID of version 4 (RFC 9562, section 5.4)
	x := hex.EncodeToString(id[:])
	uuid := strings.Join([]string{x[:8], x[8:12], x[12:16], x[16:20], x[20:]}, "-")
	secret := hex.EncodeToString(r.Random[:16])
	key := func(b []byte) string { return url.QueryEscape(base64.StdEncoding.EncodeToString(b)) }
	text := map[string]string{
		"vless":     "vless://" + uuid + "@proxy.example:443?security=tls&type=tcp",
		"vmess":     "vmess://" + uuid + "@proxy.example:443?security=tls&type=ws",
		"trojan":    "trojan://" + secret + "@proxy.example:443?security=tls",
		"ss":        "ss://aes-256-gcm:" + secret + "@proxy.example:8388",
		"hysteria2": "hysteria2://" + secret + "@proxy.example:443",
		"wireguard": "wireguard://" + key(r.Random[16:48]) + "@proxy.example:51820?publickey=" + key(r.Random[48:]) + "&address=10.0.0.2/32",
		"socks":     "socks5://user:" + secret + "@proxy.example:1080",
		"http":      "http://user:" + secret + "@proxy.example:8080",
	}[r.Protocol]
	if text == "" {
		return BeginReply{}, fmt.Errorf("protocol %s: it is one of %s", diag.Quote(r.Protocol), strings.Join(Protocols, ", "))
	}
	return BeginReply{Text: text + "#" + r.Protocol}, nil
}
