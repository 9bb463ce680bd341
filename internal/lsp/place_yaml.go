package lsp

import (
	"bytes"
	"slices"
	"strings"
)

// placeYAML returns what can stand before end in a YAML text. It reads lines, not
// YAML: the text is being written.
func placeYAML(src []byte, end int) place {
	from := sectionStart(src, end)
	l := layout{src: string(src[from:end]), base: from}
	l.read()
	p := place{start: from + l.start}
	if l.comment {
		return p
	}
	value := l.src[min(l.start, len(l.src)):]
	p.yaml(l.path(), l.isKey, value)
	return p
}

// sectionStart returns where the section that end lies in begins.
func sectionStart(src []byte, end int) int {
	for at := end; at > 0; {
		at = bytes.LastIndexByte(src[:at], '\n') + 1
		if at < end && bytes.IndexByte([]byte(" \t\r\n#-}]"), src[at]) < 0 {
			return at
		}
		at = max(at-1, 0)
	}
	return 0
}

// layer is one level of blocks: a key of a block, an item of a list, or a bracket
// with the key that is written in it.
type layer struct {
	column int
	sign   byte // 'k', '-', '{' or '['
	key    string
}

// layout reads the levels around the end of a text.
type layout struct {
	src     string
	base    int
	layers  []layer
	start   int  // of the value or key at the end
	isKey   bool // it is a key, or nothing is there yet
	comment bool
}

// path is the keys around the end of the text; an item of a list is "-".
func (l *layout) path() []string {
	var path []string
	for _, y := range l.layers {
		switch {
		case y.sign == '-' || y.sign == '[':
			path = append(path, "-")
		case y.key != "":
			path = append(path, y.key)
		}
	}
	return path
}

func (l *layout) flow() bool {
	return len(l.layers) > 0 && strings.IndexByte("{[", l.layers[len(l.layers)-1].sign) >= 0
}

func (l *layout) read() {
	for at := 0; at <= len(l.src); {
		end := strings.IndexByte(l.src[at:], '\n')
		if end < 0 {
			l.line(at, len(l.src), true)
			return
		}
		l.line(at, at+end, false)
		at += end + 1
	}
}

// line reads one line; last means that the text ends in it.
func (l *layout) line(at, end int, last bool) {
	i := at
	for i < end && l.src[i] == ' ' {
		i++
	}
	if l.flow() {
		l.content(i, end, i-at, last)
		return
	}
	if !last && (i == end || l.src[i] == '#' || l.src[i] == '\r') {
		return
	}
	for i < end && l.src[i] == '-' && (i+1 == end || l.src[i+1] == ' ') {
		l.leave(i-at, true)
		l.layers = append(l.layers, layer{column: i - at, sign: '-'})
		for i++; i < end && l.src[i] == ' '; i++ {
		}
	}
	l.leave(i-at, false)
	l.content(i, end, i-at, last)
}

// leave drops the levels that a line of this indentation ends.
func (l *layout) leave(column int, item bool) {
	for n := len(l.layers); n > 0; n-- {
		y := l.layers[n-1]
		if y.column < column || y.column == column && item && y.sign == 'k' {
			return
		}
		l.layers = l.layers[:n-1]
	}
}

// content reads keys, values and brackets up to the end of a line.
func (l *layout) content(i, end, column int, last bool) {
	l.start, l.isKey, l.comment = i, true, false
	inValue := false // behind a key of a block in this line
	for i < end {
		flow := l.flow()
		switch c := l.src[i]; {
		case c == ' ' || c == '\r' || c == '\t':
			i++
			l.start = i
			continue
		case c == '#' && (i == 0 || l.src[i-1] == ' ' || l.src[i-1] == '\n'):
			l.comment, l.start = true, end
			return
		case c == '{' || c == '[':
			l.layers = append(l.layers, layer{column: column, sign: c})
			i++
		case flow && (c == '}' || c == ']'):
			l.layers = l.layers[:len(l.layers)-1]
			i++
		case flow && c == ',':
			l.layers[len(l.layers)-1].key = ""
			i++
		default:
			next, colon := l.scalar(i, end, flow)
			l.start = i
			if next == end && !colon {
				if l.src[i] == '"' || l.src[i] == '\'' {
					l.start++
				}
				l.isKey = l.keyPosition(inValue)
				if last {
					return
				}
			}
			if colon {
				key := strings.Trim(strings.TrimSpace(l.src[i:next]), `"'`)
				next++
				if flow {
					l.layers[len(l.layers)-1].key = key
				} else {
					l.layers = append(l.layers, layer{column: column, sign: 'k', key: key})
					inValue = true
				}
			}
			i = next
		}
		l.start, l.isKey = i, l.keyPosition(inValue)
	}
	l.isKey = l.keyPosition(inValue)
}

