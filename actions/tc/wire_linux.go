package tc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// Numbers of include/uapi/linux/pkt_sched.h, pkt_cls.h, if_link.h and
// tc_act/tc_mirred.h that x/sys does not have.
const (
	rootParent    = 0xffffffff // TC_H_ROOT
	ingressParent = 0xfffffff1 // TC_H_INGRESS, TC_H_CLSACT
	egress        = 0xfffffff3 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)
	ingress       = 0xfffffff2 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
	hookHandle    = 0xffff0000

	tcaKind    = 1
	tcaOptions = 2

	htbParms      = 1
	htbInit       = 2
	htbDirectQlen = 5
	htbRate64     = 6
	htbCeil64     = 7

	bpfAct    = 1
	bpfOpsLen = 4
	bpfOps    = 5
	bpfFD     = 6
	bpfName   = 7

	actKind     = 1
	actOptions  = 2
	mirredParms = 2

	actStolen   = 4 // TC_ACT_STOLEN
	egressRedir = 1 // TCA_EGRESS_REDIR

	// tick is the unit of times in HTB's parameters (PSCHED_SHIFT 6), in ns.
	tick = 64
	// quantum is what a class may send in its turn while others wait, at least a
	// frame; classes have no common limit, so it matters little.
	quantum = 4096
	// directQueue bounds the packets that pass the IFB without a class.
	directQueue = 1000
)

// errGone means that the device is not there.
const errGone = unix.ENODEV

// send sends the messages and returns the first refusal but those in allow.
func (a *Applier) send(msgs []netlink.Message, allow ...error) error {
	for len(msgs) > 0 {
		n := min(len(msgs), maxBatch)
		if _, err := a.conn.SendMessages(msgs[:n]); err != nil {
			return err
		}
		var first error
		for got := 0; got < n; {
			answers, err := a.conn.Receive()
			if err == nil {
				got += len(answers)
				continue
			}
			var refusal *netlink.OpError
			if !errors.As(err, &refusal) || refusal.Op != "receive" {
				return err
			}
			got++
			allowed := false
			for _, e := range allow {
				allowed = allowed || errors.Is(err, e)
			}
			if first == nil && !allowed {
				first = err
			}
		}
		if first != nil {
			return first
		}
		msgs = msgs[n:]
	}
	return nil
}

func message(kind, flags int, header []byte, attrs func(*netlink.AttributeEncoder)) netlink.Message {
	e := netlink.NewAttributeEncoder()
	if attrs != nil {
		attrs(e)
	}
	b, err := e.Encode()
	if err != nil {
		panic(err) // sizes are constant: our own bug
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | netlink.Acknowledge | netlink.HeaderFlags(flags)},
		Data:   append(header, b...),
	}
}

// words are numbers in the host's order, as netlink structures have them.
func words(list ...uint32) []byte {
	var b []byte
	for _, n := range list {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}

// tcmsg is struct tcmsg.
func tcmsg(dev, handle, parent, info uint32) []byte { return words(0, dev, handle, parent, info) }

// ifinfomsg is struct ifinfomsg.
func ifinfomsg(index, flags, change uint32) []byte { return words(0, index, flags, change) }

func nested(f func(*netlink.AttributeEncoder)) func(*netlink.AttributeEncoder) error {
	return func(e *netlink.AttributeEncoder) error { f(e); return nil }
}

func newIFB(name string) netlink.Message {
	return message(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfomsg(0, unix.IFF_UP, unix.IFF_UP), func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFNAME, name)
		e.Uint32(unix.IFLA_TXQLEN, directQueue)
		e.Nested(unix.IFLA_LINKINFO, nested(func(e *netlink.AttributeEncoder) { e.String(unix.IFLA_INFO_KIND, "ifb") }))
	})
}

func setUp(dev uint32) netlink.Message {
	return message(unix.RTM_NEWLINK, 0, ifinfomsg(dev, unix.IFF_UP, unix.IFF_UP), nil)
}

func delLink(dev uint32) netlink.Message {
	return message(unix.RTM_DELLINK, 0, ifinfomsg(dev, 0, 0), nil)
}

