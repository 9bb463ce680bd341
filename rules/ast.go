package rules

import (
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// AST is a policy as it was written, the same for every syntax. Values are kept
// as words in the user's spelling; Check gives them types. A parser may leave
// any part empty: Check reports what is missing.
type AST struct {
	File    string
	NPL     bool // written in NPL; else in YAML
	Version Word // the zero Word: not given

	Imports    []ImportNode
	Sets       []Decl // items: type, values, or file or url with select, format, sha256, refresh, on_error
	Uplinks    []Decl
	Routes     []Decl
	Groups     []Decl
	Throttles  []Decl
	Quotas     []Decl // Expr is what is counted; items: limit, per, reset
	Schedules  []Decl // items: weekday, time, date, tz
	Conditions []Decl // Expr; no items
	Health     []Decl // the name is an uplink's; without one: the defaults for all
	Daemon     []Decl // no names
	Default    *Action
	Rules      []RuleNode
	Asserts    []AssertNode
	Invariants []InvariantNode

	// Comments are all comments of the text, in order.
	Comments []Comment
	// Source is the text itself, for printers: they look at its line ends. Nil for
	// an AST that was not read from one text.
	Source []byte

	// Lost is true when declarations may be missing because a part of the text
	// could not be read: Check does not report undefined names.
	Lost bool
	// Partial is true when anything could not be read and was reported: Check
	// does not report unused names.
	Partial bool
}

// Comment is one comment, from its `#` to the end of the line.
type Comment struct {
	Text string // with the `#`, without blanks at the end
	Span diag.Span
	Own  bool // nothing but blanks stands before it on its line
}

// Word is one value as written. An element of a set may be `keyword "x"` or
// `regex "x"`: one word, not Quoted.
type Word struct {
	Text string    // the value, without quotes and escapes
	Span diag.Span // the whole token, with its quotes
	// Body is the offset of Text's first byte, or 0 when Text does not stand
	// in the source byte for byte (escapes, folded lines).
	Body int
	// Quoted is true for a string in NPL's quotes: it is one value, never split
	// or read as a keyword. YAML's own quotes do not set it.
	Quoted bool
}

// Given reports whether the word was written at all.
func (w Word) Given() bool { return w.Span != diag.Span{} }

// Part returns Text[i:j] as a word, with its own span where the source has it.
func (w Word) Part(i, j int) Word {
	p := Word{Text: w.Text[i:j], Span: w.Span, Quoted: w.Quoted}
	if w.Body > 0 {
		p.Body = w.Body + i
		p.Span.Start, p.Span.End = w.Body+i, w.Body+j
	}
	return p
}

// commaList splits a word at its commas; a quoted word and one without commas
// stay whole. Blanks around the parts are dropped, empty parts are kept.
func (w Word) commaList() []Word {
	if w.Quoted || !strings.Contains(w.Text, ",") {
		return []Word{w}
	}
	var list []Word
	for start := 0; start <= len(w.Text); {
		end := strings.IndexByte(w.Text[start:], ',')
		if end < 0 {
			end = len(w.Text)
		} else {
			end += start
		}
		i, j := start, end
		for i < j && isBlank(w.Text[i]) {
			i++
		}
		for j > i && isBlank(w.Text[j-1]) {
			j--
		}
		list = append(list, w.Part(i, j))
		start = end + 1
	}
	return list
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// Split reads a short string as NPL does: words, strings in quotes, and each of
// ( ) = as a word of its own. Commas separate and are dropped. A quoted word
// stays whole.
func (w Word) Split() []Word {
	if w.Quoted || !strings.ContainsAny(w.Text, " \t\r\n,()=\"") {
		return []Word{w}
	}
	var list []Word
	for i := 0; i < len(w.Text); {
		switch c := w.Text[i]; {
		case isBlank(c) || c == ',':
			i++
		case c == '"':
			end := QuoteEnd(w.Text, i)
			p := w.Part(i+1, end)
			if p.Quoted = true; strings.Contains(p.Text, `\`) {
				p.Text, p.Body = Unescape(p.Text), 0
			}
			list = append(list, p)
			i = end + 1
		case strings.IndexByte("()=", c) >= 0:
			list = append(list, w.Part(i, i+1))
			i++
		default:
			end := strings.IndexAny(w.Text[i:], " \t\r\n,()=\"")
			if end < 0 {
				end = len(w.Text) - i
			}
			list = append(list, w.Part(i, i+end))
			i += end
		}
	}
	return list
}

// Decl is a declaration: `wan1: {dev: eth1}` or `uplink wan1 { dev eth1 }`.
type Decl struct {
	Name  Word
	Span  diag.Span // the whole declaration
	Items []Item
	Expr  *ExprNode // of a quota or condition
	Bad   bool      // could not be read, and was reported
}

// Item is one key of a declaration with its values: `gateway 10.0.0.1`. The
// keys are those of YAML. A value that is itself a block (probe, threshold) is in Items.
type Item struct {
	Key   Word
	Args  []Word
	Items []Item
	Span  diag.Span
	Block bool // written as a block, even if Items is empty
	List  bool // written as a list, even if Args has one element
	Bad   bool // the value could not be read, and was reported
}

// RuleNode is a rule as written.
type RuleNode struct {
	Name        Word
	Priority    Word
	Span        diag.Span
	Match       *ExprNode
	When        *ExprNode // over facts of the world
	Disable     []Word    // states
	OnUnknown   Word
	Description Word
	Allow       []Word // codes of warnings and hints that are wanted here
	Do          *Action
	// Disabled is the word `disabled`, where it is given: the rule is checked and never looked at.
	Disabled Word
}

// Action is what follows `do`, or stands under `action`: primary actions and
// modifiers by their names, in source order.
type Action struct {
	Span  diag.Span
	Items []Item
}

// ExprNode is a condition as written.
type ExprNode struct {
	Op   Op
	Span diag.Span
	Kids []ExprNode
	Pred PredNode // OpPred
}

// PredNode is one predicate as written.
type PredNode struct {
	Field Field
	Key   Word // the field in the user's spelling
	// Subject is the name of an uplink or route (uplink.NAME.metric), or of a
	// schedule, quota or condition.
	Subject Word
	Metric  Metric // FieldUplink, FieldRoute
	Cmp     Word   // "<", "<=", ">", ">=", "==", "!="; the zero Word: none written
	Values  []Word
	Set     Word   // `in NAME`; Values is empty
	Negated bool   // `not in`
	For     Word   // `for 30s`
	Text    string // as written, for explanations
}

// ImportNode is `import "FILE" sha256 "..."`.
type ImportNode struct {
	Path, SHA256 Word
	Span         diag.Span
}

// AssertNode is an assertion: a name or address with an optional protocol and port,
// or a condition that describes the flow.
type AssertNode struct {
	Span   diag.Span
	Target Word // `"api.zoom.us"`; not given: Expr
	Proto  Word // of `tcp/443`
	Port   Word
	Expr   *ExprNode
	When   []Word // states
	Expect OutcomeNode
}

// InvariantNode is `never`, `always` (with Expr and Expect) or `unreachable` (with Level).
type InvariantNode struct {
	Span   diag.Span
	Kind   Word
	Expr   *ExprNode
	When   []Word // states
	Expect OutcomeNode
	Level  Word // none, warn
}

// OutcomeNode is what stands behind `->`: an action, or one of the others.
type OutcomeNode struct {
	Span    diag.Span
	Action  *Action
	Rule    Word // `rule NAME`
	Default bool
	Via     Word // `via NAME`, in invariants
}
