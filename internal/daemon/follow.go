package daemon

import (
	"context"
	"path/filepath"
	"sync"

	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/internal/rulesets"
	"netpolicy.dev/netpolicy/rules"
)

// follower watches what a policy has beside its own file, the files that it imports
// and those of its lists, and fetches its lists from the web. Each change asks for a
// reload.
type follower struct {
	d       *Daemon
	policy  *rules.Policy
	watches map[string]func() // the files that are watched, and what ends that
	stop    func()            // ends the fetching
	group   sync.WaitGroup
}

func newFollower(d *Daemon) *follower {
	return &follower{d: d, watches: map[string]func(){}, stop: func() {}}
}

// follow goes over to another policy, until ctx ends. A file that both have is watched without a gap.
func (f *follower) follow(ctx context.Context, p *rules.Policy) {
	if p == f.policy {
		return
	}
	f.policy = p
	wanted := f.d.besides(p)
	for path, stop := range f.watches {
		if !wanted[path] {
			stop()
			delete(f.watches, path)
		}
	}
	for path := range wanted {
		if f.watches[path] == nil {
			f.watches[path] = f.run(ctx, func(ctx context.Context) {
				if err := f.d.parts.WatchFile(ctx, path, f.changed); err != nil && ctx.Err() == nil {
					f.d.log.Warn("file of the policy not watched", "file", path, "error", err)
				}
			})
		}
	}
	f.stop()
	f.stop = f.fetch(ctx, p)
}

func (f *follower) changed() { f.d.wake(reasonFile) }

// fetch keeps the lists of URLs fresh until the function that it returns is called.
func (f *follower) fetch(ctx context.Context, p *rules.Policy) (stop func()) {
	var wanted []rulesets.Wanted
	for _, s := range p.Sets {
		if s.List.URL != "" {
			wanted = append(wanted, rulesets.Wanted{Ref: s.List, Type: s.Type})
		}
	}
	if len(wanted) == 0 || f.d.opts.StateDir == "" {
		return func() {}
	}
	store := policyfile.Lists(f.d.opts.Config, filepath.Join(f.d.opts.StateDir, "lists"))
	return f.run(ctx, func(ctx context.Context) {
		if err := store.Run(ctx, wanted, func(rulesets.Wanted) { f.changed() }); err != nil {
			f.d.log.Warn("lists not fetched", "error", err)
		}
	})
}

// run starts something, and returns what ends it and waits for that.
func (f *follower) run(ctx context.Context, do func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	f.group.Go(func() {
		defer close(done)
		do(ctx)
	})
	return func() {
		cancel()
		<-done
	}
}

// close ends everything.
func (f *follower) close() {
	for _, stop := range f.watches {
		stop()
	}
	f.stop()
	f.group.Wait()
}

// besides returns the files.
func (d *Daemon) besides(p *rules.Policy) map[string]bool {
	files := map[string]bool{}
	for _, name := range p.Files {
		files[filepath.Clean(name)] = true
	}
	for _, s := range p.Sets {
		if path := s.List.File; path != "" {
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(d.opts.Config), path)
			}
			files[filepath.Clean(path)] = true
		}
	}
	delete(files, filepath.Clean(d.opts.Config))
	return files
}
