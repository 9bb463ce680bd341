//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
)

// inspectLive needs sources that only Linux has so far.
func inspectLive(context.Context, io.Writer, bool) error {
	return errors.New("inspect --live works on Linux only")
}
