package flow

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MaxRecord is the longest flow record or flow text that is read, in bytes. A
// record is a few hundred; the rest is room for the names of a busy address.
const MaxRecord = 64 << 10

// ErrorCode says what kind of mistake a flow record has. Codes are stable.
type ErrorCode string

// The codes of Error.
const (
	ErrSyntax    ErrorCode = "syntax"
	ErrUnknown   ErrorCode = "unknown_key"
	ErrDuplicate ErrorCode = "duplicate_key"
	ErrValue     ErrorCode = "bad_value"
	ErrTooLong   ErrorCode = "too_long"
)

// Error is what is wrong with a flow record or flow text.
type Error struct {
	Code    ErrorCode
	Pos     int // byte offset
	Message string
}

// Error gives the place and the message.
func (e *Error) Error() string { return fmt.Sprintf("at byte %d: %s", e.Pos, e.Message) }

// kind is how a value was written.
type kind uint8

const (
	wordValue   kind = iota // bare, in text: stands for a string or a number
	stringValue             // quoted
	numberValue
	nullValue
	listValue
)

// token is one value. The text of a string is unquoted.
type token struct {
	kind kind
	text string
	list []string
}

func (t token) isNumber() bool { return t.kind == numberValue || t.kind == wordValue }
func (t token) isString() bool { return t.kind == stringValue || t.kind == wordValue }

// The keys of flow records (language.md, sections 2 and 8), in the order in
// which they are written.
const (
	keyID = iota
	keyProto
	keySrc
	keyDst
	keySNI
	keyHost
	keyDomain
	keyDNS
	keyProcess
	keyProcessPath
	keyUser
	keyCgroup
	keyIfaceIn
	keyDSCP
	keyMark
	keyRTT
	keyLatency
	keyErrorRate
	keyState
	keyGroup
	keySrcMAC
	keyIfaceOut
	keyApp
	keyALPN
	keyCountry
	keyASN
	keyConnBytes
	keyConnAge
	keyCount
)

var keyNames = [keyCount]string{
	"id", "proto", "src", "dst", "sni", "http_host", "domain", "dns", "process", "process_path", "user", "cgroup",
	"iface_in", "dscp", "mark", "rtt_ms", "latency_ms", "error_rate", "state",
	"group", "src_mac", "iface_out", "app", "alpn", "country", "asn", "conn_bytes", "conn_age",
}

func keyIndex(name string) int {
	for i, k := range keyNames {
		if k == name {
			return i
		}
	}
	return -1
}

// Bounds and scales of decimals: digits beyond the scale are dropped.
const (
	microsPerMilli = 3         // digits: milliseconds to microseconds
	perMillion     = 6         // digits: a fraction to parts per million
	microsPerSec   = 6         // digits: seconds to microseconds
	maxMicros      = 1e12      // over eleven days: no connection's RTT
	maxAge         = 1e15      // over thirty years: no connection's age
	maxBytes       = 1 << 62   // what two directions carry can't overflow
	maxPPM         = 1_000_000 // a rate is at most 1
)

// set stores the value of one key. The result is "" or what is wrong with it.
func (f *Flow) set(key int, t token) string {
	switch key {
	case keyID:
		if t.kind != nullValue && t.kind != listValue {
			f.ID = t.text
			return ""
		}
		return mustBe(t, t.kind == nullValue, "a string")
	case keyProto:
		return setProto(&f.Proto, t)
	case keySrc:
		return setEndpoint(&f.Src, &f.SrcPort, t)
	case keyDst:
		return setEndpoint(&f.Dst, &f.DstPort, t)
	case keySNI:
		return setName(&f.SNI, t)
	case keyHost:
		return setName(&f.HTTPHost, t)
	case keyDomain:
		return setName(&f.Domain, t)
	case keyDNS:
		f.DNS = NewNames(t.list...)
		return mustBe(t, t.kind == listValue || t.kind == nullValue, "a list of names")
	case keyProcess:
		return setString(&f.Process, t, Some)
	case keyProcessPath:
		return setString(&f.ProcessPath, t, Some)
	case keyUser:
		return setString(&f.User, t, Some)
	case keyCgroup:
		return setString(&f.Cgroup, t, Some)
	case keyIfaceIn:
		return setString(&f.IfaceIn, t, Some)
	case keyDSCP:
		return setInt(&f.DSCP, t, 63)
	case keyMark:
		return setInt(&f.Mark, t, 1<<32-1)
	case keyRTT:
		return setDecimal(&f.RTT, t, microsPerMilli, maxMicros)
	case keyLatency:
		return setDecimal(&f.Latency, t, microsPerMilli, maxMicros)
	case keyErrorRate:
		return setDecimal(&f.ErrorRate, t, perMillion, maxPPM)
	case keyState:
		return setState(&f.State, t)
	case keyGroup:
		return setString(&f.Group, t, Some)
	case keySrcMAC:
		return setMAC(&f.SrcMAC, t)
	case keyIfaceOut:
		return setString(&f.IfaceOut, t, Some)
	case keyApp:
		return setString(&f.App, t, Some)
	case keyALPN:
		return setALPN(&f.ALPN, t)
	case keyCountry:
		return setCountry(&f.Country, t)
	case keyASN:
		return setInt(&f.ASN, t, 1<<32-1)
	case keyConnBytes:
		return setDecimal(&f.ConnBytes, t, 0, maxBytes)
	case keyConnAge:
		return setDecimal(&f.ConnAge, t, microsPerSec, maxAge)
	default:
		return ""
	}
}

