package lists

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// maxNesting bounds logical rules within logical rules: each level is read once
// more, and lists in use have two.
const maxNesting = 16

// maxLogical bounds the text of a logical rule, in bytes: every level of nesting
// holds a copy.
const maxLogical = 4 << 20

// newestSingBox is the newest version of the rule-set format that is known;
// 2 changed how suffixes are stored, 3 to 5 added conditions.
const newestSingBox = 5

// headless is one rule of a sing-box rule-set. A flow must meet one of its names
// and addresses, one of its ports, one of its processes, and everything else; so
// a set can only take a rule whose conditions are all of one of these.
type headless struct {
	line           int
	invert         bool
	names          []rules.NamePattern
	addresses      []string
	ranges         []addrRange // addresses as .srs has them
	ports          []rules.PortRange
	portTexts      []string // "1000:2000", ":3000", "4000:"
	process, paths []string
	other          string // a condition that no set can hold; "" for none
	destination    bool   // has a name or address, readable or not
}

// take adds what a set of the collector's type can hold of the rule.
func (c *collector) take(h *headless) {
	domainOrIP := h.destination || len(h.names)+len(h.addresses)+len(h.ranges) > 0
	ports := len(h.ports)+len(h.portTexts) > 0
	process, path := len(h.process) > 0, len(h.paths) > 0
	kinds := 0
	for _, has := range []bool{domainOrIP, ports, process, path} {
		if has {
			kinds++
		}
	}
	switch {
	case h.invert:
		c.leaveOut(h.line, "an inverted rule")
	case h.other != "":
		c.leaveOut(h.line, "a rule with "+h.other)
	case kinds > 1:
		c.leaveOut(h.line, "a rule that joins several kinds of condition")
	case domainOrIP:
		c.takeDestination(h)
	case ports && c.t == rules.PortSet:
		for _, r := range h.ports {
			c.portRange(r.Lo, r.Hi)
		}
		for _, s := range h.portTexts {
			c.colonRange(h.line, s)
		}
	case kinds == 1 && !ports && c.t == rules.ProcessSet:
		for _, s := range slices.Concat(h.process, h.paths) {
			c.literal(h.line, s)
		}
	case kinds == 0:
		c.leaveOut(h.line, "a rule without conditions")
	default:
		c.leaveOut(h.line, "a rule that is not for a "+typeName(c.t)+" set")
	}
}

// takeDestination takes the names or the addresses, of which either is enough.
func (c *collector) takeDestination(h *headless) {
	addresses := len(h.addresses) + len(h.ranges)
	switch {
	case c.t == rules.DomainSet:
		for _, p := range h.names {
			c.add(p)
		}
		if addresses > 0 {
			c.leaveOut(h.line, "addresses are not for a domain set")
		}
	case c.t == rules.CIDRSet:
		for _, s := range h.addresses {
			c.prefix(h.line, s)
		}
		for _, r := range h.ranges {
			if c.n <= MaxElements { // each range can be 254 prefixes
				r.prefixes(c.addPrefix)
			}
		}
		if len(h.names) > 0 {
			c.leaveOut(h.line, "names are not for a cidr set")
		}
	default:
		c.leaveOut(h.line, "a rule that is not for a "+typeName(c.t)+" set")
	}
}

// colonRange reads "1000:2000", ":3000" or "4000:".
func (c *collector) colonRange(line int, s string) {
	lo, hi, ok := strings.Cut(s, ":")
	if lo == "" {
		lo = "0"
	}
	if hi == "" {
		hi = "65535"
	}
	if !ok || len(s) < 2 {
		c.bad(line, "not a range of ports", s)
		return
	}
	c.ports(line, lo+":"+hi, ":")
}

// addName adds one value of a field with names: domain, domain_suffix,
// domain_keyword or domain_regex.
func (h *headless) addName(c *collector, field, s string) {
	var p rules.NamePattern
	var ok bool
	h.destination = true
	if c.t != rules.DomainSet {
		return
	}
	switch field {
	case "domain":
		p, ok = c.canonical(h.line, rules.Exact, s)
	case "domain_suffix":
		if body, under := strings.CutPrefix(s, "."); under {
			p, ok = c.canonical(h.line, rules.Subdomain, body)
		} else {
			p, ok = c.canonical(h.line, rules.Suffix, s)
		}
	case "domain_keyword":
		p, ok = c.keyword(h.line, s)
	default: // domain_regex
		p, ok = c.regex(h.line, s)
	}
	if ok {
		h.names = append(h.names, p)
	}
}

// parseSRS reads a sing-box rule-set, binary or JSON by what it begins with.
func parseSRS(c *collector, src Source) error {
	if bytes.HasPrefix(src.Data, []byte(srsMagic)) {
		return parseBinary(c, src.Data)
	}
	data := bytes.TrimPrefix(src.Data, []byte("\ufeff"))
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return errors.New("neither an .srs file nor a JSON rule-set")
	}
	return parseSource(c, data)
}

