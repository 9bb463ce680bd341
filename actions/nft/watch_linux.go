package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

const (
	// watchRoom holds the messages of another's largest transaction until they are read.
	watchRoom = 32 << 20
	// maxNamed bounds the objects that one report names; the others are counted.
	maxNamed = 4
)

// Lost is what Watch reports when it could not keep up.
const Lost = "more changes of nftables at once than could be followed"

// Watch calls found with a description of each transaction in which another
// process changed our table, until ctx ends; found must not block. When changes
// were lost on the way it says Lost, once. What this Applier changes, and what
// runs out by itself, is not reported. It works in the network namespace that it
// is called in.
func (a *Applier) Watch(ctx context.Context, found func(what string)) error {
	return a.watch(ctx, watchRoom, found)
}

// watch is Watch with room bytes for messages that wait.
func (a *Applier) watch(ctx context.Context, room int, found func(what string)) error {
	conn, err := a.subscribe(room)
	for err == nil {
		var lost bool
		if lost, err = follow(ctx, conn, found); !lost {
			break
		}
		// The kernel drops what comes until all that waits was read. A new socket misses
		// nothing from now on, and who hears of the loss looks at what is there.
		if conn, err = a.subscribe(room); err == nil {
			found(Lost)
		}
	}
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	return nil
}

// subscribe returns a socket that hears of what others change.
func (a *Applier) subscribe(room int) (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble(othersOnly(a.port))
	if err == nil {
		err = errors.Join(conn.SetBPF(filter), conn.SetReadBuffer(room), conn.JoinGroup(unix.NFNLGRP_NFTABLES))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// follow tells what conn hears of until ctx ends or something was lost, and closes it.
func follow(ctx context.Context, conn *netlink.Conn, found func(what string)) (lost bool, err error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // the socket is closed right after
	})
	defer stop()
	var now report
	for {
		list, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return false, nil
		case errors.Is(err, unix.ENOBUFS):
			return true, nil
		case err != nil:
			return false, err
		}
		for _, m := range list {
			if text := now.take(m.Header.Type, m.Data); text != "" {
				found(text)
			}
		}
	}
}

// pidOffset is where struct nlmsghdr has the number of the socket that asked for the change.
const pidOffset = 12

// othersOnly drops the messages about changes of the socket with the number
// port: a table of ours with all its rules would be more than the room.
func othersOnly(port uint32) []bpf.Instruction {
	// Filters load big-endian numbers.
	own := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port))
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: pidOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: own, SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1<<32 - 1},
	}
}

// report gathers what one transaction did to our table.
type report struct {
	named []string
	more  int
	whole bool // the table itself was removed: that says it all
}

// verbs are what messages say, and objects what they say it of.
var (
	objects = map[netlink.HeaderType]string{
		unix.NFT_MSG_NEWTABLE: "table", unix.NFT_MSG_DELTABLE: "table", unix.NFT_MSG_NEWCHAIN: "chain", unix.NFT_MSG_DELCHAIN: "chain",
		unix.NFT_MSG_NEWRULE: "rule of chain", unix.NFT_MSG_DELRULE: "rule of chain", unix.NFT_MSG_NEWSET: "set", unix.NFT_MSG_DELSET: "set",
		unix.NFT_MSG_NEWSETELEM: "element of set", unix.NFT_MSG_DELSETELEM: "element of set",
		unix.NFT_MSG_NEWOBJ: "object", unix.NFT_MSG_DELOBJ: "object",
	}
	removals = map[netlink.HeaderType]bool{
		unix.NFT_MSG_DELTABLE: true, unix.NFT_MSG_DELCHAIN: true, unix.NFT_MSG_DELRULE: true, unix.NFT_MSG_DELSET: true,
		unix.NFT_MSG_DELSETELEM: true, unix.NFT_MSG_DELOBJ: true,
	}
)

// take takes one message in, and returns the description of the transaction that it ends.
func (r *report) take(kind netlink.HeaderType, data []byte) string {
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(data) < nfgenHeader {
		return ""
	}
	kind &= 0xff
	if kind == unix.NFT_MSG_NEWGEN {
		return r.end(data)
	}
	object := objects[kind]
	if object == "" || data[0] != unix.NFPROTO_INET {
		return ""
	}
	table, inner := firstTexts(data[nfgenHeader:], kind)
	if table != actions.TableName || strings.HasPrefix(inner, "__") {
		return "" // nameless sets come and go with their rules
	}
	r.whole = r.whole || kind == unix.NFT_MSG_DELTABLE
	text := strings.TrimSpace(object + " " + inner)
	if removals[kind] {
		text += " removed"
	} else {
		text += " added"
	}
	switch {
	case slices.Contains(r.named, text): // an interval is two elements
	case len(r.named) < maxNamed:
		r.named = append(r.named, text)
	default:
		r.more++
	}
	return ""
}

// nfgenHeader is the size of struct nfgenmsg.
const nfgenHeader = 4

// firstTexts returns the table that a message is about, and its object's name:
// of a chain or object its own, of a rule its chain's, of an element its set's.
func firstTexts(b []byte, kind netlink.HeaderType) (table, inner string) {
	nameAt := uint16(2) // NFTA_RULE_CHAIN, NFTA_SET_NAME, NFTA_SET_ELEM_LIST_SET, NFTA_OBJ_NAME
	switch kind {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		nameAt = unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		nameAt = 0
	}
	eachAttr(b, func(k uint16, v []byte) {
		switch {
		case k == 1: // the table's name is the first in all of them
			table = string(trimNUL(v))
		case k == nameAt && inner == "":
			inner = string(trimNUL(v))
		}
	})
	return table, inner
}

// eachAttr calls f for the attributes in b, as far as they are whole.
func eachAttr(b []byte, f func(kind uint16, v []byte)) {
	for len(b) >= 4 {
		n, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < 4 || n > len(b) {
			return
		}
		f(kind&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n])
		b = b[min(len(b), (n+nlaAlign-1)&^(nlaAlign-1)):]
	}
}

// end describes the transaction that a NEWGEN message ends, "" when it left our table alone.
func (r *report) end(data []byte) string {
	done := *r
	*r = report{}
	if len(done.named) == 0 {
		return ""
	}
	text := strings.Join(done.named, ", ")
	switch {
	case done.whole:
		text = "table removed"
	case done.more > 0:
		text += fmt.Sprintf(" and %d more", done.more)
	}
	process, id := "", uint32(0)
	eachAttr(data[nfgenHeader:], func(k uint16, v []byte) {
		switch {
		case k == unix.NFTA_GEN_PROC_NAME:
			process = string(trimNUL(v))
		case k == unix.NFTA_GEN_PROC_PID && len(v) == 4:
			id = binary.BigEndian.Uint32(v)
		}
	})
	if process != "" {
		text += fmt.Sprintf(" by %s (process %d)", process, id)
	}
	return "nftables: " + text
}
