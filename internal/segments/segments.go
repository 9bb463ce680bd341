// Package segments numbers the files of a folder that is written one file after the other, and bounds it.
//
//	f := segments.Folder{Dir: dir, Prefix: "decisions-", Suffix: ".ndjson.gz"}
//	file, err := f.Create(time.Now()) // decisions-0000000042-20260101T120000Z.ndjson.gz
//	bytes, err := f.Sweep(256<<20, file)
//
// The number, which is one more than that of the file before, is the order in which they were written; the time
// in the name is what the clock said. A clock may be wrong, and be set back.
package segments

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Folder says where the files are, and how their names begin and end. Files of other names are nobody's business here.
type Folder struct{ Dir, Prefix, Suffix string }

// File is one of the files.
type File struct {
	Path   string
	Number uint64 // 0 for names that begin with the time, as they did once
	Size   int64  // bytes
}

// List returns the files in the order in which they were written.
func (f Folder) List() ([]File, error) {
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		return nil, err
	}
	var list []File
	for _, e := range entries {
		name := e.Name()
		if !e.Type().IsRegular() || !strings.HasPrefix(name, f.Prefix) || !strings.HasSuffix(name, f.Suffix) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // somebody took it away
		}
		digits, _, _ := strings.Cut(strings.TrimPrefix(name, f.Prefix), "-")
		number, err := strconv.ParseUint(digits, 10, 63)
		if err != nil {
			number = 0
		}
		list = append(list, File{filepath.Join(f.Dir, name), number, info.Size()})
	}
	slices.SortFunc(list, func(a, b File) int { return cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.Path, b.Path)) })
	return list, nil
}

// Create makes the next file, mode 0600, whose content begins at the given time.
func (f Folder) Create(at time.Time) (*os.File, error) {
	list, err := f.List()
	if err != nil {
		return nil, err
	}
	number := uint64(1)
	if n := len(list); n > 0 {
		number += list[n-1].Number
	}
	name := fmt.Sprintf("%s%010d-%s%s", f.Prefix, number, at.UTC().Format("20060102T150405Z"), f.Suffix)
	return os.OpenFile(filepath.Join(f.Dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
}

// Sweep removes the first files until all together are no larger than most, and returns how much the others
// take. The one that is written, if any, stays, with what comes after it.
func (f Folder) Sweep(most int64, writing *os.File) (total int64, err error) {
	list, err := f.List()
	if err != nil {
		return 0, err
	}
	for _, one := range list {
		total += one.Size
	}
	for _, one := range list {
		if total <= most || writing != nil && one.Path == writing.Name() {
			break
		}
		if err := os.Remove(one.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return total, err
		}
		total -= one.Size
	}
	return total, nil
}