// parseSource reads the JSON form, one rule at a time.
func parseSource(c *collector, data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("read the JSON: %w", err)
	}
	at := position{data: data, line: 1}
	versioned := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return fmt.Errorf("read the JSON: %w", err)
		}
		switch key {
		case "version":
			var version int
			if err := dec.Decode(&version); err != nil || version < 1 || version > newestSingBox {
				return fmt.Errorf("its version is not one of 1 to %d", newestSingBox)
			}
			versioned = true
		case "rules":
			err = c.sourceRules(dec, &at)
		default:
			var skip json.RawMessage
			err = dec.Decode(&skip)
		}
		if err != nil {
			return fmt.Errorf("read the JSON: %w", err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("read the JSON: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something stands behind the JSON object")
	}
	if !versioned {
		return errors.New("there is no `version` in it")
	}
	return nil
}

// position turns growing offsets into line numbers.
type position struct {
	data []byte
	at   int
	line int
}

// next returns the line of the first character of the value behind offset.
func (p *position) next(offset int64) int {
	end := int(offset)
	for end < len(p.data) && strings.IndexByte(" \t\r\n,", p.data[end]) >= 0 {
		end++
	}
	p.line += bytes.Count(p.data[p.at:end], []byte("\n"))
	p.at = end
	return p.line
}

func (c *collector) sourceRules(dec *json.Decoder, at *position) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	if tok != json.Delim('[') {
		return errors.New("`rules` is not a list")
	}
	for dec.More() {
		line := at.next(dec.InputOffset())
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		c.sourceRule(raw, line, 0)
	}
	_, err = dec.Token()
	return err
}

// sourceRule reads one rule, logical or not.
func (c *collector) sourceRule(raw json.RawMessage, line, depth int) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		c.problem(line, "a rule that is not an object")
		return
	}
	var kind string
	if t, ok := fields["type"]; ok && json.Unmarshal(t, &kind) != nil {
		c.problem(line, "the `type` of a rule is not text")
		return
	}
	switch {
	case kind == "logical" && len(raw) > maxLogical:
		c.problem(line, "a logical rule that is too large")
		return
	case kind == "logical":
		c.sourceLogical(fields, line, depth)
		return
	case kind != "" && kind != "default":
		c.bad(line, "not a type of rule", kind)
		return
	}
	h := &headless{line: line}
	for _, name := range sortedKeys(fields) {
		if bad := h.field(c, name, fields[name]); bad != "" {
			c.bad(line, "a value that can't be read", bad)
			return // the rule would mean something else without it
		}
	}
	c.take(h)
}

func sortedKeys(m map[string]json.RawMessage) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// sourceLogical reads a rule that joins others. A set takes `or`, and `and` of one rule.
func (c *collector) sourceLogical(fields map[string]json.RawMessage, line, depth int) {
	var in struct {
		Mode   string
		Rules  []json.RawMessage
		Invert bool
	}
	to := map[string]any{"type": new(string), "mode": &in.Mode, "rules": &in.Rules, "invert": &in.Invert}
	for _, name := range sortedKeys(fields) {
		switch {
		case to[name] == nil:
			c.leaveOut(line, "a logical rule with "+diag.Quote(name))
			return
		case json.Unmarshal(fields[name], to[name]) != nil:
			c.problem(line, "a logical rule that can't be read")
			return
		}
	}
	if in.Mode != "and" && in.Mode != "or" {
		c.bad(line, "not a mode of a logical rule", in.Mode)
		return
	}
	if !c.logical(line, in.Mode == "and", in.Invert, len(in.Rules), depth) {
		return
	}
	for _, r := range in.Rules {
		c.sourceRule(r, line, depth+1)
	}
}

// logical reports whether the rules of a logical rule can be taken one by one.
func (c *collector) logical(line int, and, invert bool, n, depth int) bool {
	switch {
	case depth >= maxNesting:
		c.leaveOut(line, "a rule that is nested too deep")
	case invert:
		c.leaveOut(line, "an inverted rule")
	case and && n > 1:
		c.leaveOut(line, "a rule that joins others with `and`")
	default:
		return true
	}
	return false
}

// field reads one field of a rule; it returns the text of a value that is not
// of the field's type.
func (h *headless) field(c *collector, name string, raw json.RawMessage) (bad string) {
	switch name {
	case "type":
		return ""
	case "invert":
		if json.Unmarshal(raw, &h.invert) != nil {
			return string(raw)
		}
		return ""
	case "port":
		values, ok := listOf[uint16](raw)
		for _, p := range values {
			h.ports = append(h.ports, rules.PortRange{Lo: p, Hi: p})
		}
		return unless(ok, raw)
	case "domain", "domain_suffix", "domain_keyword", "domain_regex", "ip_cidr", "port_range", "process_name", "process_path":
	default:
		if s := string(raw); s != "false" && s != "null" && s != "[]" && s != "{}" && s != `""` {
			h.other = diag.Quote(name)
		}
		return ""
	}
	values, ok := listOf[string](raw)
	switch name {
	case "ip_cidr":
		h.addresses = values
	case "port_range":
		h.portTexts = values
	case "process_name":
		h.process = values
	case "process_path":
		h.paths = values
	default:
		for _, s := range values {
			h.addName(c, name, s)
		}
	}
	return unless(ok, raw)
}

func unless(ok bool, raw json.RawMessage) string {
	if ok {
		return ""
	}
	return string(raw)
}

// listOf reads a list, or the one value that may stand in its place.
func listOf[T string | uint16](raw json.RawMessage) ([]T, bool) {
	var list []T
	if json.Unmarshal(raw, &list) == nil {
		return list, true
	}
	var one T
	if json.Unmarshal(raw, &one) != nil {
		return nil, false
	}
	return []T{one}, true
}