// keyPosition reports whether a key would stand here.
func (l *layout) keyPosition(inValue bool) bool {
	if !l.flow() {
		return !inValue
	}
	top := l.layers[len(l.layers)-1]
	return top.sign == '{' && top.key == ""
}

// scalar returns the end of the value at i, and whether it is a key.
func (l *layout) scalar(i, end int, flow bool) (next int, colon bool) {
	if quote := l.src[i]; quote == '"' || quote == '\'' {
		for i++; i < end && l.src[i] != quote; i++ {
			if quote == '"' && l.src[i] == '\\' {
				i++
			}
		}
		if i >= end {
			return end, false // not closed: the value is being written
		}
		for i++; i < end && l.src[i] == ' '; i++ {
		}
		return i, i < end && l.src[i] == ':'
	}
	for ; i < end; i++ {
		switch c := l.src[i]; {
		case c == ':' && (i+1 == end || strings.IndexByte(" \r,{}[]", l.src[i+1]) >= 0):
			return i, true
		case flow && strings.IndexByte(",{}[]", c) >= 0:
			return i, false
		case c == '#' && l.src[i-1] == ' ':
			return i, false
		}
	}
	return end, false
}

// yaml says what can stand at a path: a key, or a value of which a part is written.
func (p *place) yaml(path []string, isKey bool, value string) {
	if len(path) == 0 {
		if isKey {
			p.offers(inTopYAML)
		}
		return
	}
	rest := path[1:]
	switch path[0] {
	case "rules":
		if len(rest) > 0 && rest[0] == "-" {
			p.ruleYAML(rest[1:], isKey, value)
		}
	case "default":
		p.actionYAML(rest, isKey, value)
	case "imports":
		if len(rest) == 1 && isKey {
			p.offers(inImportYAML)
		}
	case "assertions", "invariants":
		if len(rest) > 0 && rest[0] == "-" {
			p.claimYAML(path[0] == "invariants", rest[1:], isKey, value)
		}
	case "health":
		switch {
		case len(rest) == 0 && isKey:
			p.offers(inPrimary, inHealth)
			p.named(uplinkKind)
		case len(rest) > 0 && rest[0] == "primary":
			p.named(uplinkKind)
		case len(rest) > 0:
			p.healthYAML(rest, isKey)
			if len(rest) == 1 && isKey && !slices.ContainsFunc(texts[inHealth], func(w word) bool { return w.label == rest[0] }) {
				p.offers(inHealth)
			}
		}
	case "daemon":
		switch {
		case len(rest) == 0 && isKey:
			p.offers(inDaemon)
		case len(rest) > 0 && rest[0] == "masquerade":
			p.named(uplinkKind)
		case len(rest) == 1 && rest[0] == "on_crash":
			p.offers(inOnCrash)
		case len(rest) == 1 && rest[0] == "backend":
			p.offers(inBackend)
		case len(rest) == 1 && rest[0] == "enforce":
			p.offers(inEnforce)
		case len(rest) == 1 && rest[0] == "hello":
			p.offers(inHello)
		}
	default:
		p.declYAML(path[0], rest, isKey, value)
	}
}

// declYAML is a place in a section of named declarations.
func (p *place) declYAML(section string, rest []string, isKey bool, value string) {
	if len(rest) == 0 {
		return // a new name
	}
	inside := rest[1:]
	item := textOf(inside, 0)
	keys := map[string][]category{
		"uplinks": {inUplink, inHealth}, "routes": {inRouteYAML}, "groups": {inStrategy, inGroup}, "throttles": {inThrottle},
		"quotas": {inQuotaMatch, inQuota}, "schedules": {inSchedule}, "sets": {inSetYAML, inSetSource, inSetOption},
		"conditions": {inWhenYAML},
	}
	if len(inside) == 0 && isKey {
		p.offers(keys[section]...)
		return
	}
	switch section {
	case "uplinks":
		p.healthYAML(inside, isKey)
	case "routes":
		switch {
		case item == "":
			p.spelled("route _ ", value, "")
		case item == "via":
			p.spelled("route _ via ", value, "")
		}
	case "groups":
		switch {
		case item == "":
			p.spelled("group _ = ", value, "")
		case item == "sla" && len(inside) == 1:
			p.named(conditionKind)
		case slices.Contains(strategies, item):
			p.named(routeKind)
		case item == "when_none":
			p.offers(inWhenNone)
		case item == "interrupt":
			p.offers(inBool)
		}
	case "throttles":
		if item == "per" {
			p.offers(inPer)
		}
	case "quotas":
		switch item {
		case "match":
			p.exprYAML(inside[1:], isKey, value, false)
		case "per":
			p.offers(inPeriod)
		}
	case "schedules":
		switch item {
		case "":
			p.spelled("schedule _ = ", value, "")
		case "weekday":
			p.part(value)
			p.offers(inWeekday)
		}
	case "conditions":
		p.exprYAML(inside, isKey, value, true)
	case "sets":
		switch item {
		case "type":
			p.offers(inSetType)
		case "format":
			p.offers(inFormat)
		case "on_error":
			p.offers(inOnError)
		}
	}
}

