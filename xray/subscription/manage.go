package subscription

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/xray/link"
)

// Add keeps a subscription from now on and fetches it once. A failed fetch is no
// error but the Problem of the Info: it is tried again. Errors are ErrExists and
// ErrInvalid, or the disk's.
func (s *Store) Add(ctx context.Context, settings Settings) (Info, error) {
	x, err := newSubscription(record{Settings: settings, Key: newKey()})
	if err != nil {
		return Info{}, err
	}
	if _, err := s.way(settings.Via); err != nil {
		return Info{}, kindOf{err, ErrInvalid}
	}
	x.running = true // it is fetched here
	if err := s.enter(x); err != nil {
		return Info{}, err
	}
	err = s.fetch(ctx, x)
	s.rest(x)
	if ctx.Err() != nil {
		return Info{}, err
	}
	return s.Show(settings.Name)
}

// enter adds a subscription.
func (s *Store) enter(x *subscription) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	_, exists := s.subs[x.record.Name]
	n := len(s.subs)
	s.mu.Unlock()
	switch {
	case exists:
		return errorf(ErrExists, "there is a subscription %s already; remove it first", x.record.Name)
	case n >= maxSubscriptions:
		return errorf(ErrInvalid, "there are %d subscriptions already", maxSubscriptions)
	}
	if err := s.save(x.record, nil); err != nil {
		return fmt.Errorf("keep the subscription: %w", err)
	}
	s.mu.Lock()
	s.subs[x.record.Name] = x
	s.mu.Unlock()
	return nil
}

// find returns a subscription; ErrNotFound if there is none of that name.
func (s *Store) find(name string) (*subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.subs[name]; x != nil {
		return x, nil
	}
	return nil, errorf(ErrNotFound, "there is no subscription %q", name)
}

// Remove forgets a subscription and its content.
func (s *Store) Remove(name string) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if _, err := s.find(name); err != nil {
		return err
	}
	err := os.Remove(s.recordFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		s.sweep(name, "")
		err = durable.SyncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("remove the subscription: %w", err)
	}
	s.mu.Lock()
	delete(s.subs, name)
	s.mu.Unlock()
	s.tell()
	return nil
}

// Update fetches a subscription now. On errors what was there goes on.
func (s *Store) Update(ctx context.Context, name string) (Info, error) {
	x, err := s.find(name)
	if err != nil {
		return Info{}, err
	}
	if err := s.fetch(ctx, x); err != nil {
		return Info{}, err
	}
	s.nudge()
	return s.Show(name)
}

// Choose sets the profile to use, by its id or its name; "" takes the choice back.
func (s *Store) Choose(name, profile string) (Info, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	x, err := s.find(name)
	if err != nil {
		return Info{}, err
	}
	s.mu.Lock()
	r, list := x.record, x.list
	was := x.chosen()
	s.mu.Unlock()
	r.Chosen, r.Missing = "", nil
	if profile != "" {
		i := slices.IndexFunc(list, func(p Profile) bool { return p.ID == profile })
		if i < 0 {
			i = slices.IndexFunc(list, func(p Profile) bool { return p.Name == profile })
		}
		if i < 0 {
			return Info{}, errorf(ErrNotFound, "subscription %s has no profile with the id or the name %q", name, profile)
		}
		r.Chosen = list[i].ID
	}
	if err := s.save(r, nil); err != nil {
		return Info{}, fmt.Errorf("keep the choice: %w", err)
	}
	s.mu.Lock()
	x.record = r
	is := x.chosen()
	info := x.info()
	s.mu.Unlock()
	if is != was {
		s.tell()
	}
	return info, nil
}

// Watch has changed called whenever Profiles gives another answer for some name, until
// ctx ends. It returns at once. changed must not call the Store, and not wait.
func (s *Store) Watch(ctx context.Context, changed func()) {
	s.mu.Lock()
	s.watchers[&changed] = true
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		delete(s.watchers, &changed)
		s.mu.Unlock()
	})
}

// tell calls those who watch.
func (s *Store) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.watchers {
		(*f)()
	}
}

// Profiles returns the profiles of a subscription and the index of the user's choice,
// -1 without one; false if there is no such subscription.
func (s *Store) Profiles(name string) (list []link.Profile, chosen int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.subs[name]
	if x == nil {
		return nil, -1, false
	}
	return links(x.list), x.chosen(), true
}

// Names returns the names of all subscriptions in order.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.subs))
}

// Show returns what there is to know of one subscription.
func (s *Store) Show(name string) (Info, error) {
	x, err := s.find(name)
	if err != nil {
		return Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return x.info(), nil
}

// List returns all, by name.
func (s *Store) List() (all []Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.subs {
		all = append(all, x.info())
	}
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// info needs s.mu.
func (x *subscription) info() Info {
	r := x.record
	chosen := x.chosen()
	i := Info{
		Settings: r.Settings, Format: r.Format, Profiles: x.list, Filtered: x.filtered, Refused: x.refused, Reasons: x.reasons,
		Chosen: chosen, Lost: chosen < 0 && r.Chosen != "" && len(x.list) > 0,
		Fetched: r.Fetched, Checked: r.Checked, Next: x.next, Problem: x.problem, Usage: r.Usage,
	}
	i.URL, i.Every = link.Secret(Mask(x.url)), x.every()
	return i
}
