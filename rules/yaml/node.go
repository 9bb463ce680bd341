package yaml

import (
	"bytes"
	"strings"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// entry is one key of a mapping with its value.
type entry struct {
	key   rules.Word
	value *yaml.Node
}

// word turns a scalar node into a word as the user wrote it: never a number or
// boolean, whatever YAML would make of it.
func (l *loader) word(n *yaml.Node) rules.Word {
	start := l.offset(n.Line, n.Column)
	w := rules.Word{Text: n.Value}
	if c, ok := l.quoted[start]; ok && n.Value != "" {
		w.Text = string(c) + n.Value[1:]
	}
	switch {
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		end := l.closingQuote(start)
		w.Span = l.span(start, end)
		if start+1+len(w.Text) == end-1 && string(l.src.Text[start+1:end-1]) == w.Text {
			w.Body = start + 1
		}
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		w.Span = l.span(start, l.wordEnd(start))
	case bytes.HasPrefix(l.src.Text[start:], []byte(w.Text)):
		w.Span, w.Body = l.span(start, start+len(w.Text)), start
	default: // a plain value over several lines
		w.Span = l.span(start, l.plainEnd(start, n.Value))
	}
	return w
}

// closingQuote returns the offset behind the string that begins at start.
func (l *loader) closingQuote(start int) int {
	if start == l.closed.start && l.closed.end > 0 {
		return l.closed.end // every block that ends with this string asks for it
	}
	end := l.findQuote(start)
	l.closed.start, l.closed.end = start, end
	return end
}

func (l *loader) findQuote(start int) int {
	text := l.src.Text
	if start >= len(text) {
		return start
	}
	quote := text[start]
	for i := start + 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && quote == '"':
			i++
		case text[i] == quote && quote == '\'' && i+1 < len(text) && text[i+1] == quote:
			i++
		case text[i] == quote:
			return i + 1
		}
	}
	return len(text)
}

// plainEnd returns the offset behind a plain value that is folded over several lines.
func (l *loader) plainEnd(start int, value string) int {
	text, i, end := l.text, start-l.skip, start-l.skip
	for j := 0; j < len(value) && i < len(text); {
		switch c := value[j]; {
		case c == ' ' || c == '\t' || c == '\n':
			j++
		case text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r':
			i++
		case text[i] == c:
			i++
			j++
			end = i
		default:
			return l.lineEnd(start)
		}
	}
	return end + l.skip
}

// nodeSpan is the place of a whole node.
func (l *loader) nodeSpan(n *yaml.Node) diag.Span {
	start := l.offset(n.Line, n.Column)
	return l.span(start, l.nodeEnd(n))
}

// nodeEnd is the offset behind a node. Flow collections end at their bracket.
func (l *loader) nodeEnd(n *yaml.Node) int {
	switch n.Kind {
	case yaml.ScalarNode:
		if isNull(n) {
			return l.offset(n.Line, n.Column) + len(n.Value)
		}
		return l.word(n).Span.End
	case yaml.AliasNode:
		return l.wordEnd(l.offset(n.Line, n.Column))
	}
	start := l.offset(n.Line, n.Column)
	end := start
	if len(n.Content) > 0 {
		end = max(end, l.nodeEnd(n.Content[len(n.Content)-1]))
	}
	if n.Style&yaml.FlowStyle == 0 {
		return end
	}
	if end == start && end < len(l.src.Text) {
		end++ // the opening bracket
	}
	return l.closingBracket(end)
}

// closingBracket skips blanks, commas and comments up to a closing bracket.
func (l *loader) closingBracket(from int) int {
	text := l.src.Text
	for i := from; i < len(text); i++ {
		switch text[i] {
		case ' ', '\t', '\r', '\n', ',':
		case '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case '}', ']':
			return i + 1
		default:
			return from
		}
	}
	return from
}

// isNull reports an empty value, or a plain null or ~.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Style&^yaml.TaggedStyle == 0
}

