//go:build unix

package durable

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives f the owner of former where that is allowed: who may not, still
// may write the file.
func keepOwner(f *os.File, former fs.FileInfo) {
	if s, ok := former.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(s.Uid), int(s.Gid))
	}
}
