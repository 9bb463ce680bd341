// Package npl reads policies in NPL, the policy language: a lexer, and a parser
// by recursive descent that gives the AST with a byte span on every part.
//
//	ast, diags := npl.Parse("policy.npl", src)
//
// All independent errors of a file are reported in one run. A statement that
// cannot be read never swallows the next one; a block that is not closed is
// reported at its opening brace, and the next declaration goes on. The words
// are substrings of one copy of the text. Parse never panics.
//
// ParseExpr, ParseOutcome and ParseTarget read the short strings of YAML in the
// same grammar.
package npl

import (
	"bytes"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

const (
	// MaxSize bounds a file in bytes, before anything of it is read: room for some
	// 150,000 rules. Reading takes about sixty times as much memory.
	MaxSize = 16 << 20
	// MaxNesting bounds the depth of conditions and blocks, and with it every recursion here.
	MaxNesting = 200
	// maxFindings is after how many diagnostics the rest is not looked at: nobody
	// reads so many, and the time for a file of megabytes stays bounded.
	maxFindings = 10_000
)

// Parse reads a policy's structure without checking its meaning. name is the
// file's name in diagnostics. The AST is nil where nothing of the text could be
// read: it is too large or no text.
func Parse(name string, src []byte) (*rules.AST, []diag.Diagnostic) {
	if len(src) > MaxSize {
		return nil, []diag.Diagnostic{diag.New("NP901", diag.Span{File: name}, "the file has %d bytes, the most is %d", len(src), MaxSize)}
	}
	p := &parser{file: name, ast: &rules.AST{File: name, NPL: true, Source: src}}
	text, ok := p.characters(src)
	if !ok {
		return nil, p.diags.List()
	}
	p.text = text
	if bytes.HasPrefix(src, []byte(bom)) {
		p.pos = len(bom)
	}
	p.ast.Rules = make([]rules.RuleNode, 0, min(rules.MaxRules+1, bytes.Count(src, []byte("\nrule "))))
	p.start()
	p.policy()
	p.ast.Partial = diag.HasErrors(p.diags.List())
	return p.ast, p.diags.List()
}

// ParseExpr reads the text of a word as a condition, as it stands behind
// `match`: "sni in zoom and port 443". Offsets are those of the word's body, or
// the word's whole span where its text does not stand in the source. The node is
// nil where the text could not be read, and then one of the diagnostics is an
// error. Newlines count as blanks.
func ParseExpr(file string, w rules.Word) (*rules.ExprNode, []diag.Diagnostic) {
	p := shortString(file, w)
	if p.tok.Kind == EOF && p.diags.Len() == 0 {
		p.report("NP107", w.Span, "there is no condition").Help = "`any` matches every flow"
	}
	var n rules.ExprNode
	if p.tok.Kind == EOF || !p.expr(&n) || !p.finished("the condition") {
		return nil, p.diags.List()
	}
	return &n, p.diags.List()
}

// ParseOutcome reads the text of a word as what stands behind `->`: an action,
// `rule NAME`, `default` or `via NAME`. With errors among the
// diagnostics the outcome is not complete.
func ParseOutcome(file string, w rules.Word) (rules.OutcomeNode, []diag.Diagnostic) {
	p := shortString(file, w)
	var o rules.OutcomeNode
	if p.tok.Kind == EOF && p.diags.Len() == 0 {
		p.report("NP107", w.Span, "there is no outcome").Help = outcomeHelp
	}
	if p.tok.Kind != EOF && p.outcome(&o) {
		p.finished("the outcome")
	}
	return o, p.diags.List()
}

// ParseTarget reads the text of a word as what stands behind `assert`: a name or
// an address, and optionally protocol and port: "api.zoom.us tcp/443". Here the
// name needs no quotes. What is not written is the zero Word.
func ParseTarget(file string, w rules.Word) (target, proto, port rules.Word, diags []diag.Diagnostic) {
	p := shortString(file, w)
	switch {
	case p.tok.Kind == EOF:
		if p.diags.Len() == 0 {
			p.report("NP107", w.Span, "there is no flow").Help = targetHelp
		}
	case !p.isValue():
		p.report("NP004", p.here(), "expected a name or an address, found %s", p.found()).Help = targetHelp
	default:
		target = p.word()
		if p.tok.Kind == Word {
			proto, port = p.protoPort()
		}
		p.finished("the flow")
	}
	return target, proto, port, p.diags.List()
}

const targetHelp = "for example `api.zoom.us tcp/443`"

// shortString returns a parser for the text of a word, in which newlines are blanks.
func shortString(file string, w rules.Word) *parser {
	p := &parser{file: file, ast: &rules.AST{}, text: w.Text, base: w.Body, depth: 1}
	if w.Body == 0 {
		p.fixed, p.whole = true, w.Span
	}
	if len(w.Text) > MaxSize {
		p.report("NP901", w.Span, "the text has %d bytes, the most is %d", len(w.Text), MaxSize)
		p.pos = len(w.Text)
	}
	p.start()
	return p
}

// finished reports what follows a whole short string, and a comment in it, which would be lost.
func (p *parser) finished(what string) bool {
	if p.tok.Kind != EOF {
		p.report("NP005", p.here(), "expected the end of %s, found %s", what, p.found()).Help = p.strayHelp()
		return false
	}
	if len(p.ast.Comments) > 0 {
		p.report("NP004", p.ast.Comments[0].Span, "expected the end of %s, found a comment", what).Help = "put the comment behind the string"
		return false
	}
	return true
}

// token is a token with what the parser knows of its line.
type token struct {
	Token
	first bool // the first of its line
}

// parser is one run over one text. Its methods consume what they read; those
// that return false have reported why, and the caller calls skip.
type parser struct {
	file  string
	text  string
	base  int  // offset of text in the file
	fixed bool // text does not stand in the file: whole is the span of everything
	whole diag.Span
	ast   *rules.AST
	diags diag.Collector

	tok    token
	pos    int // behind tok
	last   int // end of the token before tok that is not a newline
	depth  int // of brackets in which newlines are blanks
	indent int // blanks at the start of tok's line

	nesting int      // depth of the recursion
	keys    []string // what begins a statement in the block around
	torn    int      // start of the last string that was not closed, -1 for none

	values []rules.Word // scratch for lists; their results are copied to the slabs
	kids   []rules.ExprNode

	words   slab[rules.Word]
	exprs   slab[rules.ExprNode]
	items   slab[rules.Item]
	actions slab[rules.Action]

	versioned bool  // `policy` stands first, or that it does not was reported
	lastRule  int   // index of the rule that a stray clause may belong to, -1
	lastClose token // its `}`
	defaultAt diag.Span
	colon     bool   // the name had a `:`, which was reported
	ended     bool   // the statement ended with a comma, which was reported
	instead   string // the clause that an unknown one is read as
}

// start reads the first token.
func (p *parser) start() {
	p.torn, p.lastRule = -1, -1
	p.tok = token{Token{Newline, p.pos, p.pos}, true}
	p.last = p.pos
	p.next()
}

// report adds a diagnostic. After too many of them the rest of the text is not looked at.
func (p *parser) report(code diag.Code, span diag.Span, format string, args ...any) *diag.Diagnostic {
	if p.diags.Len() >= maxFindings {
		p.pos = len(p.text)
		p.ast.Lost = true
	}
	return p.diags.Report(code, span, format, args...)
}

func (p *parser) span(start, end int) diag.Span {
	if p.fixed {
		return p.whole
	}
	return diag.Span{File: p.file, Start: p.base + start, End: p.base + max(end, start)}
}

// from is the span from start to the last token that was consumed.
func (p *parser) from(start int) diag.Span { return p.span(start, p.last) }

// next consumes the current token. White space and comments are passed over,
// and so are newlines where they are blanks; runs of newlines are one.
func (p *parser) next() {
	first := p.tok.Kind == Newline
	if !first {
		p.last = p.tok.End
	}
	for {
		t := scan(p.text, p.pos)
		p.pos = t.End
		switch t.Kind {
		case Space:
			if first {
				p.indent = t.End - t.Start
			}
			continue
		case Comment:
			p.comment(t, first)
			continue
		case Newline:
			p.indent = 0
			if p.depth > 0 || first {
				first = true
				continue
			}
		case Bad:
			p.bad(t)
			continue
		case Unterminated:
			p.torn = t.Start
			p.report("NP002", p.span(t.Start, t.End), "the string is not closed").Help = "it ends at the next `\"` on the same line; inside, write \\\""
		case SingleQuoted:
			p.report("NP001", p.span(t.Start, t.End), "strings have double quotes").
				Help = "write " + doubleQuoted(p.text[t.Start+1:t.End-1])
		}
		p.tok = token{t, first}
		return
	}
}

// newlines passes over newlines, where the grammar allows them.
func (p *parser) newlines() {
	if p.tok.Kind == Newline {
		p.next()
	}
}

// ahead returns the n-th token behind the current one on its line, without consuming anything.
func (p *parser) ahead(n int) Token {
	pos := p.pos
	for {
		t := scan(p.text, pos)
		pos = t.End
		if t.Kind == Space || t.Kind == Comment || t.Kind == Bad {
			continue
		}
		if n--; n == 0 || t.Kind == Newline || t.Kind == EOF {
			return t
		}
	}
}

// below returns the first token on the next line that has any.
func (p *parser) below() Token {
	pos := p.pos
	for {
		t := scan(p.text, pos)
		pos = t.End
		switch t.Kind {
		case Space, Comment, Bad, Newline:
		default:
			return t
		}
	}
}

func (p *parser) comment(t Token, own bool) {
	end := t.End
	for end > t.Start && (p.text[end-1] == ' ' || p.text[end-1] == '\t' || p.text[end-1] == '\r') {
		end--
	}
	p.ast.Comments = append(p.ast.Comments, rules.Comment{Text: p.text[t.Start:end], Span: p.span(t.Start, end), Own: own})
}

func (p *parser) bad(t Token) {
	r := []rune(p.text[t.Start:t.End])[0]
	d := p.report("NP001", p.span(t.Start, t.End), "the character U+%04X can't be used here", r)
	switch r {
	case '“', '”', '„':
		d.Message, d.Help = "typographic quotes are no quotes", "write \" instead"
	default:
		if r >= 0xa0 {
			d.Help = "it can't be seen, and was perhaps pasted in: write a blank, or remove it"
		}
	}
}

// str is the text of a token.
func (p *parser) str(t Token) string { return p.text[t.Start:t.End] }

// is reports whether the current token is the keyword.
func (p *parser) is(keyword string) bool {
	return p.tok.Kind == Word && p.text[p.tok.Start:p.tok.End] == keyword
}

func (p *parser) accept(keyword string) bool {
	if p.is(keyword) {
		p.next()
		return true
	}
	return false
}

// isValue reports whether the current token is a word or a string.
func (p *parser) isValue() bool {
	switch p.tok.Kind {
	case Word, String, SingleQuoted, Unterminated:
		return true
	}
	return false
}

// atEnd reports whether the current token ends a statement.
func (p *parser) atEnd() bool {
	switch p.tok.Kind {
	case Newline, Semicolon, Close, EOF:
		return true
	}
	return false
}

// here is the place of the current token; ends are shown behind the last one.
func (p *parser) here() diag.Span {
	if p.tok.Kind == Newline || p.tok.Kind == EOF {
		return p.span(p.last, p.last)
	}
	return p.span(p.tok.Start, p.tok.End)
}

// found names the current token for a message.
func (p *parser) found() string {
	switch p.tok.Kind {
	case Newline:
		return "the end of the line"
	case EOF:
		return "the end"
	}
	return diag.Quote(p.str(p.tok.Token))
}

// begins reports whether the current token begins another statement of the block
// around, or a declaration.
func (p *parser) begins() bool {
	return p.tok.Kind == Word && (slices.Contains(p.keys, p.str(p.tok.Token)) || p.declares())
}

// skip passes over the rest of a statement that could not be read: to the end of
// the line, a semicolon, or the end of the block. Blocks and brackets that begin
// in it belong to it, unless a line in them begins another statement.
func (p *parser) skip() {
	parens, braces := p.depth, 0
	p.depth, p.nesting, p.ended = 0, 0, false
	for {
		switch p.tok.Kind {
		case EOF:
			return
		case Newline:
			if braces == 0 && parens == 0 {
				return
			}
		case Semicolon:
			if braces == 0 {
				return
			}
		case Open:
			braces++
		case Close:
			if braces == 0 {
				return
			}
			braces--
		case ParenOpen:
			parens++
		case ParenClose:
			parens = max(parens-1, 0)
		case Word:
			if p.tok.first && (braces == 0 && p.begins() || p.declares()) {
				return
			}
		}
		p.next()
	}
}

// end checks that a statement ends here, and passes over what does not belong to it.
func (p *parser) end(what string) {
	ended := p.ended
	p.ended = false
	if p.atEnd() || ended || p.tok.first && p.begins() { // the latter behind a bracket that is not closed
		return
	}
	d := p.report("NP005", p.here(), "expected the end of %s, found %s", what, p.found())
	if p.begins() {
		d.Help = "put a `;` before it, or begin a new line"
		return
	}
	d.Help = p.strayHelp()
	p.skip()
}

// endOf checks that the statement of a keyword ends here.
func (p *parser) endOf(keyword string) {
	if !p.atEnd() {
		p.end(diag.Quote(keyword))
	}
}

// enter counts a level of nesting; false when it is one too many.
func (p *parser) enter() bool {
	if p.nesting++; p.nesting > MaxNesting {
		p.report("NP902", p.here(), "more than %d levels of nesting", MaxNesting)
		return false
	}
	return true
}

// block is an open block.
type block struct {
	what   string // "a rule"
	open   token
	indent int      // of the line on which its declaration begins
	outer  []string // keys of the block around
	extra  int      // braces too many that were reported
	quiet  bool     // something in it was reported that a missing brace would explain
}

// openBlock reads the `{` of a declaration whose first line is indented so far.
func (p *parser) openBlock(what string, indent int, keys []string) (block, bool) {
	b := block{what: what, indent: indent, outer: p.keys}
	if p.tok.Kind != Open && !p.findBrace(what, keys) {
		return b, false
	}
	b.open = p.tok
	p.keys = keys
	if p.tok.Kind == Open {
		p.next()
	}
	return b, true
}

// findBrace reports that the `{` is not here, and whether the block follows all the same.
func (p *parser) findBrace(what string, keys []string) bool {
	d := p.report("NP003", p.here(), "expected `{` for the block of %s, found %s", what, p.found())
	if p.tok.Kind == Newline {
		switch t := p.below(); {
		case t.Kind == Open:
			d.Help = "the `{` belongs on the line before"
			p.next()
			return true
		case t.Kind == Word && slices.Contains(keys, p.str(t)):
			return true // the statements are there
		}
		return false
	}
	text := p.str(p.tok.Token)
	switch {
	case p.tok.Kind == Word && slices.Contains(keys, text):
		d.Help = "the statements of a block stand in braces: `{ " + text + " ... }`"
	case p.tok.Kind == Word && strings.HasPrefix(text, "prio"):
		d.Help = "did you mean `priority`?"
	default:
		if d.Help = p.strayHelp(); d.Help == "" && p.tok.Kind != Open {
			d.Help = "remove it"
		}
	}
	for n := 1; n <= maxStray; n++ {
		switch p.ahead(n).Kind {
		case Open:
			for p.tok.Kind != Open {
				p.next()
			}
			return true
		case Newline, EOF, Close:
			return false
		}
	}
	return false
}

// maxStray is how many words too many may stand before a `{`.
const maxStray = 4

// more reports whether another statement follows in the block; else the block is over.
func (p *parser) more(b *block) bool {
	for {
		switch p.tok.Kind {
		case Newline, Semicolon:
			p.next()
		case Close:
			if b.extra > 0 && p.closesAgain() {
				b.extra--
				p.next()
				continue
			}
			p.keys = b.outer
			p.next()
			return false
		case EOF:
			p.unclosed(b)
			return false
		case Open:
			if b.extra++; b.extra == 1 {
				p.report("NP004", p.here(), "expected a statement of %s, found `{`", b.what)
			}
			p.next()
		case Word:
			if p.declares() {
				if p.tok.first && p.indent <= b.indent {
					p.unclosed(b)
					return false
				}
				p.nested(b)
				continue
			}
			return true
		default:
			p.report("NP004", p.here(), "expected a statement of %s, found %s", b.what, p.found())
			p.next()
			p.skip()
		}
	}
}

// closesAgain reports whether another `}` follows the current one.
func (p *parser) closesAgain() bool { return p.below().Kind == Close }

// unclosed reports a block without its `}`, unless that was the consequence of something reported.
func (p *parser) unclosed(b *block) {
	p.keys = b.outer
	if b.quiet || b.extra > 0 || b.open.Kind != Open || p.torn > b.open.Start {
		return
	}
	p.report("NP006", p.span(b.open.Start, b.open.End), "the block of %s is not closed", b.what).
		Help = "a `}` is missing before " + p.before()
}

// before names the place at which a closing bracket is missing at the latest.
func (p *parser) before() string {
	if p.tok.Kind == EOF {
		return "the end"
	}
	return p.found()
}

// nested reports a declaration inside a block, and reads it so that what refers to it is satisfied.
func (p *parser) nested(b *block) {
	d := p.report("NP010", p.here(), "%s can't stand inside %s", diag.Quote(p.str(p.tok.Token)), b.what)
	d.Help = "declarations stand at the top of the file; is a `}` missing before it?"
	d.Note(p.span(b.open.Start, b.open.End), "the block begins here")
	b.quiet = true
	if !p.enter() {
		p.next()
		p.skip()
		return
	}
	level := p.nesting
	keys := p.keys
	p.keys = nil
	p.declaration()
	p.keys = keys
	p.nesting = min(p.nesting, level) - 1
	p.nesting = max(p.nesting, 0)
}
