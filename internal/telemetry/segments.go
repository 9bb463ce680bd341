package telemetry

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/internal/segments"
)

const (
	// segmentSize is after how many bytes, before compression, another segment begins.
	segmentSize = 8 << 20
	// segmentAge is after how long one does.
	segmentAge = time.Hour
	// flushEvery is how much a crash may cost; flash has to be written to rarely.
	flushEvery = 5 * time.Second
	// pauseAfterError is how long a disk that failed is left alone.
	pauseAfterError = 10 * time.Second
	// roomAfterError has to fit on a disk that failed before it is taken to work again: what was cut off
	// may have left a page.
	roomAfterError = 64 << 10

	segmentPrefix = "decisions-"
	segmentSuffix = ".ndjson.gz"
	// DefaultSegments bounds all segments together, in bytes.
	DefaultSegments = 256 << 20
)

// Segments are files of decision records: gzip of NDJSON, so that zcat reads them, each named as package segments
// does, with the time of its first record. A segment that a crash cut off reads as far as it goes.
// The oldest are removed when all together are larger than they may be. It is for one goroutine.
type Segments struct {
	folder segments.Folder
	most   int64
	file   *os.File
	gz     *gzip.Writer
	size   int // of the present one, before compression
	began  time.Time
	again  time.Time    // after an error: when to try again
	bytes  atomic.Int64 // of all segments, when they were looked at last
	// flushed is how much of the file holds whole records, and waiting how many records came since.
	flushed int64
	waiting int
	lost    int
}

// Bytes is how much all segments took when they were looked at last. It may be called at any time.
func (s *Segments) Bytes() int64 { return s.bytes.Load() }

// NewSegments returns segments in a folder, which is made with mode 0700 where there is none. most bounds
// the bytes of all segments; 0 means DefaultSegments.
func NewSegments(dir string, most int64) *Segments {
	if most <= 0 {
		most = DefaultSegments
	}
	return &Segments{folder: segments.Folder{Dir: dir, Prefix: segmentPrefix, Suffix: segmentSuffix}, most: most}
}

// Lost returns how many records were not, or will not be, on the disk since it was asked last.
func (s *Segments) Lost() int {
	n := s.lost
	s.lost = 0
	return n
}

// prepare makes the folder.
func (s *Segments) prepare() error {
	if err := os.MkdirAll(s.folder.Dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of decision records: %w", err)
	}
	return nil
}

// errPaused is the answer while a disk that failed is left alone.
var errPaused = errors.New("the disk failed a moment ago")

// Append writes one record, a line without its end, which was made at the given time. It is on the
// disk after the next Flush or Close without an error; after one it, and all since the last Flush, are Lost.
func (s *Segments) Append(line []byte, at time.Time) error {
	if s.paused() {
		s.lost++
		return errPaused
	}
	if s.gz == nil || s.size >= segmentSize || time.Since(s.began) >= segmentAge {
		if err := s.begin(at); err != nil {
			s.lost++
			return s.failed(err)
		}
	}
	s.waiting++
	if _, err := s.gz.Write(line); err != nil {
		return s.failed(err)
	}
	if _, err := s.gz.Write([]byte{'\n'}); err != nil {
		return s.failed(err)
	}
	s.size += len(line) + 1
	return nil
}

// paused reports whether the disk is left alone.
func (s *Segments) paused() bool { return time.Now().Before(s.again) }

// Resume begins a segment after an error, without a record, to see whether the disk works again. An error
// means that it does not, or is left alone still.
func (s *Segments) Resume() error {
	switch {
	case s.gz != nil:
		return nil
	case s.paused():
		return errPaused
	}
	err := s.begin(time.Now())
	if err == nil {
		if _, err = s.file.WriteAt(make([]byte, roomAfterError), 0); err == nil {
			err = s.file.Truncate(0)
		}
	}
	if err != nil {
		return s.failed(err)
	}
	return nil
}

// failed gives the present segment up. What came since the last flush is lost as a whole: what
// of it has reached the file is cut off, and a file in which nothing is left is removed.
func (s *Segments) failed(err error) error {
	s.again = time.Now().Add(pauseAfterError)
	s.lost, s.waiting = s.lost+s.waiting, 0
	if s.file != nil {
		cut := s.file.Truncate(s.flushed)
		if s.flushed == 0 {
			cut = os.Remove(s.file.Name())
		}
		err = errors.Join(err, cut, s.file.Close())
	}
	s.file, s.gz, s.flushed = nil, nil, 0
	return fmt.Errorf("write decision records: %w", err)
}

// begin ends the segment so far and starts another.
func (s *Segments) begin(at time.Time) error {
	if err := errors.Join(s.end(), s.prepare()); err != nil {
		return err
	}
	if err := s.sweep(); err != nil {
		return err
	}
	f, err := s.folder.Create(at)
	if err != nil {
		return err
	}
	gz, _ := gzip.NewWriterLevel(f, gzip.BestSpeed) // the level is one that exists
	s.file, s.gz, s.size, s.began, s.flushed = f, gz, 0, time.Now(), 0
	return nil
}

// Flush brings what was appended to the disk, and removes what is too much.
func (s *Segments) Flush() error {
	if s.gz == nil {
		return nil
	}
	err := s.gz.Flush()
	if err == nil {
		s.waiting = 0
		s.flushed, err = s.file.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		err = s.sweep()
	}
	if err != nil {
		return s.failed(err)
	}
	return nil
}

// Close ends the present segment.
func (s *Segments) Close() error {
	if err := s.end(); err != nil {
		return s.failed(err)
	}
	return nil
}

// end ends the present segment; one without a record is removed. After an error it is still there, to be given up.
func (s *Segments) end() error {
	if s.gz == nil {
		return nil
	}
	if err := errors.Join(s.gz.Close(), s.file.Sync()); err != nil {
		return err
	}
	err := s.file.Close()
	if s.size == 0 {
		err = errors.Join(err, os.Remove(s.file.Name()))
	}
	s.file, s.gz, s.flushed, s.waiting = nil, nil, 0, 0
	return err
}

// sweep removes the oldest segments until all together are no larger than they may be. The
// one that is written stays.
func (s *Segments) sweep() error {
	total, err := s.folder.Sweep(s.most, s.file)
	if err != nil {
		return err
	}
	s.bytes.Store(total)
	return nil
}
