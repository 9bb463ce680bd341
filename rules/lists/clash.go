package lists

import (
	"errors"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// maxTree bounds a rule provider that is given to a whole YAML parser, in bytes:
// its tree takes some fifty times as much memory. The usual form, one item a
// line, is read without one and up to MaxSize.
const maxTree = 2 << 20

// parseClash reads a Clash rule provider: YAML with `payload:`, or text with one
// rule a line, of any behavior (domain, ipcidr, classical).
func parseClash(c *collector, src Source) error {
	head, odd := clashForm(src.Data)
	if odd > 0 && len(src.Data) <= maxTree {
		if done, err := c.clashTree(src.Data); done {
			return err
		}
	}
	for n, line := range c.lines(src.Data, slashes) {
		switch item, ok := yamlItem(line); {
		case head == 0:
			c.clashRule(n, strings.Trim(hashWord(line), blanks))
		case ok:
			c.clashRule(n, item)
		case n != head && !yamlFrame(line) || n == odd:
			c.bad(n, "not an item of YAML", line)
		}
	}
	return nil
}

// clashForm finds the line of `payload:`, 0 if the file is not YAML, and the
// first line of YAML that is not of the plain form, 0 if there is none.
func clashForm(data []byte) (head, odd int) {
	var quiet collector // parseClash reports long lines
	for n, line := range quiet.lines(data, slashes) {
		plain := yamlFrame(line)
		if rest, ok := strings.CutPrefix(line, "payload:"); ok && head == 0 {
			head, plain = n, strings.Trim(hashWord(rest), blanks) == ""
		} else if !plain && head > 0 {
			_, plain = yamlItem(line)
		}
		if !plain && odd == 0 {
			odd = n
		}
	}
	if head == 0 {
		return 0, 0
	}
	return head, odd
}

// yamlFrame recognises what begins a document of YAML.
func yamlFrame(line string) bool { return line == "---" || strings.HasPrefix(line, "%YAML") }

// slashes cuts comments that take a whole line: # and //.
func slashes(line string) string {
	if t := strings.Trim(line, blanks); strings.HasPrefix(t, "#") || strings.HasPrefix(t, "//") {
		return ""
	}
	return line
}

// yamlItem reads "- text", "- 'text'" or "- "text"" without escapes; false if it
// is anything else that YAML has.
func yamlItem(line string) (string, bool) {
	s, ok := strings.CutPrefix(line, "-")
	if !ok || s == "" || s[0] != ' ' && s[0] != '\t' {
		return "", false
	}
	if s = strings.Trim(s, blanks); s == "" {
		return "", false
	}
	if q := s[0]; q == '\'' || q == '"' {
		body, after, closed := strings.Cut(s[1:], s[:1])
		plain := strings.Trim(hashWord(after), blanks) == "" && !(q == '"' && strings.Contains(body, `\`))
		return body, closed && plain
	}
	s = strings.Trim(hashWord(s), blanks)
	if s == "" || strings.IndexByte("&*!|>{}[]%@`?:,-#", s[0]) >= 0 && !strings.HasPrefix(s, "-.") {
		return "", false
	}
	return s, !strings.Contains(s, ": ") && !strings.HasSuffix(s, ":")
}

// clashTree reads what is not of the plain form; not done if it is no YAML at
// all: then the lines that are plain items can still be read.
func (c *collector) clashTree(data []byte) (done bool, err error) {
	var doc yaml.Node
	if yaml.Unmarshal(data, &doc) != nil {
		return false, nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return true, errors.New("not a mapping with `payload:`")
	}
	top := doc.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		if top[i].Value != "payload" {
			c.leaveOut(top[i].Line, "a key beside `payload:`")
			continue
		}
		if k := top[i+1].Kind; k != yaml.SequenceNode && (k != yaml.ScalarNode || top[i+1].Tag != "!!null") {
			return true, errors.New("`payload:` is not a list")
		}
		for _, item := range top[i+1].Content {
			if item.Kind != yaml.ScalarNode {
				c.problem(item.Line, "an item that is not text")
				continue
			}
			c.clashRule(item.Line, item.Value)
		}
	}
	return true, nil
}

// clashRule reads one rule: classical if it has a comma, else a name pattern or
// an address.
func (c *collector) clashRule(n int, rule string) {
	if kind, body, ok := strings.Cut(rule, ","); ok {
		c.clashClassical(n, strings.ToUpper(strings.Trim(kind, blanks)), strings.Trim(body, blanks))
		return
	}
	switch rule = strings.Trim(rule, blanks); {
	case rule == "":
		c.problem(n, "an empty item")
	case isPrefix(rule):
		c.prefix(n, rule)
	case c.t == rules.DomainSet:
		c.clashName(n, rule)
	default:
		c.leaveOut(n, "a name is not for a "+typeName(c.t)+" set")
	}
}

// clashKinds are the classical rules that a set can hold, and of which type.
var clashKinds = map[string]rules.SetType{
	"DOMAIN": rules.DomainSet, "DOMAIN-SUFFIX": rules.DomainSet, "DOMAIN-KEYWORD": rules.DomainSet,
	"DOMAIN-REGEX": rules.DomainSet, "DOMAIN-WILDCARD": rules.DomainSet,
	"IP-CIDR": rules.CIDRSet, "IP-CIDR6": rules.CIDRSet, "DST-PORT": rules.PortSet,
	"PROCESS-NAME": rules.ProcessSet, "PROCESS-PATH": rules.ProcessSet,
}

func (c *collector) clashClassical(n int, kind, body string) {
	if t, known := clashKinds[kind]; !known || t != c.t {
		c.leaveOut(n, diag.Quote(kind)+" is not for a "+typeName(c.t)+" set")
		return
	}
	if kind != "DOMAIN-REGEX" { // an expression may hold commas
		var options string
		body, options, _ = strings.Cut(body, ",")
		body = strings.Trim(body, blanks)
		for option := range strings.SplitSeq(options, ",") {
			if strings.Trim(option, blanks) == "src" {
				c.leaveOut(n, "a rule about the source")
				return
			}
		}
	}
	var p rules.NamePattern
	var ok bool
	switch kind {
	case "DOMAIN":
		p, ok = c.canonical(n, rules.Exact, body)
	case "DOMAIN-SUFFIX":
		p, ok = c.canonical(n, rules.Suffix, strings.TrimPrefix(body, "."))
	case "DOMAIN-KEYWORD":
		p, ok = c.keyword(n, body)
	case "DOMAIN-REGEX":
		p, ok = c.regex(n, "(?i)"+body)
	case "DOMAIN-WILDCARD":
		p, ok = c.regex(n, wildcard(body))
	case "IP-CIDR", "IP-CIDR6":
		c.prefix(n, body)
	case "DST-PORT":
		for r := range strings.SplitSeq(body, "/") {
			c.ports(n, r, "-")
		}
	default:
		c.literal(n, body)
	}
	if ok {
		c.add(p)
	}
}

// wildcard turns * (any run) and ? (any one character) into an expression.
func wildcard(s string) string {
	s = regexp.QuoteMeta(strings.ToLower(s))
	return "^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(s) + "$"
}

// clashName reads a pattern of the domain behavior: +.x is x and all under it,
// .x all under it, and * stands for one whole label.
func (c *collector) clashName(n int, s string) {
	body, kind := s, rules.Exact
	if rest, ok := strings.CutPrefix(s, "+."); ok {
		body, kind = rest, rules.Suffix
	} else if rest, ok := strings.CutPrefix(s, "."); ok {
		body, kind = rest, rules.Subdomain
	}
	if !strings.Contains(body, "*") {
		c.name(n, kind, body)
		return
	}
	labels := strings.Split(body, ".")
	for i, label := range labels {
		if label == "*" {
			labels[i] = "[^.]+"
			continue
		}
		name, err := flow.CanonicalName(label)
		if err != nil || strings.Contains(name, ".") {
			c.bad(n, "not a name or pattern", s)
			return
		}
		labels[i] = regexp.QuoteMeta(name)
	}
	heads := map[rules.PatternKind]string{rules.Exact: "", rules.Suffix: `(.+\.)?`, rules.Subdomain: `.+\.`}
	if p, ok := c.regex(n, "^"+heads[kind]+strings.Join(labels, `\.`)+"$"); ok {
		c.add(p)
	}
}
