package iproute

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

const (
	// watchRoom holds a routing daemon's burst until it is read.
	watchRoom = 4 << 20
	// quietRules is how long rules and routes must be still before they are looked
	// at: a script changes several in a row.
	quietRules = 50 * time.Millisecond
	// busyRules bounds that wait where they never are.
	busyRules = time.Second
)

// Watch calls changed after a process, this one too, changed ip rules that carry our
// protocol number or routes that ours reports true for, until ctx ends; what the
// kernel does by itself, because a device went, is left out. After lost messages
// it is called once, too. Compare then says what others changed. It works in the
// network namespace that it is called in; ours and changed must not block.
func Watch(ctx context.Context, ours func(table uint32) bool, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("watch ip rules and routes: %w", err)
	}
	defer conn.Close()
	err = conn.SetReadBuffer(watchRoom)
	for _, g := range []uint32{unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE} {
		err = errors.Join(err, conn.JoinGroup(g))
	}
	if err != nil {
		return fmt.Errorf("watch ip rules and routes: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // the socket is closed right after
	})
	defer stop()
	var since time.Time // of the first change that was not told yet
	for {
		list, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			since = time.Time{}
			if err := conn.SetReadDeadline(time.Time{}); err != nil {
				return fmt.Errorf("watch ip rules and routes: %w", err)
			}
			if ctx.Err() != nil {
				return nil
			}
			changed()
			continue
		case errors.Is(err, unix.ENOBUFS):
		case err != nil:
			return fmt.Errorf("watch ip rules and routes: %w", err)
		case !slices.ContainsFunc(list, func(m netlink.Message) bool { return concerns(&m, ours) }):
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		wait := max(time.Millisecond, min(quietRules, busyRules-time.Since(since)))
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return fmt.Errorf("watch ip rules and routes: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// Sizes of struct rtmsg and struct fib_rule_hdr, and their attributes
// (include/uapi/linux/rtnetlink.h, fib_rules.h).
const (
	rtHeader     = 12
	rtTableAt    = 4
	rtProtocolAt = 5
	fraProtocol  = 21
)

// concerns reports whether the message is about a rule of ours or a route of our tables.
func concerns(m *netlink.Message, ours func(uint32) bool) bool {
	if m.Header.PID == 0 || len(m.Data) < rtHeader {
		return false
	}
	switch m.Header.Type {
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		p, ok := find(m.Data[rtHeader:], fraProtocol)
		return ok && len(p) == 1 && p[0] == actions.RouteProto
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if m.Data[rtProtocolAt] == actions.RouteProto {
			return true
		}
		table := uint32(m.Data[rtTableAt])
		if t, ok := find(m.Data[rtHeader:], unix.RTA_TABLE); ok && len(t) == 4 {
			table = binary.NativeEndian.Uint32(t)
		}
		return ours(table)
	}
	return false
}

// find returns an attribute's value.
func find(b []byte, kind uint16) ([]byte, bool) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return nil, false
		}
		if binary.NativeEndian.Uint16(b[2:]) == kind {
			return b[4:n], true
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil, false
}

// Compare returns what of the plan's rules and routes is not there, each as a
// sentence, and how many routes of others are in its tables. Routes over devices
// that are down or gone are not missed: they went with them.
func (a *Applier) Compare(p *actions.Plan) (gone []string, foreign int, err error) {
	rules, err := a.Rules()
	if err != nil {
		return nil, 0, err
	}
	for _, r := range p.IPRules {
		if !slices.Contains(rules, r) {
			gone = append(gone, "gone: "+r.String())
		}
	}
	links, err := a.h.LinkList()
	if err != nil {
		return nil, 0, fmt.Errorf("list links: %w", err)
	}
	up := map[string]bool{}
	for _, l := range links {
		up[l.Attrs().Name] = l.Attrs().RawFlags&working == working
	}
	var tables []uint32
	for _, r := range p.IPRoutes {
		if !slices.Contains(tables, r.Table) {
			tables = append(tables, r.Table)
		}
	}
	routes, foreign, err := a.Routes(tables)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range p.IPRoutes {
		if !slices.Contains(routes, r) && (r.Unreachable || up[r.Dev]) {
			gone = append(gone, "gone: "+r.String())
		}
	}
	return gone, foreign, nil
}
