// Package recorder keeps what the daemon records with --record, and reads it
// back: journals of sim, each line an input of the health machine or a flow that
// was decided, in compressed segments that can be replayed each by itself.
//
//	w := recorder.New(recorder.Options{Dir: dir})
//	err := w.Append(lines, true) // begins a segment
//	...
//	names, err := recorder.Files(dir)
//	r, err := recorder.File(names[0])
//
// The folder is bounded: when it holds more than it may, the oldest segments go.
// A crash costs what was written since the last Flush; a segment that ends in
// the middle is read up to there.
package recorder

import (
	"compress/gzip"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/internal/segments"
)

const (
	// Segment is after how many bytes, before compression, a new segment should
	// begin: some ten thousand flows.
	Segment = 8 << 20
	// DefaultMax bounds the folder by default: some million flows.
	DefaultMax = 256 << 20
	suffix     = ".ndjson.gz"
	// pauseAfterError is how long a disk that failed is left alone.
	pauseAfterError = 10 * time.Second
)

// Options say where and how much.
type Options struct {
	Dir string // made, mode 0700, where it is not there
	Max int64  // bytes of all segments; 0: DefaultMax
}

// Writer appends to segments. It is for one goroutine.
type Writer struct {
	folder segments.Folder
	max    int64
	file   *os.File
	gz     *gzip.Writer
	again  time.Time // after an error: when to try again
}

// New returns a writer that has not written yet.
func New(opt Options) *Writer {
	w := &Writer{folder: folder(opt.Dir), max: opt.Max}
	if w.max <= 0 {
		w.max = DefaultMax
	}
	return w
}

// Writing reports whether there is a segment that is written.
func (w *Writer) Writing() bool { return w.gz != nil }

// errPaused is the answer while a disk that failed is left alone.
var errPaused = errors.New("record: the disk failed a moment ago")

// failed gives the present segment up, and the disk a pause. A segment of which nothing has
// reached the disk is removed.
func (w *Writer) failed(err error) error {
	w.again = time.Now().Add(pauseAfterError)
	if w.file != nil {
		if info, e := w.file.Stat(); e == nil && info.Size() == 0 {
			os.Remove(w.file.Name())
		}
		err = errors.Join(err, w.file.Close())
	}
	w.gz, w.file = nil, nil
	return fmt.Errorf("record: %w", err)
}

// Append writes whole lines; fresh ones begin a segment. After an error the
// lines are lost, and the next have to be fresh.
func (w *Writer) Append(lines []byte, fresh bool) error {
	if time.Now().Before(w.again) {
		return errPaused
	}
	if fresh {
		if err := w.begin(); err != nil {
			return w.failed(err)
		}
	}
	if w.gz == nil {
		return errors.New("record: no segment has begun")
	}
	if _, err := w.gz.Write(lines); err != nil {
		return w.failed(err)
	}
	return nil
}

// begin ends the segment so far and starts another.
func (w *Writer) begin() error {
	if err := w.Close(); err != nil {
		return err
	}
	if err := os.MkdirAll(w.folder.Dir, 0o700); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	if err := w.sweep(); err != nil {
		return err
	}
	f, err := w.folder.Create(time.Now())
	if err != nil {
		return fmt.Errorf("begin a recording: %w", err)
	}
	w.file, w.gz = f, gzip.NewWriter(f)
	return nil
}

// Flush brings what was appended to the disk, and removes what is too much.
func (w *Writer) Flush() error {
	if w.gz == nil {
		return nil
	}
	err := w.gz.Flush()
	if err == nil {
		err = w.file.Sync()
	}
	if err == nil {
		err = w.sweep()
	}
	if err != nil {
		return w.failed(err)
	}
	return nil
}

// Close ends the segment.
func (w *Writer) Close() error {
	if w.gz == nil {
		return nil
	}
	err := errors.Join(w.gz.Close(), w.file.Sync(), w.file.Close())
	w.gz, w.file = nil, nil
	if err != nil {
		return fmt.Errorf("end a recording: %w", err)
	}
	return nil
}

// sweep removes the oldest segments, but for the one that is written, until the
// folder holds no more than it may.
func (w *Writer) sweep() error {
	if _, err := w.folder.Sweep(w.max, w.file); err != nil {
		return fmt.Errorf("remove old recordings: %w", err)
	}
	return nil
}

// folder is a folder of recordings.
func folder(dir string) segments.Folder { return segments.Folder{Dir: dir, Suffix: suffix} }

// Files lists what paths hold: of a folder the segments, oldest first.
func Files(paths ...string) ([]string, error) {
	var out []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("read recordings: %w", err)
		}
		if !info.IsDir() {
			out = append(out, p)
			continue
		}
		list, err := folder(p).List()
		if err != nil {
			return nil, fmt.Errorf("read recordings: %w", err)
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("read recordings: %s has none (*%s)", p, suffix)
		}
		for _, one := range list {
			out = append(out, one.Path)
		}
	}
	return out, nil
}

// File opens one file, compressed or not. A segment that was never ended reads
// as far as it goes.
func File(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read a recording: %w", err)
	}
	if !strings.HasSuffix(name, ".gz") {
		return f, nil
	}
	gz, err := gzip.NewReader(f)
	if errors.Is(err, io.EOF) { // nothing was flushed
		return f, nil
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read recording %s: %w", name, err)
	}
	return &segment{gz: gz, f: f}, nil
}

type segment struct {
	gz *gzip.Reader
	f  *os.File
}

// Read takes the end of a segment that was not ended for its end.
func (s *segment) Read(b []byte) (int, error) {
	n, err := s.gz.Read(b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

func (s *segment) Close() error { return errors.Join(s.gz.Close(), s.f.Close()) }

// Mask replaces each label of a name, but for the last, by a keyed hash: equal
// labels stay equal, so that what belongs together still does. The key is made
// anew each time, and kept nowhere.
func Mask() func(name string) string { return NewMasker().Name }

// Masker replaces texts by keyed hashes: equal ones stay equal. Its key is kept nowhere.
type Masker struct{ key []byte }

// NewMasker returns a Masker with a key of its own.
func NewMasker() Masker {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return Masker{key}
}

// Text replaces the whole text.
func (m Masker) Text(s string) string {
	h := hmac.New(sha256.New, m.key)
	io.WriteString(h, s)
	return "x" + strings.ToLower(base32.HexEncoding.EncodeToString(h.Sum(nil)[:5]))
}

// Name replaces each label of a name but for the last.
func (m Masker) Name(name string) string {
	labels := strings.Split(name, ".")
	for i := range labels[:len(labels)-1] {
		labels[i] = m.Text(labels[i])
	}
	return strings.Join(labels, ".")
}
