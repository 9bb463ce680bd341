package link

import "net/netip"

// Profile is what one share link says: where a proxy is and how it is spoken to.
// It is lossless and lenient: what a link states stands here, also where no core
// would take it. It is never changed after Parse; change a copy.
type Profile struct {
	Source Source
	Name   string // "" has no name
	// Host is a name in ASCII and lower case, or an address without brackets.
	Host string
	Port uint16 // 1 to 65535
	// Proxy is one of VLESS, VMess, Trojan, Shadowsocks, Socks, HTTP, Hysteria2
	// and WireGuard; nil only in the zero Profile.
	Proxy Proxy
	// Transport is one of Raw, WebSocket, HTTPUpgrade, XHTTP, GRPC, KCP and
	// Removed; nil where the link states none, which means Raw. Hysteria2 and
	// WireGuard have none.
	Transport Transport
	// Security is one of Plain, TLS and Reality; nil where the link states none,
	// which means Plain.
	Security Security
	// FinalMask is the key fm: Xray's streamSettings.finalmask.
	FinalMask Object
	// Unknown are the keys that nothing above stands for, in the link's order, of
	// JSON ordered by key: keys of other clients, keys that mean nothing with this transport, and keys
	// with values that can't be read.
	Unknown []Param
}

// Param is a key that was kept as it is.
type Param struct {
	Key   string
	Value Secret
	// JSON says that Value is the text of a JSON value that is no string. Only
	// sources that are JSON have those.
	JSON bool
}

// Source is where a profile comes from, so that Format can write it again.
type Source struct {
	Form Form
	// Scheme is the scheme as it was spelled, such as hy2; "" is the protocol's
	// first spelling.
	Scheme string
}

// Form is a way to spell a profile.
type Form uint8

// The forms. The zero Form is the URL.
const (
	URL            Form = iota
	UserBase64          // a URL of ss or socks whose user part is base64
	LegacySS            // ss:// with all but the name in base64
	VMessJSON           // vmess:// with a JSON object in base64, as v2rayN writes it
	Shadowrocket        // vmess:// or vless:// with base64 of cipher:id@host:port
	Quantumult          // vmess:// with a line of Quantumult's configuration in base64
	Kitsunebi           // vmess1://
	V2flyStd            // vmess://ws+tls:ID-ALTERID@host:port
	SIP008              // an entry of a SIP008 subscription
	Clash               // an entry of `proxies` of Clash and mihomo
	SingBox             // an outbound of sing-box
	XrayJSON            // an outbound of Xray
	WireGuardQuick      // a configuration file of wg-quick
)

// String returns the form's name.
func (f Form) String() string {
	return [...]string{
		"url", "user-base64", "legacy-ss", "vmess-json", "shadowrocket", "quantumult", "kitsunebi", "v2fly-std",
		"sip008", "clash", "sing-box", "xray-json", "wg-quick",
	}[f]
}

// Toggle is a yes or no that may be left out.
type Toggle uint8

// The values of a Toggle; the zero value is not stated.
const (
	Unset Toggle = iota
	Off
	On
)

// Proxy is what a protocol needs to know of a user.
type Proxy interface{ proxy() }

// VLESS is a user of vless.
type VLESS struct {
	ID         Secret // a UUID, or a text of 1 to 30 bytes that the core makes one of
	Encryption string // "" is none
	Flow       string // "", xtls-rprx-vision or xtls-rprx-vision-udp443
}

// VMess is a user of vmess.
type VMess struct {
	ID      Secret // as in VLESS
	Cipher  string // auto, aes-128-gcm, chacha20-poly1305, none or zero; "" is auto
	AlterID uint16 // above 0 means the authentication that Xray has removed
}

// Trojan is a user of trojan or trojan-go.
type Trojan struct {
	Password Secret
	// Encryption and Plugin are trojan-go's. Xray can run neither; "" is none.
	Encryption Secret
	Plugin     Secret
}

// Shadowsocks is a user of shadowsocks.
type Shadowsocks struct {
	Method   string
	Password Secret // of the 2022 methods one or several keys, divided by colons
	Plugin   Plugin // SIP003
}

// Socks is a user of a SOCKS proxy; both parts are "" without authentication.
type Socks struct {
	User     string
	Password Secret
}

// HTTP is a user of an HTTP proxy; both parts are "" without authentication.
type HTTP struct {
	User     string
	Password Secret
}

