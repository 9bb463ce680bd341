package yaml

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"netpolicy.dev/netpolicy/diag"
)

const (
	// maxRepairs is how many syntax errors one run looks past; more are never shown.
	maxRepairs = 60
	// repairBudget bounds the bytes that are parsed again after repairs: each
	// repair of a large file costs a whole parse.
	repairBudget = 32 << 20
)

// errDepth is what the depth check answers; the library passes its text on.
var errDepth = errors.New("nested too deeply")

// compose parses the text. After a syntax error it mends or blanks the place in
// a copy and tries again, so that independent errors are found in one run. It
// returns nil when the text can't be read.
func (l *loader) compose() *yaml.Node {
	budget := repairBudget
	for range maxRepairs {
		root, err := l.parse()
		if err == nil {
			if root == nil || len(root.Content) == 0 {
				if l.diags.Len() == 0 {
					l.report("NP107", l.span(l.skip, l.skip), "the file holds no policy").Help = "add `rules:`"
				}
				return nil
			}
			return root.Content[0]
		}
		budget -= l.cost(err)
		if !l.syntax(err) || budget < 0 {
			return nil
		}
	}
	return nil
}

// cost is how many bytes were parsed before an error.
func (l *loader) cost(err error) int {
	var e *yaml.LoadError
	if !errors.As(err, &e) || e.Mark.Line == 0 {
		return len(l.text)
	}
	return l.offset(e.Mark.Line, e.Mark.Column)
}

// parse runs the library once. A second document is reported and left out.
func (l *loader) parse() (*yaml.Node, error) {
	limit := loaderlimits.DepthFunc(func(depth int, _ *loaderlimits.DepthContext) error {
		if depth > MaxNesting {
			return errDepth
		}
		return nil
	})
	loader, err := yaml.NewLoader(bytes.NewReader(l.text), yaml.WithV4Defaults(), yaml.WithPlugin(loaderlimits.New(limit)))
	if err != nil {
		return nil, err
	}
	var root, second yaml.Node
	if err := loader.Load(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, err
	}
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, err
	default:
		at := l.offset(second.Line, second.Column)
		l.report("NP004", l.span(at, l.wordEnd(at)), "expected the end of the file, found a second document").
			Help = "a policy is one document: remove the `---`"
	}
	return &root, nil
}

// syntax reports the library's error in our terms and repairs the text; false
// if it can't be repaired.
func (l *loader) syntax(err error) bool {
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		l.report("NP004", l.span(l.skip, l.skip), "the file can't be read as YAML: %s", err)
		return false
	}
	at := l.offset(e.Mark.Line, e.Mark.Column)
	opener := at
	if e.ContextMark.Line > 0 {
		opener = l.offset(e.ContextMark.Line, e.ContextMark.Column)
	}
	message, context := e.Message, e.ContextMsg
	switch {
	case strings.Contains(err.Error(), errDepth.Error()) || strings.Contains(message, "depth"):
		l.report("NP902", l.span(at, l.wordEnd(at)), "blocks are nested more than %d deep", MaxNesting)
		return false
	case strings.HasPrefix(message, "unknown anchor") && l.byteAt(at) == '*':
		return l.unquoted(at)
	case context == "while scanning an alias" && l.byteAt(opener) == '*':
		return l.unquoted(opener)
	case strings.HasSuffix(context, " a tag") && bytes.HasPrefix(l.src.Text[opener:], []byte("!=")):
		return l.unquoted(opener)
	case context == "while scanning a block scalar" && l.byteAt(opener) == '>':
		return l.unquoted(opener)
	case l.tabbed(at):
		return l.tab(at)
	case context == "while scanning a quoted scalar" && strings.Contains(message, "end of stream"):
		l.report("NP002", l.span(opener, l.lineEnd(opener)), "the string is not closed").Help = "add the closing quote"
	case context == "while scanning a quoted scalar" && strings.Contains(message, "escape"):
		l.report("NP001", l.span(at, at+1), "unknown escape sequence").Help = "in single quotes a backslash is a plain character"
	case context == "while parsing a flow mapping", context == "while parsing a flow sequence":
		l.unclosed(opener, at, message)
		return l.blank(opener)
	case strings.HasPrefix(message, "found character that cannot start") && l.byteAt(at) == '>':
		return l.unquoted(at)
	case strings.HasPrefix(message, "found character that cannot start"):
		l.report("NP001", l.span(at, at+1), "a value can't begin with %s", diag.Quote(string(l.byteAt(at)))).
			Help = "put the value in quotes"
	case strings.HasPrefix(message, "mapping values are not allowed"):
		l.report("NP004", l.span(at, at+1), "expected a value, found another `:`").
			Help = "put a value that contains `: ` in quotes; keys of one block stand in one column"
	case strings.HasPrefix(message, "could not find expected ':'"), strings.HasPrefix(message, "did not find expected key"),
		strings.HasPrefix(message, "did not find expected '-'"):
		l.expectedKey(at, opener, context)
	case strings.HasPrefix(message, "found a comment without preceding"):
		l.report("NP004", l.span(at, at+1), "a comment needs a blank before it").Help = "put a value that contains # in quotes"
	default:
		l.report("NP004", l.span(at, l.wordEnd(at)), "this is not YAML: %s", message)
	}
	if strings.HasPrefix(context, "while scanning") {
		return l.blank(opener)
	}
	return l.blank(at)
}

