package sub

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/xray/link"
)

// kind is how a format spells the value of a key.
type kind uint8

const (
	asText   kind = iota
	asNumber      // written as a number
	asFlag        // true and false for 1 and 0
	asList        // a list for what commas divide
	asObject      // an object for its JSON text
)

// pair says that a key of links stands at a path of a format. Tables of them are
// read both ways; of several with one key the first is written.
type pair struct {
	key, path string
	kind      kind
}

// clashPairs are the keys that most types of Clash share.
var clashPairs = []pair{
	{"sni", "servername", asText},
	{"sni", "sni", asText},
	{"allowInsecure", "skip-cert-verify", asFlag},
	{"pcs", "fingerprint", asText},
	{"fp", "client-fingerprint", asText},
	{"alpn", "alpn", asList},
	{"pbk", "reality-opts.public-key", asText},
	{"sid", "reality-opts.short-id", asText},
	{"serviceName", "grpc-opts.grpc-service-name", asText},
	{"flow", "flow", asText},
	{"alterId", "alterId", asNumber},
	{"obfs", "obfs", asText},
	{"obfs-password", "obfs-password", asText},
	{"mport", "ports", asText},
	{"hop-interval", "hop-interval", asText},
	{"up", "up", asText},
	{"down", "down", asText},
	{"publickey", "public-key", asText},
	{"presharedkey", "pre-shared-key", asText},
	{"allowedips", "allowed-ips", asList},
	{"mtu", "mtu", asNumber},
	{"keepalive", "persistent-keepalive", asNumber},
}

// clashTransport are the places of host and path, by network.
var clashTransport = map[string][]pair{
	"ws":    {{"host", "ws-opts.headers.Host", asText}, {"path", "ws-opts.path", asText}, {"ed", "ws-opts.max-early-data", asNumber}, {"eh", "ws-opts.early-data-header-name", asText}},
	"http":  {{"host", "http-opts.headers.Host", asList}, {"path", "http-opts.path", asList}},
	"h2":    {{"host", "h2-opts.host", asList}, {"path", "h2-opts.path", asText}},
	"xhttp": {{"host", "xhttp-opts.host", asText}, {"path", "xhttp-opts.path", asText}, {"mode", "xhttp-opts.mode", asText}},
}

// singboxPairs are the keys of sing-box's outbounds.
var singboxPairs = []pair{
	{"sni", "tls.server_name", asText},
	{"allowInsecure", "tls.insecure", asFlag},
	{"alpn", "tls.alpn", asList},
	{"fp", "tls.utls.fingerprint", asText},
	{"pbk", "tls.reality.public_key", asText},
	{"sid", "tls.reality.short_id", asText},
	{"flow", "flow", asText},
	{"path", "transport.path", asText},
	{"host", "transport.headers.Host", asText},
	{"host", "transport.host", asList},
	{"serviceName", "transport.service_name", asText},
	{"ed", "transport.max_early_data", asNumber},
	{"eh", "transport.early_data_header_name", asText},
	{"alterId", "alter_id", asNumber},
	{"obfs", "obfs.type", asText},
	{"obfs-password", "obfs.password", asText},
	{"address", "local_address", asList},
	{"publickey", "peer_public_key", asText},
	{"presharedkey", "pre_shared_key", asText},
	{"mtu", "mtu", asNumber},
}

