package yaml

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// fields are the keys that look at one fact. Metrics of uplinks and routes have
// keys of their own: uplink.NAME.rtt.
var fields = map[string]rules.Field{
	"sni": rules.FieldSNI, "domain": rules.FieldDomain, "http_host": rules.FieldHTTPHost,
	"protocol": rules.FieldProto, "proto": rules.FieldProto,
	"port": rules.FieldPort, "src_port": rules.FieldSrcPort, "src_ip": rules.FieldSrcIP, "dst_ip": rules.FieldDstIP,
	"app": rules.FieldApp, "alpn": rules.FieldALPN, "process": rules.FieldProcess, "process_path": rules.FieldProcessPath,
	"user": rules.FieldUser, "group": rules.FieldGroup, "cgroup": rules.FieldCgroup,
	"src_mac": rules.FieldSrcMAC, "iface_in": rules.FieldIfaceIn, "iface_out": rules.FieldIfaceOut,
	"dscp": rules.FieldDSCP, "mark": rules.FieldMark, "country": rules.FieldCountry, "asn": rules.FieldASN,
	"conn_bytes": rules.FieldConnBytes, "conn_age": rules.FieldConnAge,
	"rtt_ms": rules.FieldRTT, "latency_ms": rules.FieldLatency, "error_rate": rules.FieldErrorRate, "state": rules.FieldState,
}

// scope is a place where conditions stand: what messages call it, and the keys to suggest.
type scope struct {
	name string
	keys []string
}

var (
	matchScope = scope{"match", []string{
		"any", "sni", "domain", "http_host", "protocol", "proto", "port", "src_port", "src_ip", "dst_ip", "app", "alpn", "process",
		"process_path", "user", "group", "cgroup", "src_mac", "iface_in", "iface_out", "dscp", "mark", "country", "asn",
		"conn_bytes", "conn_age", "rtt_ms", "latency_ms", "error_rate", "all", "any_of", "not",
	}}
	whenScope = scope{"when", []string{
		"state", "schedule", "quota", "condition", "latency_ms", "error_rate", "uplink.NAME.METRIC", "route.NAME.METRIC",
		"all", "any_of", "not",
	}}
	conditionScope = scope{"a condition", whenScope.keys}
)

// as is the same scope under another name.
func (s scope) as(name string) scope { return scope{name, s.keys} }

// plainKey is a key as this schema spells it: NPL has dots and other tools hyphens.
func plainKey(key string) string {
	return strings.NewReplacer(".", "_", "-", "_", " ", "_").Replace(key)
}

// field finds the field of a key. A key in another spelling gets a hint, an
// unknown one is reported.
func (l *loader) field(key rules.Word, in scope, p *rules.PredNode) bool {
	field, ok := fields[key.Text]
	if ok {
		p.Field = field
		return true
	}
	if strings.HasPrefix(key.Text, "uplink.") || strings.HasPrefix(key.Text, "route.") {
		return l.metric(key, p)
	}
	now := plainKey(key.Text)
	if now == "rtt" || now == "latency" {
		now += "_ms"
	}
	if field, ok = fields[now]; !ok {
		l.unknownField(key, in)
		return false
	}
	l.report("NP403", key.Span, "%s is spelled %s in YAML", diag.Quote(key.Text), diag.Quote(now))
	p.Field = field
	return true
}

// metric reads uplink.NAME.METRIC or route.NAME.METRIC.
func (l *loader) metric(key rules.Word, p *rules.PredNode) bool {
	first, last := strings.IndexByte(key.Text, '.'), strings.LastIndexByte(key.Text, '.')
	of := key.Text[:first]
	known := rules.Metrics()
	if first == last || last == first+1 || strings.Contains(key.Text[first+1:last], ".") {
		l.report("NP102", key.Span, "expected %s.NAME.METRIC, found %s", of, diag.Quote(key.Text)).
			Help = "the metrics are " + list(known)
		return false
	}
	metric := key.Part(last+1, len(key.Text))
	i := slices.Index(known, metric.Text)
	if i < 0 {
		i = slices.Index(known, plainKey(metric.Text))
	}
	if i < 0 {
		d := l.report("NP102", metric.Span, "no metric is called %s", diag.Quote(metric.Text))
		if d.Help = diag.DidYouMean(metric.Text, known); d.Help == "" {
			d.Help = "the metrics are " + list(known)
		}
		return false
	}
	p.Field, p.Metric, p.Subject = rules.FieldUplink, rules.Metric(i), key.Part(first+1, last)
	if of == "route" {
		p.Field = rules.FieldRoute
	}
	return true
}

func (l *loader) unknownField(key rules.Word, in scope) {
	d := l.report("NP102", key.Span, "%s has no key %s", in.name, diag.Quote(key.Text))
	if d.Help = foreignKey(matchWords, key.Text); d.Help != "" {
		return
	}
	if d.Help = diag.DidYouMean(key.Text, in.keys); d.Help == "" {
		d.Help = diag.DidYouMean(key.Text, append(slices.Clone(matchScope.keys), whenScope.keys...))
	}
	if d.Help == "" {
		d.Help = "the keys are " + list(in.keys)
	}
}

// ordered reports fields that are compared by < and >, and take one bound.
func ordered(p *rules.PredNode) bool {
	switch p.Field {
	case rules.FieldRTT, rules.FieldLatency, rules.FieldErrorRate, rules.FieldConnBytes, rules.FieldConnAge:
		return true
	case rules.FieldUplink, rules.FieldRoute:
		return p.Metric != rules.MetricState && p.Metric != rules.MetricUp
	default:
		return false
	}
}

// compared reports whether a value is written as a comparison. Names of
// processes, users and groups can begin with nearly anything.
func compared(field rules.Field, text string) bool {
	text = strings.TrimLeft(text, " \t")
	switch field {
	case rules.FieldProcess, rules.FieldProcessPath, rules.FieldUser, rules.FieldGroup, rules.FieldCgroup:
		return strings.HasPrefix(text, "==") || strings.HasPrefix(text, "!=")
	default:
		return text != "" && strings.IndexByte("<>=!", text[0]) >= 0
	}
}
