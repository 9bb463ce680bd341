package policyfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/internal/rulesets"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
	"netpolicy.dev/netpolicy/rules/load"
)

// MaxBundle bounds the bytes of a bundle: the largest policy, and as much again for
// what it imports and its lists.
const MaxBundle = 2 * load.MaxSize

// Bundle is a policy's text with the files that it names relative to itself: what
// has to be sent and kept so that the same policy can be had again. A file that is
// not in it is looked for on the disk.
type Bundle struct {
	// Name is the policy's file as its author named it: for messages, and for
	// its syntax.
	Name string `json:"name"`
	Main []byte `json:"main"`
	// Files are imports and lists, by their slash-separated path relative to the
	// policy's folder. None leads out of it.
	Files map[string][]byte `json:"files,omitempty"`
}

// Gather reads the policy at name ("-" is stdin), and of what it imports and its
// lists those files that lie in its folder or below. What is not there is left
// out: whoever loads the bundle has it, or says that it is missing. So are folders
// of v2fly lists, whose files name each other, and whatever has an absolute path.
// The policy need not be right.
func Gather(name string, stdin io.Reader) (Bundle, error) {
	src, err := Read(name, stdin)
	if err != nil {
		return Bundle{}, err
	}
	b := Bundle{Name: name, Main: src, Files: map[string][]byte{}}
	dir := filepath.Dir(name)
	load.Policy(name, src, load.Options{
		Read: func(name string) ([]byte, error) {
			text, err := Import(name)
			if rel, ok := below(dir, name); ok && err == nil {
				b.Files[rel] = text
			}
			return text, err
		},
		Lists: gatherer{dir, b.Files},
	})
	return b, b.check()
}

// Of returns the bundle of a policy that was loaded from the file config.
// Its lists are read again; without them when all would be too much.
func Of(config string, r load.Result) Bundle {
	b := Bundle{Name: config, Files: map[string][]byte{}}
	dir := filepath.Dir(config)
	for i, s := range r.Sources {
		if rel, ok := below(dir, s.Name); i == 0 {
			b.Main = s.Text
		} else if ok {
			b.Files[rel] = s.Text
		}
	}
	if r.Policy == nil {
		return b
	}
	whole := b
	whole.Files = maps.Clone(b.Files)
	for _, s := range r.Policy.Sets {
		_, _, _ = gatherer{dir, whole.Files}.Load(s.List, s.Type) // it never fails
	}
	if whole.check() != nil {
		return b
	}
	return whole
}

// gatherer is a rules.Lists that only reads files.
type gatherer struct {
	dir  string
	into map[string][]byte
}

