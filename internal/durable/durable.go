// Package durable replaces files in such a way that after a crash at any moment
// there is the former content or the new one.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace writes b to path, mode 0600, by way of path with .new behind it.
func Replace(path string, b []byte) error { return ReplaceBy(path+".new", path, b) }

// ReplaceBy writes b to temp, mode 0600, and renames it to path, which must be in the
// same folder; both are durable when it returns. What a crash left at temp is
// overwritten, and nothing is left there when it fails.
func ReplaceBy(temp, path string, b []byte) error {
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return SyncDir(filepath.Dir(path))
}
