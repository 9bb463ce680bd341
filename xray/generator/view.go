package generator

import (
	"cmp"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

// show makes a view of what was read. raw is the link as it was spelled; nil is one
// that came out of a file that has no links.
func show(v config.Version, p link.Profile, read []link.Finding, raw *link.Fields, secrets bool) View {
	view := View{Fields: []Field{}, Findings: findings(v, p, read), Losses: []Loss{}}
	if link.Refused(read) {
		return view
	}
	view.OK = true
	state := stateOf(p)
	view.Protocol, view.Transport, view.Security = kind(p)
	view.Fields = fields(p, state, raw, secrets)
	view.Losses = append(view.Losses, Losses(v, p)...)
	if secrets {
		view.State, view.Link = &state, p.Format()
		mend(v, state, view.Findings)
	}
	return view
}

// Losses are what links, Clash, sing-box, SIP008 and a configuration for this version of Xray can't say of a
// profile. Base64 of links says what they say.
func Losses(v config.Version, p link.Profile) (all []Loss) {
	for _, format := range []sub.Format{sub.Links, sub.Clash, sub.SingBox, sub.SIP008} {
		if _, losses := sub.Write(format, []link.Profile{p}); len(losses) > 0 {
			all = append(all, loss(format, losses[0]))
		}
	}
	if why, _ := config.FirstError(config.Check(v, p)); why != "" {
		return append(all, Loss{Format: sub.XrayJSON.String(), Keys: []string{}, Left: true, Why: why})
	}
	return append(all, xrayLosses(p)...)
}

// kind returns the names by which Fields knows a profile.
func kind(p link.Profile) (protocol, transport, security string) {
	switch p.Proxy.(type) {
	case link.VLESS:
		protocol = "vless"
	case link.VMess:
		protocol = "vmess"
	case link.Trojan:
		protocol = "trojan"
	case link.Shadowsocks:
		protocol = "ss"
	case link.Socks:
		protocol = "socks"
	case link.HTTP:
		protocol = "http"
	case link.Hysteria2:
		protocol = "hysteria2"
	case link.WireGuard:
		protocol = "wireguard"
	}
	if protocol == "wireguard" {
		return protocol, "", ""
	}
	t, s := p.Stream()
	switch t.(type) {
	case link.WebSocket:
		transport = "ws"
	case link.HTTPUpgrade:
		transport = "httpupgrade"
	case link.XHTTP:
		transport = "xhttp"
	case link.GRPC:
		transport = "grpc"
	case link.KCP:
		transport = "kcp"
	default: // what Xray has removed has no form of its own
		transport = "tcp"
	}
	if protocol == "hysteria2" {
		transport = ""
	}
	switch s.(type) {
	case link.TLS:
		security = "tls"
	case link.Reality:
		security = "reality"
	default:
		security = "none"
	}
	return protocol, transport, security
}

// fields lists the keys: what is stated in the profile's order, then what holds
// without being stated.
func fields(p link.Profile, state State, raw *link.Fields, secrets bool) (out []Field) {
	hidden := stateOf(p.Redacted())
	add := func(key, value, masked string) *Field {
		f := Field{Key: key, Value: value, Origin: FromLink, Known: true, Secret: value != masked}
		if f.Secret && !secrets {
			f.Value = masked
		}
		out = append(out, f)
		return &out[len(out)-1]
	}
	for _, key := range []string{keyScheme, keyName, keyHost, keyPort, keyUser, keyPassword} {
		if value := *state.head(key); value != "" {
			f := add(key, value, *hidden.head(key))
			if raw != nil && key == keyPort && raw.Port == "" {
				f.Origin = Default
			}
		}
	}
	unknown := len(state.Params) - len(p.Unknown)
	for i, x := range state.Params {
		f := add(x.Key, x.Value, hidden.Params[i].Value)
		f.Known = i < unknown
		if f.Known && raw != nil && !slices.ContainsFunc(raw.Params, func(r link.Field) bool { return r.Key == x.Key && r.Value.Reveal() == x.Value }) {
			if f.Origin, f.Was = Migrated, spelled(raw.Params, state, x); f.Was == "" {
				f.Origin = Default // the scheme says it, or the form can't leave it out
			}
		}
	}
	form, err := Fields(kind(p))
	if err != nil {
		return out
	}
	for _, in := range form {
		stated := slices.ContainsFunc(out, func(f Field) bool { return f.Key == in.Key })
		if value := in.Default; !stated && value != "" {
			out = append(out, Field{Key: in.Key, Value: value, Origin: Default, Known: true})
		}
	}
	return out
}

// sources are keys of other clients that become another with another value.
var sources = map[string][]string{
	"type": {"obfs", "ws", "network"}, "security": {"tls", "over-tls"}, "path": {"ed", "wspath"}, "flow": {"xtls"}, "host": {"obfsParam", "obfs-header"},
	"extra": {"x_padding_bytes", "xPaddingBytes", "scMaxEachPostBytes", "scMinPostsIntervalMs", "scMaxBufferedPosts", "scStreamUpServerSecs", "noGRPCHeader", "noSSEHeader", "uplinkChunkSize"},
}

// spelled returns the key of the link that became another, "" if there is none.
func spelled(raw []link.Field, state State, now Param) string {
	for _, became := range []func(link.Field) bool{
		func(r link.Field) bool { return r.Key == now.Key },
		func(r link.Field) bool { return r.Value.Reveal() == now.Value },
		func(r link.Field) bool { return slices.Contains(sources[now.Key], r.Key) },
	} {
		for _, r := range raw {
			kept := slices.ContainsFunc(state.Params, func(p Param) bool { return p.Key == r.Key && p.Value == r.Value.Reveal() })
			if !kept && became(r) {
				return r.Key
			}
		}
	}
	return ""
}

// findings joins what reading says with what building says, the worst first. Where both
// speak of a key, the graver is enough, and of two alike the one of building, which
// says what is done about it.
func findings(v config.Version, p link.Profile, read []link.Finding) []Finding {
	out := []Finding{}
	if !link.Refused(read) {
		for _, f := range config.Check(v, p) {
			out = append(out, ofConfig(f))
		}
	}
	// Hints of building on keys that reading knows more of are left out, and the other way round.
	var more []Finding
	for _, f := range read {
		x := Finding{Severity: f.Severity.String(), Key: headKey(f), Offset: f.Offset, Message: f.Message, Help: f.Help}
		about := func(o Finding) bool { return o.Key == x.Key && x.Key != "" }
		if slices.ContainsFunc(out, func(o Finding) bool { return about(o) && rank(o) <= rank(x) }) {
			continue
		}
		out = slices.DeleteFunc(out, func(o Finding) bool { return about(o) && rank(o) > rank(x) })
		more = append(more, x)
	}
	out = append(out, more...)
	slices.SortStableFunc(out, func(a, b Finding) int { return cmp.Compare(rank(a), rank(b)) })
	return out
}

// rank orders findings, the worst first.
func rank(f Finding) int {
	return slices.Index([]string{diag.Error.String(), diag.Warning.String(), diag.Hint.String()}, f.Severity)
}

// headKey returns the key of a finding of link, which calls what stands before the
// question mark host, port and user.
func headKey(f link.Finding) string {
	switch {
	case f.Key == "user" || f.Key == "port" || f.Key == "host" && f.Severity == diag.Error:
		return "#" + f.Key
	default:
		return f.Key
	}
}

// ofConfig is a finding of config, by the key that the path came from.
func ofConfig(f config.Finding) Finding {
	out := Finding{Severity: f.Severity.String(), Key: f.Key, Path: f.Path, Message: f.Message, Help: f.Help}
	if f.Key == "user" {
		out.Key = keyUser
	}
	if rest, ok := strings.CutPrefix(f.Path, "outbound."); ok && f.Key == "" {
		for _, p := range paths {
			if (p.protocol == "" || strings.HasPrefix(f.Profile, p.protocol+" ")) && strings.HasPrefix(rest, p.path) {
				out.Key = p.key
				break
			}
		}
	}
	return out
}

// paths are the places of an outbound that keys become. The first that fits holds.
var paths = []struct{ protocol, path, key string }{
	{"vmess", "settings.security", "encryption"},
	{"shadowsocks", "settings.method", keyUser},
	{"trojan", "settings.password", keyUser},
	{"", "settings.password", keyPassword},
	{"", "settings.id", keyUser},
	{"", "settings.secretKey", keyUser},
	{"", "settings.encryption", "encryption"},
	{"", "settings.flow", "flow"},
	{"", "settings.address", keyHost},
	{"", "settings.port", keyPort},
	{"", "settings.peers[0].publicKey", "publickey"},
	{"", "settings.peers[0].preSharedKey", "presharedkey"},
	{"", "settings.peers[0].endpoint", keyHost},
	{"", "streamSettings.network", "type"},
	{"", "streamSettings.security", "security"},
	{"", "streamSettings.tlsSettings.serverName", "sni"},
	{"", "streamSettings.tlsSettings.fingerprint", "fp"},
	{"", "streamSettings.tlsSettings.pinnedPeerCertSha256", "pcs"},
	{"", "streamSettings.tlsSettings.verifyPeerCertByName", "vcn"},
	{"", "streamSettings.tlsSettings.echConfigList", "ech"},
	{"", "streamSettings.tlsSettings.alpn", "alpn"},
	{"", "streamSettings.tlsSettings.allowInsecure", "allowInsecure"},
	{"", "streamSettings.realitySettings.serverName", "sni"},
	{"", "streamSettings.realitySettings.fingerprint", "fp"},
	{"", "streamSettings.realitySettings.password", "pbk"},
	{"", "streamSettings.realitySettings.shortId", "sid"},
	{"", "streamSettings.realitySettings.spiderX", "spx"},
	{"", "streamSettings.realitySettings.mldsa65Verify", "pqv"},
	{"", "streamSettings.xhttpSettings.extra", "extra"},
	{"", "streamSettings.xhttpSettings.mode", "mode"},
	{"", "streamSettings.kcpSettings.tti", "tti"},
	{"", "streamSettings.kcpSettings.mtu", "mtu"},
	{"", "streamSettings.finalmask", "fm"},
}
