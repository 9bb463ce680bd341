package link

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// corpus is what other projects' tests and documents say of links.
const corpus = "../../../shared/data/xray-links.jsonl"

type corpusRow struct {
	Source string
	Test   string
	URL    string
	Expect map[string]any
	Valid  bool
}

// otherwise are the rows where this package differs, and why.
var otherwise = map[string]string{
	"hysteria2+realm://mytoken@rendezvous.example.com/my-cabin-1f3a8c2e9b?auth=your_password&insecure=1&pinSHA256=deadbeef#remark": "refused by name: no released Xray that we support has realms",
	"hysteria2://password123@127.0.0.1": "hysteria2's own description says that the port may be left out",
	"trojan://password@127.0.0.1":       "trojan-url says that the port may be left out; three of the sources read it so",
}

// otherFields are single fields of rows that we read otherwise, by row and key.
var otherFields = map[string]string{
	"98 plugin":  "Clash's name of obfs-local",
	"104 plugin": "shadow-tls in a key of its own is kept there; it hides the server, and Xray can't run it",
	"104 server": "as above",
	"104 port":   "as above",
	"116 cipher": "a cipher that nobody knows is kept beside the default",
	"177 host":   "a slip of the source: Go's spelling of a list",
	"179 Path":   "a default of the source; ours is the same, and stands where profiles are used",
	"180 Path":   "as above",
	"180 Host":   "as above",
	"93 type":    "the transport; see network",
}

// notHere are expectations of rows that belong to another layer.
var notHere = []struct{ key, why string }{
	{"xhttp-opts.", "extra is kept to the byte, and what its keys mean is for the builder"},
	{"ech-opts.", "ech is kept as it is; how Clash spells it is for its writer"},
	{"grpc-opts._grpc-type", "the mode was not stated, and gun is the default"},
	{"finalmask.quicParams.keepAlivePeriod", "fm is kept to the byte; numbers in strings are for the builder"},
	{"finalmask.quicParams.maxIdleTimeout", "as above"},
	{"settings.version", "a constant"},
	{"hysteriaSettings.version", "a constant"},
	{"name_percent_decoded", "the other reading of + in names: we take it for a space, as most clients write it"},
	{"h2-opts.host", "Removed keeps the text as it is; one row has two hosts without a comma"},
	{"packet-encoding", "xudp is what Sub-Store assumes where nothing is stated"},
	{"udp", "as above"},
	{"ws-opts.early-data-header-name", "a constant of Xray"},
	{"ws-opts.v2ray-http-upgrade-fast-open", "how Clash asks for early data"},
	{"plugin-opts.", "the plugin's own test has them; shadow-tls in a key of its own is kept"},
	{"quic-opts._quic-type", "kept as headerType"},
	{"skip-cert-verify", "tested below, where it is true"},
	{"http-opts.method", "kept as unknown"},
}

