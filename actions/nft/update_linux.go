package nft

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// maxHosts bounds the elements of one transaction on kernels before 6.3: a wrong
// guess about one of them makes each be tried alone.
const maxHosts = 500

// Update makes the updates in one transaction: new chains first, then elements,
// each removed, if it is there, and then added. Before Linux 6.3 the elements of
// maps with time limits, which may be there or not, follow in transactions of
// their own.
func (a *Applier) Update(ctx context.Context, updates []actions.Update) error {
	if len(updates) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var chains []actions.Chain
	var together, hosts []actions.Update
	for _, u := range last(updates) {
		switch {
		case u.Kind == actions.PutChain:
			// Its name says what it holds, so one that is there is right.
			there, err := a.hasChain(u.Chain.Name)
			if err != nil {
				return err
			}
			if !there {
				chains = append(chains, u.Chain)
			}
		case !a.destroys && a.sets[u.Set].isMap && a.sets[u.Set].timeout:
			hosts = append(hosts, u)
		default:
			together = append(together, u)
		}
	}
	if err := a.change(chains, together, true); err != nil {
		return fmt.Errorf("update %d elements and %d chains of nft table %s: %w", len(together), len(chains), actions.TableName, err)
	}
	for len(hosts) > 0 {
		n := min(len(hosts), maxHosts)
		if err := a.putHosts(hosts[:n]); err != nil {
			return err
		}
		hosts = hosts[n:]
	}
	return nil
}

// setChange gathers one set's part of a transaction. On kernels that can't
// remove what may not be there, sure are added so that their removal can't fail.
type setChange struct {
	name             string
	t                setType
	sure, gone, here []element
}

// change makes chains and elements in one transaction. sure means that the
// elements of maps are there.
func (a *Applier) change(chains []actions.Chain, list []actions.Update, sure bool) error {
	var changes []*setChange
	bySet := map[string]*setChange{}
	for i := range list {
		u := &list[i]
		c := bySet[u.Set]
		if c == nil {
			t, ok := a.sets[u.Set]
			if !ok {
				return fmt.Errorf("set %q is not in the table that was applied", u.Set)
			}
			c = &setChange{name: u.Set, t: t}
			bySet[u.Set] = c
			changes = append(changes, c)
		}
		n, err := c.t.element(&u.Elem)
		if err != nil {
			return fmt.Errorf("set %s: %w", u.Set, err)
		}
		switch {
		case a.destroys:
			c.gone = append(c.gone, n)
		case !c.t.isMap:
			c.sure, c.gone = append(c.sure, n), append(c.gone, n)
		case sure || time.Now().Before(a.known[u.Set+u.Elem.Key]):
			c.gone = append(c.gone, n)
		case u.Kind == actions.DelElem:
			return errUnknown // each alone, then
		}
		if u.Kind == actions.PutElem {
			c.here = append(c.here, n)
		}
	}
	if len(chains)+len(changes) == 0 {
		return nil
	}
	e := &encoder{table: actions.TableName, sets: a.sets, live: true}
	e.begin()
	for i := range chains {
		if err := e.chain(&chains[i], i); err != nil {
			return err
		}
	}
	if err := e.rules(chains); err != nil {
		return err
	}
	for i, c := range changes {
		a.elementsOf(e, c, origin{ofElems, int32(i), 0})
	}
	if err := a.commit(e); err != nil {
		t := actions.Table{Name: actions.TableName, Chains: chains}
		for _, c := range changes {
			t.Sets = append(t.Sets, actions.Set{Name: c.name})
		}
		return e.explain(err, &t)
	}
	return nil
}

func (a *Applier) elementsOf(e *encoder, c *setChange, from origin) {
	remove := uint16(unix.NFT_MSG_DELSETELEM)
	if a.destroys {
		remove = msgDestroyElems
	}
	set := setRef{name: c.name}
	e.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, set, &c.t, c.sure, false, from)
	e.elements(remove, 0, set, &c.t, keys(c.gone), false, from)
	e.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, set, &c.t, c.here, false, from)
}

// keys are the elements without what a removal does not name.
func keys(list []element) []element {
	out := make([]element, len(list))
	for i := range list {
		out[i].entry = list[i].entry
	}
	return out
}

var errUnknown = errors.New("not known to be there")

// putHosts tries all at once, guessing which elements are there, and on a wrong
// guess each alone.
func (a *Applier) putHosts(list []actions.Update) error {
	if len(a.known) > maxKnown {
		clear(a.known)
	}
	if err := a.change(nil, list, false); err != nil {
		for i := range list {
			if err := a.putHost(list[i : i+1]); err != nil {
				return fmt.Errorf("%s: %w", list[i], err)
			}
		}
	}
	for _, u := range list {
		if u.Kind == actions.PutElem {
			a.known[u.Set+u.Elem.Key] = time.Now().Add(u.Elem.Timeout)
		} else {
			delete(a.known, u.Set+u.Elem.Key)
		}
	}
	return nil
}

// putHost removes the element, which may not be there, and then adds it.
func (a *Applier) putHost(one []actions.Update) error {
	err := a.change(nil, one, true)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if one[0].Kind == actions.DelElem {
		return nil
	}
	delete(a.known, one[0].Set+one[0].Elem.Key)
	return a.change(nil, one, false)
}
