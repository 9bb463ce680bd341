package link

import (
	"net/netip"
	"strconv"
	"strings"
)

// Fields returns the profile as flat text, in the order in which links are
// written: what Build makes the same profile of.
func (p Profile) Fields() Fields {
	f := Fields{Scheme: p.scheme(), Host: p.Host, Name: p.Name, Port: strconv.Itoa(int(p.Port))}
	switch x := p.Proxy.(type) {
	case VLESS:
		f.User = x.ID
		f.Add("encryption", x.Encryption)
		f.Add("flow", x.Flow)
	case VMess:
		f.User = x.ID
		f.Add("encryption", x.Cipher)
		if x.AlterID > 0 {
			f.Add("alterId", strconv.Itoa(int(x.AlterID)))
		}
	case Trojan:
		f.User = x.Password
		f.Add("encryption", x.Encryption.Reveal())
		f.Add("plugin", x.Plugin.Reveal())
	case Shadowsocks:
		f.User, f.Pass = Secret(x.Method), x.Password
		f.Add("plugin", x.Plugin.Format())
	case Socks:
		f.User, f.Pass = Secret(x.User), x.Password
	case HTTP:
		f.User, f.Pass = Secret(x.User), x.Password
	case Hysteria2:
		f.User = x.Auth
		if x.PortList != "" {
			f.Port = x.PortList
		}
		f.addHysteria2(x)
	case WireGuard:
		f.User = x.PrivateKey
		f.addWireGuard(x)
	}
	f.addTransport(p.Transport, f.Scheme)
	f.addSecurity(p.Security, f.Scheme)
	f.Add("fm", p.FinalMask.Reveal())
	for _, u := range p.Unknown {
		f.Params = append(f.Params, Field{Param: u})
	}
	return f
}

// Protocol returns the scheme of the profile's links, for people.
func (p Profile) Protocol() string { return p.scheme() }

// scheme returns the scheme to write.
func (p Profile) scheme() string {
	if p.Source.Scheme != "" {
		return p.Source.Scheme
	}
	switch x := p.Proxy.(type) {
	case VLESS:
		return "vless"
	case VMess:
		return "vmess"
	case Trojan:
		if x.Encryption != "" || x.Plugin != "" {
			return "trojan-go"
		}
		return "trojan"
	case Shadowsocks:
		return "ss"
	case Socks:
		return "socks"
	case Hysteria2:
		return "hysteria2"
	case WireGuard:
		return "wireguard"
	default:
		return "http"
	}
}

// impliesTLS reports whether the scheme says that the security is TLS.
func impliesTLS(scheme string) bool {
	name := protocols[scheme].name
	return name == "https" || name == "hysteria2" || name == "trojan-go"
}

func (f *Fields) addTransport(t Transport, scheme string) {
	switch x := t.(type) {
	case Raw:
		if scheme == "trojan-go" {
			f.Add("type", "original")
		} else {
			f.Add("type", "tcp")
		}
		f.Add("headerType", x.Header)
		f.Add("host", strings.Join(x.Hosts, ","))
		f.Add("path", strings.Join(x.Paths, ","))
	case WebSocket:
		f.Add("type", "ws")
		f.Add("host", x.Host)
		f.Add("path", x.Path)
	case HTTPUpgrade:
		f.Add("type", "httpupgrade")
		f.Add("host", x.Host)
		f.Add("path", x.Path)
	case XHTTP:
		f.Add("type", "xhttp")
		f.Add("host", x.Host)
		f.Add("path", x.Path)
		f.Add("mode", x.Mode)
		f.Add("extra", x.Extra.Reveal())
	case GRPC:
		f.Add("type", "grpc")
		f.Add("serviceName", x.ServiceName)
		f.Add("authority", x.Authority)
		f.Add("mode", x.Mode)
	case KCP:
		f.Add("type", "kcp")
		f.Add("headerType", x.Header)
		f.Add("seed", x.Seed.Reveal())
		f.addNumber("mtu", x.MTU)
		f.addNumber("tti", x.TTI)
	case Removed:
		f.Add("type", x.Network)
		f.Add("host", x.Host)
		f.Add("path", x.Path)
	}
}

func (f *Fields) addSecurity(s Security, scheme string) {
	switch x := s.(type) {
	case Plain:
		f.Add("security", "none")
	case TLS:
		if !impliesTLS(scheme) {
			f.Add("security", "tls")
		}
		f.Add("sni", x.ServerName)
		f.Add("alpn", strings.Join(x.ALPN, ","))
		f.Add("fp", x.Fingerprint)
		f.Add("pcs", strings.Join(x.Pins, ","))
		f.Add("vcn", strings.Join(x.Names, ","))
		f.Add("ech", x.ECH)
		f.addToggle("allowInsecure", x.AllowInsecure)
	case Reality:
		f.Add("security", "reality")
		f.Add("sni", x.ServerName)
		f.Add("fp", x.Fingerprint)
		f.Add("pbk", x.PublicKey)
		f.Add("sid", x.ShortID.Reveal())
		f.Add("spx", x.SpiderX)
		f.Add("pqv", x.Verify)
	}
	if protocols[scheme].name != "hysteria2" {
		return
	}
	for i, p := range f.Params { // the official spelling
		switch p.Key {
		case "pcs":
			f.Params[i].Key = "pinSHA256"
		case "allowInsecure":
			f.Params[i].Key = "insecure"
		}
	}
}

func (f *Fields) addHysteria2(h Hysteria2) {
	f.Add("obfs", h.Obfs)
	f.Add("obfs-password", h.ObfsPassword.Reveal())
	f.Add("mport", h.HopPorts)
	f.Add("hop-interval", h.HopInterval)
	f.Add("up", h.Up)
	f.Add("down", h.Down)
}

func (f *Fields) addWireGuard(w WireGuard) {
	f.Add("publickey", w.PublicKey)
	f.Add("presharedkey", w.PresharedKey.Reveal())
	f.Add("address", joinPrefixes(w.Addresses))
	f.Add("allowedips", joinPrefixes(w.AllowedIPs))
	if w.Reserved != nil {
		parts := make([]string, len(w.Reserved))
		for i, n := range w.Reserved {
			parts[i] = strconv.Itoa(int(n))
		}
		f.Add("reserved", strings.Join(parts, ","))
	}
	f.addNumber("mtu", w.MTU)
	f.addNumber("keepalive", w.KeepAlive)
}

func joinPrefixes(list []netip.Prefix) string {
	parts := make([]string, len(list))
	for i, p := range list {
		parts[i] = p.String()
	}
	return strings.Join(parts, ",")
}

func (f *Fields) addNumber(key string, n uint16) {
	if n > 0 {
		f.Add(key, strconv.Itoa(int(n)))
	}
}

func (f *Fields) addToggle(key string, t Toggle) {
	switch t {
	case On:
		f.Add(key, "1")
	case Off:
		f.Add(key, "0")
	}
}
