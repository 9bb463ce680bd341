package lsp

import (
	"bytes"
	"cmp"
	"errors"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
)

// Look answers questions about one text without a session: what editors in
// browsers need. Places are offsets in UTF-16 units. It is for one goroutine.
type Look struct {
	s *server
	d *document
	// units is how many UTF-16 units stand before each line.
	units []int
}

// NewLook returns a look at a text. Files that it imports are those that o has, at
// paths relative to name; syntax is "npl" or "yaml", "" finds it out.
func NewLook(name, syntax string, src []byte, o Options) *Look {
	if syntax == "" {
		syntax = SyntaxOf("", src)
	}
	s := &server{options: o, documents: map[string]*document{}}
	d := &document{uri: "look", name: strings.TrimSuffix(name, filepath.Ext(name)) + "." + syntax, onDisk: true}
	s.documents[d.uri] = d
	s.set(d, src)
	l := &Look{s: s, d: d, units: make([]int, len(d.text.lines))}
	for i := 1; i < len(l.units); i++ {
		l.units[i] = l.units[i-1] + utf16Len(src[d.text.lines[i-1]:d.text.lines[i]])
	}
	return l
}

// SyntaxOf returns the syntax of a text: by the name's ending, else by its first word.
func SyntaxOf(name string, src []byte) string {
	if load.IsNPL(name, src) {
		return "npl"
	}
	return "yaml"
}

func utf16Len(b []byte) (n int) {
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if n++; r > 0xffff {
			n++
		}
		b = b[size:]
	}
	return n
}

// at returns the UTF-16 offset of a byte.
func (l *Look) at(offset int) int {
	t := l.d.text
	offset = min(max(offset, 0), len(t.bytes))
	line := sort.SearchInts(t.lines, offset+1) - 1
	return l.units[line] + utf16Len(t.bytes[t.lines[line]:offset])
}

// byteAt returns the byte at a UTF-16 offset.
func (l *Look) byteAt(at int) int {
	line := max(sort.SearchInts(l.units, at+1)-1, 0)
	return l.d.text.offset(position{line, at - l.units[line]})
}

// Place is a piece of the text.
type Place struct {
	From int `json:"from"`
	To   int `json:"to"`
}

func (l *Look) place(s diag.Span) Place { return Place{l.at(s.Start), l.at(s.End)} }

