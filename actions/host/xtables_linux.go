package host

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/iptables"
	"netpolicy.dev/netpolicy/actions/nft"
)

// missing reports whether the kernel has no nftables. Without the right to ask,
// it is taken to be there.
func missing(kernel *nft.Applier) bool {
	_, err := kernel.Exists(actions.TableName)
	return err != nil && !errors.Is(err, unix.EPERM)
}

// exists reports whether a table of our name is in nftables.
func (e *Enforcer) exists() (bool, error) {
	if e.noNFT {
		return false, nil
	}
	return e.nft.Exists(actions.TableName)
}

// needX makes the applier for iptables: of the kind that the ledger names, else
// of the one that this host uses.
func (e *Enforcer) needX(ctx context.Context) error {
	if e.x != nil {
		return nil
	}
	if e.books.XT != nil {
		e.x = iptables.New(e.books.XT.Variant)
		return nil
	}
	v, err := iptables.Detect(ctx)
	if err != nil {
		return fmt.Errorf("find iptables: %w", err)
	}
	e.x = iptables.New(v)
	return nil
}

// Variant returns which iptables is in use, "" for none.
func (e *Enforcer) Variant() iptables.Variant {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.x == nil {
		return ""
	}
	return e.x.Variant()
}

// haveX is have for the chains and sets of iptables. Those of a former process
// are loaded anew: what is in its sets of names nobody knows any more. So are
// those from which others have taken something: a flush leaves empty chains.
func (e *Enforcer) haveX(h *actions.Plan, found iptables.Found) {
	if !found.Exists {
		return
	}
	h.Table = actions.Table{Name: actions.TableName, XT: &actions.Xtables{}}
	if e.plan != nil && e.plan.Table.XT != nil && found.Lacks == nil {
		h.Table.Shape = e.plan.Table.Shape
	}
}

// lookX compares what is there with the ledger, and with the plan in force.
func (e *Enforcer) lookX() (iptables.Found, error) {
	ctx := context.Background()
	if err := e.needX(ctx); err != nil {
		return iptables.Found{}, err
	}
	var inForce *actions.Table
	if e.plan != nil && e.plan.Table.XT != nil {
		inForce = &e.plan.Table
	}
	return e.x.Look(ctx, e.books.XT, inForce)
}

func (e *Enforcer) stepX(ctx context.Context, s *actions.Step) error {
	if err := e.needX(ctx); err != nil {
		return err
	}
	var err error
	switch s.Kind {
	case actions.PutTable:
		err = e.x.Replace(ctx, s.Table, e.books.XT)
	case actions.DelTable:
		err = e.x.Delete(ctx, e.books.XT)
	default:
		err = e.x.Update(ctx, s.Updates)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

// leftover removes the table of the backend that the plan does not use.
func (e *Enforcer) leftover(_ context.Context, plan *actions.Plan) []actions.Step {
	if plan.Table.XT == nil && e.books.XT != nil {
		return []actions.Step{{Kind: actions.DelTable, Table: &actions.Table{Name: actions.TableName, XT: &actions.Xtables{}}}}
	}
	if exists, err := e.exists(); plan.Table.XT != nil && e.books.Table != "" && err == nil && exists {
		return []actions.Step{{Kind: actions.DelTable, Table: &actions.Table{Name: e.books.Table}}}
	}
	return nil
}

// owned lists what is there once the plan is in force.
func (e *Enforcer) owned(plan *actions.Plan) ledger {
	l := of(plan, plan)
	switch {
	case plan.Table.XT == nil:
	case len(plan.Table.XT.Chains) == 0: // read from the ledger, without its contents
		l.XT = e.books.XT
	default:
		l.XT = iptables.Names(&plan.Table, e.x.Variant())
		l.XT.Tables = e.books.XT.Tables
	}
	return l
}

func (e *Enforcer) update(ctx context.Context, updates []actions.Update) error {
	if e.plan != nil && e.plan.Table.XT != nil {
		return e.x.Update(ctx, updates)
	}
	return e.nft.Update(ctx, updates)
}

// try sees whether iptables and ipset here take the plan, without any effect.
func (e *Enforcer) try(ctx context.Context, plan *actions.Plan) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.needX(ctx); err != nil {
		return err
	}
	return e.x.Try(ctx, &plan.Table)
}

// VerifyX reports what of the plan's chains and sets is not there.
func (e *Enforcer) VerifyX(ctx context.Context, plan *actions.Plan) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.needX(ctx); err != nil {
		return err
	}
	found, err := e.x.Look(ctx, e.books.XT, &plan.Table)
	if err != nil {
		return err
	}
	return found.Lacks
}