// finish settles what follows from several keys: ICMP, GRE and the like have no ports.
func (f *Flow) finish() string {
	p, known := f.Proto.Get()
	if !known || p.HasPorts() {
		return ""
	}
	for _, port := range []*Value[uint16]{&f.SrcPort, &f.DstPort} {
		if _, given := port.Get(); given {
			if p == ICMP || p == ICMPv6 {
				return "ICMP has no ports"
			}
			return "protocol " + p.String() + " has no ports"
		}
		*port = Absent[uint16]()
	}
	return ""
}

func mustBe(t token, ok bool, what string) string {
	if ok {
		return ""
	}
	got := map[kind]string{stringValue: "a string", numberValue: "a number", nullValue: "null", listValue: "a list", wordValue: "a word"}[t.kind]
	return "must be " + what + ", not " + got
}

func setString(v *Value[string], t token, known func(string) Value[string]) string {
	switch {
	case t.kind == nullValue:
		*v = Absent[string]()
	case t.isString():
		*v = known(t.text)
	default:
		return mustBe(t, false, "a string")
	}
	return ""
}

// setName takes an impossible name for what it is when traffic had it. Who writes one as a
// bare word has made a mistake, and is told which.
func setName(v *Value[string], t token) string {
	if t.kind == wordValue {
		if _, err := CanonicalName(t.text); err != nil {
			return quoted(t.text) + ": " + err.Error()
		}
	}
	return setString(v, t, Name)
}

func setInt[T uint8 | uint32](v *Value[T], t token, most uint64) string {
	base := 10
	text := t.text
	switch {
	case t.kind == nullValue:
		*v = Absent[T]()
		return ""
	case !t.isNumber():
		return mustBe(t, false, "a number")
	case t.kind == wordValue && strings.HasPrefix(text, "0x"):
		base, text = 16, text[2:]
	}
	n, err := strconv.ParseUint(text, base, 64)
	if err != nil || n > most {
		return fmt.Sprintf("%s is not a whole number from 0 to %d", quoted(t.text), most)
	}
	*v = Some(T(n))
	return ""
}

func setDecimal(v *Value[int64], t token, digits int, most int64) string {
	switch {
	case t.kind == nullValue:
		*v = Absent[int64]()
		return ""
	case !t.isNumber():
		return mustBe(t, false, "a number")
	}
	n, ok := decimal(t.text, digits, most)
	if !ok {
		return fmt.Sprintf("%s is not a number from 0 to %s", quoted(t.text), formatDecimal(most, digits))
	}
	*v = Some(n)
	return ""
}

// setALPN takes the protocols as a list, or joined by commas.
func setALPN(v *Value[string], t token) string {
	if t.kind != listValue {
		return setString(v, t, Some)
	}
	for _, id := range t.list {
		if id == "" || strings.Contains(id, ",") {
			return quoted(id) + " is not a protocol: it is empty or has a comma"
		}
	}
	*v = Some(strings.Join(t.list, ","))
	if len(t.list) == 0 {
		*v = Absent[string]()
	}
	return ""
}

func setCountry(v *Value[string], t token) string {
	code := strings.ToUpper(t.text)
	switch {
	case t.kind == nullValue:
		*v = Absent[string]()
	case !t.isString():
		return mustBe(t, false, "a country's two letters")
	case len(code) != 2 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
		return quoted(t.text) + " is not a country's two letters (ISO 3166-1)"
	default:
		*v = Some(code)
	}
	return ""
}

func setMAC(v *Value[MAC], t token) string {
	switch {
	case t.kind == nullValue:
		*v = Absent[MAC]()
		return ""
	case !t.isString():
		return mustBe(t, false, "a MAC address")
	}
	m, ok := parseMAC(t.text)
	if !ok {
		return quoted(t.text) + " is not a MAC address, as 02:42:ac:11:00:02"
	}
	*v = Some(m)
	return ""
}