// Load reads the file that ref names, and returns nothing.
func (g gatherer) Load(ref rules.ListRef, _ rules.SetType) (rules.Elements, []string, error) {
	format, _ := lists.ParseFormat(ref.Format)
	if ref.File == "" || filepath.IsAbs(ref.File) || format == lists.DLC {
		return rules.Elements{}, nil, nil
	}
	path := filepath.Join(g.dir, ref.File)
	rel, ok := below(g.dir, path)
	if !ok {
		return rules.Elements{}, nil, nil
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() <= MaxBundle {
		if text, err := os.ReadFile(path); err == nil {
			g.into[rel] = text
		}
	}
	return rules.Elements{}, nil, nil
}

// below returns name relative to dir, and whether it lies there or below.
func below(dir, name string) (string, bool) {
	rel, err := filepath.Rel(dir, name)
	return filepath.ToSlash(rel), err == nil && filepath.IsLocal(rel)
}

// check says what is wrong with a bundle, which may come from anywhere.
func (b *Bundle) check() error {
	size := len(b.Main)
	for _, rel := range b.names() {
		if !filepath.IsLocal(filepath.FromSlash(rel)) || rel != filepath.ToSlash(filepath.Clean(rel)) || rel == "." {
			return fmt.Errorf("policy %s: the file %q leads out of its folder", b.Name, rel)
		}
		size += len(b.Files[rel])
	}
	if size > MaxBundle {
		return fmt.Errorf("policy %s: %d bytes with its imports and lists are more than %d", b.Name, size, MaxBundle)
	}
	return nil
}

func (b *Bundle) names() []string { return slices.Sorted(maps.Keys(b.Files)) }

// Load loads the policy as if it stood at config with its files beside it; any
// other file is read from there. The last good copies of other lists are kept in the
// folder cache, "" for none. scratch is an existing folder for files while they are
// read, "" for the system's own.
func (b *Bundle) Load(config, cache, scratch string) (load.Result, error) {
	return b.load(config, scratch, Import, Lists(config, cache))
}

// load loads the policy with other files from read and disk.
func (b *Bundle) load(config, scratch string, read func(string) ([]byte, error), disk rules.Lists) (load.Result, error) {
	if err := b.check(); err != nil {
		return load.Result{}, err
	}
	if load.IsNPL(b.Name, b.Main) != load.IsNPL(config, b.Main) {
		syntax := map[bool]string{true: "NPL", false: "YAML"}
		return load.Result{}, fmt.Errorf("policy %s is %s and the daemon's, %s, is %s by its name: see `netpolicy convert`",
			b.Name, syntax[load.IsNPL(b.Name, b.Main)], config, syntax[load.IsNPL(config, b.Main)])
	}
	temp, err := os.MkdirTemp(scratch, scratchPrefix)
	if err != nil {
		return load.Result{}, fmt.Errorf("load policy %s: %w", b.Name, err)
	}
	defer os.RemoveAll(temp)
	dir := filepath.Dir(config)
	r := load.Policy(config, b.Main, load.Options{
		Read: func(name string) ([]byte, error) {
			if rel, ok := below(dir, name); ok {
				if text, ok := b.Files[rel]; ok {
					return text, nil
				}
			}
			return read(name)
		},
		Lists: overlay{b, temp, disk},
	})
	return r, nil
}

// scratchPrefix begins the names of folders for files while they are read.
const scratchPrefix = "candidate-"

// Sweep removes what a crash within Load has left in the folder scratch. Nobody may be
// loading there.
func Sweep(scratch string) {
	left, _ := filepath.Glob(filepath.Join(scratch, scratchPrefix+"*")) // the pattern is right
	for _, path := range left {
		_ = os.RemoveAll(path) // what can't be removed takes room and does no other harm
	}
}

// overlay is a rules.Lists that prefers the files of a bundle.
type overlay struct {
	b    *Bundle
	temp string
	disk rules.Lists
}

// Load returns the elements of a list.
func (o overlay) Load(ref rules.ListRef, t rules.SetType) (rules.Elements, []string, error) {
	rel := filepath.ToSlash(filepath.Clean(ref.File))
	text, sent := o.b.Files[rel]
	if ref.File == "" || filepath.IsAbs(ref.File) || !sent {
		return o.disk.Load(ref, t)
	}
	path := filepath.Join(o.temp, filepath.FromSlash(rel))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return rules.Elements{}, nil, err
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return rules.Elements{}, nil, err
	}
	return rulesets.New(rulesets.Config{Policy: o.temp}).Load(ref, t)
}

// Digest is a checksum over all texts and their names, without Name.
func (b *Bundle) Digest() string {
	h := sha256.New()
	digest(h, "", b.Main)
	for _, rel := range b.names() {
		digest(h, rel, b.Files[rel])
	}
	return hex.EncodeToString(h.Sum(nil))
}

func digest(h hash.Hash, name string, text []byte) {
	fmt.Fprintf(h, "%q %d\n", name, len(text))
	h.Write(text)
}

// Replaced is a checksum over the files that Install would replace, as they are
// now: it changes when somebody edits one.
func (b *Bundle) Replaced(config string) (string, error) {
	h := sha256.New()
	for _, rel := range append([]string{""}, b.names()...) {
		text, err := os.ReadFile(b.target(config, rel))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look at the present policy: %w", err)
		}
		digest(h, rel, text)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// target is the file that a part of the bundle goes to, behind symbolic links; ""
// is the main file.
func (b *Bundle) target(config, rel string) string {
	path := config
	if rel != "" {
		path = filepath.Join(filepath.Dir(config), filepath.FromSlash(rel))
	}
	if behind, err := filepath.EvalSymlinks(path); err == nil {
		return behind
	}
	return path
}

// Installable reports why Install could not write, before it is needed.
func (b *Bundle) Installable(config string) error {
	f, err := os.CreateTemp(filepath.Dir(b.target(config, "")), ".netpolicy-*")
	if err != nil {
		return fmt.Errorf("the policy's folder can't be written to (the daemon's user and unit must allow it): %w", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Install writes the policy to config and its files beside it, durably, the main
// file last. Each file is replaced in one step; what is there already is not
// written. A crash in between leaves some files new: do it again.
func (b *Bundle) Install(config string) error {
	if err := b.check(); err != nil {
		return err
	}
	for _, rel := range append(b.names(), "") {
		path, text := b.target(config, rel), b.Main
		if rel != "" {
			text = b.Files[rel]
		}
		if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, text) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write the policy: %w", err)
		}
		if err := durable.Rewrite(path, text, 0o644); err != nil {
			return fmt.Errorf("write the policy: %w", err)
		}
	}
	return nil
}
