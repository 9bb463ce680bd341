package nft

import (
	"context"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// Change makes the changes that lead to the table t, in one transaction. The
// kernel refuses them all when something that goes is still in use, as a chain
// that a DNS answer needed: then the table is to be replaced.
func (a *Applier) Change(ctx context.Context, t *actions.Table, c *actions.Changes) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	e := &encoder{table: t.Name, sets: maps.Clone(a.sets), live: true}
	e.begin()
	for i := range c.Chains {
		if err := e.chain(&c.Chains[i], i); err != nil {
			return err
		}
	}
	for i := range c.Sets {
		if err := e.declare(&c.Sets[i], i); err != nil {
			return err
		}
	}
	for _, x := range c.Chains {
		e.flushChain(x.Name)
	}
	if err := e.rules(c.Chains); err != nil {
		return err
	}
	for _, name := range c.Empty {
		e.message(unix.NFT_MSG_DELSETELEM, 0, origin{})
		e.text(unix.NFTA_SET_ELEM_LIST_TABLE, e.table)
		e.text(unix.NFTA_SET_ELEM_LIST_SET, name)
	}
	if err := e.changed(c.Elems); err != nil {
		return err
	}
	for _, name := range c.Gone.Chains { // first all rules: the chains may lead to each other
		e.flushChain(name)
	}
	for _, name := range c.Gone.Chains {
		e.message(unix.NFT_MSG_DELCHAIN, 0, origin{})
		e.text(unix.NFTA_CHAIN_TABLE, e.table)
		e.text(unix.NFTA_CHAIN_NAME, name)
	}
	for _, name := range c.Gone.Sets {
		e.message(unix.NFT_MSG_DELSET, 0, origin{})
		e.text(unix.NFTA_SET_TABLE, e.table)
		e.text(unix.NFTA_SET_NAME, name)
		delete(e.sets, name)
	}
	if err := a.commit(e); err != nil {
		return e.explain(err, &actions.Table{Name: t.Name, Chains: c.Chains, Sets: c.Sets})
	}
	clear(a.known)
	a.sets = e.sets
	return nil
}

// flushChain removes a chain's rules.
func (e *encoder) flushChain(name string) {
	e.message(unix.NFT_MSG_DELRULE, 0, origin{})
	e.text(unix.NFTA_RULE_TABLE, e.table)
	e.text(unix.NFTA_RULE_CHAIN, name)
}

// changed writes elements that go, and those that come, set by set. What a put
// element replaces is there, except in sets that were emptied.
func (e *encoder) changed(list []actions.Update) error {
	type part struct {
		name       string
		gone, here []element
	}
	var parts []*part
	bySet := map[string]*part{}
	for i := range list {
		u := &list[i]
		t, ok := e.sets[u.Set]
		if !ok {
			return fmt.Errorf("set %q is not in the table that was applied", u.Set)
		}
		p := bySet[u.Set]
		if p == nil {
			p = &part{name: u.Set}
			bySet[u.Set] = p
			parts = append(parts, p)
		}
		n, err := t.element(&u.Elem)
		if err != nil {
			return fmt.Errorf("set %s: %w", u.Set, err)
		}
		if u.Kind == actions.PutElem {
			p.here = append(p.here, n)
		} else {
			p.gone = append(p.gone, n)
		}
	}
	for _, p := range parts {
		t := e.sets[p.name]
		from := origin{}
		e.elements(unix.NFT_MSG_DELSETELEM, 0, setRef{name: p.name}, &t, keys(p.gone), false, from)
		e.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, setRef{name: p.name}, &t, p.here, false, from)
	}
	return nil
}
