package rulesets

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// cache is the folder of the last good copies. A copy is two files: KEY-SUM.data
// holds it, SUM being its SHA-256, and KEY.json says what it is. The data is
// written first and under a name of its own; the rename of KEY.json is the moment
// at which a copy is replaced, and only then the former data goes. So a crash
// leaves the former copy or the new one, and what rots on the disk is noticed.
type cache struct {
	dir string
	mu  sync.Mutex // over reading and writing of both files
}

// meta is what is known of a copy.
type meta struct {
	Source       string    `json:"source"` // for people; without secrets
	Format       string    `json:"format"` // of the data, for people: the list's own, or list where it was printed
	Sum          string    `json:"sha256"`
	Size         int64     `json:"size"`
	SourceSum    string    `json:"source_sha256"` // of the bytes that the data was made of
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
	Fetched      time.Time `json:"fetched"` // when it was taken from its source
	Checked      time.Time `json:"checked"` // when the source last said that it still is so
}

// maxMeta bounds the file of a meta, in bytes: a source is at most as long as a
// line of a policy.
const maxMeta = 64 << 10

var (
	errNoCache = errors.New("there is no cache folder")
	errMeta    = errors.New("its description is damaged")
	errData    = errors.New("damaged")
)

// sealed is the file of a meta: with a checksum, so that a changed ETag does not
// pass for the one of another version.
type sealed struct {
	Meta json.RawMessage `json:"meta"`
	Sum  string          `json:"sha256"`
}

func (c *cache) metaFile(key string) string { return filepath.Join(c.dir, key+".json") }
func (c *cache) dataFile(key, sum string) string {
	return filepath.Join(c.dir, key+"-"+sum+".data")
}

// read returns a copy that is as it was written; fs.ErrNotExist if there is none.
func (c *cache) read(key string) (data []byte, m meta, err error) {
	m, err = c.open(key, func(m meta) error {
		data, err = readRegular(host{}, c.dataFile(key, m.Sum), lists.MaxSize)
		if err == nil && (int64(len(data)) != m.Size || sumOf(data) != m.Sum) {
			err = errData
		}
		return err
	})
	return data, m, err
}

// check is read for those that do not need the data: it takes no memory.
func (c *cache) check(key string) (meta, error) {
	return c.open(key, func(m meta) error {
		f, err := openRegular(host{}, c.dataFile(key, m.Sum), lists.MaxSize)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		if n, err := io.Copy(sum, f); err != nil || n != m.Size || hex.EncodeToString(sum.Sum(nil)) != m.Sum {
			return errors.Join(errData, err)
		}
		return nil
	})
}

// open reads a meta and looks at its data, again if another process may have
// replaced both in between.
func (c *cache) open(key string, look func(meta) error) (m meta, err error) {
	if c.dir == "" {
		return meta{}, fs.ErrNotExist
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 2 {
		if m, err = c.readMeta(key); err != nil {
			return meta{}, err
		}
		if err = look(m); err == nil {
			return m, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = errData
	}
	return meta{}, err
}

func (c *cache) readMeta(key string) (m meta, err error) {
	b, err := readRegular(host{}, c.metaFile(key), maxMeta)
	if err != nil {
		return meta{}, err
	}
	var s sealed
	if json.Unmarshal(b, &s) != nil || sumOf(s.Meta) != s.Sum || json.Unmarshal(s.Meta, &m) != nil {
		return meta{}, errMeta
	}
	if sum, err := hex.DecodeString(m.Sum); err != nil || len(sum) != sha256.Size {
		return meta{}, errMeta
	}
	return m, nil
}

// write makes a copy the last good one.
func (c *cache) write(key string, data []byte, m meta) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	temp := filepath.Join(c.dir, key+".new")
	if err := durable.ReplaceBy(temp, c.dataFile(key, m.Sum), data); err != nil {
		return err
	}
	if err := c.writeMeta(key, m); err != nil {
		return err
	}
	c.sweep(key, filepath.Base(c.dataFile(key, m.Sum)))
	return nil
}

// touch replaces what is known of a copy, if it is still there: another process
// may have replaced it.
func (c *cache) touch(key string, m meta) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if now, err := c.readMeta(key); err != nil || now.Sum != m.Sum {
		return nil
	}
	return c.writeMeta(key, m)
}