func root(dev uint32) netlink.Message {
	return message(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, tcmsg(dev, actions.TCMajor<<16, rootParent, 0), func(e *netlink.AttributeEncoder) {
		e.String(tcaKind, "htb")
		e.Nested(tcaOptions, nested(func(e *netlink.AttributeEncoder) {
			e.Bytes(htbInit, words(3, 10, 0, 0, 0)) // version, rate to quantum, default class: none
			e.Uint32(htbDirectQlen, directQueue)
		}))
	})
}

func delRoot(dev uint32) netlink.Message {
	return message(unix.RTM_DELQDISC, 0, tcmsg(dev, actions.TCMajor<<16, rootParent, 0), nil)
}

func hook(kind int, dev uint32) netlink.Message {
	flags := 0
	if kind == unix.RTM_NEWQDISC {
		flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	return message(kind, flags, tcmsg(dev, hookHandle, ingressParent, 0), func(e *netlink.AttributeEncoder) { e.String(tcaKind, "clsact") })
}

func classID(minor uint32) uint32 { return actions.TCMajor<<16 | minor }

func class(dev, minor uint32, o *actions.TCObject) netlink.Message {
	low := uint32(min(o.Rate, 1<<32-1))
	spec := func() []byte {
		b := []byte{0, 1 /* TC_LINKLAYER_ETHERNET: no rate table */, 0, 0, 0, 0, 0, 0}
		return append(b, words(low)...)
	}
	burst := uint32(min(uint64(o.Burst)*1e9/o.Rate/tick, 1<<32-1))
	parms := append(append(spec(), spec()...), words(burst, burst, quantum, 0, 0)...)
	return message(unix.RTM_NEWTCLASS, unix.NLM_F_CREATE, tcmsg(dev, classID(minor), actions.TCMajor<<16, 0), func(e *netlink.AttributeEncoder) {
		e.String(tcaKind, "htb")
		e.Nested(tcaOptions, nested(func(e *netlink.AttributeEncoder) {
			e.Bytes(htbParms, parms)
			if o.Rate >= 1<<32 {
				e.Uint64(htbRate64, o.Rate)
				e.Uint64(htbCeil64, o.Rate)
			}
		}))
	})
}

func leaf(dev, minor, bytes uint32) netlink.Message {
	return message(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, tcmsg(dev, 0, classID(minor), 0), func(e *netlink.AttributeEncoder) {
		e.String(tcaKind, "bfifo")
		e.Bytes(tcaOptions, words(bytes))
	})
}

func delClass(dev, minor uint32) netlink.Message {
	return message(unix.RTM_DELTCLASS, 0, tcmsg(dev, classID(minor), actions.TCMajor<<16, 0), nil)
}

func filter(dev, to uint32, o *actions.TCObject) netlink.Message {
	return message(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tcmsg(dev, 1, egress, filterInfo(actions.TCPref)), func(e *netlink.AttributeEncoder) {
		e.String(tcaKind, "bpf")
		e.Nested(tcaOptions, nested(func(e *netlink.AttributeEncoder) {
			e.Nested(bpfAct, nested(func(e *netlink.AttributeEncoder) { e.Nested(1, nested(mirred(to))) }))
			code := program(o)
			e.Uint16(bpfOpsLen, uint16(len(code)/8))
			e.Bytes(bpfOps, code)
		}))
	})
}

// program is the filter's code as struct sock_filter.
func program(o *actions.TCObject) []byte {
	var b []byte
	for _, c := range o.Filter() {
		b = binary.NativeEndian.AppendUint16(b, uint16(c[0]))
		b = append(b, byte(c[1]), byte(c[2]))
		b = binary.NativeEndian.AppendUint32(b, c[3])
	}
	return b
}

func mirred(to uint32) func(*netlink.AttributeEncoder) {
	return func(e *netlink.AttributeEncoder) {
		e.String(actKind, "mirred")
		e.Nested(actOptions, nested(func(e *netlink.AttributeEncoder) {
			e.Bytes(mirredParms, words(0, 0, actStolen, 0, 0, egressRedir, to)) // index, capab, action, refcnt, bindcnt, eaction, ifindex
		}))
	}
}

// filterInfo is the preference, and the protocol in network order.
func filterInfo(pref uint32) uint32 {
	return pref<<16 | uint32(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
}

// ownFilter attaches a program. Where it matches, packets go to the device to.
func ownFilter(dev, parent uint32, program int, to *uint32) netlink.Message {
	return message(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tcmsg(dev, 1, parent, filterInfo(actions.TCOwnPref)), func(e *netlink.AttributeEncoder) {
		e.String(tcaKind, "bpf")
		e.Nested(tcaOptions, nested(func(e *netlink.AttributeEncoder) {
			if to != nil {
				e.Nested(bpfAct, nested(func(e *netlink.AttributeEncoder) { e.Nested(1, nested(mirred(*to))) }))
			}
			e.Uint32(bpfFD, uint32(program))
			e.String(bpfName, ownName)
		}))
	})
}

func delFilter(dev, parent, pref uint32) netlink.Message {
	return message(unix.RTM_DELTFILTER, 0, tcmsg(dev, 1, parent, filterInfo(pref)), func(e *netlink.AttributeEncoder) { e.String(tcaKind, "bpf") })
}

// device is a link.
type device struct {
	index uint32
	kind  string
	up    bool
}

func (a *Applier) link(name string) (device, error) {
	ask := message(unix.RTM_GETLINK, 0, ifinfomsg(0, 0, 0), func(e *netlink.AttributeEncoder) { e.String(unix.IFLA_IFNAME, name) })
	ask.Header.Flags = netlink.Request
	msgs, err := a.conn.Execute(ask)
	if errors.Is(err, unix.ENODEV) {
		return device{}, fmt.Errorf("%w: %s", errGone, name)
	}
	if err != nil {
		return device{}, fmt.Errorf("look for device %s: %w", name, err)
	}
	if len(msgs) == 0 || len(msgs[0].Data) < unix.SizeofIfInfomsg {
		return device{}, fmt.Errorf("look for device %s: a short answer", name)
	}
	b := msgs[0].Data
	d := device{index: binary.NativeEndian.Uint32(b[4:]), up: binary.NativeEndian.Uint32(b[8:])&unix.IFF_UP != 0}
	err = each(b[unix.SizeofIfInfomsg:], func(t uint16, v []byte) {
		if t == unix.IFLA_LINKINFO {
			_ = each(v, func(t uint16, v []byte) {
				if t == unix.IFLA_INFO_KIND {
					d.kind = text(v)
				}
			})
		}
	})
	return d, err
}

// each walks through attributes.
func each(b []byte, f func(t uint16, v []byte)) error {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return fmt.Errorf("read netlink attributes: %w", err)
	}
	for d.Next() {
		f(d.Type(), d.Bytes())
	}
	return d.Err()
}

func text(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }

// entry is one line of a dump.
type entry struct {
	dev, handle, parent, info uint32
	kind                      string
	options                   []byte
}

func (a *Applier) dump(kind int, dev, parent uint32) ([]entry, error) {
	ask := message(kind, 0, tcmsg(dev, 0, parent, 0), nil)
	ask.Header.Flags = netlink.Request | netlink.Dump
	msgs, err := a.conn.Execute(ask)
	if err != nil {
		return nil, err
	}
	var list []entry
	for _, m := range msgs {
		if len(m.Data) < 20 {
			continue
		}
		n := func(i int) uint32 { return binary.NativeEndian.Uint32(m.Data[4*i:]) }
		x := entry{dev: n(1), handle: n(2), parent: n(3), info: n(4)}
		if dev != 0 && x.dev != dev {
			continue
		}
		err := each(m.Data[20:], func(t uint16, v []byte) {
			switch t {
			case tcaKind:
				x.kind = text(v)
			case tcaOptions:
				x.options = v
			}
		})
		if err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	return list, nil
}

func (a *Applier) qdiscs() ([]entry, error) {
	if a.memo != nil && a.memo.qdiscs != nil {
		return a.memo.qdiscs, nil
	}
	list, err := a.dump(unix.RTM_GETQDISC, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	if a.memo != nil {
		a.memo.qdiscs = list
	}
	return list, nil
}

// qdisc reports whether the device has our root, or a place for filters.
func (a *Applier) qdisc(dev uint32, kind actions.TCKind) (bool, error) {
	list, err := a.qdiscs()
	if err != nil {
		return false, err
	}
	for _, q := range list {
		switch {
		case q.dev != dev:
		case kind == actions.TCRoot && q.kind == "htb" && q.handle == actions.TCMajor<<16,
			kind == actions.TCHook && q.kind == "clsact":
			return true, nil
		}
	}
	return false, nil
}

// classes returns the rates of the classes of our HTB qdisc, by minor number.
func (a *Applier) classes(dev uint32) (map[uint32]uint64, error) {
	if a.memo != nil && a.memo.classes[dev] != nil {
		return a.memo.classes[dev], nil
	}
	list, err := a.dump(unix.RTM_GETTCLASS, dev, 0)
	if err != nil {
		return nil, fmt.Errorf("list classes: %w", err)
	}
	rates := map[uint32]uint64{}
	for _, c := range list {
		if c.kind != "htb" || c.handle>>16 != actions.TCMajor {
			continue
		}
		var rate uint64
		err := each(c.options, func(t uint16, v []byte) {
			switch {
			case t == htbParms && len(v) >= 12 && rate == 0:
				rate = uint64(binary.NativeEndian.Uint32(v[8:]))
			case t == htbRate64 && len(v) == 8:
				rate = binary.NativeEndian.Uint64(v)
			}
		})
		if err != nil {
			return nil, err
		}
		rates[c.handle&0xffff] = rate
	}
	if a.memo != nil {
		a.memo.classes[dev] = rates
	}
	return rates, nil
}

// found is what is known of our filter.
type found struct {
	there bool
	to    uint32 // the device it leads to, 0 for none
	mask  uint32 // that it asks for
	name  string // of the program
}

// filters looks for our filter of that preference.
func (a *Applier) filters(dev, parent, pref uint32) (found, error) {
	var f found
	if there, err := a.qdisc(dev, actions.TCHook); err != nil || !there {
		return f, err
	}
	list, err := a.dump(unix.RTM_GETTFILTER, dev, parent)
	if err != nil {
		return f, fmt.Errorf("list filters: %w", err)
	}
	for _, x := range list {
		if x.info>>16 != pref || x.kind != "bpf" || x.handle != 1 {
			continue
		}
		f.there = true
		err := each(x.options, func(t uint16, v []byte) {
			switch {
			case t == bpfOps && len(v) >= 16:
				f.mask = binary.NativeEndian.Uint32(v[12:])
			case t == bpfName:
				f.name = text(v)
			case t == bpfAct:
				f.readAction(v)
			}
		})
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

func (f *found) readAction(b []byte) {
	_ = each(b, func(_ uint16, v []byte) {
		_ = each(v, func(t uint16, v []byte) {
			if t != actOptions {
				return
			}
			_ = each(v, func(t uint16, v []byte) {
				if t == mirredParms && len(v) >= 28 {
					f.to = binary.NativeEndian.Uint32(v[24:])
				}
			})
		})
	})
}

// others reports whether the device's clsact has filters of others.
func (a *Applier) others(dev uint32) (bool, error) {
	for _, parent := range []uint32{egress, ingress} {
		list, err := a.dump(unix.RTM_GETTFILTER, dev, parent)
		if err != nil {
			return false, fmt.Errorf("list filters: %w", err)
		}
		for _, x := range list {
			if pref := x.info >> 16; pref != actions.TCPref && pref != actions.TCOwnPref {
				return true, nil
			}
		}
	}
	return false, nil
}

// probe is a request that can't succeed, and the refusal that says that the
// kernel does not know the kind.
type probe struct {
	what    string
	ask     netlink.Message
	unknown error
}

func probes() []probe {
	const loopback = 1 // LOOPBACK_IFINDEX
	htb := message(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tcmsg(loopback, actions.TCMajor<<16, rootParent, 0),
		func(e *netlink.AttributeEncoder) { e.String(tcaKind, "htb") }) // without its options
	ifb := message(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfomsg(0, 0, 0), func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.IFLA_ADDRESS, []byte{0}) // too short an address
		e.Nested(unix.IFLA_LINKINFO, nested(func(e *netlink.AttributeEncoder) { e.String(unix.IFLA_INFO_KIND, "ifb") }))
	})
	return []probe{{"HTB qdisc", htb, unix.ENOENT}, {"IFB device", ifb, unix.EOPNOTSUPP}}
}
