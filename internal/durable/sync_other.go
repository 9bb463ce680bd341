//go:build !linux

package durable

// SyncDir does nothing: where folders can't be synced the rename is all there is.
func SyncDir(string) error { return nil }
