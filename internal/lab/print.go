package lab

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Printer writes what happens as it happens. It is safe for concurrent use.
type Printer struct {
	mu     sync.Mutex
	w      io.Writer
	colour bool
	quiet  bool
	start  time.Time
}

// NewPrinter writes to w, in colour if w is a terminal and NO_COLOR is not set;
// quiet leaves out everything but results and failures.
func NewPrinter(w io.Writer, quiet bool) *Printer {
	p := &Printer{w: w, quiet: quiet, start: time.Now()}
	if f, ok := w.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		p.colour = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// The kinds of line, as terminal attributes (ECMA-48, SGR).
const (
	plain   = ""
	dim     = "2"
	bold    = "1"
	green   = "32"
	yellow  = "33"
	magenta = "35"
	cyan    = "36"
	red     = "1;31" // failures alone: quiet shows them
)

// line writes one line with the time since the beginning and a label.
func (p *Printer) line(attr, label, format string, args ...any) {
	if p.quiet && attr != red {
		return
	}
	p.write(attr, label, format, args...)
}

// result writes a line that quiet keeps.
func (p *Printer) result(attr, label, format string, args ...any) {
	p.write(attr, label, format, args...)
}

func (p *Printer) write(attr, label, format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	head := fmt.Sprintf("%7.2fs  %-9s ", time.Since(p.start).Seconds(), label)
	text = strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", len(head)))
	if p.colour && attr != plain {
		text = "\x1b[" + attr + "m" + text + "\x1b[0m"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.w, head+text)
}
