package npl

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// fields are the fields that are one word.
var fields = func() map[string]rules.Field {
	m := make(map[string]rules.Field, rules.FieldUplink)
	for f := rules.FieldSNI; f < rules.FieldUplink; f++ {
		m[f.String()] = f
	}
	return m
}()

// oldSpellings are other names of fields: those of YAML, and with hyphens.
var oldSpellings = func() map[string]string {
	m := map[string]string{"protocol": "proto", "latency_ms": "latency", "rtt_ms": "rtt", "error-rate": "error_rate"}
	for f := rules.FieldSNI; f < rules.FieldUplink; f++ {
		if name := f.String(); strings.Contains(name, ".") {
			m[strings.ReplaceAll(name, ".", "_")] = name
			m[strings.ReplaceAll(name, ".", "-")] = name
		}
	}
	return m
}()

// otherNames are what people try first; the edit distance would mislead.
var otherNames = map[string]string{
	"dst.port": "port", "dst_port": "port", "dport": "port", "dest_port": "port", "ports": "port",
	"sport": "src.port", "source_port": "src.port", "ip": "dst.ip", "dst": "dst.ip", "src": "src.ip",
	"source": "src.ip", "destination": "dst.ip", "host": "domain", "hostname": "domain", "domains": "domain",
	"url": "domain", "interface": "iface.in", "iface": "iface.in", "dev": "iface.in", "uid": "user",
	"mac": "src.mac", "loss": "uplink.NAME.loss", "jitter": "uplink.NAME.jitter", "ping": "latency",
}

// The words that begin statements, by their block.
var (
	declarations = []string{
		"import", "set", "uplink", "route", "group", "throttle", "quota", "schedule", "condition",
		"health", "daemon", "default", "rule", "assert", "never", "always", "unreachable", "policy",
	}
	clauses    = []string{"match", "when", "disable", "on_unknown", "do", "description", "allow"}
	healthKeys = []string{
		"degrade_after", "failover_after", "dead_after", "clear_after", "revive_after", "stable_after",
		"relapse_after", "hold_degraded", "hold_failover", "threshold",
	}
	uplinkKeys   = append([]string{"dev", "gateway", "probe", "metered", "weight", "required"}, healthKeys...)
	healthBlock  = append([]string{"primary"}, healthKeys...)
	throttleKeys = []string{"down", "up", "burst", "per"}
	quotaKeys    = []string{"match", "limit", "per", "reset"}
	states       = []string{"NORMAL", "DEGRADED", "FAILOVER", "RECOVERY"}
)

const outcomeHelp = "write an action, `rule NAME`, `default` or `via NAME`"

// homes tells of which block a word is a statement.
var homes = []struct {
	keys []string
	what string
}{
	{clauses, "a rule"},
	{[]string{"dev", "gateway", "probe", "metered", "weight", "required"}, "an uplink"},
	{[]string{"down", "up", "burst"}, "a throttle"},
	{[]string{"limit", "reset"}, "a quota"},
	{healthBlock, "health or an uplink"},
	{[]string{"mark_mask", "ct_mask", "table_base", "rule_priority", "on_crash", "backend", "masquerade", "state_dir", "enforce", "hello", "relay", "tproxy", "tproxy_port", "dns_listen", "dns_upstreams", "dns_blocked", "dns_stale", "dns_strip_ech", "api_listen", "api_tls", "api_hosts", "insecure_lan", "decision_log", "decision_log_sample", "decision_mask", "alerts"}, "daemon"},
}

// homeOf returns the block that a word belongs to, or "".
func homeOf(word string) string {
	for _, h := range homes {
		if slices.Contains(h.keys, word) {
			return h.what
		}
	}
	return ""
}

// yamlSections are YAML's names for what NPL declares one by one.
var yamlSections = map[string]string{
	"version": "policy 1", "imports": `import "FILE"`, "sets": "set NAME: domain = { ... }", "uplinks": "uplink NAME { ... }",
	"routes": "route NAME via ...", "groups": "group NAME = fallback(a, b)", "throttles": "throttle NAME { ... }",
	"quotas": "quota NAME { ... }", "schedules": "schedule NAME = ...", "conditions": "condition NAME = ...",
	"rules": "rule NAME priority 100 { ... }", "assertions": "assert ... -> ...", "invariants": "never ... -> ...",
	"health": "health { ... }", "daemon": "daemon { ... }", "default": "default route NAME",
}

// clauseNames are what other languages call the clauses of a rule.
var clauseNames = map[string]string{
	"action": "do", "actions": "do", "then": "do", "if": "match", "matches": "match", "where": "match", "desc": "description",
	"comment": "description", "note": "description",
}

