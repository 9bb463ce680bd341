//go:build !linux

package lab

import (
	"context"
	"io"
)

// RunDirs needs Linux.
func RunDirs(context.Context, Options, *Printer, ...string) error { return ErrUnsupported }

// Up needs Linux.
func Up(context.Context, Options, *Printer, string, bool, io.Reader) error { return ErrUnsupported }

// Clean finds nothing: there are no labs here.
func Clean() ([]string, error) { return nil, nil }
