package diag

import (
	"bytes"
	"sort"
	"unicode/utf8"
)

// Source is one text with its line starts, for turning byte offsets into lines
// and columns. A line ends with "\n"; a "\r" before it belongs to the ending.
type Source struct {
	Name  string
	Text  []byte
	lines []int // offset of each line's first byte
}

// NewSource indexes text, which must not change afterwards.
func NewSource(name string, text []byte) *Source {
	s := &Source{Name: name, Text: text, lines: make([]int, 1, 1+bytes.Count(text, []byte{'\n'}))}
	for i, b := range text {
		if b == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// Position returns the 1-based line and column, in characters, of a byte
// offset. An offset outside the text is moved to its nearest end. A byte order
// mark at the start of the text is not counted.
func (s *Source) Position(offset int) (line, column int) {
	offset = min(max(offset, 0), len(s.Text))
	line = sort.SearchInts(s.lines, offset+1)
	start := s.lines[line-1]
	if line == 1 && bytes.HasPrefix(s.Text, []byte(bom)) {
		start = min(len(bom), offset)
	}
	return line, 1 + utf8.RuneCount(s.Text[start:offset])
}

// bom is U+FEFF in UTF-8.
const bom = "\xef\xbb\xbf"

// Lines returns the number of lines; a text that ends with "\n" has an empty last one.
func (s *Source) Lines() int { return len(s.lines) }

// LineStart returns the offset of a line's first byte, after a byte order mark.
// Lines outside the text are moved to its nearest end.
func (s *Source) LineStart(line int) int {
	line = min(max(line, 1), len(s.lines))
	if line == 1 && bytes.HasPrefix(s.Text, []byte(bom)) {
		return len(bom)
	}
	return s.lines[line-1]
}

// LineEnd returns the offset behind a line's last byte, before its line ending.
func (s *Source) LineEnd(line int) int {
	line = min(max(line, 1), len(s.lines))
	end := len(s.Text)
	if line < len(s.lines) {
		end = s.lines[line] - 1
	}
	if end > s.LineStart(line) && s.Text[end-1] == '\r' {
		end--
	}
	return max(end, s.LineStart(line))
}