// parseMAC reads six pairs of hexadecimal digits, between colons or hyphens.
func parseMAC(s string) (m MAC, ok bool) {
	if len(s) != 3*len(m)-1 {
		return m, false
	}
	for i := range m {
		n, err := strconv.ParseUint(s[3*i:3*i+2], 16, 8)
		if err != nil || i > 0 && s[3*i-1] != s[2] || s[2] != ':' && s[2] != '-' {
			return MAC{}, false
		}
		m[i] = byte(n)
	}
	return m, true
}

func setProto(v *Value[Proto], t token) string {
	switch {
	case t.kind == nullValue:
		*v = Absent[Proto]()
		return ""
	case t.kind == listValue:
		return mustBe(t, false, "a protocol")
	}
	if p, ok := protoByName(t.text); ok && t.isString() {
		*v = Some(p)
		return ""
	}
	n, err := strconv.ParseUint(t.text, 10, 8)
	if err != nil {
		return fmt.Sprintf("%s is not tcp, udp, icmp, icmpv6 or a protocol number", quoted(t.text))
	}
	*v = Some(Proto(n))
	return ""
}

func protoByName(s string) (Proto, bool) {
	switch strings.ToLower(s) {
	case "tcp":
		return TCP, true
	case "udp":
		return UDP, true
	case "icmp":
		return ICMP, true
	case "icmpv6":
		return ICMPv6, true
	default:
		return 0, false
	}
}

// String returns the protocol's name in policies, or its number.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMP:
		return "icmp"
	case ICMPv6:
		return "icmpv6"
	default:
		return strconv.Itoa(int(p))
	}
}

func setState(s *string, t token) string {
	switch up := strings.ToUpper(t.text); {
	case t.kind == nullValue:
		*s = ""
	case t.isString() && (up == "NORMAL" || up == "DEGRADED" || up == "FAILOVER" || up == "RECOVERY"):
		*s = up
	default:
		return quoted(t.text) + " is not NORMAL, DEGRADED, FAILOVER or RECOVERY"
	}
	return ""
}

// setEndpoint reads "1.2.3.4:443", "[2001:db8::1]:443", an address without
// port, or ":443" where only the port is known.
func setEndpoint(addr *Value[netip.Addr], port *Value[uint16], t token) string {
	switch {
	case t.kind == nullValue:
		*addr, *port = Absent[netip.Addr](), Absent[uint16]()
		return ""
	case !t.isString():
		return mustBe(t, false, "an address and port")
	}
	host, service, hasPort := t.text, "", false
	switch i := strings.LastIndexByte(t.text, ':'); {
	case strings.HasPrefix(t.text, "["):
		end := strings.IndexByte(t.text, ']')
		if end < 0 || !strings.Contains(t.text[:end], ":") {
			return quoted(t.text) + " is not [address]:port"
		}
		host = t.text[1:end]
		if rest := t.text[end+1:]; rest != "" {
			if rest[0] != ':' {
				return quoted(t.text) + " is not [address]:port"
			}
			service, hasPort = rest[1:], true
		}
	case i >= 0 && strings.IndexByte(t.text, ':') == i: // one colon: not IPv6
		host, service, hasPort = t.text[:i], t.text[i+1:], true
	}
	if hasPort {
		n, err := strconv.ParseUint(service, 10, 16)
		if err != nil {
			return fmt.Sprintf("%s is not a port from 0 to 65535", quoted(service))
		}
		*port = Some(uint16(n))
	}
	if host == "" && hasPort && t.text[0] == ':' {
		return ""
	}
	a, err := netip.ParseAddr(host)
	if err != nil || a.Zone() != "" {
		return quoted(host) + " is not an IPv4 or IPv6 address without zone"
	}
	*addr = Some(a.Unmap())
	return ""
}

// quoted shows a piece of the user's text, shortened.
func quoted(s string) string {
	const most = 60
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}

// decimal reads a JSON number as an integer of 10^-digits, without floats. What
// is finer is dropped. It fails on what is no number, negative, or over most.
func decimal(s string, digits int, most int64) (int64, bool) {
	const longest = 64 // more digits than any measurement has
	if len(s) == 0 || len(s) > longest {
		return 0, false
	}
	mantissa, exponent, hasExp := s, 0, false
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		e := s[i+1:]
		if len(e) > 1 && e[0] == '+' {
			e = e[1:]
			if e[0] == '-' {
				return 0, false
			}
		}
		n, err := strconv.Atoi(e)
		if err != nil || n < -longest || n > longest {
			return 0, false
		}
		mantissa, exponent, hasExp = s[:i], n, true
	}
	whole, frac, point := strings.Cut(mantissa, ".")
	if whole == "" || point && frac == "" || hasExp && mantissa == "" {
		return 0, false
	}
	all := whole + frac
	for i := range len(all) {
		if all[i] < '0' || all[i] > '9' {
			return 0, false
		}
	}
	if shift := exponent + digits - len(frac); shift >= 0 {
		all += strings.Repeat("0", shift)
	} else {
		all = all[:max(0, len(all)+shift)]
	}
	if all = strings.TrimLeft(all, "0"); all == "" {
		return 0, true
	}
	n, err := strconv.ParseInt(all, 10, 64)
	return n, err == nil && n <= most
}

