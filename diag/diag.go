// Package diag says where and why a text is wrong, and how to mend it.
// A Diagnostic is a value; text and JSON are rendered from it.
//
//	d := diag.New("NP110", span, "no route is called %s", diag.Quote("tunel"))
//	d.Help = diag.DidYouMean("tunel", names)
//	err := diag.Text(w, []diag.Diagnostic{d}, diag.NewSource("policy.yaml", src))
//
// Positions are byte offsets inside; people see 1-based lines and characters.
package diag

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Severity orders diagnostics by how much they matter.
type Severity uint8

// The severities. Errors refuse the policy; warnings refuse it under --strict;
// hints never do.
const (
	Hint Severity = iota
	Warning
	Error
)

// String returns "hint", "warning" or "error".
func (s Severity) String() string { return [...]string{"hint", "warning", "error"}[s] }

// Code is a stable diagnostic code such as "NP110". Codes are never re-used.
type Code string

// Span is a half-open byte range [Start, End) of one source file. The zero Span
// has no place.
type Span struct {
	File       string
	Start, End int
}

// Note points at another place that is involved.
type Note struct {
	Span    Span
	Message string
}

// Diagnostic is one finding about the user's text.
type Diagnostic struct {
	Code     Code
	Severity Severity
	Span     Span
	Message  string
	Help     string // how to mend it; "" if there is nothing to say
	Notes    []Note
}

// New returns a diagnostic with the severity that the catalogue gives its code;
// a code that is not in the catalogue is an error.
func New(code Code, span Span, format string, args ...any) Diagnostic {
	severity := Error
	if e, ok := Lookup(code); ok {
		severity = e.Severity
	}
	return Diagnostic{Code: code, Severity: severity, Span: span, Message: fmt.Sprintf(format, args...)}
}

// Sort brings diagnostics into the order in which they are shown, (file,
// offset, code), and removes exact repetitions. It changes list.
func Sort(list []Diagnostic) []Diagnostic {
	slices.SortStableFunc(list, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Span.File, b.Span.File), cmp.Compare(a.Span.Start, b.Span.Start),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Span.End, b.Span.End), cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(list, func(a, b Diagnostic) bool {
		return a.Code == b.Code && a.Span == b.Span && a.Message == b.Message
	})
}

// Count returns how many diagnostics have the severity.
func Count(list []Diagnostic, s Severity) int {
	n := 0
	for _, d := range list {
		if d.Severity == s {
			n++
		}
	}
	return n
}

// HasErrors reports whether the policy is refused.
func HasErrors(list []Diagnostic) bool {
	return slices.ContainsFunc(list, func(d Diagnostic) bool { return d.Severity == Error })
}

// maxQuoted is how many characters of the user's text a message repeats: the
// source line below it shows the rest.
const maxQuoted = 60

// Quote returns the user's text for a message, in back quotes, shortened, and
// with everything that a terminal would obey replaced.
func Quote(s string) string {
	if s == "" {
		return "nothing"
	}
	var b strings.Builder
	b.WriteByte('`')
	n := 0
	for _, r := range s {
		if n++; n > maxQuoted {
			b.WriteString("...")
			break
		}
		b.WriteRune(printable(r))
	}
	b.WriteByte('`')
	return b.String()
}

// printable replaces control and formatting characters (terminal escapes,
// bidirectional overrides) by U+FFFD.
func printable(r rune) rune {
	if r == ' ' || r != utf8.RuneError && unicode.IsPrint(r) {
		return r
	}
	return utf8.RuneError
}
