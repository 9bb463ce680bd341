package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"netpolicy.dev/netpolicy/actions/iproute"
	"netpolicy.dev/netpolicy/actions/nft"
)

// drift is what Watch has noticed since the last Apply.
type drift struct {
	table   bool            // the table is not what we put
	told    map[string]bool // what is gone and was reported
	foreign int             // routes of others in our tables, the most that were reported
}

// Watch calls found for each change that other processes make to our table, our ip
// rules or the routes of our tables, until ctx ends; the next Apply puts back what
// they changed. found must not block. It works in the network namespace that it is
// called in.
func (e *Enforcer) Watch(ctx context.Context, found func(what string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	var errs [2]error
	group.Go(func() {
		defer cancel()
		errs[0] = e.nft.Watch(ctx, e.tableChanged(found))
	})
	group.Go(func() {
		defer cancel()
		errs[1] = e.watchRoutes(ctx, found)
	})
	group.Wait()
	return errors.Join(errs[:]...)
}

// tableChanged has the next Apply replace the table, and hands on what was changed.
func (e *Enforcer) tableChanged(found func(what string)) func(what string) {
	return func(what string) {
		if what == nft.Lost && e.nft.Owner() {
			return // it was another's table: ours is closed to them
		}
		e.mu.Lock()
		e.drift.table = true
		e.mu.Unlock()
		found(what)
	}
}

func (e *Enforcer) watchRoutes(ctx context.Context, found func(what string)) error {
	return iproute.Watch(ctx, e.routes, func() {
		list, err := e.compare()
		if err != nil {
			list = []string{err.Error()}
		}
		for _, what := range list {
			found(what)
		}
	})
}

// routes reports whether the plan in force has routes in the table.
func (e *Enforcer) routes(table uint32) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.plan != nil && slices.Contains(tables(e.plan, &ledger{}), table)
}

// compare returns what of the rules and routes others have changed and was not
// reported yet.
func (e *Enforcer) compare() ([]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.plan == nil {
		return nil, nil
	}
	gone, foreign, err := e.ip.Compare(e.plan)
	if err != nil {
		return nil, fmt.Errorf("compare rules and routes: %w", err)
	}
	var list []string
	for _, what := range gone {
		if !e.drift.told[what] {
			list = append(list, what)
		}
	}
	if e.drift.told == nil {
		e.drift.told = map[string]bool{}
	}
	for _, what := range list {
		e.drift.told[what] = true
	}
	if foreign > e.drift.foreign {
		list = append(list, fmt.Sprintf("%d routes of others in our tables, which stay", foreign))
	}
	e.drift.foreign = foreign
	return list, nil
}
