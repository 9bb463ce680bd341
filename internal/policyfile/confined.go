package policyfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
)

// LoadConfined is Load for a policy whose sender must not read files of this host by
// naming them. Besides the bundle's it gets those that the policy in force has, and those
// in the folder of config or below, without following a link out of it. What is wrong
// within one of the latter, which may be no policy and no list at all, is told
// without its text.
func (b *Bundle) LoadConfined(config, cache, scratch string, inForce *rules.Policy) (load.Result, error) {
	c := confined{filepath.Dir(config), inForce, Lists(config, cache)}
	r, err := b.load(config, scratch, c.Read, c)
	if err != nil {
		return r, err
	}
	for i := range r.Diags {
		d := &r.Diags[i]
		rel, _ := below(c.dir, d.Span.File)
		if _, sent := b.Files[rel]; sent || d.Span.File == config || d.Span.File == "" || slices.Contains(inForce.Files, d.Span.File) {
			continue
		}
		d.Message, d.Help, d.Notes = "something is wrong in this file, whose text is not shown here", "", nil
	}
	return r, nil
}

// confined are the files of this host that a policy of a stranger may have.
type confined struct {
	dir     string
	inForce *rules.Policy
	disk    rules.Lists
}

// Read returns the text of an import.
func (c confined) Read(name string) ([]byte, error) {
	if slices.Contains(c.inForce.Files, name) {
		return Import(name)
	}
	rel, err := Reaches(c.dir, name)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return nil, cause(err)
	}
	defer root.Close()
	f, err := root.Open(rel)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, load.MaxSize+1))
}

// Load returns the elements of a list.
func (c confined) Load(ref rules.ListRef, t rules.SetType) (rules.Elements, []string, error) {
	known := slices.ContainsFunc(c.inForce.Sets, func(s *rules.Set) bool { return s.List.File == ref.File && s.List.Format == ref.Format })
	if ref.File == "" || known {
		return c.disk.Load(ref, t)
	}
	path := ref.File
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.dir, path)
	}
	if _, err := Reaches(c.dir, path); err != nil {
		return rules.Elements{}, nil, fmt.Errorf("load list %s: %w", ref.File, err)
	}
	e, problems, err := c.disk.Load(ref, t)
	switch {
	case err != nil:
		return e, nil, fmt.Errorf("load list %s: it can't be read as one; what it says is not shown here", ref.File)
	case len(problems) > 0:
		return e, []string{ref.File + ": some of it was left out; what it says is not shown here"}, nil
	}
	return e, nil, nil
}

var errOutside = errors.New("it is neither below the policy's folder nor in the policy in force")

// Reaches returns the path relative to dir of a regular file that stands there or below,
// also when links are followed; else an error.
func Reaches(dir, name string) (rel string, err error) {
	rel, ok := below(dir, name)
	if !ok {
		return "", errOutside
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", cause(err)
	}
	defer root.Close()
	switch info, err := root.Stat(filepath.FromSlash(rel)); {
	case errors.Is(err, os.ErrNotExist):
		return "", cause(err)
	case err != nil:
		return "", errOutside
	case !info.Mode().IsRegular():
		return "", errors.New("it is no regular file")
	}
	return filepath.FromSlash(rel), nil
}
