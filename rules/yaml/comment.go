package yaml

import (
	"bytes"
	"strings"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/rules"
)

// maxComments bounds the comments of a file: what a file of MaxSize bytes can
// hold of them would take half a gigabyte.
const maxComments = 1_000_000

// comments finds every comment of the text: a `#` at the start of a line or
// behind a blank, outside of strings and text blocks. In plain values there is
// none: a blank and `#` end them. What was blanked after a syntax error is gone.
func (l *loader) comments(root *yaml.Node) []rules.Comment {
	text := l.text
	if bytes.IndexByte(text, '#') < 0 {
		return nil
	}
	var closed [][2]int
	l.opaque(root, 0, &closed)
	var list []rules.Comment
	for i := 0; i < len(text); i++ {
		next := bytes.IndexByte(text[i:], '#')
		if next < 0 {
			break
		}
		i += next
		for len(closed) > 0 && closed[0][1] <= i {
			closed = closed[1:]
		}
		if len(closed) > 0 && closed[0][0] <= i {
			i = closed[0][1] - 1
			continue
		}
		if i > 0 && text[i-1] != ' ' && text[i-1] != '\t' && text[i-1] != '\n' {
			continue
		}
		if len(list) == maxComments {
			l.report("NP905", l.span(l.skip+i, l.skip+i+1), "a policy has at most %d comments", maxComments)
			break
		}
		end := bytes.IndexByte(text[i:], '\n')
		if end < 0 {
			end = len(text) - i
		}
		body := bytes.TrimRight(l.src.Text[l.skip+i:l.skip+i+end], " \t\r")
		line := bytes.LastIndexByte(text[:i], '\n') + 1
		list = append(list, rules.Comment{
			Text: string(body),
			Span: l.span(l.skip+i, l.skip+i+len(body)),
			Own:  len(bytes.Trim(text[line:i], " \t")) == 0,
		})
		i += end
	}
	return list
}

// opaque collects, in the order of the text, the parts of it in which `#` is a
// character like others: strings and text blocks that have one. Offsets are
// those of l.text. indent is the column of the block around the node.
func (l *loader) opaque(n *yaml.Node, indent int, to *[][2]int) {
	switch n.Kind {
	case yaml.MappingNode, yaml.SequenceNode:
		if n.Style&yaml.FlowStyle == 0 {
			indent = n.Column - 1
		}
		for _, k := range n.Content {
			l.opaque(k, indent, to)
		}
	case yaml.ScalarNode:
		if strings.IndexByte(n.Value, '#') < 0 {
			return
		}
		start := l.offset(n.Line, n.Column)
		switch {
		case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
			*to = append(*to, [2]int{start - l.skip, l.closingQuote(start) - l.skip})
		case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
			from, end := l.textBlock(start-l.skip, indent)
			*to = append(*to, [2]int{from, end})
		}
	}
}

// textBlock returns the lines of a text block (YAML 1.2.2, section 8.1) behind
// its header, which begins at start.
func (l *loader) textBlock(start, parent int) (from, end int) {
	text := l.text
	need := 0 // blanks before each line; 0: not known yet
	for i := start + 1; i < len(text) && strings.IndexByte("+-0123456789", text[i]) >= 0; i++ {
		if isDigit(text[i]) {
			need = parent + int(text[i]-'0')
		}
	}
	explicit := need > 0
	from = len(text)
	if i := bytes.IndexByte(text[start:], '\n'); i >= 0 {
		from = start + i + 1
	}
	for end = from; end < len(text); {
		next := len(text)
		if i := bytes.IndexByte(text[end:], '\n'); i >= 0 {
			next = end + i + 1
		}
		line := text[end:next]
		blanks := len(line) - len(bytes.TrimLeft(line, " "))
		if len(bytes.TrimRight(line[blanks:], "\r\n")) == 0 {
			if !explicit {
				need = max(need, blanks) // blank lines before the first count
			}
			end = next
			continue
		}
		if !explicit {
			need, explicit = max(need, blanks, parent+1, 1), true
		}
		if blanks < need {
			break
		}
		end = next
	}
	return from, end
}
