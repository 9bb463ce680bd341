// Package foreign turns configurations of other programs into NPL, with a
// report that says of every construct whether it was carried over.
//
//	r, err := foreign.Import("clash", "config.yaml", src)
//	// r.NPL is the policy, r.Report has one line for each construct
//
// It knows Clash and mihomo ("clash", YAML), sing-box ("singbox", JSON with
// comments) and mwan3 ("mwan3", UCI). It guarantees that the NPL parses and
// declares all it names; that first match stays first match; that a rule with a
// condition that can't be said is left out whole, never widened; and that what was
// left out has a line in the report. It is pure and bounded: MaxInput bytes in,
// MaxOutput bytes out.
package foreign

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	// MaxInput bounds a configuration, in bytes: some ten times the largest
	// that people publish.
	MaxInput = 4 << 20
	// MaxOutput bounds the policy, in bytes: a policy that is larger can't be
	// read (language.md, section 2).
	MaxOutput = 8 << 20
	// maxItems bounds what one configuration can make: a YAML alias or a shared
	// list of rules repeats its content as often as it is named.
	maxItems = 200_000
	// maxDepth bounds nested logical rules, aliases and JSON values.
	maxDepth = 32
)

// Verdict says what became of a construct.
type Verdict string

// The verdicts.
const (
	Carried      Verdict = "carried"      // the same meaning
	Approximated Verdict = "approximated" // nearly: Why says what differs
	Dropped      Verdict = "dropped"      // not in the policy: Why says why
)

// Line is the report on one construct of the input.
type Line struct {
	Line    int     `json:"line"` // in the input, from 1
	Text    string  `json:"text"` // the construct, shortened
	Verdict Verdict `json:"verdict"`
	Why     string  `json:"why,omitempty"`
	To      string  `json:"to,omitempty"` // where it went: "rule ads_12", "group auto"
}

// String returns the line as people read it.
func (l Line) String() string {
	s := strconv.Itoa(l.Line) + ": " + string(l.Verdict) + ": " + l.Text
	if l.To != "" {
		s += " -> " + l.To
	}
	if l.Why != "" {
		s += " (" + l.Why + ")"
	}
	return s
}

// Result is a policy and the report on how it came about, sorted by line.
type Result struct {
	NPL    []byte
	Report []Line
}

// Count returns how many constructs have the verdict.
func (r Result) Count(v Verdict) int {
	n := 0
	for _, l := range r.Report {
		if l.Verdict == v {
			n++
		}
	}
	return n
}

// Error is input that can't be read, and where.
type Error struct {
	Name string
	Line int // 0: the file as a whole
	Text string
}

func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", e.Name, e.Line, e.Text)
	}
	return e.Name + ": " + e.Text
}

// Formats are the names that Import takes.
func Formats() []string { return []string{"clash", "singbox", "mwan3"} }

// Import turns a configuration of the program from, one of Formats, into a
// policy. name is for messages and comments. The error is an *Error, or from is
// not known.
func Import(from, name string, src []byte) (Result, error) {
	readers := map[string]func(*builder, []byte) error{"clash": importClash, "singbox": importSingbox, "mwan3": importMwan3}
	read := readers[from]
	if read == nil {
		return Result{}, fmt.Errorf("from %s: the formats are clash, singbox and mwan3", strconv.Quote(from))
	}
	b := newBuilder(from, name)
	switch {
	case len(src) > MaxInput:
		return Result{}, b.fail(0, "larger than %d MiB", MaxInput>>20)
	case !utf8.Valid(src) || bytes.IndexByte(src, 0) >= 0:
		return Result{}, b.fail(0, "not a text in UTF-8")
	}
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	if err := read(b, src); err != nil {
		return Result{}, err
	}
	npl, err := b.npl()
	if err != nil {
		return Result{}, err
	}
	slices.SortStableFunc(b.report, func(x, y Line) int { return cmp.Compare(x.Line, y.Line) })
	return Result{NPL: npl, Report: b.report}, nil
}