// observe returns what a profile says, under the names of the rows.
func observe(p Profile) map[string]string {
	f := p.Fields()
	get := f.Get
	proto := protocols[f.Scheme].name
	_, security := p.Stream()
	tls := "false"
	switch security.(type) {
	case TLS, Reality:
		tls = "true"
	}
	network := cmpOr(get("type"), "raw")
	if network == "tcp" {
		network = "raw"
	}
	o := map[string]string{
		"Server": f.Host, "address": f.Host, "server": f.Host, "Port": f.Port, "port": f.Port, "settings.port": f.Port,
		"name": p.Name, "Name": p.Name, "name_form_decoded": p.Name, "network": network, "Network": network, "tls": tls, "TLS": tls,
		"auth": f.User.Reveal(), "hysteriaSettings.auth": f.User.Reveal(), "id": f.User.Reveal(), "uuid": f.User.Reveal(), "UUID": f.User.Reveal(),
		"user": f.User.Reveal(), "username": f.User.Reveal(), "UserName": f.User.Reveal(), "pass": f.Pass.Reveal(),
		"password": f.User.Reveal(), "Password": f.User.Reveal(), "method": f.User.Reveal(), "cipher": cmpOr(get("encryption"), "auto"),
		"AlterID": cmpOr(get("alterId"), "0"), "alterId": cmpOr(get("alterId"), "0"),
		"flow": get("flow"), "encryption": get("encryption"), "type": proto, "Type": proto, "protocol": proto, "streamSecurity": cmpOr(get("security"), "none"),
		"security": cmpOr(get("security"), "none"), "allowInsecure": fmt.Sprint(get("allowInsecure") == "1"), "insecure": fmt.Sprint(get("insecure") == "1"),
		"SkipCertVerify": fmt.Sprint(get("insecure") == "1"), "seed": get("seed"), "headerType": get("headerType"), "_mode": get("mode"), "_extra": get("extra"),
		"_h2": fmt.Sprint(get("h2") == "1"), "sni": get("sni"), "SNI": get("sni"), "ServerName": get("sni"), "alpn": get("alpn"), "ALPN": get("alpn"),
		"client-fingerprint": get("fp"), "Fingerprint": get("fp"), "tls-fingerprint": get("pcs"), "_echConfigList": get("ech"),
		"GrpcServiceName": get("serviceName"), "grpc-opts.grpc-service-name": get("serviceName"), "grpcSettings.serviceName": get("serviceName"),
		"grpcSettings.authority": get("authority"), "grpcSettings.multiMode": fmt.Sprint(get("mode") == "multi"),
		"PublicKey": get("pbk"), "ShortID": get("sid"), "reality-opts.public-key": get("pbk"), "reality-opts.short-id": get("sid"),
		"realitySettings.password": get("pbk"), "realitySettings.publicKey": get("pbk"), "realitySettings.shortId": get("sid"),
		"realitySettings.serverName": get("sni"), "realitySettings.spiderX": get("spx"),
		"tlsSettings.alpn": get("alpn"), "tlsSettings.fingerprint": get("fp"), "tlsSettings.serverName": get("sni"), "tlsSettings.verifyPeerCertByName": get("vcn"),
		"hop-interval": strings.Split(get("hop-interval"), "-")[0], "obfs": get("obfs"), "obfs-password": get("obfs-password"),
		"plugin": get("plugin"), "udp-over-tcp": fmt.Sprint(get("uot") == "1"), "tfo": fmt.Sprint(f.Has("tfo") || get("fast-open") == "true"),
		"private-key": f.User.Reveal(), "public-key": get("publickey"), "mtu": get("mtu"), "reserved": get("reserved"),
		"xhttp-opts.host": get("host"), "xhttp-opts.path": get("path"), "xhttp-opts.mode": get("mode"),
	}
	if _, hi, ok := strings.Cut(get("hop-interval"), "-"); ok {
		o["hop-interval-max"] = hi
	}
	for _, key := range []string{"host", "Host", "ws-opts.headers.Host", "http-opts.headers.Host", "kcp-opts.headers.Host", "quic-opts._quic-host", "wsSettings.host", "httpupgradeSettings.host", "xhttpSettings.host", "rawSettings.header.request.headers.Host"} {
		o[key] = get("host")
	}
	for _, key := range []string{"path", "Path", "ws-opts.path", "h2-opts.path", "http-opts.path", "kcp-opts.path", "quic-opts._quic-path", "wsSettings.path", "httpupgradeSettings.path", "xhttpSettings.path", "rawSettings.header.request.path"} {
		o[key] = get("path")
	}
	observeMore(o, p, f)
	return o
}

