package lsp

import (
	"regexp"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules/load"
)

// maxFixes bounds the fixes of one answer: each is tried on the whole text.
const maxFixes = 8

func (s *server) codeActions(p codeActionParams) (any, error) {
	d, err := s.document(p.TextDocument.URI)
	if err != nil {
		return nil, err
	}
	list := []codeAction{}
	if len(p.Context.Only) > 0 && !slices.Contains(p.Context.Only, "quickfix") {
		return list, nil
	}
	a := s.analyse(d)
	from, to := d.text.offset(p.Range.Start), d.text.offset(p.Range.End)
	for i := range a.Diags {
		f := &a.Diags[i]
		if f.Span.File != d.name || f.Span.End < from || f.Span.Start > to || len(list) == maxFixes {
			continue
		}
		with, ok := s.fix(d, a, f)
		if !ok {
			continue
		}
		list = append(list, codeAction{
			Title: "Write " + diag.Quote(with), Kind: "quickfix", Diagnostics: []diagnostic{s.diagnostic(d, a, f)},
			IsPreferred: true,
			Edit: workspaceEdit{map[string][]textEdit{
				d.uri: {{d.text.rangeOfSpan(f.Span), with}},
			}},
		})
	}
	return list, nil
}

// fix returns what to write in a diagnostic's place, if there is something that mends it.
func (s *server) fix(d *document, a *knowledge, f *diag.Diagnostic) (with string, ok bool) {
	for _, with := range replacements(f, d.text.slice(f.Span.Start, f.Span.End)) {
		if s.mends(d, a, f, with) {
			return with, true
		}
	}
	return "", false
}

// The forms of help that say what should stand there.
var (
	didYouMean = regexp.MustCompile("did you mean `([^`]+)`\\?")
	write      = regexp.MustCompile("write (?:`([^`]+)`|([^ `,;]+))")
	quotes     = regexp.MustCompile(`put it in quotes: (".*")`)
	spelled    = regexp.MustCompile("is spelled `?([A-Za-z_.]+)`?")
)

// replacements returns what may stand in a diagnostic's place instead of old, the
// likeliest first.
func replacements(f *diag.Diagnostic, old string) []string {
	var list []string
	for _, form := range []*regexp.Regexp{didYouMean, quotes, write} {
		if m := form.FindStringSubmatch(f.Help); m != nil {
			with := m[1]
			if with == "" {
				with = m[len(m)-1]
			}
			// What stood in quotes may need them still.
			if len(old) > 1 && old[0] == '"' && with[0] != '"' {
				list = append(list, `"`+with+`"`)
			}
			list = append(list, with)
		}
	}
	switch f.Code {
	case "NP009":
		if !strings.ContainsAny(old, "\"\\\n") {
			list = append(list, `"`+old+`"`)
		}
	case "NP403":
		if m := spelled.FindStringSubmatch(f.Message); m != nil {
			list = append(list, m[1])
		}
	}
	return list
}

// mends reports whether a replacement removes the diagnostic, stands without an
// error itself and breaks no syntax. A help is written for people: only what was
// tried is offered.
func (s *server) mends(d *document, a *knowledge, f *diag.Diagnostic, with string) bool {
	src := slices.Concat(d.text.bytes[:f.Span.Start], []byte(with), d.text.bytes[max(f.Span.Start, f.Span.End):])
	after := load.Policy(d.name, src, s.loading(d, new([]string))).Diags
	end := f.Span.Start + len(with)
	wrong := func(o diag.Diagnostic) bool {
		return o.Span.File == f.Span.File && o.Span.Start < end && o.Span.End > f.Span.Start &&
			(o.Severity == diag.Error || o.Code == f.Code)
	}
	return !slices.ContainsFunc(after, wrong) && broken(after) <= broken(a.Diags)
}

// broken counts errors of syntax.
func broken(list []diag.Diagnostic) int {
	n := 0
	for _, d := range list {
		if strings.HasPrefix(string(d.Code), "NP0") {
			n++
		}
	}
	return n
}
