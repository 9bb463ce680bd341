package diag

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxShown is how many diagnostics the text form shows: more than a screen
	// helps nobody, the first ones are mended first.
	maxShown = 50
	// tabWidth is how many cells a tab takes in an excerpt.
	tabWidth = 4
	// maxExcerpt and beforeCaret bound an excerpt in characters, so that a
	// one-line file of megabytes stays readable.
	maxExcerpt, beforeCaret = 140, 60
)

// Text writes diagnostics for people: place, severity, code and message, the
// source line with carets under the token, help, and notes at their places. The
// list is shown as it is ordered (see Sort); of more than 50 the most severe 50
// are shown. Files without a source are shown without excerpt.
func Text(w io.Writer, list []Diagnostic, sources ...*Source) error {
	r := renderer{w: bufio.NewWriter(w), sources: sourceMap(sources)}
	shown := mostSevere(list, maxShown)
	for _, d := range shown {
		r.head(d.Span, d.Severity.String()+" "+string(d.Code), d.Message)
		r.excerpt(d.Span)
		if d.Help != "" {
			fmt.Fprintf(r.w, "  help: %s\n", d.Help)
		}
		for _, n := range d.Notes {
			r.head(n.Span, "note", n.Message)
			r.excerpt(n.Span)
		}
	}
	if len(list) > len(shown) {
		fmt.Fprintf(r.w, "... and %d more\n", len(list)-len(shown))
	}
	if err := r.w.Flush(); err != nil {
		return fmt.Errorf("write diagnostics: %w", err)
	}
	return nil
}

// mostSevere returns at most n of list in their order, errors before warnings
// before hints, so that an error at the end is not hidden by hints above it.
func mostSevere(list []Diagnostic, n int) []Diagnostic {
	if len(list) <= n {
		return list
	}
	var room [Error + 1]int // how many of each severity are shown
	for s := Error; ; s-- {
		room[s] = min(n, Count(list, s))
		if n -= room[s]; s == Hint {
			break
		}
	}
	var shown []Diagnostic
	for _, d := range list {
		if room[d.Severity] > 0 {
			room[d.Severity]--
			shown = append(shown, d)
		}
	}
	return shown
}

func sourceMap(sources []*Source) map[string]*Source {
	m := make(map[string]*Source, len(sources))
	for _, s := range sources {
		m[s.Name] = s
	}
	return m
}

type renderer struct {
	w       *bufio.Writer
	sources map[string]*Source
}

func (r *renderer) head(span Span, label, message string) {
	if s := r.sources[span.File]; s != nil {
		line, column := s.Position(span.Start)
		fmt.Fprintf(r.w, "%s:%d:%d: ", span.File, line, column)
	} else if span.File != "" {
		fmt.Fprintf(r.w, "%s: ", span.File)
	}
	fmt.Fprintf(r.w, "%s: %s\n", label, message)
}

// excerpt writes the source line and carets under the span's part of it.
func (r *renderer) excerpt(span Span) {
	s := r.sources[span.File]
	if s == nil {
		return
	}
	line, _ := s.Position(span.Start)
	start, end := s.LineStart(line), s.LineEnd(line)
	from := min(max(span.Start, start), end)
	to := min(max(span.End, from), end)
	const window = 2 * maxExcerpt * utf8.UTFMax // bytes; more is never shown
	start, end = max(start, from-window), min(end, to+window)
	text, pad, carets := layout(string(s.Text[start:from]), string(s.Text[from:min(to, from+window)]), string(s.Text[to:end]))
	number := strconv.Itoa(line)
	fmt.Fprintf(r.w, " %s | %s\n", number, text)
	fmt.Fprintf(r.w, " %s | %s%s\n", strings.Repeat(" ", len(number)), strings.Repeat(" ", pad), strings.Repeat("^", carets))
}

// layout returns the line as shown, and how many cells lie before and under the
// token. Tabs become spaces; what a terminal would obey is replaced.
func layout(before, token, after string) (text string, pad, carets int) {
	if longer(before, token, after) {
		before = tail(before, beforeCaret)
		rest := maxExcerpt - utf8.RuneCountInString(before)
		token, rest = head(token, rest)
		after, _ = head(after, rest)
	}
	var b strings.Builder
	pad = writeCells(&b, before, 0)
	end := writeCells(&b, token, pad)
	writeCells(&b, after, end)
	return strings.TrimRight(b.String(), " "), pad, max(end-pad, 1)
}

// longer reports whether the parts together exceed an excerpt. It reads no more
// of them than that takes.
func longer(parts ...string) bool {
	bytes, chars := 0, 0
	for _, p := range parts {
		bytes += len(p)
	}
	if bytes <= maxExcerpt || bytes > maxExcerpt*utf8.UTFMax {
		return bytes > maxExcerpt
	}
	for _, p := range parts {
		chars += utf8.RuneCountInString(p)
	}
	return chars > maxExcerpt
}

// tail returns the last n characters of s, with an ellipsis where some are left out.
func tail(s string, n int) string {
	i := len(s)
	for ; n > 0 && i > 0; n-- {
		_, size := utf8.DecodeLastRuneInString(s[:i])
		i -= size
	}
	if i == 0 {
		return s
	}
	return "..." + s[i:]
}

// head returns the first n characters of s, with an ellipsis where some are
// left out, and how many of the n are left.
func head(s string, n int) (string, int) {
	i := 0
	for ; n > 0 && i < len(s); n-- {
		_, size := utf8.DecodeRuneInString(s[i:])
		i += size
	}
	if i == len(s) || i == 0 {
		return s[:i], n
	}
	return s[:i] + "...", 0
}

// writeCells writes s from cell at on, and returns the cell behind it.
func writeCells(b *strings.Builder, s string, at int) int {
	for _, r := range s {
		if r == '\t' {
			n := tabWidth - at%tabWidth
			b.WriteString(strings.Repeat(" ", n))
			at += n
			continue
		}
		w := cells(r)
		if w > 0 || unicode.Is(unicode.Mn, r) {
			r = printable(r)
		} else {
			r, w = utf8.RuneError, 1
		}
		b.WriteRune(r)
		at += w
	}
	return at
}

// wide holds the ranges that terminals draw two cells wide (Unicode UAX #11,
// classes W and F, and the emoji blocks).
var wide = [...][2]rune{
	{0x1100, 0x115f},
	{0x2e80, 0x303e},
	{0x3041, 0x33ff},
	{0x3400, 0x4dbf},
	{0x4e00, 0x9fff},
	{0xa000, 0xa4cf},
	{0xa960, 0xa97f},
	{0xac00, 0xd7a3},
	{0xf900, 0xfaff},
	{0xfe30, 0xfe6f},
	{0xff01, 0xff60},
	{0xffe0, 0xffe6},
	{0x1f300, 0x1f64f},
	{0x1f680, 0x1f6ff},
	{0x1f900, 0x1f9ff},
	{0x20000, 0x3fffd},
}

// cells is how many terminal cells a character takes: 0, 1 or 2.
func cells(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
		return 0
	}
	for _, w := range wide {
		if r >= w[0] && r <= w[1] {
			return 2
		}
	}
	return 1
}
