package lsp

import (
	"cmp"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
)

const (
	// maxDocument bounds a document: more than a policy may have, so that its
	// diagnostic says so.
	maxDocument = 32 << 20
	// maxDocuments bounds the open documents of a client.
	maxDocuments = 1000
	// maxPublished bounds the diagnostics of a document that are sent: an editor shows
	// no more, and each is looked up in its line.
	maxPublished = 500
)

// MaxAnalysed bounds the policies of which it is looked at each change which rules never
// decide.
const MaxAnalysed = 5000

// document is one open text.
type document struct {
	uri     string
	name    string // a path, for diagnostics and imports
	onDisk  bool   // its URI is that of a file: others have no folder to import from
	version int
	text    *text
	npl     bool
	dirty   bool       // the client's diagnostics are not of this text
	known   *knowledge // nil: not looked at since the last change
}

// knowledge is what is known of one text.
type knowledge struct {
	load.Result
	files   map[string]*text // of Result.Sources, by name
	read    []string         // the paths of imported files
	symbols *symbols
	program *engine.Program // nil: not asked for yet, or the policy has errors
	found   bool            // Diags are complete
}

// findings returns all diagnostics: those of the text, and those of what it means.
func (a *knowledge) findings() []diag.Diagnostic {
	if !a.found && a.Policy != nil && len(a.Policy.Rules) <= MaxAnalysed {
		a.Diags = diag.Sort(append(a.Diags, analysis.Dead(a.Policy, analysis.Quick).Diags...))
	}
	a.found = true
	return a.Diags
}

func (s *server) didOpen(p didOpenParams) (any, error) {
	t := p.TextDocument
	if s.documents[t.URI] == nil && len(s.documents) >= maxDocuments {
		return nil, failed("more than %d documents are open", maxDocuments)
	}
	d := &document{uri: t.URI, name: nameOf(t.URI), version: t.Version, onDisk: strings.HasPrefix(t.URI, "file:")}
	switch {
	case t.LanguageID == "npl" && !strings.HasSuffix(d.name, ".npl"):
		d.name += ".npl"
	case t.LanguageID == "yaml" && !strings.HasSuffix(d.name, ".yaml") && !strings.HasSuffix(d.name, ".yml"):
		d.name += ".yaml"
	}
	s.documents[t.URI] = d
	s.set(d, []byte(t.Text))
	return nil, nil
}

func (s *server) didChange(p didChangeParams) (any, error) {
	d, err := s.document(p.TextDocument.URI)
	if err != nil {
		return nil, err
	}
	d.version = p.TextDocument.Version
	for _, c := range p.ContentChanges {
		next := []byte(c.Text)
		if c.Range != nil {
			from, to := d.text.offset(c.Range.Start), d.text.offset(c.Range.End)
			next = slices.Concat(d.text.bytes[:from], next, d.text.bytes[max(from, to):])
		}
		if len(next) > maxDocument {
			next = next[:maxDocument]
		}
		d.text = newText(next, s.utf8)
	}
	s.set(d, d.text.bytes)
	return nil, nil
}

func (s *server) didClose(p documentParams) (any, error) {
	d, err := s.document(p.TextDocument.URI)
	if err != nil {
		return nil, err
	}
	delete(s.documents, d.uri)
	s.touched(d.name)
	return nil, writeMessage(s.out, notification{"2.0", "textDocument/publishDiagnostics", diagnosticsParams{
		URI: d.uri, Version: d.version, Diagnostics: []diagnostic{},
	}})
}

// set gives a document a new text.
func (s *server) set(d *document, b []byte) {
	d.text, d.npl = newText(b, s.utf8), load.IsNPL(d.name, b)
	d.dirty, d.known = true, nil
	s.touched(d.name)
}

// touched makes the documents that import a file dirty.
func (s *server) touched(name string) {
	for _, d := range s.documents {
		if d.known != nil && slices.Contains(d.known.read, name) {
			d.dirty, d.known = true, nil
		}
	}
}

func (s *server) document(uri string) (*document, error) {
	d := s.documents[uri]
	if d == nil {
		return nil, &rpcError{codeInvalidParams, "the document is not open: " + uri}
	}
	return d, nil
}

// nameOf returns the path of a file's URI; of other URIs what stands behind the scheme.
func nameOf(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "file" {
		if u != nil && u.Opaque != "" {
			return u.Opaque
		}
		return uri
	}
	path := u.Path
	if len(path) > 2 && path[0] == '/' && path[2] == ':' { // /c:/policies
		path = path[1:]
	}
	return filepath.FromSlash(path)
}

// uriOf returns the URI of a file by its name; open documents keep their own.
func (s *server) uriOf(name string) string {
	for uri, d := range s.documents {
		if d.name == name {
			return uri
		}
	}
	path := filepath.ToSlash(name)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return (&url.URL{Scheme: "file", Path: path}).String()
}

