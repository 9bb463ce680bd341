package tc

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// maxBatch bounds the messages that are sent before their answers are read: all
// of them fit into the socket's buffer.
const maxBatch = 64

// Applier writes to the network namespace it was made in. It is not safe for
// concurrent use.
type Applier struct {
	conn *netlink.Conn
	// While Have runs, each list is asked for once: thousands of classes take a while.
	memo *memo
}

type memo struct {
	qdiscs  []entry
	classes map[uint32]map[uint32]uint64 // by device
}

// New opens a netlink socket in the current network namespace.
func New() (*Applier, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open tc netlink socket: %w", err)
	}
	return &Applier{conn: conn}, nil
}

// Close closes the socket.
func (a *Applier) Close() error { return a.conn.Close() }

// Apply carries out the steps of traffic control; others are an error.
func (a *Applier) Apply(ctx context.Context, steps []actions.Step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		switch s.Kind {
		case actions.AddTC:
			err = a.add(&s.TC)
		case actions.DelTC:
			err = a.del(&s.TC)
		default:
			err = errors.New("not a step of traffic control")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

func (a *Applier) add(o *actions.TCObject) error {
	if o.Kind == actions.TCIFB {
		return a.addIFB(o.Dev)
	}
	dev, err := a.link(o.Dev)
	if err != nil {
		return err
	}
	switch o.Kind {
	case actions.TCRoot, actions.TCHook:
		there, err := a.qdisc(dev.index, o.Kind)
		if err != nil || there {
			return err
		}
		if o.Kind == actions.TCRoot {
			return a.send([]netlink.Message{root(dev.index)})
		}
		return a.send([]netlink.Message{hook(unix.RTM_NEWQDISC, dev.index)})
	case actions.TCClasses:
		return a.addClasses(dev.index, o)
	case actions.TCOwn:
		return a.addOwn(dev.index, o)
	default:
		to, err := a.link(o.To)
		if err != nil {
			return err
		}
		// One of ours may be there, and lead to a device that is gone.
		if err := a.delFilter(dev.index, egress, actions.TCPref); err != nil {
			return err
		}
		return a.send([]netlink.Message{filter(dev.index, to.index, o)})
	}
}

// addIFB makes the device, or sets it up.
func (a *Applier) addIFB(name string) error {
	err := a.send([]netlink.Message{newIFB(name)})
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	dev, err := a.link(name)
	if err != nil {
		return err
	}
	if dev.kind != "ifb" {
		return fmt.Errorf("a device of that name is there, of kind %q", dev.kind)
	}
	return a.send([]netlink.Message{setUp(dev.index)})
}

// addClasses makes the classes anew: those with other parameters would keep
// their old queues.
func (a *Applier) addClasses(dev uint32, o *actions.TCObject) error {
	if err := a.delClasses(dev, o); err != nil {
		return err
	}
	var msgs []netlink.Message
	for i := range o.Count {
		msgs = append(msgs, class(dev, o.First+i, o), leaf(dev, o.First+i, o.Queue))
	}
	return a.send(msgs)
}

// delClasses removes those that are there.
func (a *Applier) delClasses(dev uint32, o *actions.TCObject) error {
	have, err := a.classes(dev)
	if err != nil {
		return err
	}
	var msgs []netlink.Message
	for i := range o.Count {
		if _, ok := have[o.First+i]; ok {
			msgs = append(msgs, delClass(dev, o.First+i))
		}
	}
	return a.send(msgs, unix.ENOENT)
}

// del removes the object; with its device everything on it is gone already.
func (a *Applier) del(o *actions.TCObject) error {
	dev, err := a.link(o.Dev)
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	switch o.Kind {
	case actions.TCIFB:
		return a.send([]netlink.Message{delLink(dev.index)}, unix.ENODEV)
	case actions.TCRoot:
		if there, err := a.qdisc(dev.index, o.Kind); err != nil || !there {
			return err
		}
		return a.send([]netlink.Message{delRoot(dev.index)}, unix.ENOENT, unix.EINVAL)
	case actions.TCClasses:
		return a.delClasses(dev.index, o)
	case actions.TCHook:
		// Filters of others came to use it: it is theirs now.
		there, err := a.qdisc(dev.index, o.Kind)
		if err != nil || !there {
			return err
		}
		if others, err := a.others(dev.index); err != nil || others {
			return err
		}
		return a.send([]netlink.Message{hook(unix.RTM_DELQDISC, dev.index)}, unix.ENOENT, unix.EINVAL)
	case actions.TCOwn:
		return errors.Join(a.delFilter(dev.index, ingress, actions.TCOwnPref), a.delFilter(dev.index, egress, actions.TCOwnPref))
	default:
		return a.delFilter(dev.index, egress, actions.TCPref)
	}
}

// addOwn loads a device's programs, with a map of their own, and attaches them.
func (a *Applier) addOwn(dev uint32, o *actions.TCObject) error {
	to, err := a.link(o.To)
	if err != nil {
		return err
	}
	progs, err := loadOwn()
	if err != nil {
		return err
	}
	defer progs.close()
	if err := a.del(o); err != nil {
		return err
	}
	return a.send([]netlink.Message{
		ownFilter(dev, egress, progs.remember, nil),
		ownFilter(dev, ingress, progs.recall, &to.index),
	})
}

// delFilter removes our filter of that preference, if it is there.
func (a *Applier) delFilter(dev, parent, pref uint32) error {
	f, err := a.filters(dev, parent, pref)
	if err != nil || !f.there {
		return err
	}
	return a.send([]netlink.Message{delFilter(dev, parent, pref)}, unix.ENOENT, unix.EINVAL)
}

// Have returns those objects of the list that are there. What is there with
// other parameters, or only in part, comes back changed.
func (a *Applier) Have(list []actions.TCObject) ([]actions.TCObject, error) {
	a.memo = &memo{classes: map[uint32]map[uint32]uint64{}}
	defer func() { a.memo = nil }()
	var have []actions.TCObject
	for _, o := range list {
		dev, err := a.link(o.Dev)
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		there := false
		switch o.Kind {
		case actions.TCIFB:
			there = dev.kind == "ifb"
			if !dev.up {
				o.Mask = 1 // not as it should be
			}
		case actions.TCRoot, actions.TCHook:
			there, err = a.qdisc(dev.index, o.Kind)
		case actions.TCClasses:
			there, err = a.haveClasses(dev.index, &o)
		case actions.TCOwn:
			there, err = a.haveOwn(dev.index, &o)
		default:
			there, err = a.haveFilter(dev.index, &o)
		}
		if err != nil {
			return nil, err
		}
		if there {
			have = append(have, o)
		}
	}
	return have, nil
}

func (a *Applier) haveClasses(dev uint32, o *actions.TCObject) (bool, error) {
	all, err := a.classes(dev)
	if err != nil {
		return false, err
	}
	n, right := 0, 0
	for i := range o.Count {
		if rate, ok := all[o.First+i]; ok {
			n++
			if rate == o.Rate {
				right++
			}
		}
	}
	if right < int(o.Count) {
		o.Rate = 0
	}
	return n > 0, nil
}

func (a *Applier) haveFilter(dev uint32, o *actions.TCObject) (bool, error) {
	f, err := a.filters(dev, egress, actions.TCPref)
	if err != nil || !f.there {
		return false, err
	}
	return true, a.leads(f, o, f.mask == o.Mask)
}

func (a *Applier) haveOwn(dev uint32, o *actions.TCObject) (bool, error) {
	in, err := a.filters(dev, ingress, actions.TCOwnPref)
	if err != nil {
		return false, err
	}
	out, err := a.filters(dev, egress, actions.TCOwnPref)
	if err != nil || !in.there && !out.there {
		return false, err
	}
	return true, a.leads(in, o, in.name == ownName && out.name == ownName)
}

// leads takes o's target away if the filter leads elsewhere, or is not right.
func (a *Applier) leads(f found, o *actions.TCObject, right bool) error {
	to, err := a.link(o.To)
	switch {
	case errors.Is(err, errGone), err == nil && (f.to != to.index || !right):
		o.To = ""
	case err != nil:
		return err
	}
	return nil
}

// Exists reports whether a device of that name is there.
func (a *Applier) Exists(dev string) (bool, error) {
	_, err := a.link(dev)
	if errors.Is(err, errGone) {
		return false, nil
	}
	return err == nil, err
}

// ReadHost completes what plans need to know of the host.
func (a *Applier) ReadHost(h *actions.Host) error {
	qdiscs, err := a.qdiscs()
	if err != nil {
		return err
	}
	for i := range h.Links {
		for _, q := range qdiscs {
			if q.dev == uint32(h.Links[i].Index) && q.parent == ingressParent && q.kind == "ingress" {
				h.Links[i].Ingress = true
			}
		}
	}
	lacks, known := a.lacks()
	if !known {
		return nil
	}
	h.NoShaping = lacks
	if progs, err := loadOwn(); err != nil {
		h.NoOwnShaping = err.Error()
	} else {
		progs.close()
	}
	return nil
}

// lacks says what the kernel does not have that shaping needs, "" for nothing.
// It asks for what can't be done, and tells the refusal of an unknown kind from that
// of a wrong request; nothing is changed. Without rights that is not known.
func (a *Applier) lacks() (what string, known bool) {
	for _, p := range probes() {
		err := a.send([]netlink.Message{p.ask})
		if errors.Is(err, unix.EPERM) {
			return "", false
		}
		if errors.Is(err, p.unknown) {
			return "the kernel has no " + p.what, true
		}
	}
	return "", true
}