// unknownField reports a field that does not exist.
func (p *parser) unknownField(pred *rules.PredNode) {
	key := pred.Key
	head, rest, dotted := strings.Cut(key.Text, ".")
	if dotted && (head == "uplink" || head == "route") {
		i := strings.LastIndexByte(rest, '.')
		if i < 0 {
			p.report("NP102", key.Span, "%s does not name a metric", diag.Quote(key.Text)).
				Help = "write `" + head + "." + shorten(rest) + ".rtt`; the metrics are " + list(rules.Metrics())
			return
		}
		at := len(head) + 1 + i + 1
		metric := key.Part(at, len(key.Text))
		d := p.report("NP102", metric.Span, "there is no metric %s", diag.Quote(metric.Text))
		if d.Help = diag.DidYouMean(metric.Text, rules.Metrics()); d.Help == "" {
			d.Help = "the metrics are " + list(rules.Metrics())
		}
		return
	}
	if name, value, found := strings.Cut(key.Text, ":"); found && value != "" {
		if _, known := fields[name]; known {
			p.report("NP004", key.Span, "expected a field, found %s", diag.Quote(key.Text)).Help = "write `" + name + " " + shorten(value) + "`"
			return
		}
	}
	if (p.bare() || p.tok.Kind == Comma) && !rules.IsName(key.Text) {
		p.report("NP004", key.Span, "expected a condition, found %s", diag.Quote(key.Text)).
			Help = "name what it is compared with: `" + guessField(key.Text) + " " + shorten(key.Text) + "`"
		return
	}
	text := strings.TrimSuffix(key.Text, ":")
	d := p.report("NP102", key.Span, "no field is called %s", diag.Quote(text))
	if other, ok := otherNames[text]; ok {
		d.Help = "write `" + other + "`"
		return
	}
	if d.Help = diag.DidYouMean(text, fieldNames()); d.Help == "" {
		d.Help = "the fields are " + list(fieldNames())
	}
}

// fieldNames are the fields that are one word, in their order.
func fieldNames() []string {
	var names []string
	for f := rules.FieldSNI; f < rules.FieldUplink; f++ {
		names = append(names, f.String())
	}
	return names
}

// unknownDeclaration reports a word at the top of the file that declares nothing.
func (p *parser) unknownDeclaration() {
	p.ast.Lost = true
	text := p.str(p.tok.Token)
	key := strings.TrimSuffix(text, ":")
	span := p.span(p.tok.Start, p.tok.End)
	instead, section := yamlSections[key]
	switch home := homeOf(key); {
	case section && key != text:
		p.report("NP101", span, "%s is YAML, and this is NPL", diag.Quote(text)).Help = "write `" + instead + "`"
		p.skipYAML()
		return
	case section:
		p.report("NP101", span, "no declaration is called %s", diag.Quote(text)).Help = "write `" + instead + "`, once for each"
	case home != "":
		d := p.report("NP010", span, "%s stands outside of its block", diag.Quote(text))
		d.Help = "it belongs inside " + home
	case slices.Contains(rules.Actions(), key):
		p.report("NP010", span, "the action %s stands outside of a rule", diag.Quote(text)).
			Help = "write `default " + key + " ...` for what no rule decides, or put it behind `do` in a rule"
	case fields[key] != 0 || key == rules.FieldSNI.String():
		p.report("NP010", span, "the condition on %s stands outside of a rule", key).Help = "put it behind `match` in a rule"
	default:
		d := p.report("NP101", span, "no declaration is called %s", diag.Quote(text))
		if d.Help = diag.DidYouMean(key, declarations); d.Help == "" {
			d.Help = "the declarations are " + list(declarations[:len(declarations)-1])
		}
	}
	p.next()
	p.skip()
}

// skipYAML passes over a section of YAML: to the next line that is neither
// indented nor an element of a list.
func (p *parser) skipYAML() {
	for p.next(); p.tok.Kind != EOF; p.next() {
		if p.tok.first && p.indent == 0 && p.tok.Kind == Word && p.text[p.tok.Start] != '-' {
			return
		}
	}
}

// skipDeeper passes over the lines below that are indented by more.
func (p *parser) skipDeeper(indent int) {
	for p.tok.Kind == Newline {
		p.next()
		for p.indent > indent && p.tok.Kind != Newline && p.tok.Kind != EOF && p.tok.Kind != Close {
			p.next()
		}
	}
}

// strayHelp says what the current token is probably meant for.
func (p *parser) strayHelp() string {
	text := p.str(p.tok.Token)
	switch p.tok.Kind {
	case Comma:
		return "a list goes on only behind values; conditions are joined by `and` and `or`"
	case Close:
		return "no block is open here"
	case ParenClose:
		return "no `(` is open here"
	case Foreign, Assign:
		return "remove it"
	case Arrow:
		return "`->` stands in assert, never and always"
	case Word:
		switch {
		case foreignJoint(text) != "":
			return "write `" + foreignJoint(text) + "`"
		case fields[text] != 0 || text == "sni":
			return "join conditions by `and` or `or`"
		case !rules.IsName(text):
			return "separate values by commas"
		}
	case String:
		return "separate values by commas"
	}
	return ""
}

// shorten bounds the user's text in a help.
func shorten(s string) string { return strings.Trim(diag.Quote(s), "`") }

// doubleQuoted writes a text as an NPL string, for a help.
func doubleQuoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(shorten(s)) + `"`
}

// list joins words for a sentence: "a, b and c".
func list(words []string) string {
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
