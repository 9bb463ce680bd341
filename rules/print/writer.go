package print

import (
	"bytes"
	"unicode/utf8"
)

// width is how many columns a line may take before it is broken.
const width = 100

// step is one level of indentation.
const step = 2

// writer is the text printed so far.
type writer struct {
	b    []byte
	line int // the offset of the last line's first byte
}

func (w *writer) str(s string) { w.b = append(w.b, s...) }

// strs writes words with blanks between.
func (w *writer) words(list ...string) {
	for i, s := range list {
		if i > 0 {
			w.str(" ")
		}
		w.str(s)
	}
}

func (w *writer) newline() {
	w.str("\n")
	w.line = len(w.b)
}

// blank ends the line and adds an empty one; never two, and none at the start.
func (w *writer) blank() {
	if len(w.b) > 0 && !bytes.HasSuffix(w.b, []byte("\n\n")) {
		w.newline()
	}
}

func (w *writer) indent(n int) {
	const blanks = "                                                                "
	for n > len(blanks) {
		w.str(blanks)
		n -= len(blanks)
	}
	w.str(blanks[:n])
}

// column is how many characters stand on the last line.
func (w *writer) column() int { return utf8.RuneCount(w.b[w.line:]) }

// full reports a line that is too long.
func (w *writer) full() bool { return len(w.b)-w.line > width && w.column() > width }

// mark and reset take back what was tried.
func (w *writer) mark() (at, line int) { return len(w.b), w.line }

func (w *writer) reset(at, line int) { w.b, w.line = w.b[:at], line }

// own writes comments on lines of their own. The line must be at its start, and
// is so afterwards. first says that nothing stands before them in their block:
// there is no empty line then.
func (w *writer) own(list []note, indent int, first bool) {
	for i, n := range list {
		if n.blank && (i > 0 || !first) {
			w.blank()
		}
		w.indent(indent)
		w.str(n.text)
		w.newline()
	}
}

// trail writes a comment at the end of a line.
func (w *writer) trail(list []note) {
	if len(list) > 0 {
		w.str(" ")
		w.str(list[0].text)
	}
}