func (c *cache) writeMeta(key string, m meta) error {
	inner, err := json.Marshal(m)
	if err != nil {
		return err
	}
	b, err := json.Marshal(sealed{Meta: inner, Sum: sumOf(inner)})
	if err != nil {
		return err
	}
	if len(b) >= maxMeta {
		return fmt.Errorf("its description is larger than %d KiB", maxMeta>>10)
	}
	return durable.ReplaceBy(filepath.Join(c.dir, key+".new"), c.metaFile(key), append(b, '\n'))
}

// sweep removes data of the key that no meta names any more: the former copy,
// and what a crash left. What can't be removed takes room and does no other harm.
func (c *cache) sweep(key, keep string) {
	entries, _ := os.ReadDir(c.dir)
	for _, e := range entries {
		if name := e.Name(); name != keep && strings.HasPrefix(name, key+"-") {
			_ = os.Remove(filepath.Join(c.dir, name))
		}
	}
}

// lock makes the folder where there is none, and keeps out other writers of this
// process (they wait) and of others (the call fails).
func (c *cache) lock() (unlock func(), err error) {
	if c.dir == "" {
		return nil, errNoCache
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	c.mu.Lock()
	f, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		if err = lockFile(f); err != nil {
			f.Close()
			err = fmt.Errorf("lock %s: %w", c.dir, err)
		}
	}
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	return func() { f.Close(); c.mu.Unlock() }, nil
}

// ready reports whether the folder can be written to, before a list is fetched
// for nothing.
func (c *cache) ready() error {
	unlock, err := c.lock()
	if err == nil {
		unlock()
	}
	return err
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// keep makes what was read the last good copy, unless it already is.
func (s *Store) keep(l list, c content) error {
	if s.cache.dir == "" {
		return nil
	}
	data, format := c.data, l.format
	if l.printed() {
		var err error
		if data, err = printList(c.elements); err != nil {
			return err
		}
		format = lists.List
	}
	now := time.Now().UTC().Truncate(time.Second)
	m := meta{
		Source: l.name, Format: format.String(), Sum: c.sum, Size: int64(len(data)), SourceSum: c.sum,
		ETag: c.etag, LastModified: c.lastModified, Fetched: now, Checked: now,
	}
	if l.printed() {
		m.Sum = sumOf(data)
	}
	was, err := s.cache.check(l.key)
	same := err == nil && was.Sum == m.Sum && was.SourceSum == m.SourceSum
	switch {
	case same && l.url == nil:
		return nil
	case same:
		return s.cache.touch(l.key, m)
	default:
		return s.cache.write(l.key, data, m)
	}
}

// printed reports whether copies of the list are its elements as a plain list:
// those of a dlc file come from all the files that it includes.
func (l list) printed() bool { return l.format == lists.DLC && l.url == nil }

// hasCopy returns what is known of the last good copy, if it is whole and has
// the checksum that the list must have.
func (s *Store) hasCopy(l list) (meta, error) {
	m, err := s.cache.check(l.key)
	if err != nil {
		return meta{}, err
	}
	return m, l.verify(m.SourceSum)
}

// loadCopy reads the elements of the last good copy.
func (s *Store) loadCopy(l list) (rules.Elements, []lists.Problem, meta, error) {
	data, m, err := s.cache.read(l.key)
	if err == nil {
		err = l.verify(m.SourceSum)
	}
	if err != nil {
		return rules.Elements{}, nil, meta{}, err
	}
	if l.printed() {
		l.format, l.ref.Select = lists.List, ""
	}
	e, problems, err := l.parse(data, nil)
	return e, problems, m, err
}
