package tunnels

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

// Files is a Source of files with share links or in a format of subscriptions. A file
// that can't be read any more keeps what was read of it last.
type Files struct {
	watch func(ctx context.Context, path string, changed func()) error
	mu    sync.Mutex
	list  []file
}

type file struct {
	name, path string
	profiles   []link.Profile
	err        error    // why it could not be read the last time
	refused    []string // entries that were left out, by line
}

// OpenFiles reads the files; relative names are from the folder dir. watch calls changed
// when a file changes, until ctx ends; nil watches nothing.
func OpenFiles(dir string, names []string, watch func(ctx context.Context, path string, changed func()) error) *Files {
	f := &Files{watch: watch}
	for _, name := range names {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		f.list = append(f.list, file{name: name, path: path})
	}
	f.read()
	return f
}

// read reads all files again.
func (f *Files) read() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.list {
		one := &f.list[i]
		s, err := readFile(one.path)
		if one.err = err; err != nil {
			continue
		}
		one.profiles, one.refused = s.Profiles(), nil
		for _, e := range s.Entries {
			if j := slices.IndexFunc(e.Findings, refuses); j >= 0 {
				one.refused = append(one.refused, fmt.Sprintf("line %d: %s", e.Line, e.Findings[j].Message))
			}
		}
	}
}

func refuses(f link.Finding) bool { return link.Refused([]link.Finding{f}) }

var errNothing = errors.New("nothing in it can be used")

func readFile(path string) (sub.Subscription, error) {
	in, err := os.Open(path)
	if err != nil {
		return sub.Subscription{}, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, sub.MaxBytes+1))
	if err != nil {
		return sub.Subscription{}, err
	}
	s, err := sub.Parse(data)
	if err == nil && len(s.Profiles()) == 0 {
		err = errNothing
	}
	return s, err
}

// Find implements Source: profiles with the name, in any file. Several with one name
// stand for each other.
func (f *Files) Find(name string) (Choice, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := Choice{Chosen: -1}
	for i := range f.list {
		one := &f.list[i]
		for _, p := range one.profiles {
			if p.Name == name {
				c.Profiles = append(c.Profiles, p)
				c.From = "the file " + one.name
			}
		}
	}
	return c, len(c.Profiles) > 0
}

// Names returns the names of all profiles, in their order.
func (f *Files) Names() (list []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.list {
		for _, p := range f.list[i].profiles {
			list = append(list, p.Name)
		}
	}
	return list
}

// Problems says what could not be read, without secrets.
func (f *Files) Problems() (list []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.list {
		one := &f.list[i]
		if one.err != nil {
			why := one.err
			var path *os.PathError
			if errors.As(why, &path) {
				why = path.Err
			}
			list = append(list, fmt.Sprintf("the file %s: %v", one.name, why))
			continue
		}
		for _, r := range one.refused[:min(len(one.refused), maxProblems)] {
			list = append(list, fmt.Sprintf("the file %s, %s", one.name, r))
		}
	}
	return list
}

// maxProblems bounds what is told of one file: the first say what kind of file it is.
const maxProblems = 5

// Watch implements Source.
func (f *Files) Watch(ctx context.Context, changed func()) {
	if f.watch == nil {
		return
	}
	var group sync.WaitGroup
	for _, one := range f.paths() {
		group.Go(func() {
			// Where it can't be watched a restart of Xray, or a reload, reads it.
			_ = f.watch(ctx, one, func() { f.read(); changed() })
		})
	}
	group.Wait()
}

func (f *Files) paths() (list []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.list {
		list = append(list, f.list[i].path)
	}
	return list
}
