package print

import (
	"bytes"

	"netpolicy.dev/netpolicy/rules"
)

// source answers questions about the layout of the text that an AST was read
// from. Without a text every answer is "no".
type source struct {
	text []byte
	yaml bool
}

func newSource(a *rules.AST) source { return source{text: a.Source, yaml: a.Source != nil && !a.NPL} }

// broken reports whether a line ends between two offsets.
func (s source) broken(from, to int) bool {
	from, to = max(from, 0), min(to, len(s.text))
	return from < to && bytes.IndexByte(s.text[from:to], '\n') >= 0
}

// lineStart is the offset of the first byte of the line of at.
func (s source) lineStart(at int) int {
	at = min(at, len(s.text))
	return bytes.LastIndexByte(s.text[:at], '\n') + 1
}

// ends reports whether what ends at one offset is the last of what ends at the
// other: YAML's brackets may stand between.
func (s source) ends(last, end int) bool {
	return last == end || s.yaml && last < end && end <= len(s.text) && len(bytes.Trim(s.text[last:end], " \t]}\"'")) == 0
}

// column counts the bytes before at on its line.
func (s source) column(at int) int { return at - s.lineStart(at) }

// indent counts the blanks at the start of the line of at.
func (s source) indent(at int) int {
	line := s.text[s.lineStart(at):min(at, len(s.text))]
	return len(line) - len(bytes.TrimLeft(line, " \t"))
}

// blankBefore reports whether the line before that of at is empty.
func (s source) blankBefore(at int) bool {
	start := s.lineStart(at)
	if start == 0 {
		return false
	}
	return len(bytes.TrimSpace(s.text[s.lineStart(start-1):start])) == 0
}

// leads reports whether nothing but blanks, dashes of lists and brackets stands
// before at on its line.
func (s source) leads(at int) bool {
	at = min(at, len(s.text))
	return len(bytes.Trim(s.text[s.lineStart(at):at], " \t-{[")) == 0
}

// sectionKey returns the offset of YAML's top-level key above at: the start of
// the last line that begins with one.
func (s source) sectionKey(at int) int {
	for start := s.lineStart(at); ; start = s.lineStart(start - 1) {
		if s.isKey(start) {
			return start
		}
		if start == 0 {
			return 0
		}
	}
}

// isKey reports whether the line that begins at start begins with a top-level key.
func (s source) isKey(start int) bool {
	return start < len(s.text) && bytes.IndexByte([]byte(" \t\r\n#-]}"), s.text[start]) < 0
}

// keyBetween reports whether a line with a top-level key begins behind from, and not behind to.
func (s source) keyBetween(from, to int) bool {
	for from < min(to, len(s.text)) {
		i := bytes.IndexByte(s.text[from:], '\n')
		if i < 0 || from+i+1 > to {
			return false
		}
		if from += i + 1; s.isKey(from) {
			return true
		}
	}
	return false
}

// brackets widens the span of a condition in brackets, whose node leaves them
// out: the opening one is the first behind from.
func (s source) brackets(from, start, end int) (int, int) {
	open := -1
	for i := from; i < start && i < len(s.text) && open < 0; i++ {
		if s.text[i] == '#' {
			i = s.lineEnd(i)
		} else if s.text[i] == '(' {
			open = i
		}
	}
	if open < 0 {
		return start, end
	}
	start = open
	for i := end; i < len(s.text); i++ {
		switch s.text[i] {
		case '#':
			i = s.lineEnd(i)
		case ' ', '\t', '\r', '\n':
		case ')':
			return start, i + 1
		default:
			return start, end
		}
	}
	return start, end
}

func (s source) lineEnd(at int) int {
	if i := bytes.IndexByte(s.text[at:], '\n'); i >= 0 {
		return at + i
	}
	return len(s.text)
}

// keyOf returns the offset of the key called name whose value begins at at, or
// at where it is not found. The value may stand on the key's line or begin below
// it, with other keys of one value between.
func (s source) keyOf(at int, name string) int {
	key := name + ":"
	start := s.lineStart(at)
	before := bytes.TrimRight(s.text[start:min(at, len(s.text))], " \t")
	column := at - start
	if len(before) > 0 && !s.leads(at) {
		for len(bytes.Trim(before, " \t-")) > 0 {
			before = bytes.TrimRight(before, " \t{[('\"")
			if bytes.HasSuffix(before, []byte(key)) {
				return start + len(before) - len(key)
			}
			n := len(before)
			for _, inner := range []string{"all:", "any_of:", "not:"} {
				before = bytes.TrimSuffix(before, []byte(inner))
			}
			if len(before) == n {
				return at
			}
		}
		column = len(before) // of the outermost of the keys
	}
	if bytes.IndexByte(before, '-') >= 0 && name == "all" {
		return at // an element of a list: it has no key
	}
	for start > 0 {
		start = s.lineStart(start - 1)
		line := s.text[start:s.lineEnd(start)]
		trimmed := bytes.TrimLeft(line, " \t-")
		if len(trimmed) == 0 || trimmed[0] == '#' {
			continue
		}
		if i := bytes.Index(trimmed, []byte(" #")); i >= 0 {
			trimmed = trimmed[:i]
		}
		trimmed = bytes.TrimRight(trimmed, " \t\r")
		indent := len(line) - len(bytes.TrimLeft(line, " \t-"))
		if indent > column || !bytes.HasSuffix(trimmed, []byte(":")) {
			return at
		}
		if string(trimmed) == key {
			return start + indent
		}
		column = indent
	}
	return at
}
