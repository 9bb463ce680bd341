// Package yaml reads policies in YAML. It has no parser of its own: the library
// gives a tree of nodes, and a walker over the schema turns it into the AST with
// a byte span on every part.
//
//	policy, diags := yaml.Load("policy.yaml", src)
//
// Load reports all independent errors in one run, syntax errors included where
// the text around them can still be read. It never panics, and the policy is nil
// exactly when one of the diagnostics is an error.
package yaml

import (
	"bytes"
	"unicode/utf8"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

const (
	// MaxSize bounds a file in bytes, before anything of it is parsed: room for some
	// 150,000 rules. Reading takes about sixty times as much memory.
	MaxSize = 16 << 20
	// MaxNesting bounds the depth of blocks, and with it every recursion here.
	MaxNesting = 200
	// maxBadBytes is after how many bad characters the rest is not looked at:
	// such a file is not text.
	maxBadBytes = 20
)

// Load reads a policy. name is the file's name in diagnostics; src must not
// change while the diagnostics are in use.
func Load(name string, src []byte) (*rules.Policy, []diag.Diagnostic) {
	ast, diags := Parse(name, src)
	if ast == nil {
		return nil, diag.Sort(diags)
	}
	policy, more := rules.Check(ast)
	diags = diag.Sort(append(diags, more...))
	if diag.HasErrors(diags) {
		return nil, diags
	}
	return policy, diags
}

// Parse reads a policy's structure without checking its meaning. The AST is nil
// where nothing of the text could be read.
func Parse(name string, src []byte) (*rules.AST, []diag.Diagnostic) {
	if len(src) > MaxSize {
		span := diag.Span{File: name}
		return nil, []diag.Diagnostic{diag.New("NP901", span, "the file has %d bytes, the most is %d", len(src), MaxSize)}
	}
	l := newLoader(name, src)
	if !l.characters() {
		return nil, l.diags.List()
	}
	root := l.compose()
	if root == nil {
		return nil, l.diags.List()
	}
	return l.policy(root), l.diags.List()
}

// loader is one run of Parse.
type loader struct {
	name  string
	src   *diag.Source
	text  []byte // what the library sees: src without its mark, repaired in place
	skip  int    // bytes of src before text: the byte order mark
	diags diag.Collector
	lost  bool
	ascii bool
	// quoted holds characters that repairs replaced, by their offset in src, to
	// put them back into the values.
	quoted map[int]byte
	at     cursor
	// conditions are the names that the file declares under conditions.
	conditions map[string]bool
	// closed is the string whose end was looked for last.
	closed struct{ start, end int }
}

// cursor remembers the last place found: in long lines of other than ASCII the
// next one is near, and counting from the line's start would be quadratic.
type cursor struct{ line, column, offset int }

func newLoader(name string, src []byte) *loader {
	l := &loader{name: name, src: diag.NewSource(name, src), text: src, ascii: true, quoted: map[int]byte{}}
	if bytes.HasPrefix(src, []byte("\xef\xbb\xbf")) {
		l.skip = 3
		l.text = src[3:]
	}
	for _, b := range l.text {
		l.ascii = l.ascii && b < utf8.RuneSelf
	}
	return l
}

func (l *loader) report(code diag.Code, span diag.Span, format string, args ...any) *diag.Diagnostic {
	return l.diags.Report(code, span, format, args...)
}

func (l *loader) span(start, end int) diag.Span {
	return diag.Span{File: l.name, Start: start, End: max(end, start)}
}

// characters checks the encoding and the characters, and reports whether it is
// worth going on. Bad ones are replaced in l.text.
func (l *loader) characters() bool {
	text := l.text
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		l.report("NP008", l.span(0, 2), "the file is UTF-16").Help = "save it as UTF-8"
		return false
	}
	bad := 0
	for i := 0; i < len(text) && bad < maxBadBytes; {
		b := text[i]
		if b >= ' ' && b < 0x7f || b == '\n' || b == '\t' {
			i++
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		span := l.span(l.skip+i, l.skip+i+size)
		switch {
		case r == utf8.RuneError && size == 1:
			l.report("NP008", span, "the byte %#02x is not UTF-8", b).Help = "save the file as UTF-8"
		case r == '\r' && i+1 < len(text) && text[i+1] == '\n':
			i += size
			continue
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == '\ufeff' || r == '\ufffe' || r == '\uffff':
			l.report("NP001", span, "the character U+%04X can't be used in a policy", r)
		default:
			i += size
			continue
		}
		bad++
		l.patch(i, i+size, ' ')
		text = l.text
		i += size
	}
	return bad < maxBadBytes
}

// patch overwrites text[from:to], on a copy the first time; line ends stay.
func (l *loader) patch(from, to int, with byte) {
	if len(l.text) > 0 && &l.text[0] == &l.src.Text[l.skip] {
		l.text = bytes.Clone(l.text)
	}
	for i := from; i < to; i++ {
		if l.text[i] != '\n' {
			l.text[i] = with
		}
	}
}

// offset turns the library's line and column (both from 1, columns in
// characters, a byte order mark not counted) into an offset in src.
func (l *loader) offset(line, column int) int {
	line, column = max(line, 1), max(column, 1)
	if line > l.src.Lines() {
		return len(l.src.Text)
	}
	start := l.src.LineStart(line)
	if l.ascii {
		return min(start+column-1, len(l.src.Text))
	}
	c := l.at
	if c.line != line || column < c.column-column { // nearer to the line's start
		c = cursor{line, 1, start}
	}
	for ; c.column < column && c.offset < len(l.src.Text); c.column++ {
		_, size := utf8.DecodeRune(l.text[c.offset-l.skip:])
		c.offset += size
	}
	for ; c.column > column && c.offset > start; c.column-- {
		_, size := utf8.DecodeLastRune(l.text[:c.offset-l.skip])
		c.offset -= size
	}
	l.at = c
	return c.offset
}
