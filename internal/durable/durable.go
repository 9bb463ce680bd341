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
func ReplaceBy(temp, path string, b []byte) error { return replace(temp, path, b, 0o600, nil) }

// Rewrite replaces a file of the user's: where path is a link, what it leads to; with
// the mode and, where that is allowed, the owner that the file has. A new one gets mode.
// What is no file, such as /dev/null, is written to. The way is by a hidden file beside
// it, whose name ends in .new.
func Rewrite(path string, b []byte, mode fs.FileMode) error {
	if behind, err := filepath.EvalSymlinks(path); err == nil {
		path = behind
	}
	former, err := os.Stat(path)
	if err == nil {
		if !former.Mode().IsRegular() {
			return os.WriteFile(path, b, mode)
		}
		mode = former.Mode().Perm()
	}
	dir, name := filepath.Split(path)
	return replace(filepath.Join(dir, "."+name+".new"), path, b, mode, former)
}

// replace is ReplaceBy with a mode, and the owner of a former file.
func replace(temp, path string, b []byte, mode fs.FileMode, former fs.FileInfo) error {
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if former != nil {
		keepOwner(f, former)
	}
	_, err = f.Write(b)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp)) // a full disk needs the room
	}
	return SyncDir(filepath.Dir(path))
}
