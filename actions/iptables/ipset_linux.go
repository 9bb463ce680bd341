package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// Of linux/netfilter/ipset/ip_set.h.
const (
	ipsetProtocol = 6 // the least that kernels since 2.6.39 speak

	cmdAdd = 9
	cmdDel = 10

	attrProtocol = 1
	attrSetName  = 2
	attrData     = 7

	// Within attrData.
	attrIP      = 1
	attrTimeout = 6
	attrName    = 18 // of a member of a set of sets

	// Within attrIP.
	attrIPv4 = 1
	attrIPv6 = 2
)

// change is one element that is put or taken out. Both may be repeated.
type change struct {
	del     bool
	set     string
	key     string // an address, or the name of a set
	timeout time.Duration
}

// Update makes the updates, in their order, over netlink: an element takes a
// fraction of what the command takes to start. The first error ends it.
func (a *Applier) Update(_ context.Context, updates []actions.Update) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []change
	for i := range updates {
		u := &updates[i]
		switch {
		case u.Kind == actions.PutChain:
			return fmt.Errorf("%s: not for iptables", u)
		case u.Set == actions.XNames:
			list = append(list, a.rename(u)...)
		default:
			list = append(list, change{u.Kind == actions.DelElem, u.Set, u.Elem.Key, u.Elem.Timeout})
		}
	}
	for i := range list {
		if err := a.change(&list[i]); err != nil {
			verb := "add to"
			if list[i].del {
				verb = "remove from"
			}
			return fmt.Errorf("%s ipset %s %s: %w", verb, list[i].set, list[i].key, err)
		}
	}
	return nil
}

// rename puts an address into its sets of names, and takes it out of the others.
func (a *Applier) rename(u *actions.Update) []change {
	var sets []string
	if u.Kind == actions.PutElem {
		sets = strings.Fields(u.Elem.Value)
	}
	var list []change
	for _, s := range sets {
		list = append(list, change{false, s, u.Elem.Key, u.Elem.Timeout})
	}
	for _, s := range a.held[u.Elem.Key].sets {
		if !slices.Contains(sets, s) {
			list = append(list, change{true, s, u.Elem.Key, 0})
		}
	}
	a.remember(u.Elem.Key, sets, u.Elem.Timeout)
	return list
}

func (a *Applier) remember(addr string, sets []string, ttl time.Duration) {
	if len(sets) == 0 {
		delete(a.held, addr)
		return
	}
	now := time.Now()
	if len(a.held) >= maxHeld {
		for k, h := range a.held {
			if now.After(h.until) {
				delete(a.held, k)
			}
		}
	}
	// The kernel's limits are of whole seconds, rounded up.
	a.held[addr] = held{sets, now.Add(ttl + time.Second)}
}

// hold remembers the names that a whole table brings.
func (a *Applier) hold(t *actions.Table) {
	for i := range t.Sets {
		if t.Sets[i].Name != actions.XNames {
			continue
		}
		for _, e := range t.Sets[i].Elems {
			a.remember(e.Key, strings.Fields(e.Value), e.Timeout)
		}
	}
}

// change sends one change and waits for the kernel's answer.
func (a *Applier) change(c *change) error {
	if a.conn == nil {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return fmt.Errorf("open ipset netlink socket: %w", err)
		}
		a.conn = conn
	}
	data, err := c.message()
	if err != nil {
		return err
	}
	cmd := cmdAdd
	if c.del {
		cmd = cmdDel
	}
	// Without NLM_F_EXCL what is there is added anew and what is not may be removed.
	m := netlink.Message{Header: netlink.Header{
		Type:  netlink.HeaderType(unix.NFNL_SUBSYS_IPSET<<8 | cmd),
		Flags: netlink.Request | netlink.Acknowledge,
	}, Data: data}
	_, err = a.conn.Execute(m)
	var refused *netlink.OpError
	if err != nil && !errors.As(err, &refused) {
		// What comes next on the socket can't be told: it is opened anew.
		err = errors.Join(err, a.conn.Close())
		a.conn = nil
	}
	return err
}

// message encodes the change: struct nfgenmsg and the attributes.
func (c *change) message() ([]byte, error) {
	family := byte(unix.NFPROTO_IPV4)
	addr, err := netip.ParseAddr(c.key)
	if err == nil && addr.Is6() {
		family = unix.NFPROTO_IPV6
	}
	isName := err != nil
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Uint8(attrProtocol, ipsetProtocol)
	e.String(attrSetName, c.set)
	e.Nested(attrData, func(e *netlink.AttributeEncoder) error {
		switch {
		case isName:
			e.String(attrName, c.key)
		case addr.Is4():
			e.Nested(attrIP, func(e *netlink.AttributeEncoder) error {
				e.Bytes(attrIPv4|netlink.NetByteOrder, addr.AsSlice())
				return nil
			})
		default:
			e.Nested(attrIP, func(e *netlink.AttributeEncoder) error {
				e.Bytes(attrIPv6|netlink.NetByteOrder, addr.AsSlice())
				return nil
			})
		}
		if c.timeout > 0 {
			e.Uint32(attrTimeout|netlink.NetByteOrder, uint32(actions.XSeconds(c.timeout)))
		}
		return nil
	})
	attrs, err := e.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode an ipset element: %w", err)
	}
	return append([]byte{family, 0, 0, 0}, attrs...), nil
}

// Close closes the socket. What is in force stays.
func (a *Applier) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil {
		return nil
	}
	err := a.conn.Close()
	a.conn = nil
	return err
}
