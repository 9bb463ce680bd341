package lsp

import (
	"bytes"
	"slices"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/rules/print"
)

// formatting prints the document in its syntax's canonical form. A text that can't
// be read whole is left alone, and so is one that would come out with another
// meaning or without one of its comments.
func (s *server) formatting(p documentParams) (any, error) {
	d, err := s.document(p.TextDocument.URI)
	if err != nil {
		return nil, err
	}
	ast, diags := load.Parse(d.name, d.text.bytes)
	if ast == nil || ast.Partial || ast.Lost || diag.HasErrors(diags) {
		return nil, failed("a text with errors is not formatted")
	}
	out := printed(ast, d.npl)
	if bytes.Equal(out, d.text.bytes) {
		return []textEdit{}, nil
	}
	if err := s.same(d, d.name, ast, out); err != nil {
		return nil, err
	}
	return []textEdit{d.text.change(out)}, nil
}

// printed returns a text in its usual form.
func printed(ast *rules.AST, npl bool) []byte {
	if npl {
		return print.NPL(ast)
	}
	return print.YAML(ast)
}

// same compares a formatted text, called name, with the document that it was made from.
func (s *server) same(d *document, name string, ast *rules.AST, out []byte) error {
	again, diags := load.Parse(name, out)
	if again == nil || diag.HasErrors(diags) {
		return &rpcError{codeInternal, "the formatted text can't be read"}
	}
	if !slices.Equal(comments(ast), comments(again)) {
		return &rpcError{codeInternal, "the formatted text would lose a comment"}
	}
	before := s.analyse(d).Policy
	if before == nil {
		return nil // errors of meaning: nothing to compare
	}
	after := load.Policy(name, out, s.loading(d, new([]string))).Policy
	if after == nil || before.Hash != after.Hash {
		return &rpcError{codeInternal, "the formatted text would mean something else"}
	}
	return nil
}

// comments returns the texts of all comments, sorted.
func comments(ast *rules.AST) []string {
	list := make([]string, len(ast.Comments))
	for i, c := range ast.Comments {
		list[i] = c.Text
	}
	slices.Sort(list)
	return list
}

// change is the edit that makes the text next: all lines between the first and
// the last that differ, so that a caret elsewhere stays.
func (t *text) change(next []byte) textEdit {
	from := 0
	for i := 0; i < len(t.bytes) && i < len(next) && t.bytes[i] == next[i]; i++ {
		if t.bytes[i] == '\n' {
			from = i + 1
		}
	}
	end, to := len(t.bytes), len(next)
	for i, j := end, to; i > from && j > from && t.bytes[i-1] == next[j-1]; {
		i--
		j--
		// The text behind a line end is the same in both.
		if i > from && j > from && t.bytes[i-1] == '\n' && next[j-1] == '\n' {
			end, to = i, j
		}
	}
	return textEdit{t.rangeOf(from, end), string(next[from:to])}
}
