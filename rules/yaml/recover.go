package yaml

import "bytes"

// blank removes the part of the text around a syntax error: the rule it stands
// in, or the whole section. It reports whether anything was there to remove.
func (l *loader) blank(at int) bool {
	bad, _ := l.src.Position(at)
	for bad > 1 && len(bytes.TrimSpace(l.line(bad))) == 0 {
		bad-- // the end of the text, or of a blanked part
	}
	from, to := l.section(bad)
	if item := l.itemIndent(from, to); item >= 0 && bad > from {
		if start := l.itemStart(bad, from, item); start > from {
			return l.blankLines(start, l.itemEnd(start, to, item))
		}
	}
	l.lost = true
	return l.blankLines(from, to)
}

// section returns the lines of the top-level key around line n, the last excluded.
func (l *loader) section(n int) (from, to int) {
	for from = n; from > 1 && !l.topLevel(from); {
		from--
	}
	for to = n + 1; to <= l.src.Lines() && !l.topLevel(to); {
		to++
	}
	return from, to
}

// topLevel reports whether line n begins a top-level key.
func (l *loader) topLevel(n int) bool {
	text := l.line(n)
	return len(text) > 0 && text[0] != ' ' && text[0] != '\t' && text[0] != '#' && text[0] != '-' && text[0] != '}' && text[0] != ']'
}

// itemIndent returns the column of the dashes of a section that is a list of
// which one element can be left out, else -1. Of imports none can: names would be missing.
func (l *loader) itemIndent(from, to int) int {
	key, _, _ := bytes.Cut(l.line(from), []byte{':'})
	switch string(bytes.TrimSpace(key)) {
	case "rules", "assertions", "invariants":
	default:
		return -1
	}
	for n := from + 1; n < to; n++ {
		text := l.line(n)
		if indent, _ := indentOf(text); indent < len(text) && text[indent] != '#' {
			if isItem(text, indent) {
				return indent
			}
			return -1
		}
	}
	return -1
}

func isItem(text []byte, indent int) bool {
	return len(text) > indent && text[indent] == '-' && (len(text) == indent+1 || text[indent+1] == ' ')
}

func (l *loader) itemStart(n, from, indent int) int {
	for ; n > from; n-- {
		if i, _ := indentOf(l.line(n)); i == indent && isItem(l.line(n), indent) {
			return n
		}
	}
	return from
}

func (l *loader) itemEnd(start, to, indent int) int {
	for n := start + 1; n < to; n++ {
		if i, _ := indentOf(l.line(n)); i == indent && isItem(l.line(n), indent) {
			return n
		}
	}
	return to
}

// blankLines overwrites lines [from, to) with blanks.
func (l *loader) blankLines(from, to int) bool {
	start, end := l.src.LineStart(from)-l.skip, l.src.LineEnd(to-1)-l.skip
	if len(bytes.TrimSpace(l.text[start:end])) == 0 {
		return false
	}
	l.patch(start, end, ' ')
	return true
}