func observeMore(o map[string]string, p Profile, f Fields) {
	o["rawSettings.header.type"], o["xhttpSettings.mode"] = f.Get("headerType"), f.Get("mode")
	o["ws-opts.v2ray-http-upgrade"] = fmt.Sprint(f.Get("type") == "httpupgrade")
	var extra map[string]any
	if json.Unmarshal([]byte(f.Get("extra")), &extra) == nil {
		o["xhttpSettings.extra.host"], o["xhttpSettings.xPaddingBytes"] = fmt.Sprint(extra["host"]), fmt.Sprint(extra["xPaddingBytes"])
	}
	var mask struct{ QuicParams struct{ Congestion string } }
	if json.Unmarshal([]byte(p.FinalMask), &mask) == nil {
		o["finalmask.quicParams.congestion"] = mask.QuicParams.Congestion
	}
	switch x := p.Proxy.(type) {
	case Shadowsocks:
		o["cipher"], o["Cipher"] = x.Method, x.Method
		o["password"], o["Password"] = x.Password.Reveal(), x.Password.Reveal()
		o["plugin"], o["pluginOpts"] = x.Plugin.Name, x.Plugin.FormatOptions()
	case VMess:
		o["Cipher"], o["security"] = cmpOr(x.Cipher, "auto"), cmpOr(x.Cipher, "auto")
		if s, ok := p.Security.(TLS); ok && p.Source.Form == VMessJSON && s.ServerName != "" {
			o["security"] = "tls" // the rows of JSON mean what protects the transport
		}
	case Socks:
		o["password"], o["Password"] = x.Password.Reveal(), x.Password.Reveal()
	case HTTP:
		o["password"], o["type"] = x.Password.Reveal(), "http"
	case Hysteria2:
		o["protocol"], o["security"] = "hysteria", "tls"
		o["finalmask.udp.0.type"], o["finalmask.udp.0.settings.password"] = x.Obfs, x.ObfsPassword.Reveal()
		o["finalmask.quicParams.udpHop.ports"] = x.HopPorts
	case WireGuard:
		o["ip"], o["ip-cidr"] = x.Addresses[0].Addr().String(), fmt.Sprint(x.Addresses[0].Bits())
		if len(x.Addresses) > 1 {
			o["ipv6"], o["ipv6-cidr"] = x.Addresses[1].Addr().String(), fmt.Sprint(x.Addresses[1].Bits())
		}
	}
	if o["type"] == "ss" {
		o["protocol"] = "shadowsocks"
	}
	if o["type"] == "socks" {
		o["type"], o["Type"] = "socks5", "socks5"
	}
	if path, ed, found := cutEarlyData(o["path"]); found {
		o["ws-opts.path"], o["ws-opts.max-early-data"], o["ws-opts._v2ray-http-upgrade-ed"] = path, ed, ed
	}
}

// cutEarlyData takes ed=N out of a path, as the rows of Clash's spelling have it.
func cutEarlyData(path string) (rest, ed string, found bool) {
	base, query, _ := strings.Cut(path, "?")
	var others []string
	for part := range strings.SplitSeq(query, "&") {
		if v, ok := strings.CutPrefix(part, "ed="); ok {
			ed, found = v, true
		} else if part != "" {
			others = append(others, part)
		}
	}
	if len(others) > 0 {
		base += "?" + strings.Join(others, "&")
	}
	return base, ed, found
}

func flatten(prefix string, v any, into map[string]string) {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			flatten(strings.TrimPrefix(prefix+"."+k, "."), e, into)
		}
	case []any:
		parts := make([]string, len(x))
		for i, e := range x {
			parts[i] = fmt.Sprint(e)
		}
		into[prefix] = strings.Join(parts, ",")
	case nil:
	default:
		into[prefix] = fmt.Sprint(x)
	}
}

func readCorpus(t *testing.T) []corpusRow {
	file, err := os.Open(corpus)
	if err != nil {
		t.Skipf("the rows of other projects are not here: %v", err)
	}
	defer file.Close()
	var rows []corpusRow
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var row corpusRow
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}

// TestCorpus reads every row: the expected fields, or a refusal.
func TestCorpus(t *testing.T) {
	used := map[string]bool{}
	rows := readCorpus(t)
	refused := 0
	for n, row := range rows {
		p, findings := Parse(row.URL)
		if why := otherwise[row.URL]; why != "" {
			used[row.URL] = true
			t.Logf("row %d differs: %s", n+1, why)
			if Refused(findings) == !row.Valid {
				t.Errorf("row %d: listed as different (%s), but it is not", n+1, why)
			}
			continue
		}
		if Refused(findings) != !row.Valid {
			t.Errorf("row %d: %s\nvalid %v, found %v", n+1, row.URL, row.Valid, findings)
			continue
		}
		if !row.Valid {
			refused++
			continue
		}
		checkRow(t, n+1, row, p, used)
		checkKept(t, n+1, row.URL, p)
	}
	// A reason that no row needs is a reason to look again.
	for url := range otherwise {
		if !used[url] {
			t.Errorf("no row %s", url)
		}
	}
	for key, why := range otherFields {
		if !used[key] {
			t.Errorf("row and key %s do not differ: %s", key, why)
		}
	}
	for _, e := range notHere {
		if !used[e.key] {
			t.Errorf("no row differs in %s: %s", e.key, e.why)
		}
	}
	t.Logf("corpus: %d rows, %d refused as invalid, %d differ with a reason, the others as expected", len(rows), refused, len(otherwise))
}

