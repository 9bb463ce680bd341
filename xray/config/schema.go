package config

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// maxKeyShown bounds how much of a key a finding repeats.
const maxKeyShown = 40

// schema are the keys that Xray reads in each kind of object, by the names of its
// documentation. "key>kind" is an object, or a list of them, of that kind; a key
// without is not looked into. A ! before a key is one that only 26.3 has, a + one
// that only 26.7 has. What is not here the core passes over in silence. Behind a
// colon is what the value has to be, of keys that links can carry: a value of
// another type refuses the whole configuration.
var schema = compileSchema(map[string]string{
	"file": "log>log routing>routing dns>dns inbounds>inbound outbounds>outbound policy api>api metrics>metrics stats " +
		"fakeDns observatory>observatory burstObservatory version !reverse",
	"log":         "access error loglevel dnsLog maskAddress",
	"api":         "tag listen services",
	"metrics":     "tag listen",
	"observatory": "subjectSelector probeURL probeInterval enableConcurrency",
	"dns": "servers hosts clientIp tag queryStrategy disableCache serveStale serveExpiredTTL disableFallback " +
		"disableFallbackIfMatch enableParallelQuery useSystemHosts",
	"routing":  "rules>rule domainStrategy balancers>balancer domainMatcher",
	"balancer": "tag selector strategy>strategy fallbackTag",
	"strategy": "type settings",
	"rule": "type ruleTag outboundTag balancerTag domain domains ip port network sourceIP source sourcePort user vlessRoute " +
		"inboundTag protocol attrs localIP localPort process webhook domainMatcher",
	"inbound":       "protocol port listen settings tag streamSettings>stream sniffing>sniffing",
	"sniffing":      "enabled destOverride domainsExcluded metadataOnly routeOnly",
	"outbound":      "protocol sendThrough tag settings streamSettings proxySettings>proxySettings mux>mux targetStrategy",
	"mux":           "enabled concurrency xudpConcurrency xudpProxyUDP443",
	"proxySettings": "tag transportLayer",

	"vless":       "address port level email id flow seed encryption reverse testpre testseed vnext",
	"vmess":       "address port level email id security experiments vnext",
	"trojan":      "address port level email password servers",
	"shadowsocks": "address port level email method password !uot !uotVersion servers",
	"socks":       "address port level email user pass servers",
	"http":        "address port level email user pass servers headers",
	"hysteria":    "version address port",
	"wireguard":   "noKernelTun secretKey address peers>peer mtu !workers reserved domainStrategy",
	"peer":        "publicKey preSharedKey endpoint keepAlive allowedIPs",
	"blackhole":   "response",
	"loopback":    "inboundTag",

	"stream": "address:s port:n network:s +method:s security:s finalmask:o>finalmask tlsSettings:o>tls realitySettings:o>reality rawSettings:o>raw " +
		"tcpSettings:o>raw xhttpSettings:o>xhttp splithttpSettings:o>xhttp kcpSettings:o>kcp grpcSettings:o>grpc wsSettings:o>ws " +
		"httpupgradeSettings:o>ws hysteriaSettings:o>hysteriaSettings sockopt:o>sockopt",
	"tls": "!allowInsecure:b certificates serverName:s alpn:l enableSessionResumption:b disableSystemRoot:b minVersion:s maxVersion:s cipherSuites:s " +
		"fingerprint:s rejectUnknownSni:b curvePreferences:l masterKeyLog:s pinnedPeerCertSha256:s verifyPeerCertByName:s " +
		"echServerKeys:s echConfigList:s !echForceQuery:s echSockopt>sockopt",
	"reality": "masterKeyLog show:b target dest type xver serverNames privateKey minClientVer maxClientVer maxTimeDiff shortIds " +
		"mldsa65Seed limitFallbackUpload limitFallbackDownload fingerprint:s serverName:s password:s publicKey:s shortId:s mldsa65Verify:s spiderX:s",
	"raw":              "header acceptProxyProtocol",
	"ws":               "host:s path:s headers acceptProxyProtocol:b heartbeatPeriod:n",
	"kcp":              "mtu:n tti:n uplinkCapacity:n downlinkCapacity:n !congestion:b !readBufferSize:n !writeBufferSize:n +cwndMultiplier:n +maxSendingWindow:n",
	"grpc":             "authority:s serviceName:s multiMode:b idle_timeout:n health_check_timeout:n permit_without_stream:b initial_windows_size:n user_agent:s",
	"xhttp":            "host:s path:s mode:s extra>xhttp " + xhttpKeys,
	"xmux":             "maxConcurrency:r maxConnections:r cMaxReuseTimes:r hMaxRequestTimes:r hMaxReusableSecs:r hKeepAlivePeriod:n",
	"hysteriaSettings": "version auth congestion up down udphop udpIdleTimeout masquerade",
	"finalmask":        "tcp>mask udp>mask quicParams:o>quicParams",
	"mask":             "type:s settings:o",
	"quicParams": "congestion:s debug:b +bbrProfile:s brutalUp brutalDown udpHop:o>udpHop initStreamReceiveWindow:n maxStreamReceiveWindow:n " +
		"initConnectionReceiveWindow:n maxConnectionReceiveWindow:n maxIdleTimeout:n keepAlivePeriod:n disablePathMTUDiscovery:b maxIncomingStreams:n",
	"udpHop": "ports interval:r",
	"sockopt": "mark tcpFastOpen tproxy acceptProxyProtocol domainStrategy dialerProxy tcpKeepAliveInterval tcpKeepAliveIdle " +
		"tcpCongestion tcpWindowClamp tcpMaxSeg penetrate tcpUserTimeout v6only interface tcpMptcp customSockopt addressPortStrategy " +
		"happyEyeballs trustedXForwardedFor",
})

