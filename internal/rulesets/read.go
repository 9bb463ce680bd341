package rulesets

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// maxNames bounds the files of the folder of a dlc list, which are all searched
// for affiliations: three times the community's folder (1,500 files).
const maxNames = 5_000

var (
	errRegular = errors.New("not a regular file")
	errSize    = fmt.Errorf("larger than %d MiB", lists.MaxSize>>20)
)

// content is what was read of a list.
type content struct {
	data     []byte // of the source
	sum      string // SHA-256 of data, hexadecimal
	elements rules.Elements
	problems []lists.Problem

	etag, lastModified string // of an answer
}

// ReadFile reads the rule-set file that ref names, and keeps no copy. A relative
// name is relative to the working directory. Of a dlc file the folder is read,
// too, but nothing outside of it. The problems are given even with an error.
func ReadFile(ref rules.ListRef, t rules.SetType) (rules.Elements, []lists.Problem, error) {
	l, err := New(Config{}).list(ref, t)
	if err != nil {
		return rules.Elements{}, nil, err
	}
	if l.url != nil {
		return rules.Elements{}, nil, errors.New("a URL is fetched first")
	}
	c, err := l.read()
	if err != nil {
		return rules.Elements{}, c.problems, fmt.Errorf("read %s: %w", l.name, err)
	}
	return c.elements, c.problems, nil
}

// read reads a file, checks its checksum, and parses it.
func (l list) read() (content, error) {
	data, err := readRegular(host{}, l.path, lists.MaxSize)
	if err != nil {
		return content{}, err
	}
	c := content{data: data, sum: sumOf(data)}
	if err := l.verify(c.sum); err != nil {
		return content{}, err
	}
	if l.format != lists.DLC {
		c.elements, c.problems, err = l.parse(data, nil)
		return c, err
	}
	c.elements, c.problems, err = l.parseBeside(data, maxNames)
	return c, err
}

// parseBeside parses a dlc file with what stands beside it, at most limit files.
func (l list) parseBeside(data []byte, limit int) (rules.Elements, []lists.Problem, error) {
	root, err := os.OpenRoot(filepath.Dir(l.path))
	if err != nil {
		return rules.Elements{}, nil, fmt.Errorf("open its folder: %w", cut(err))
	}
	defer root.Close()
	dir := &folder{root: root, limit: limit}
	e, problems, err := l.parse(data, dir)
	if dir.tooMany {
		text := fmt.Sprintf("the folder has more than %d files: those that give entries to this list are not searched", limit)
		problems = append(problems, lists.Problem{Count: 1, Text: text})
	}
	return e, problems, err
}

// opener is a file system: the host's, or one folder that names can't leave.
type opener interface {
	Stat(name string) (fs.FileInfo, error)
	OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error)
}

type host struct{}

func (host) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }
func (host) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}

// readRegular reads a regular file of at most limit bytes.
func readRegular(in opener, name string, limit int) ([]byte, error) {
	f, err := openRegular(in, name, limit)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, limit)
}

// openRegular opens a regular file of at most limit bytes. It does not wait for
// the other end of a pipe and does not open devices, which can act on that.
func openRegular(in opener, name string, limit int) (*os.File, error) {
	info, err := in.Stat(name)
	if err != nil {
		return nil, cut(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errRegular
	}
	f, err := in.OpenFile(name, readFlags, 0)
	if err != nil {
		return nil, cut(err)
	}
	info, err = f.Stat() // it may be another file by now
	switch {
	case err != nil:
		err = cut(err)
	case !info.Mode().IsRegular():
		err = errRegular
	case info.Size() > int64(limit):
		err = errSize
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readBounded reads all of r, which must not be more than limit bytes.
func readBounded(r io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return nil, cut(err)
	case len(b) > limit:
		return nil, errSize
	}
	return b, nil
}

// cut takes the path off an error, which the caller names as people know it.
func cut(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// folder is what stands beside a dlc list.
type folder struct {
	root    *os.Root
	limit   int  // of its files
	tooMany bool // what Names found
}

// Open reads a file of the folder; a symbolic link can't lead out of it.
func (f *folder) Open(name string) ([]byte, error) {
	return readRegular(f.root, name, lists.MaxSize)
}

// Names lists the files of the folder.
func (f *folder) Names() ([]string, error) {
	dir, err := f.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(f.limit + 1)
	if len(names) > f.limit {
		f.tooMany = true
		return nil, errors.New("too many files")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return names, nil
}