func checkRow(t *testing.T, n int, row corpusRow, p Profile, used map[string]bool) {
	want := map[string]string{}
	flatten("", row.Expect, want)
	got := observe(p)
	for key, value := range want {
		if key == "_schema" {
			continue
		}
		have, known := got[key]
		if have == value || key == "network" && (have == "raw" || have == "httpupgrade" || have == "http") || key == "name" && have == "" {
			continue // Clash calls these ws, http and h2; a name is made up where there is none
		}
		if key == "Name" && have == "" || key == "skip-cert-verify" && value == "true" && got["allowInsecure"] == "true" {
			continue
		}
		if i := slices.IndexFunc(notHere, func(e struct{ key, why string }) bool { return strings.HasPrefix(key, e.key) }); i >= 0 {
			used[notHere[i].key] = true
			continue
		}
		if own := fmt.Sprint(n, " ", key); otherFields[own] != "" {
			used[own] = true
			continue
		}
		t.Errorf("row %d: %s\n%s is %q, want %q (known: %v)\n%q", n, row.URL, key, have, value, known, revealed(p))
	}
}

// renamed are keys that Format spells in the standard's way.
var renamed = map[string]string{
	"wspath": "path", "ws": "type", "privatekey": "publickey", "xtls": "flow", "ed": "path", "tls": "security",
	"insecure": "allowInsecure", "ports": "mport", "peer": "sni",
}

// checkKept checks that the link that Format writes has every key of the link, and
// that it reads as the same profile.
func checkKept(t *testing.T, n int, url string, p Profile) {
	out := p.Format()
	again, findings := Parse(out)
	if Refused(findings) || !same(p, again) {
		t.Errorf("row %d: %s\nwritten as %s\nreads as %q\nnot as   %q\n%v", n, url, out, revealed(again), revealed(p), findings)
		return
	}
	if p.Source.Form == VMessJSON {
		checkKeptJSON(t, n, url, out)
		return
	}
	before, ok1 := split(url)
	after, ok2 := split(out)
	if !ok1 || !ok2 {
		return
	}
	has := map[string]bool{}
	for _, f := range params(after.query, 0, func(i int) int { return i }) {
		has[f.Key] = true
	}
	for _, f := range params(before.query, 0, func(i int) int { return i }) {
		if _, standardKey := renamed[f.Key]; f.Value == "" && (slices.Contains(standard, f.Key) || standardKey) {
			continue
		}
		if !has[f.Key] && !has[renamed[f.Key]] {
			t.Errorf("row %d: %s\nkey %s is lost in %s", n, url, f.Key, out)
		}
	}
}

// checkKeptJSON is checkKept for base64 of JSON. Flat keys of xhttp go into extra.
func checkKeptJSON(t *testing.T, n int, url, out string) {
	object := func(s string) []member {
		body, _, _ := strings.Cut(strings.TrimPrefix(s, "vmess://"), "#")
		plain, _ := DecodeBase64(body)
		list, ok := members(plain)
		if !ok {
			t.Fatalf("row %d: no JSON in %s", n, s)
		}
		return list
	}
	has, extra := map[string]bool{}, Object("")
	for _, m := range object(out) {
		has[m.key] = true
		if m.key == "extra" {
			extra = Object(m.text)
		}
	}
	for _, m := range object(url) {
		key := cmpOr(map[string]string{"allowInsecure": "insecure", "ed": "path", "mode": "type"}[m.key], m.key)
		if m.value != "" && !has[key] && !hasMember(extra, knobs[m.key]) {
			t.Errorf("row %d: key %s is lost in %s", n, m.key, out)
		}
	}
}

// same compares profiles with their secrets, which printing hides.
func same(a, b Profile) bool { return reflect.DeepEqual(a, b) }

// revealed is the profile for messages of tests.
func revealed(p Profile) any {
	f := p.Fields()
	out := []string{p.Source.Form.String(), f.Scheme, f.User.Reveal(), f.Pass.Reveal(), f.Host, f.Port, f.Name}
	for _, x := range f.Params {
		out = append(out, x.Key+"="+x.Value.Reveal())
	}
	return out
}