// unquoted reports `*` or `>` where YAML reads it as its own sign, and reads the
// value as if it were quoted.
func (l *loader) unquoted(at int) bool {
	value := l.bareValue(at)
	what := "an alias"
	switch value[0] {
	case '>':
		what = "the start of a text block"
	case '!':
		what = "a tag"
	}
	l.report("NP009", l.span(at, at+len(value)), "YAML reads the unquoted `%c` as %s", value[0], what).
		Help = `put it in quotes: "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
	l.quoted[at] = value[0]
	l.patch(at-l.skip, at-l.skip+1, 'x')
	return true
}

// bareValue returns the unquoted value that begins at the offset, as the user
// meant it: up to what ends a value inside brackets, or a line.
func (l *loader) bareValue(at int) string {
	end := at + 1
	for end < len(l.src.Text) && strings.IndexByte(",]}\n\r#", l.src.Text[end]) < 0 {
		end++
	}
	return strings.TrimRight(string(l.src.Text[at:end]), " \t")
}

// unclosed reports a flow collection that goes wrong: at its opener if it runs
// on into other lines, else where the token is missing.
func (l *loader) unclosed(opener, at int, message string) {
	closer := "}"
	if l.byteAt(opener) == '[' {
		closer = "]"
	}
	openLine, _ := l.src.Position(opener)
	line, _ := l.src.Position(at)
	if line == openLine && at < l.lineEnd(at) && strings.HasPrefix(message, "did not find expected") {
		l.report("NP003", l.span(at, l.wordEnd(at)), "expected `,` or `%s`", closer)
		return
	}
	d := l.report("NP006", l.span(opener, opener+1), "the bracket is not closed")
	d.Help = "add `" + closer + "`"
	if at < len(l.src.Text) {
		d.Note(l.span(at, l.wordEnd(at)), "this can't stand inside it")
	}
}

// expectedKey reports a line that does not fit into its block.
func (l *loader) expectedKey(at, opener int, context string) {
	if context == "while scanning a simple key" {
		at = opener
	}
	d := l.report("NP004", l.span(at, l.wordEnd(at)), "expected `key: value`, found %s",
		diag.Quote(string(l.src.Text[min(at, len(l.src.Text)):l.wordEnd(at)])))
	d.Help = "keys of one block stand in one column"
	if context == "while parsing a block mapping" || context == "while parsing a block collection" {
		d.Note(l.span(opener, l.wordEnd(opener)), "the block begins here")
	}
}

func (l *loader) byteAt(offset int) byte {
	if offset < 0 || offset >= len(l.src.Text) {
		return 0
	}
	return l.src.Text[offset]
}

// wordEnd is the end of the run of characters at offset.
func (l *loader) wordEnd(offset int) int {
	end := offset
	for end < len(l.src.Text) && strings.IndexByte(" \t\r\n,[]{}", l.src.Text[end]) < 0 {
		end++
	}
	if end == offset && end < len(l.src.Text) && l.src.Text[end] > ' ' {
		end++
	}
	return end
}

func (l *loader) lineEnd(offset int) int {
	line, _ := l.src.Position(offset)
	return max(l.src.LineEnd(line), offset)
}

// indent returns the length of the line's indentation, and of its tabs.
func indentOf(line []byte) (indent, tabs int) {
	for indent < len(line) && (line[indent] == ' ' || line[indent] == '\t') {
		if line[indent] == '\t' {
			tabs++
		}
		indent++
	}
	return indent, tabs
}

// tabbed reports whether the line of offset is indented with a tab up to there.
func (l *loader) tabbed(offset int) bool {
	line, _ := l.src.Position(offset)
	text := l.line(line)
	indent, tabs := indentOf(text)
	return tabs > 0 && offset-l.src.LineStart(line) <= indent
}

// line returns a line of the repaired text.
func (l *loader) line(n int) []byte {
	return l.text[l.src.LineStart(n)-l.skip : l.src.LineEnd(n)-l.skip]
}

// tab reports tab indentation. Where the whole file is indented with tabs alone
// each is taken for a blank; otherwise the depth is anyone's guess.
func (l *loader) tab(at int) bool {
	line, _ := l.src.Position(at)
	start := l.src.LineStart(line)
	first := start + bytes.IndexByte(l.line(line), '\t')
	indent, _ := indentOf(l.line(line))
	d := l.report("NP007", l.span(first, start+indent), "the line is indented with a tab")
	d.Help = "YAML knows blanks only"
	mixed, others := false, 0
	for n := 1; n <= l.src.Lines(); n++ {
		text := l.line(n)
		indent, tabs := indentOf(text)
		if indent == len(text) || text[indent] == '#' {
			continue
		}
		if tabs > 0 && n != line {
			others++
		}
		mixed = mixed || tabs < indent
	}
	if others > 0 {
		d.Help = "YAML knows blanks only; other lines begin with tabs, too"
	}
	if mixed {
		return l.blank(at)
	}
	for n := 1; n <= l.src.Lines(); n++ {
		indent, _ := indentOf(l.line(n))
		from := l.src.LineStart(n) - l.skip
		l.patch(from, from+indent, ' ')
	}
	return true
}