// analyse returns what is known of a document's text.
func (s *server) analyse(d *document) *knowledge {
	if d.known != nil {
		return d.known
	}
	a := &knowledge{files: map[string]*text{}}
	a.Result = load.Policy(d.name, d.text.bytes, s.loading(d, &a.read))
	if a.Policy != nil && len(a.Policy.Asserts) > 0 {
		a.Diags = diag.Sort(append(a.Diags, analysis.Assertions(a.compiled()).Diags...))
	}
	for _, src := range a.Sources {
		a.files[src.Name] = newText(src.Text, s.utf8)
	}
	a.files[d.name] = d.text
	a.symbols = s.symbolsOf(d.name, a.AST, a.read)
	d.known = a
	return a
}

// loading is where a document's other files come from. Their paths are added to read.
func (s *server) loading(d *document, read *[]string) load.Options {
	if !d.onDisk {
		return load.Options{}
	}
	o := load.Options{Read: func(path string) ([]byte, error) {
		*read = append(*read, path)
		return s.readFile(path)
	}}
	if s.options.Lists != nil {
		o.Lists = s.options.Lists(d.name)
	}
	return o
}

// readFile reads an imported file: as it stands in the editor, if it is open.
func (s *server) readFile(path string) ([]byte, error) {
	for _, d := range s.documents {
		if d.name == path {
			return d.text.bytes, nil
		}
	}
	if s.options.ReadFile == nil {
		return nil, fs.ErrNotExist
	}
	return s.options.ReadFile(path)
}

// compiled returns the policy's program; nil while the policy has errors.
func (a *knowledge) compiled() *engine.Program {
	if a.program == nil && a.Policy != nil {
		a.program = engine.Compile(a.Policy)
	}
	return a.program
}

// publish sends the diagnostics of documents whose text has changed.
func (s *server) publish() error {
	var dirty []*document
	for _, d := range s.documents {
		if d.dirty {
			dirty = append(dirty, d)
		}
	}
	slices.SortFunc(dirty, func(a, b *document) int { return cmp.Compare(a.uri, b.uri) })
	for _, d := range dirty {
		d.dirty = false
		list, err := s.diagnosticsOf(d)
		if err != nil {
			if err := s.log(err.Error()); err != nil {
				return err
			}
		}
		if s.inbox.overtaken(d.uri) {
			continue // the change that waits makes it dirty again
		}
		if err := writeMessage(s.out, notification{"2.0", "textDocument/publishDiagnostics", diagnosticsParams{
			URI: d.uri, Version: d.version, Diagnostics: list,
		}}); err != nil {
			return err
		}
	}
	return nil
}

// diagnosticsOf returns a document's diagnostics; after a panic none.
func (s *server) diagnosticsOf(d *document) (list []diagnostic, err error) {
	list = []diagnostic{}
	err = guarded("diagnostics", func() {
		a := s.analyse(d)
		diags := a.findings()
		for i := range min(len(diags), maxPublished) {
			list = append(list, s.diagnostic(d, a, &diags[i]))
		}
	})
	return list, err
}

// unnecessary are the findings about what could as well not be there.
var unnecessary = []diag.Code{"NP115", "NP302", "NP304", "NP306", "NP307", "NP308"}

// diagnostic turns a finding into the protocol's form. One in an imported file
// stands at the import; the place itself is told.
func (s *server) diagnostic(d *document, a *knowledge, f *diag.Diagnostic) diagnostic {
	out := diagnostic{Code: string(f.Code), Source: "netpolicy", Message: f.Message}
	switch f.Severity {
	case diag.Error:
		out.Severity = severityError
	case diag.Warning:
		out.Severity = severityWarning
	default:
		out.Severity = severityHint
	}
	if slices.Contains(unnecessary, f.Code) {
		out.Tags = []int{tagUnnecessary}
	}
	if f.Help != "" {
		out.Message += "\nhelp: " + f.Help
	}
	if f.Span.File == d.name || f.Span.File == "" {
		out.Range = d.text.rangeOfSpan(f.Span)
	} else {
		if a.AST != nil && len(a.AST.Imports) > 0 {
			out.Range = d.text.rangeOfSpan(importOf(a.AST, f.Span.File))
		}
		out.Message = "in " + filepath.Base(f.Span.File) + ": " + out.Message
		out.RelatedInformation = append(out.RelatedInformation, s.related(a, f.Span, f.Message))
	}
	for _, n := range f.Notes {
		out.RelatedInformation = append(out.RelatedInformation, s.related(a, n.Span, n.Message))
	}
	return out
}

func (s *server) related(a *knowledge, at diag.Span, message string) relatedInfo {
	return relatedInfo{s.location(a, at), message}
}

func (s *server) location(a *knowledge, at diag.Span) location {
	l := location{URI: s.uriOf(at.File)}
	if t := a.files[at.File]; t != nil {
		l.Range = t.rangeOfSpan(at)
	}
	return l
}

// importOf returns the place of the import that a file comes through: the one
// that names it, else the first.
func importOf(ast *rules.AST, file string) diag.Span {
	for _, i := range ast.Imports {
		if filepath.Join(filepath.Dir(ast.File), i.Path.Text) == filepath.Clean(file) {
			return i.Path.Span
		}
	}
	return ast.Imports[0].Path.Span
}
