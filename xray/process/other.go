//go:build !linux

package process

import (
	"context"
	"errors"
)

var errLinux = errors.New("xray is managed on Linux only")

// Output needs Linux.
type Output struct{}

// NewOutput fails.
func NewOutput() (*Output, error) { return nil, errLinux }

// Left is an Xray that an earlier run of ours has left.
type Left struct {
	Note []byte
}

// FindLeft finds nothing.
func FindLeft(string) (Left, bool) { return Left{}, false }

// EndLeft finds nothing to end.
func EndLeft(context.Context, string) error { return nil }

// Run fails.
func (s *Supervisor) Run(context.Context) error { return errLinux }

// Status returns the zero Status.
func (s *Supervisor) Status() Status { return Status{} }
