package host

import (
	"fmt"
	"slices"

	"netpolicy.dev/netpolicy/actions"
)

// haveTC returns what is there of the traffic control of the ledger and of plan.
func (e *Enforcer) haveTC(plan *actions.Plan) ([]actions.TCObject, error) {
	have, err := e.tc.Have(union(e.books.TC, plan.TC))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(have, func(o actions.TCObject) bool {
		if !slices.Contains(e.books.TC, o) && o.Kind == actions.TCHook {
			return true // of others: it is not to be removed
		}
		// The kernel does not tell everything: what the ledger has with other
		// parameters is made anew.
		return slices.Contains(plan.TC, o) && slices.ContainsFunc(e.books.TC, func(x actions.TCObject) bool { return x != o && x.Same(o) })
	}), nil
}

// alienHooks returns those places for filters that the plan needs and others
// have made: they are used, and never removed.
func (e *Enforcer) alienHooks(plan *actions.Plan) ([]actions.TCObject, error) {
	var hooks []actions.TCObject
	for _, o := range plan.TC {
		if o.Kind == actions.TCHook && !slices.Contains(e.books.TC, o) {
			hooks = append(hooks, o)
		}
	}
	return e.tc.Have(hooks)
}

// without takes what is not ours off the list.
func (l *ledger) without(alien []actions.TCObject) {
	l.TC = slices.DeleteFunc(slices.Clone(l.TC), func(o actions.TCObject) bool { return slices.Contains(alien, o) })
}

// refuseDevice stops before a device of others would be taken for ours.
func (e *Enforcer) refuseDevice(plan *actions.Plan) error {
	for _, o := range plan.TC {
		if o.Kind != actions.TCIFB || slices.ContainsFunc(e.books.TC, o.Same) {
			continue
		}
		if exists, err := e.tc.Exists(o.Dev); err != nil {
			return err
		} else if exists {
			return fmt.Errorf("device %s is there and not in the ledger %s: not ours to use", o.Dev, e.dir)
		}
	}
	return nil
}