func textOf(path []string, i int) string {
	if i < 0 || i >= len(path) {
		return ""
	}
	return path[i]
}

func (p *place) ruleYAML(rest []string, isKey bool, value string) {
	switch textOf(rest, 0) {
	case "":
		if isKey {
			p.offers(inRuleYAML)
		}
	case "match":
		p.exprYAML(rest[1:], isKey, value, false)
	case "when":
		p.exprYAML(rest[1:], isKey, value, true)
	case "action":
		p.actionYAML(rest[1:], isKey, value)
	case "disable":
		p.part(value)
		p.offers(inState)
	case "disabled":
		p.offers(inBool)
	case "allow":
		p.offers(inCode)
	case "on_unknown":
		p.offers(inOnUnknown)
	}
}

func (p *place) healthYAML(rest []string, isKey bool) {
	switch item := textOf(rest, 0); {
	case item == "threshold" && len(rest) == 1 && isKey:
		p.offers(inThreshold)
	case item == "probe" && len(rest) == 1 && isKey:
		p.offers(inProbeYAML)
	case item == "probe" && textOf(rest, 1) == "kind":
		p.offers(inProbe)
	case item == "metered", item == "required":
		p.offers(inBool)
	}
}

// actionYAML is a place in an action: a block of keys, or NPL's words.
func (p *place) actionYAML(rest []string, isKey bool, value string) {
	if len(rest) == 0 {
		if isKey {
			p.offers(inAction)
		} else {
			p.spelled("default ", value, "")
		}
		return
	}
	switch rest[0] {
	case "route", "switch_route", "failover", "fallback":
		p.named(routeKind)
	case "throttle":
		p.named(throttleKind)
	case "block":
		p.offers(inBool, inBlock)
	case "log", "continue":
		p.offers(inBool)
	}
}

// exprYAML is a place in a condition: a block of keys, or NPL's words.
func (p *place) exprYAML(rest []string, isKey bool, value string, world bool) {
	for len(rest) > 0 && slices.Contains([]string{"all", "any_of", "not", "-"}, rest[0]) {
		rest = rest[1:]
	}
	switch {
	case len(rest) == 0 && isKey && world:
		p.offers(inWhenYAML)
	case len(rest) == 0 && isKey:
		p.offers(inFieldYAML)
	case len(rest) == 0 && world:
		p.spelled("when ", value, "rule")
	case len(rest) == 0:
		p.spelled("match ", value, "rule")
	case len(rest) == 1 && isKey:
		p.offers(inInYAML)
	case textOf(rest, 1) == "in" || textOf(rest, 1) == "not_in":
		p.named(setKind)
	default:
		p.part(value)
		switch rest[0] {
		case "state":
			p.offers(inState)
		case "protocol", "proto":
			p.offers(inProto)
		case "any":
			p.offers(inBool)
		case "schedule":
			p.named(scheduleKind)
		case "quota":
			p.named(quotaKind)
		case "condition":
			p.named(conditionKind)
		}
	}
}

func (p *place) claimYAML(invariant bool, rest []string, isKey bool, value string) {
	switch textOf(rest, 0) {
	case "":
		switch {
		case isKey && invariant:
			p.offers(inInvariant)
		case isKey:
			p.offers(inAssertYAML)
		}
	case "match", "never", "always":
		p.exprYAML(rest[1:], isKey, value, false)
	case "when":
		p.part(value)
		p.offers(inState)
	case "unreachable":
		p.offers(inLevel)
	case "expect":
		if invariant {
			p.spelled("always any -> ", value, "")
		} else {
			p.spelled(`assert "x" -> `, value, "")
		}
	}
}

// part moves the start behind the last comma of a list in one value.
func (p *place) part(value string) {
	i := strings.LastIndexByte(value, ',') + 1
	for i < len(value) && value[i] == ' ' {
		i++
	}
	p.start += i
}

// spelled is a place in a value that is written as in NPL, behind the words that
// would stand before it there, in a block of the given kind.
func (p *place) spelled(before, value, block string) {
	end := p.start + len(value)
	tokens, q, ok := wordAt(scan(value, p.start), end)
	if !ok {
		return
	}
	var head []token
	if block != "" {
		head = []token{{text: block}}
	}
	q.statement(head, append(scan(before, 0), tokens...), false)
	*p = q
}
