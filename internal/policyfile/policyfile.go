// Package policyfile reads policies from this machine: the file, what it imports,
// and the lists of its sets. All commands and the daemon read through it.
package policyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"netpolicy.dev/netpolicy/internal/rulesets"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
)

// Stdin is the name of a policy that is read from standard input.
const Stdin = "-"

// Read reads one file, or stdin for "-". Of a file that is too large for a policy
// it returns one byte more than the most, which is enough for the error about it.
func Read(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != Stdin {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read policy: %w", err)
		}
		defer f.Close()
		r = f
	}
	src, err := io.ReadAll(io.LimitReader(r, load.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", name, err)
	}
	return src, nil
}

// Load reads and checks a policy with its imports and lists. lists is nil for a
// store that reads the files beside the policy and keeps no copies. An error is
// about the main file alone; everything else is a diagnostic.
func Load(name string, stdin io.Reader, lists rules.Lists) (load.Result, error) {
	src, err := Read(name, stdin)
	if err != nil {
		return load.Result{}, err
	}
	return Check(name, src, lists), nil
}

// Check is Load for a main file that has been read.
func Check(name string, src []byte, lists rules.Lists) load.Result {
	if lists == nil {
		lists = Lists(name, "")
	}
	return load.Policy(name, src, load.Options{Read: Import, Lists: lists})
}

// Lists returns the store for a policy's lists, whose last good copies are kept in
// the folder cache; "" keeps none.
func Lists(policy, cache string) *rulesets.Store {
	return rulesets.New(rulesets.Config{Policy: filepath.Dir(policy), Cache: cache})
}

// Import reads an imported file. Its errors stand behind the file's name.
func Import(name string) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, cause(err)
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	}
	src, err := Read(name, nil)
	if err != nil {
		return nil, cause(err)
	}
	return src, nil
}

// cause drops the operation and the path, which the diagnostic has.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