// xrayPairs are the keys of Xray's outbounds. It is only read here.
var xrayPairs = []pair{
	{"flow", "settings.flow", asText},
	{"type", "streamSettings.network", asText},
	{"type", "streamSettings.method", asText},
	{"security", "streamSettings.security", asText},
	{"sni", "streamSettings.tlsSettings.serverName", asText},
	{"fp", "streamSettings.tlsSettings.fingerprint", asText},
	{"alpn", "streamSettings.tlsSettings.alpn", asList},
	{"allowInsecure", "streamSettings.tlsSettings.allowInsecure", asFlag},
	{"pcs", "streamSettings.tlsSettings.pinnedPeerCertSha256", asText},
	{"vcn", "streamSettings.tlsSettings.verifyPeerCertByName", asText},
	{"ech", "streamSettings.tlsSettings.echConfigList", asText},
	{"sni", "streamSettings.realitySettings.serverName", asText},
	{"fp", "streamSettings.realitySettings.fingerprint", asText},
	{"pbk", "streamSettings.realitySettings.publicKey", asText},
	{"pbk", "streamSettings.realitySettings.password", asText},
	{"sid", "streamSettings.realitySettings.shortId", asText},
	{"spx", "streamSettings.realitySettings.spiderX", asText},
	{"pqv", "streamSettings.realitySettings.mldsa65Verify", asText},
	{"path", "streamSettings.wsSettings.path", asText},
	{"host", "streamSettings.wsSettings.host", asText},
	{"host", "streamSettings.wsSettings.headers.Host", asText},
	{"path", "streamSettings.httpupgradeSettings.path", asText},
	{"host", "streamSettings.httpupgradeSettings.host", asText},
	{"path", "streamSettings.xhttpSettings.path", asText},
	{"host", "streamSettings.xhttpSettings.host", asText},
	{"mode", "streamSettings.xhttpSettings.mode", asText},
	{"extra", "streamSettings.xhttpSettings.extra", asObject},
	{"path", "streamSettings.splithttpSettings.path", asText},
	{"host", "streamSettings.splithttpSettings.host", asText},
	{"serviceName", "streamSettings.grpcSettings.serviceName", asText},
	{"authority", "streamSettings.grpcSettings.authority", asText},
	{"mtu", "streamSettings.kcpSettings.mtu", asNumber},
	{"tti", "streamSettings.kcpSettings.tti", asNumber},
	{"seed", "streamSettings.kcpSettings.seed", asText},
	{"headerType", "streamSettings.kcpSettings.header.type", asText},
	{"fm", "streamSettings.finalmask", asObject},
	{"headerType", "streamSettings.tcpSettings.header.type", asText},
	{"headerType", "streamSettings.rawSettings.header.type", asText},
	{"path", "streamSettings.tcpSettings.header.request.path", asList},
	{"path", "streamSettings.rawSettings.header.request.path", asList},
	{"host", "streamSettings.tcpSettings.header.request.headers.Host", asList},
	{"host", "streamSettings.rawSettings.header.request.headers.Host", asList},
	{"address", "settings.address", asList},
	{"mtu", "settings.mtu", asNumber},
	{"reserved", "settings.reserved", asList},
}

// read adds what the tables know of the leaves, and all else as it is. done are
// paths that the caller has read.
func read(f *link.Fields, leaves []leaf, done []string, tables ...[]pair) {
	for _, l := range leaves {
		if slices.Contains(done, l.path) || l.kind == 0 {
			continue
		}
		add := link.Field{At: l.line}
		key, found := "", false
		for _, table := range tables {
			if i := slices.IndexFunc(table, func(p pair) bool { return p.path == l.path }); i >= 0 && !found {
				key, found = table[i].key, true
			}
		}
		switch {
		case !found:
			add.Key = l.path
			if l.kind == '"' {
				add.Value = link.Secret(l.text)
			} else {
				add.Value, add.JSON = link.Secret(l.String()), true
			}
		default:
			add.Key = key
			add.Value = link.Secret(plain(l.node))
		}
		f.Params = append(f.Params, add)
	}
}

// plain returns a value in the spelling of links.
func plain(n *node) string {
	switch n.kind {
	case '[':
		parts := make([]string, len(n.vals))
		for i, v := range n.vals {
			parts[i] = plain(v)
		}
		return strings.Join(parts, ",")
	case '{':
		return n.String()
	case 'b':
		if n.text == "true" {
			return "1"
		}
		return "0"
	default:
		return n.text
	}
}

// spell returns a value of links as a format spells it; nil if it can't.
func spell(value string, k kind) *node {
	switch k {
	case asNumber:
		if value == "" || strings.Trim(value, "0123456789") != "" {
			return nil
		}
		return &node{kind: 'n', text: value}
	case asFlag:
		return flag(value == "1")
	case asList:
		n := list()
		for part := range strings.SplitSeq(value, ",") {
			n.vals = append(n.vals, text(part))
		}
		return n
	default:
		return text(value)
	}
}