// Hysteria2 is a user of hysteria2.
type Hysteria2 struct {
	Auth Secret // may be "user:password"
	// PortList is the list of ports in the link's address, such as 443,5000-6000,
	// and HopPorts the key mport. "" is none: only Port is used.
	PortList, HopPorts string
	HopInterval        string // seconds, or a range of them; "" is the core's default
	Obfs               string // salamander, in lower case; "" is none
	ObfsPassword       Secret
	Up, Down           string // rates such as "100 mbps"; "" is not stated
}

// WireGuard is a peer and ourselves.
type WireGuard struct {
	PrivateKey   Secret
	PublicKey    string // of the peer
	PresharedKey Secret // "" is none
	Addresses    []netip.Prefix
	AllowedIPs   []netip.Prefix // nil is everything
	Reserved     []byte         // three bytes, or nil
	MTU          uint16         // 0 is the core's default
	KeepAlive    uint16         // seconds; 0 is never
}

func (VLESS) proxy()       {}
func (VMess) proxy()       {}
func (Trojan) proxy()      {}
func (Shadowsocks) proxy() {}
func (Socks) proxy()       {}
func (HTTP) proxy()        {}
func (Hysteria2) proxy()   {}
func (WireGuard) proxy()   {}

// Transport is how the proxy's bytes travel.
type Transport interface{ transport() }

// Raw is a TCP connection. With the header http it begins like a request.
type Raw struct {
	Header       string // none or http; "" is none
	Hosts, Paths []string
}

// WebSocket is a WebSocket.
type WebSocket struct {
	Host string // "" is the server name, then the address
	Path string // "" is /; a part ed=N of its query asks for early data
}

// HTTPUpgrade is an HTTP connection that is given over after its first answer.
type HTTPUpgrade struct{ Host, Path string } // as in WebSocket

// XHTTP is Xray's transport over plain HTTP requests, also called splithttp.
type XHTTP struct {
	Host, Path string // as in WebSocket
	Mode       string // auto, packet-up, stream-up or stream-one; "" is auto
	Extra      Object // the rest of xhttpSettings
}

// GRPC is a stream of gRPC.
type GRPC struct {
	ServiceName, Authority string
	Mode                   string // gun or multi; "" is gun
}

// KCP is mKCP over UDP.
type KCP struct {
	Header   string // none, srtp, utp, wechat-video, dtls, wireguard or dns; "" is none
	Seed     Secret // "" is none
	MTU, TTI uint16 // bytes and milliseconds; 0 is the core's default
}

// Removed is a transport that Xray no longer has: http (h2, h3), quic or
// domainsocket. It can be shown and written again, but not run.
type Removed struct{ Network, Host, Path string }

func (Raw) transport()         {}
func (WebSocket) transport()   {}
func (HTTPUpgrade) transport() {}
func (XHTTP) transport()       {}
func (GRPC) transport()        {}
func (KCP) transport()         {}
func (Removed) transport()     {}

// Security is what protects the transport.
type Security interface{ security() }

// Plain is no protection, stated.
type Plain struct{}

// TLS is TLS with the web's certificates or pinned ones.
type TLS struct {
	ServerName  string   // "" is the host of the transport, then the address
	ALPN        []string // nil is the core's default
	Fingerprint string   // whose ClientHello to imitate; "" is chrome
	Pins        []string // SHA-256 of certificates in hexadecimal digits
	Names       []string // names of which the certificate must have one
	ECH         string   // a list of ECH configurations in base64, or where to ask for it
	// AllowInsecure asks to take any certificate, which Xray no longer does.
	AllowInsecure Toggle
}

// Reality is REALITY.
type Reality struct {
	ServerName  string // as in TLS
	Fingerprint string // as in TLS
	PublicKey   string // 32 bytes in URL-safe base64 without padding
	ShortID     Secret // up to 16 hexadecimal digits
	SpiderX     string // "" is /
	Verify      string // pqv: the server's ML-DSA-65 key
}

func (Plain) security()   {}
func (TLS) security()     {}
func (Reality) security() {}

// Stream returns transport and security with what is meant where the link states
// none: Raw, and Plain. Parse has put TLS where a scheme implies it.
func (p Profile) Stream() (Transport, Security) {
	t, s := p.Transport, p.Security
	if t == nil {
		t = Raw{}
	}
	if s == nil {
		s = Plain{}
	}
	return t, s
}
