// Package load reads a policy from its files, in either syntax: it follows
// imports, and hands the whole to rules.CheckWith.
//
//	r := load.Policy("policy.npl", src, load.Options{Read: os.ReadFile})
//	diag.Text(os.Stderr, r.Diags, r.Sources...)
//
// The package itself opens nothing: the bytes come from Options.
package load

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/npl"
	"netpolicy.dev/netpolicy/rules/yaml"
)

const (
	// MaxSize bounds one file, in bytes.
	MaxSize = yaml.MaxSize
	// MaxDepth bounds imports within imports.
	MaxDepth = 16
	// maxFiles bounds how many files one policy has.
	maxFiles = 1000
)

// Options are where a policy's other files come from.
type Options struct {
	// Read returns an imported file; its path is joined to the importing file's
	// folder. nil: nothing can be imported.
	Read func(path string) ([]byte, error)
	// Lists gets the elements of sets that stand in files; nil: they are empty, and
	// nothing is said about that.
	Lists rules.Lists
}

// Result is what was read.
type Result struct {
	Policy  *rules.Policy // nil exactly when one of Diags is an error
	AST     *rules.AST    // the main file alone, without its imports; nil where nothing could be read
	Sources []*diag.Source
	Diags   []diag.Diagnostic // sorted
}

// Policy reads a policy whose main file has the given name and bytes.
func Policy(name string, src []byte, o Options) Result {
	l := loader{o: o, seen: map[string]bool{}}
	ast := l.file(name, src, nil)
	r := Result{AST: ast, Sources: l.sources}
	if ast != nil {
		whole := ast
		if len(ast.Imports) > 0 {
			whole = l.expand(ast, []string{path.Clean(name)})
		}
		var more []diag.Diagnostic
		r.Policy, more = rules.CheckWith(whole, o.Lists)
		l.diags = append(l.diags, more...)
	}
	r.Sources = l.sources
	if r.Policy != nil {
		for _, s := range l.sources {
			r.Policy.Files = append(r.Policy.Files, s.Name)
		}
	}
	if r.Diags = diag.Sort(l.diags); diag.HasErrors(r.Diags) {
		r.Policy = nil
	}
	return r
}

// Parse reads one file's structure, in the syntax that it is written in.
func Parse(name string, src []byte) (*rules.AST, []diag.Diagnostic) {
	if IsNPL(name, src) {
		return npl.Parse(name, src)
	}
	return yaml.Parse(name, src)
}

// IsNPL reports whether a file is NPL and not YAML: by the ending .npl, .yaml or
// .yml of its name, else by whether its first statement is `policy` with a number.
func IsNPL(name string, src []byte) bool {
	switch {
	case strings.HasSuffix(name, ".npl"):
		return true
	case strings.HasSuffix(name, ".yaml"), strings.HasSuffix(name, ".yml"):
		return false
	}
	for line := range bytes.Lines(bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			words := bytes.Fields(line)
			return string(words[0]) == "policy" && len(words) > 1 && words[1][0] >= '0' && words[1][0] <= '9'
		}
	}
	return false
}

// loader gathers the files of one policy.
type loader struct {
	o       Options
	sources []*diag.Source
	diags   []diag.Diagnostic
	seen    map[string]bool // files that have been read: each counts once
}

// file parses one file; where is the import that asks for it.
func (l *loader) file(name string, src []byte, where *rules.ImportNode) *rules.AST {
	if len(src) > MaxSize {
		span := diag.Span{File: name}
		if where != nil {
			span = where.Path.Span
		}
		l.report("NP901", span, "the file %s has more than %d bytes", name, MaxSize)
		return nil
	}
	l.seen[path.Clean(name)] = true
	l.sources = append(l.sources, diag.NewSource(name, src))
	ast, diags := Parse(name, src)
	l.diags = append(l.diags, diags...)
	return ast
}

func (l *loader) report(code diag.Code, span diag.Span, format string, args ...any) *diag.Diagnostic {
	l.diags = append(l.diags, diag.New(code, span, format, args...))
	return &l.diags[len(l.diags)-1]
}