// xhttpKeys are those of xhttpSettings that its extra can have too.
const xhttpKeys = "headers:o xPaddingBytes:r xPaddingObfsMode:b xPaddingKey:s xPaddingHeader:s xPaddingPlacement:s xPaddingMethod:s uplinkHTTPMethod:s " +
	"!sessionPlacement:s !sessionKey:s +sessionIDPlacement:s +sessionIDKey:s +sessionIDTable:s +sessionIDLength:r seqPlacement:s seqKey:s uplinkDataPlacement:s " +
	"uplinkDataKey:s uplinkChunkSize:r noGRPCHeader:b noSSEHeader:b scMaxEachPostBytes:r scMinPostsIntervalMs:r scMaxBufferedPosts:n " +
	"scStreamUpServerSecs:r serverMaxHeaderBytes:n xmux:o>xmux downloadSettings:o"

// known is one key of the schema.
type known struct {
	name    string // as the documentation spells it
	kind    string // "" is not looked into
	value   string // a key of values; "" is not looked at
	of      Version
	limited bool // only of has it
}

// compileSchema reads the table above: kind, then key in lower case.
func compileSchema(table map[string]string) map[string]map[string]known {
	out := make(map[string]map[string]known, len(table))
	for kind, line := range table {
		keys := map[string]known{}
		for word := range strings.FieldsSeq(line) {
			k := known{}
			switch word[0] {
			case '!':
				k, word = known{limited: true, of: V26_3}, word[1:]
			case '+':
				k, word = known{limited: true, of: V26_7}, word[1:]
			}
			word, k.kind, _ = strings.Cut(word, ">")
			k.name, k.value, _ = strings.Cut(word, ":")
			keys[strings.ToLower(k.name)] = k
		}
		out[kind] = keys
	}
	return out
}

// values are what values can be.
var values = map[string]struct {
	what string
	is   func(any) bool
}{
	"s": {"a text", func(v any) bool { _, ok := v.(string); return ok }},
	"b": {"true or false", func(v any) bool { _, ok := v.(bool); return ok }},
	"o": {"an object", func(v any) bool { _, ok := v.(object); return ok }},
	"n": {"a whole number", isInteger},
	"r": {"a whole number, or a range such as \"100-200\"", isRange},
	"l": {"a text or a list of them", func(v any) bool {
		l, ok := v.([]any)
		if !ok {
			_, ok = v.(string)
			return ok
		}
		return !slices.ContainsFunc(l, func(e any) bool { _, ok := e.(string); return !ok })
	}},
}

func isInteger(v any) bool {
	n, ok := v.(json.Number)
	if !ok {
		return false
	}
	_, err := n.Int64()
	return err == nil
}

// isRange reports whether v is a number or a text such as "100-200" of 32 bits.
func isRange(v any) bool {
	s, ok := v.(string)
	if n, isNumber := v.(json.Number); isNumber {
		s, ok = n.String(), true
	}
	lo, hi, ranged := strings.Cut(strings.TrimPrefix(s, "-"), "-")
	if !ranged {
		hi = lo
	}
	for _, part := range []string{lo, hi} {
		if _, err := strconv.ParseUint(part, 10, 31); err != nil {
			return false
		}
	}
	return ok
}

// elsewhere are keys that checks of their own explain better.
var elsewhere = map[string]bool{
	"allowinsecure": true, "plugin": true, "pluginopts": true, "plugin_opts": true, "alterid": true,
	"pinnedpeercertificatechainsha256": true, "verifypeercertinnames": true, "flow": true, "header": true, "seed": true,
}

// keys reports what is in an object and the core does not read there.
func (c *checker) keys(path, kind string, v any) {
	switch x := v.(type) {
	case []any:
		for i, e := range x {
			c.keys(item(path, "", i), kind, e)
		}
	case object:
		shape := schema[kind]
		for _, key := range sortedKeys(x) {
			k, ok := shape[strings.ToLower(key)]
			switch {
			case ok && (!k.limited || k.of == c.v):
				if v := values[k.value]; v.is != nil && x[key] != nil && !v.is(x[key]) {
					c.report(diag.Error, at(path, k.name), "the value is not "+v.what, "")
				} else if k.kind != "" {
					c.keys(at(path, k.name), k.kind, x[key])
				}
			case elsewhere[strings.ToLower(key)]:
			case ok:
				c.report(diag.Error, at(path, k.name), "Xray "+c.v.String()+" does not have this key; "+k.of.String()+" does", "")
			default:
				c.unknownKey(path, key, shape)
			}
		}
	}
}

// unknownKey is an error where the table is the whole truth: it was read out of
// 26.3's source, and holds of 26.7 only the differences that are documented.
func (c *checker) unknownKey(path, key string, shape map[string]known) {
	severity := diag.Error
	if c.v > V26_3 {
		severity = diag.Warning
	}
	names := make([]string, 0, len(shape))
	for _, k := range shape {
		names = append(names, k.name)
	}
	slices.Sort(names)
	if len(key) > maxKeyShown {
		key = key[:maxKeyShown]
	}
	c.report(severity, at(path, diag.Quote(key)), "Xray does not read this key, and does not say so", diag.DidYouMean(key, names))
}