// formatDecimal writes n units of 10^-digits as a decimal, without trailing zeros.
func formatDecimal(n int64, digits int) string {
	s := strconv.FormatInt(n, 10)
	for len(s) <= digits {
		s = "0" + s
	}
	frac := strings.TrimRight(s[len(s)-digits:], "0")
	if s = s[:len(s)-digits]; frac != "" {
		s += "." + frac
	}
	return s
}

// each calls do for every fact that is not unknown, in the order of the keys.
// An invalid name is the empty string, which reads as invalid again; other
// invalid facts are null, which predicates treat alike.
func (f *Flow) each(do func(key int, t token)) {
	if f.ID != "" {
		do(keyID, token{kind: stringValue, text: f.ID})
	}
	if p, known := f.Proto.Get(); known {
		k := numberValue
		if _, named := protoByName(p.String()); named {
			k = stringValue
		}
		do(keyProto, token{kind: k, text: p.String()})
	} else {
		eachNull(keyProto, f.Proto, do)
	}
	eachEndpoint(keySrc, f.Src, f.SrcPort, do)
	eachEndpoint(keyDst, f.Dst, f.DstPort, do)
	for _, n := range [...]struct {
		key int
		v   Value[string]
	}{{keySNI, f.SNI}, {keyHost, f.HTTPHost}, {keyDomain, f.Domain}} {
		if s, known := n.v.Get(); known || n.v.Status() == Invalid {
			do(n.key, token{kind: stringValue, text: s})
		} else {
			eachNull(n.key, n.v, do)
		}
	}
	if !f.DNS.Empty() {
		do(keyDNS, token{kind: listValue, list: strings.Fields(f.DNS.joined)})
	}
	eachString(keyProcess, f.Process, do)
	eachString(keyProcessPath, f.ProcessPath, do)
	eachString(keyUser, f.User, do)
	eachString(keyCgroup, f.Cgroup, do)
	eachString(keyIfaceIn, f.IfaceIn, do)
	eachNumber(keyDSCP, f.DSCP, 0, do)
	eachNumber(keyMark, f.Mark, 0, do)
	eachNumber(keyRTT, f.RTT, microsPerMilli, do)
	eachNumber(keyLatency, f.Latency, microsPerMilli, do)
	eachNumber(keyErrorRate, f.ErrorRate, perMillion, do)
	if f.State != "" {
		do(keyState, token{kind: stringValue, text: f.State})
	}
	eachString(keyGroup, f.Group, do)
	if m, known := f.SrcMAC.Get(); known {
		do(keySrcMAC, token{kind: stringValue, text: m.String()})
	} else {
		eachNull(keySrcMAC, f.SrcMAC, do)
	}
	eachString(keyIfaceOut, f.IfaceOut, do)
	eachString(keyApp, f.App, do)
	eachString(keyALPN, f.ALPN, do)
	eachString(keyCountry, f.Country, do)
	eachNumber(keyASN, f.ASN, 0, do)
	eachNumber(keyConnBytes, f.ConnBytes, 0, do)
	eachNumber(keyConnAge, f.ConnAge, microsPerSec, do)
}

func eachString(key int, v Value[string], do func(int, token)) {
	if s, known := v.Get(); known {
		do(key, token{kind: stringValue, text: s})
	} else {
		eachNull(key, v, do)
	}
}

func eachNull[T comparable](key int, v Value[T], do func(int, token)) {
	if !v.Unknown() {
		do(key, token{kind: nullValue})
	}
}

func eachNumber[T uint8 | uint32 | int64](key int, v Value[T], digits int, do func(int, token)) {
	if n, known := v.Get(); known {
		do(key, token{kind: numberValue, text: formatDecimal(int64(n), digits)})
	} else {
		eachNull(key, v, do)
	}
}

func eachEndpoint(key int, addr Value[netip.Addr], port Value[uint16], do func(int, token)) {
	a, hasAddr := addr.Get()
	n, hasPort := port.Get()
	switch {
	case hasAddr && hasPort:
		do(key, token{kind: stringValue, text: netip.AddrPortFrom(a, n).String()})
	case hasAddr:
		do(key, token{kind: stringValue, text: a.String()})
	case !addr.Unknown():
		do(key, token{kind: nullValue})
	case hasPort:
		do(key, token{kind: stringValue, text: ":" + strconv.Itoa(int(n))})
	}
}
