//go:build !linux || !(amd64 || arm64)

package ebpf

import (
	"context"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/inspector"
)

// Source is an inspector.Source.
type Source struct{ Counters Counters }

// New returns a source that can't run.
func New(Options) *Source { return &Source{} }

// Run implements inspector.Source.
func (s *Source) Run(context.Context, func(inspector.Event)) error { return ErrUnsupported }

// Features returns nothing.
func (s *Source) Features() []Feature { return nil }

// Enforce can't.
func (s *Source) Enforce(*actions.Connect) error { return ErrUnsupported }

// Detect tells what a source could serve here.
func Detect(Options) ([]Feature, error) { return nil, ErrUnsupported }