// expand returns the AST with everything that it imports; chain are the files that
// lead to it, itself last. Rules stand where their import does.
func (l *loader) expand(ast *rules.AST, chain []string) *rules.AST {
	whole := *ast
	own := ast.Rules
	whole.Rules = make([]rules.RuleNode, 0, len(own))
	for i := range ast.Imports {
		n := &ast.Imports[i]
		at, _ := slices.BinarySearchFunc(own, n.Span.Start, func(r rules.RuleNode, start int) int { return cmp.Compare(r.Span.Start, start) })
		whole.Rules = append(whole.Rules, own[:at]...)
		own = own[at:]
		if part := l.imported(n, chain); part != nil {
			add(&whole, part)
		} else {
			whole.Lost = true
		}
	}
	whole.Rules = append(whole.Rules, own...)
	return &whole
}

// imported reads a file that an import names, with its own imports. A file that
// was read before is empty; nil if it can't be had.
func (l *loader) imported(n *rules.ImportNode, chain []string) *rules.AST {
	from := chain[len(chain)-1]
	name := path.Clean(n.Path.Text)
	switch {
	case n.Path.Text == "":
		l.report("NP107", n.Span, "import needs a file")
		return nil
	case !path.IsAbs(name):
		name = path.Join(path.Dir(from), name)
	}
	switch i := slices.Index(chain, name); {
	case i >= 0:
		l.report("NP112", n.Path.Span, "%s imports itself: %s", name, strings.Join(append(slices.Clone(chain[i:]), name), " -> "))
		return nil
	case l.seen[name]:
		return &rules.AST{}
	case len(chain) > MaxDepth:
		l.report("NP902", n.Path.Span, "imports are nested more than %d deep", MaxDepth)
		return nil
	case len(l.seen) >= maxFiles:
		l.report("NP905", n.Path.Span, "a policy has at most %d files", maxFiles)
		return nil
	case l.o.Read == nil:
		l.report("NP111", n.Path.Span, "files can't be imported here")
		return nil
	}
	src, err := l.o.Read(name)
	if err != nil {
		l.report("NP111", n.Path.Span, "%s can't be imported: %s", diag.Quote(n.Path.Text), err).Help = "the path is relative to the file that imports"
		return nil
	}
	if want := strings.ToLower(n.SHA256.Text); n.SHA256.Given() {
		if sum := sha256.Sum256(src); want != hex.EncodeToString(sum[:]) {
			l.report("NP113", n.SHA256.Span, "%s has another SHA-256", diag.Quote(n.Path.Text)).Help = "it is " + hex.EncodeToString(sum[:])
			return nil
		}
	}
	ast := l.file(name, src, n)
	if ast == nil || len(ast.Imports) == 0 {
		return ast
	}
	return l.expand(ast, append(slices.Clone(chain), name))
}

// add appends the declarations of an imported file.
func add(to, from *rules.AST) {
	to.Sets = slices.Concat(to.Sets, from.Sets)
	to.Uplinks = slices.Concat(to.Uplinks, from.Uplinks)
	to.Routes = slices.Concat(to.Routes, from.Routes)
	to.Groups = slices.Concat(to.Groups, from.Groups)
	to.Throttles = slices.Concat(to.Throttles, from.Throttles)
	to.Quotas = slices.Concat(to.Quotas, from.Quotas)
	to.Schedules = slices.Concat(to.Schedules, from.Schedules)
	to.Conditions = slices.Concat(to.Conditions, from.Conditions)
	to.Health = slices.Concat(to.Health, from.Health)
	to.Daemon = slices.Concat(to.Daemon, from.Daemon)
	to.Rules = append(to.Rules, from.Rules...)
	to.Asserts = slices.Concat(to.Asserts, from.Asserts)
	to.Invariants = slices.Concat(to.Invariants, from.Invariants)
	if to.Default == nil {
		to.Default = from.Default // the importing file's own goes before
	}
	to.Lost, to.Partial = to.Lost || from.Lost, to.Partial || from.Partial
}
