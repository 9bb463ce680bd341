package print

import (
	"bytes"
	"unicode/utf8"

	lexer "netpolicy.dev/netpolicy/rules/npl"
)

// align returns out, a text in NPL, with the wider gaps between words that its
// source src has where they line a word up with one in the line above or below. A
// gap stays as long as that is so in the result, which makes the printer idempotent.
func align(src, out []byte) []byte {
	if !hasWideGap(src) {
		return out
	}
	lines := cut(out)
	match(cut(src), lines)
	for changed := true; changed; {
		changed = false
		for i := range lines {
			for k := range lines[i].gaps {
				if g := &lines[i].gaps[k]; g.now > g.usual && !linedUp(lines, i, k) {
					g.now, changed = g.usual, true
				}
			}
		}
	}
	var b bytes.Buffer
	b.Grow(len(out))
	for i := range lines {
		l := &lines[i]
		for range l.indent {
			b.WriteByte(' ')
		}
		for k, w := range l.words {
			if k > 0 {
				for range l.gaps[k-1].now {
					b.WriteByte(' ')
				}
			}
			b.Write(w)
		}
		if i < len(lines)-1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// hasWideGap reports whether more than one blank stands between words of a line, as
// is rare in files that programs write: large ones need not be cut into words.
func hasWideGap(text []byte) bool {
	for len(text) > 0 {
		l := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			l, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		l = bytes.Trim(l, " \t\r")
		if bytes.Contains(l, []byte("  ")) || bytes.IndexByte(l, '\t') >= 0 {
			return true
		}
	}
	return false
}

// line is one line of a text: its tokens, and the blanks between each and the next.
type line struct {
	indent int
	words  [][]byte
	gaps   []gap
}

// gap is how many blanks the printer puts, and how many there are to be.
type gap struct{ usual, now int }

// cut splits a text into lines. A text that ends with a newline has an empty last one.
func cut(text []byte) []line {
	lines := make([]line, 1, 1+bytes.Count(text, []byte{'\n'}))
	blanks := 0
	for _, t := range lexer.Lex(text) {
		l := &lines[len(lines)-1]
		switch {
		case t.Kind == lexer.Newline:
			lines, blanks = append(lines, line{}), 0
		case t.Kind == lexer.Space:
			blanks += t.End - t.Start
		default:
			if len(l.words) == 0 {
				l.indent = blanks
			} else {
				l.gaps = append(l.gaps, gap{blanks, blanks})
			}
			l.words, blanks = append(l.words, text[t.Start:t.End]), 0
		}
	}
	return lines
}

// match gives the lines of the result the wider gaps of the lines of the source that
// have the same words, in order.
func match(src, out []line) {
	where := map[string][]int{} // the lines of src with these words, in order
	for i := range src {
		if len(src[i].words) > 1 {
			key := string(bytes.Join(src[i].words, []byte{0}))
			where[key] = append(where[key], i)
		}
	}
	last := -1
	for i := range out {
		if len(out[i].words) < 2 {
			continue
		}
		key := string(bytes.Join(out[i].words, []byte{0}))
		list := where[key]
		for len(list) > 0 && list[0] <= last {
			list = list[1:]
		}
		where[key] = list
		if len(list) == 0 {
			continue
		}
		last = list[0]
		for k := range out[i].gaps {
			if g := &out[i].gaps[k]; g.usual > 0 {
				g.now = max(g.usual, src[last].gaps[k].now)
			}
		}
	}
}

// linedUp reports whether the word behind a gap begins in the column of one in a
// line next to it.
func linedUp(lines []line, i, k int) bool {
	l := &lines[i]
	at := column(l, k+1)
	for _, n := range []int{i - 1, i + 1} {
		if n < 0 || n >= len(lines) || lines[n].indent != l.indent {
			continue
		}
		for j := 1; j < len(lines[n].words); j++ {
			if c := column(&lines[n], j); c >= at {
				if c == at {
					return true
				}
				break
			}
		}
	}
	return false
}

// column returns the column of a word, from the line's first, in characters.
func column(l *line, word int) int {
	at := 0
	for k := range word {
		at += utf8.RuneCount(l.words[k]) + l.gaps[k].now
	}
	return at
}