// Finding is a diagnostic with its place in the text. One in an imported file
// stands at the import, and File names it.
type Finding struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	Message  string `json:"message"`
	Help     string `json:"help,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Place
	Notes []Note `json:"notes,omitempty"`
	Fixes []Fix  `json:"fixes,omitempty"`
}

// Note is a further place of a finding; File is "" in the text itself.
type Note struct {
	Message string `json:"message"`
	File    string `json:"file,omitempty"`
	Place
}

// Fix is a replacement that was tried and mends its finding.
type Fix struct {
	Title string `json:"title"`
	Place
	Insert string `json:"insert"`
}

// Result is what is known of the text. It is shared: not to be modified.
func (l *Look) Result() load.Result { return l.s.analyse(l.d).Result }

// Program is the policy's; nil while it has errors.
func (l *Look) Program() *engine.Program { return l.s.analyse(l.d).compiled() }

// Findings returns the diagnostics, at most 500, with fixes where asked for.
func (l *Look) Findings(fixes bool) ([]Finding, error) { return l.FindingsOf(nil, fixes) }

// FindingsOf returns the given diagnostics about the text with their places; nil are its own.
func (l *Look) FindingsOf(list []diag.Diagnostic, fixes bool) (out []Finding, err error) {
	err = guarded("findings", func() {
		a := l.s.analyse(l.d)
		if list == nil {
			list = a.findings()
		}
		out, err = []Finding{}, nil
		mended := 0
		for i := range min(len(list), maxPublished) {
			f := l.finding(a, &list[i])
			if fixes && mended < maxFixes && f.File == "" {
				if fix, ok := l.s.fix(l.d, a, &list[i]); ok {
					f.Fixes = []Fix{{"Write " + diag.Quote(fix), f.Place, fix}}
					mended++
				}
			}
			out = append(out, f)
		}
	})
	return out, err
}

func (l *Look) finding(a *knowledge, d *diag.Diagnostic) Finding {
	f := Finding{Code: string(d.Code), Severity: d.Severity.String(), Message: d.Message, Help: d.Help}
	span := d.Span
	if span.File != l.d.name && span.File != "" {
		f.File = l.shown(span.File)
		span = diag.Span{}
		if a.AST != nil && len(a.AST.Imports) > 0 {
			span = importOf(a.AST, d.Span.File)
		}
	}
	f.Place = l.place(span)
	line := sort.SearchInts(l.d.text.lines, min(span.Start, len(l.d.text.bytes))+1) - 1
	f.Line = line + 1
	f.Column = utf8.RuneCount(l.d.text.bytes[l.d.text.lines[line]:min(span.Start, len(l.d.text.bytes))]) + 1
	for _, n := range d.Notes {
		note := Note{Message: n.Message}
		if n.Span.File == l.d.name || n.Span.File == "" {
			note.Place = l.place(n.Span)
		} else {
			note.File = l.shown(n.Span.File)
		}
		f.Notes = append(f.Notes, note)
	}
	return f
}

// shown is how a file is named: relative to the text's folder.
func (l *Look) shown(file string) string {
	if rel, err := filepath.Rel(filepath.Dir(l.d.name), file); err == nil {
		return filepath.ToSlash(rel)
	}
	return file
}

// Item is something that may stand at a place.
type Item struct {
	Label  string `json:"label"`
	Kind   string `json:"kind,omitempty"`
	Detail string `json:"detail,omitempty"`
	Doc    string `json:"doc,omitempty"` // Markdown
}

// Completion is what may stand at a place, instead of what is there.
type Completion struct {
	Place
	Items      []Item `json:"items"`
	Incomplete bool   `json:"incomplete"`
}

// Complete returns what may stand at an offset.
func (l *Look) Complete(at int) (out Completion, err error) {
	offset := l.byteAt(at)
	broken := guarded("complete", func() {
		place := l.d.placeAt(offset)
		out = Completion{Place: Place{l.at(place.start), l.at(offset)}, Items: []Item{}}
		var answer any
		answer, err = l.s.completion(positionParams{textDocument{URI: l.d.uri}, l.d.text.position(offset)})
		list, ok := answer.(completionList)
		if !ok {
			return
		}
		out.Incomplete = list.IsIncomplete
		for _, i := range list.Items {
			item := Item{Label: i.Label, Kind: itemNames[i.Kind], Detail: i.Detail}
			if i.Documentation != nil {
				item.Doc = i.Documentation.Value
			}
			out.Items = append(out.Items, item)
		}
	})
	return out, cmp.Or(broken, err)
}

// itemNames are the kinds of completions.
var itemNames = map[int]string{
	itemFunction: "function", itemField: "field", itemVariable: "variable", itemModule: "module", itemProperty: "property",
	itemValue: "value", itemKeyword: "keyword", itemReference: "reference", itemEnumMember: "value", itemConstant: "constant", itemEvent: "event",
}

// Hover is what a word means, in Markdown; "" where nothing is known.
type Hover struct {
	Text string `json:"text"`
	Place
}

// Hover tells what stands at an offset.
func (l *Look) Hover(at int) (out Hover, err error) {
	offset := l.byteAt(at)
	out.Place = Place{at, at}
	broken := guarded("hover", func() {
		var answer any
		answer, err = l.s.hover(positionParams{textDocument{URI: l.d.uri}, l.d.text.position(offset)})
		if h, ok := answer.(hover); ok {
			out = Hover{h.Contents.Value, Place{l.at(l.d.text.offset(h.Range.Start)), l.at(l.d.text.offset(h.Range.End))}}
		}
	})
	return out, cmp.Or(broken, err)
}

// Written returns the text in a syntax, in its usual form. It fails when the text
// has errors of syntax, and rather than change what it means.
func (l *Look) Written(syntax string) (text []byte, err error) {
	broken := guarded("write", func() { text, err = l.written(syntax) })
	return text, cmp.Or(broken, err)
}

func (l *Look) written(syntax string) ([]byte, error) {
	ast, diags := load.Parse(l.d.name, l.d.text.bytes)
	if ast == nil || ast.Partial || ast.Lost || diag.HasErrors(diags) {
		return nil, failed("a text with errors is not rewritten")
	}
	out := printed(ast, syntax == "npl")
	if bytes.Equal(out, l.d.text.bytes) {
		return out, nil
	}
	as := *l.d
	as.name = strings.TrimSuffix(l.d.name, filepath.Ext(l.d.name)) + "." + syntax
	if err := l.s.same(l.d, as.name, ast, out); err != nil {
		return nil, err
	}
	return out, nil
}

// Imported returns the paths of the files that the text imports, in order.
func (l *Look) Imported() []string { return slices.Clone(l.s.analyse(l.d).read) }

// errNotLent is why a file is not read for a text that was sent.
var errNotLent = errors.New("only what the policy in force has already can be read here; others are read when the text is staged")

// Files lends a text what belongs to a policy that is loaded already, and nothing
// else: whoever asks about a text must not be able to read files by naming them in it.
type Files struct {
	Texts map[string][]byte // by path
	Refs  []rules.ListRef   // the lists that may be loaded
	From  rules.Lists       // where they come from
}

// Read returns the text of a known file.
func (f *Files) Read(path string) ([]byte, error) {
	if b, ok := f.Texts[filepath.Clean(path)]; ok {
		return b, nil
	}
	return nil, errNotLent
}

// Load returns the elements of a known list.
func (f *Files) Load(ref rules.ListRef, t rules.SetType) (rules.Elements, []string, error) {
	if f.From == nil || !slices.Contains(f.Refs, ref) {
		return rules.Elements{}, nil, errNotLent
	}
	return f.From.Load(ref, t)
}
