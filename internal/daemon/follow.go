package daemon

import (
	"context"
	"path/filepath"
	"sync"

	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/internal/rulesets"
	"netpolicy.dev/netpolicy/rules"
)

// follow watches what a policy has beside its own file, the files that it imports
// and those of its lists, and fetches its lists from the web, until ctx ends or the
// function that it returns is called. Each change asks for a reload.
func (d *Daemon) follow(ctx context.Context, p *rules.Policy) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	changed := func() { d.wake(reasonFile) }
	for _, path := range d.besides(p) {
		group.Go(func() {
			if err := watchFile(ctx, path, changed); err != nil && ctx.Err() == nil {
				d.log.Warn("file of the policy not watched", "file", path, "error", err)
			}
		})
	}
	var wanted []rulesets.Wanted
	for _, s := range p.Sets {
		if s.List.URL != "" {
			wanted = append(wanted, rulesets.Wanted{Ref: s.List, Type: s.Type})
		}
	}
	if len(wanted) > 0 && d.opts.StateDir != "" {
		store := policyfile.Lists(d.opts.Config, filepath.Join(d.opts.StateDir, "lists"))
		group.Go(func() {
			if err := store.Run(ctx, wanted, func(rulesets.Wanted) { changed() }); err != nil {
				d.log.Warn("lists not fetched", "error", err)
			}
		})
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// besides returns the files, each once.
func (d *Daemon) besides(p *rules.Policy) []string {
	seen := map[string]bool{filepath.Clean(d.opts.Config): true}
	var list []string
	add := func(path string) {
		if path = filepath.Clean(path); !seen[path] {
			seen[path] = true
			list = append(list, path)
		}
	}
	for _, name := range p.Files {
		add(name)
	}
	for _, s := range p.Sets {
		if path := s.List.File; path != "" {
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(d.opts.Config), path)
			}
			add(path)
		}
	}
	return list
}