// legal reports YAML features that policies do not have; false if the value
// can't be used.
func (l *loader) legal(n *yaml.Node) bool {
	at := l.offset(n.Line, n.Column)
	switch {
	case n.Kind == yaml.AliasNode:
		l.report("NP004", l.span(at, l.wordEnd(at)), "expected a value, found the YAML alias %s", diag.Quote("*"+n.Value)).
			Help = "write the value out; a pattern that begins with * needs quotes"
		return false
	case n.Anchor != "":
		l.report("NP004", l.span(at, l.wordEnd(at)), "expected a value, found the YAML anchor %s", diag.Quote("&"+n.Anchor)).
			Help = "policies have no anchors: a value that begins with & needs quotes"
		return false
	case n.Style&yaml.TaggedStyle != 0 && strings.HasPrefix(n.Tag, "!="):
		value := l.bareValue(at)
		l.report("NP009", l.span(at, at+len(value)), "YAML reads the unquoted `!` as a tag").Help = "put it in quotes: \"" + value + "\""
		return false
	case n.Style&yaml.TaggedStyle != 0:
		l.report("NP004", l.span(at, l.wordEnd(at)), "expected a value, found the YAML tag %s", diag.Quote(n.Tag)).
			Help = "policies have no tags: a value that begins with ! needs quotes"
		return false
	case n.Style&yaml.FoldedStyle != 0 && isDigit(l.byteAt(at+1)):
		// `>5` is the header of a text block, which the library accepts.
		end := l.wordEnd(at)
		value := string(l.src.Text[at:end])
		l.report("NP009", l.span(at, end), "YAML reads the unquoted `>` as the start of a text block").
			Help = "put it in quotes: \"" + value + "\""
		return false
	}
	return true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// scalar returns the node as a word; anything else is reported.
func (l *loader) scalar(n *yaml.Node, what string) (rules.Word, bool) {
	if !l.legal(n) {
		return rules.Word{}, false
	}
	switch {
	case n.Kind == yaml.MappingNode:
		l.report("NP004", l.opening(n), "expected a value for %s, found a block of keys", what)
		return rules.Word{}, false
	case n.Kind == yaml.SequenceNode:
		l.report("NP004", l.opening(n), "expected one value for %s, found a list", what)
		return rules.Word{}, false
	case isNull(n):
		l.missing(n, what)
		return rules.Word{}, false
	}
	return l.word(n), true
}

// missing reports a key without a value.
func (l *loader) missing(n *yaml.Node, what string) {
	at := l.offset(n.Line, n.Column)
	d := l.report("NP107", l.span(at, at+len(n.Value)), "%s has no value", what)
	if n.Value != "" {
		d.Help = "put " + diag.Quote(n.Value) + " in quotes if it is meant"
	}
}

// opening is the first token of a collection: its bracket, or its first key.
func (l *loader) opening(n *yaml.Node) diag.Span {
	at := l.offset(n.Line, n.Column)
	return l.span(at, l.wordEnd(at))
}

// scalars returns a value or a list of values.
func (l *loader) scalars(n *yaml.Node, what string) []rules.Word {
	if n.Kind != yaml.SequenceNode {
		if w, ok := l.scalar(n, what); ok {
			return []rules.Word{w}
		}
		return nil
	}
	if !l.legal(n) {
		return nil
	}
	list := make([]rules.Word, 0, len(n.Content))
	for _, k := range n.Content {
		if w, ok := l.scalar(k, what); ok {
			list = append(list, w)
		}
	}
	if len(n.Content) == 0 {
		l.report("NP107", l.nodeSpan(n), "the list of %s is empty", what)
	}
	return list
}

// entries returns the keys of a mapping in source order. Repeated keys are
// reported and left out.
func (l *loader) entries(n *yaml.Node, what string) []entry {
	if !l.legal(n) {
		return nil
	}
	if isNull(n) {
		l.missing(n, what)
		return nil
	}
	if n.Kind != yaml.MappingNode {
		l.report("NP004", l.opening(n), "expected a block of keys for %s, found %s", what, kindName(n))
		return nil
	}
	list := make([]entry, 0, len(n.Content)/2)
	var seen map[string]int
	if len(n.Content) > 2*smallMapping {
		seen = make(map[string]int, len(n.Content)/2)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if !l.legalKey(k) {
			continue
		}
		key := l.word(k)
		first := -1
		if seen != nil {
			if j, ok := seen[key.Text]; ok {
				first = j
			}
			seen[key.Text] = len(list)
		} else {
			for j := range list {
				if list[j].key.Text == key.Text {
					first = j
				}
			}
		}
		if first >= 0 {
			l.duplicate(key, list[first].key)
			if seen != nil {
				seen[key.Text] = first
			}
			continue
		}
		list = append(list, entry{key, v})
	}
	return list
}

// smallMapping is up to how many keys a scan beats a map.
const smallMapping = 16

func (l *loader) duplicate(key, first rules.Word) {
	l.report("NP105", key.Span, "the key %s is given already", diag.Quote(key.Text)).Note(first.Span, "first given here")
}

func (l *loader) legalKey(k *yaml.Node) bool {
	switch {
	case k.Kind == yaml.ScalarNode && k.Tag == "!!merge":
		l.report("NP004", l.word(k).Span, "expected a key, found a YAML merge").Help = "policies have no merge keys: write the keys out"
		return false
	case k.Kind == yaml.MappingNode || k.Kind == yaml.SequenceNode:
		l.report("NP004", l.opening(k), "expected a key, found %s", kindName(k))
		return false
	case isNull(k):
		at := l.offset(k.Line, k.Column)
		l.report("NP004", l.span(at, at+len(k.Value)), "expected a key, found nothing")
		return false
	}
	return l.legal(k)
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a block of keys"
	case yaml.SequenceNode:
		return "a list"
	default:
		return diag.Quote(n.Value)
	}
}
