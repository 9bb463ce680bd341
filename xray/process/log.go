package process

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
)

const (
	// keptLines and longestLine bound what is kept of the log in memory.
	keptLines   = 200
	longestLine = 2 << 10
	// readSize and maxReads bound what is read at a time, 4 MiB: who prints without end must
	// not keep us from everything else.
	readSize = 16 << 10
	maxReads = 256
	// fileSize is when a log file is put aside, and keptFiles how many of those there are.
	fileSize  = 1 << 20
	keptFiles = 2
)

// journal takes what Xray prints, line by line, without secrets.
type journal struct {
	mu      sync.Mutex
	from    io.Reader // what is followed, io.EOF being that there is no more for now; nil is nothing
	lines   []string
	next    int // where the next line goes once the ring is full
	partial []byte
	secrets *strings.Replacer
	out     io.Writer
	path    string // "" is no file
	file    *os.File
	size    int64
}

// follow takes the output of another process from now on; nil is none. What is left
// of the one before is taken first.
func (j *journal) follow(from io.Reader) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.read()
	if len(j.partial) > 0 {
		j.line(string(j.partial))
		j.partial = j.partial[:0]
	}
	j.from = from
}

// pull takes what was printed since the last time.
func (j *journal) pull() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.read()
}

func (j *journal) read() {
	if j.from == nil {
		return
	}
	var buf [readSize]byte
	for range maxReads {
		n, err := j.from.Read(buf[:])
		j.take(buf[:n])
		if n == 0 || err != nil {
			return
		}
	}
}

// hide sets what is replaced by *** from now on, in the order of config.Secrets:
// the longest first.
func (j *journal) hide(secrets []string) {
	pairs := make([]string, 0, 2*len(secrets))
	for _, s := range secrets {
		pairs = append(pairs, s, "***")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.secrets = strings.NewReplacer(pairs...)
}

// Write takes output of Xray. It never fails: a full disk must not stop it.
func (j *journal) Write(data []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.take(data)
	return len(data), nil
}

func (j *journal) take(data []byte) {
	for _, c := range data {
		if c == '\n' {
			j.line(string(j.partial))
			j.partial = j.partial[:0]
		} else if len(j.partial) < longestLine {
			j.partial = append(j.partial, c)
		}
	}
}

func (j *journal) line(s string) {
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if j.secrets != nil {
		s = j.secrets.Replace(s)
	}
	if len(j.lines) < keptLines {
		j.lines = append(j.lines, s)
	} else {
		j.lines[j.next] = s
		j.next = (j.next + 1) % keptLines
	}
	if j.out != nil {
		_, _ = io.WriteString(j.out, s+"\n")
	}
	j.toFile(s)
}

// tail returns the lines that are kept, the oldest first.
func (j *journal) tail() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.read()
	return append(slices.Clone(j.lines[j.next:]), j.lines[:j.next]...)
}

// last returns the last line that is not empty.
func (j *journal) last() string {
	lines := j.tail()
	for _, line := range slices.Backward(lines) {
		if line != "" {
			return line
		}
	}
	return ""
}

func (j *journal) toFile(s string) {
	if j.path == "" {
		return
	}
	if j.file != nil && j.size > fileSize {
		j.file.Close()
		j.file = nil
		for i := keptFiles; i > 1; i-- {
			_ = os.Rename(fmt.Sprintf("%s.%d", j.path, i-1), fmt.Sprintf("%s.%d", j.path, i))
		}
		_ = os.Rename(j.path, j.path+".1")
	}
	if j.file == nil {
		file, err := os.OpenFile(j.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return // the ring has the line
		}
		j.file, j.size = file, 0
		if info, err := file.Stat(); err == nil {
			j.size = info.Size()
		}
	}
	n, _ := j.file.WriteString(s + "\n")
	j.size += int64(n)
}

// close takes the last lines and lets go of everything.
func (j *journal) close() {
	j.follow(nil)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
}
