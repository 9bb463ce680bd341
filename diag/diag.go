// Package diag says where and why a text is wrong, and how to mend it.
// A Diagnostic is a value; text, JSON and SARIF are rendered from it.
//
// Positions are byte offsets inside; people see 1-based lines and characters.
package diag

// Severity orders diagnostics by how much they matter.
type Severity uint8

// The severities. Errors refuse the policy; warnings refuse it under --strict;
// hints never do.
const (
	Hint Severity = iota
	Warning
	Error
)

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
