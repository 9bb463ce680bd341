// Package load reads a policy from its files, in either syntax: it follows
// imports, and hands the whole to rules.Check.
//
//	r := load.Policy("policy.npl", src, load.Options{Read: os.ReadFile})
//	diag.Text(os.Stderr, r.Diags, r.Sources...)
//
// The package itself opens nothing: the bytes come from Options.
package load

import (
	"bytes"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/yaml"
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
	AST     *rules.AST    // the file alone, without its imports; nil where nothing could be read
	Sources []*diag.Source
	Diags   []diag.Diagnostic // sorted
}

// Policy reads a policy whose main file has the given name and bytes.
func Policy(name string, src []byte, o Options) Result {
	ast, diags := Parse(name, src)
	r := Result{AST: ast, Sources: []*diag.Source{diag.NewSource(name, src)}}
	if ast != nil {
		var more []diag.Diagnostic
		r.Policy, more = rules.Check(ast)
		diags = append(diags, more...)
	}
	if r.Diags = diag.Sort(diags); diag.HasErrors(r.Diags) {
		r.Policy = nil
	}
	return r
}

// Parse reads one file's structure, in the syntax that it is written in.
func Parse(name string, src []byte) (*rules.AST, []diag.Diagnostic) {
	return yaml.Parse(name, src)
}

// IsNPL reports whether a file is NPL and not YAML: by the ending .npl, .yaml or
// .yml of its name, else by whether its first statement is `policy`.
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
			return bytes.HasPrefix(line, []byte("policy")) && !bytes.Contains(line, []byte(":"))
		}
	}
	return false
}
