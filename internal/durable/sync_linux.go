package durable

import (
	"errors"
	"os"
)

// SyncDir makes renames and removals in a folder durable.
func SyncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
