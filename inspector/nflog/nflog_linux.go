package nflog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	vnetlink "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/packet"
)

// Numbers of linux/netfilter/nfnetlink_log.h.
const (
	subsystem = unix.NFNL_SUBSYS_ULOG << 8
	msgPacket = 0
	msgConfig = 1

	cfgCommand  = 1
	cfgMode     = 2
	cfgTimeout  = 4 // hundredths of a second
	cfgFlags    = 6
	commandBind = 1
	modePacket  = 2
	flagCT      = 4

	attrMark    = 2
	attrInDev   = 4
	attrPayload = 9
	attrPrefix  = 10
	attrCT      = 18
	ctaMark     = 8
)

const (
	// snap is how much of a packet is wanted: its IP and transport headers, with
	// options and extension headers.
	snap = 160
	// delay is how long the kernel may gather packets, in hundredths of a second.
	delay = 5
	// readBuffer holds some ten thousand packets.
	readBuffer = 4 << 20
	// maxPrefix is NF_LOG_PREFIXLEN of linux/netfilter/nf_log.h.
	maxPrefix = 128
	// interfaceLife is how long the name of an interface is believed.
	interfaceLife = 10 * time.Second
)

// Options says what to read.
type Options struct {
	Group uint16 // the group that rules log to
}

// Counters says what a source did. They may be read at any time.
type Counters struct {
	Packets atomic.Uint64
	Lost    atomic.Uint64 // times that the kernel had more than the buffer took
	Bad     atomic.Uint64 // messages or packets not understood
}

// Source is an inspector.Source. Run it once at a time.
type Source struct {
	opt      Options
	Counters Counters
}

// New returns a source for the network namespace that Run is called in.
func New(opt Options) *Source { return &Source{opt: opt} }

// Name implements inspector.Source.
func (s *Source) Name() string { return "nflog" }

// Losses implements inspector.Counted.
func (s *Source) Losses() map[string]uint64 {
	return map[string]uint64{
		"kernel": s.Counters.Lost.Load(),
		"bad":    s.Counters.Bad.Load(),
	}
}

// Run implements inspector.Source. It needs CAP_NET_ADMIN, and the kernel's
// nfnetlink_log (2.6.14).
func (s *Source) Run(ctx context.Context, emit func(inspector.Event)) error {
	c, err := s.bind()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	links, err := vnetlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open route netlink: %w", err)
	}
	defer links.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	r := reader{links: links, names: make(map[uint32]string)}
	for ctx.Err() == nil {
		for m, err := range c.ReceiveIter() {
			switch {
			case err == nil:
				s.take(m, &r, emit)
				continue
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, unix.ENOBUFS):
				s.Counters.Lost.Add(1)
			default:
				return fmt.Errorf("read log group %d: %w", s.opt.Group, err)
			}
			break
		}
	}
	return nil
}

// bind makes a socket that gets the group's packets.
func (s *Source) bind() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	_ = c.SetReadBuffer(readBuffer) // the system's limit holds without CAP_NET_ADMIN
	mode := append(binary.BigEndian.AppendUint32(nil, snap), modePacket, 0)
	for _, a := range []struct {
		what     string
		kind     uint16
		data     []byte
		optional bool
	}{
		{"bind", cfgCommand, []byte{commandBind}, false},
		{"set mode of", cfgMode, mode, false},
		{"set delay of", cfgTimeout, binary.BigEndian.AppendUint32(nil, delay), true},
		{"ask for marks of", cfgFlags, binary.BigEndian.AppendUint16(nil, flagCT), true}, // kernel 4.4
	} {
		if err := s.configure(c, a.kind, a.data); err != nil && !a.optional {
			_ = c.Close()
			return nil, fmt.Errorf("%s log group %d: %w", a.what, s.opt.Group, err)
		}
	}
	return c, nil
}

// configure sends one setting and waits for the kernel's word. Packets may
// arrive before it: they are dropped, as the reader is not there yet.
func (s *Source) configure(c *netlink.Conn, kind uint16, data []byte) error {
	body, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: kind, Data: data}})
	if err != nil {
		return fmt.Errorf("encode setting: %w", err)
	}
	head := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, s.opt.Group)
	sent, err := c.Send(netlink.Message{
		Header: netlink.Header{Type: subsystem | msgConfig, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(head, body...),
	})
	if err != nil {
		return err
	}
	const most = 100_000 // messages before the answer: more than the buffer holds
	for range most {
		for m, err := range c.ReceiveIter() {
			if err != nil {
				return err
			}
			if m.Header.Type == netlink.Error && m.Header.Sequence == sent.Header.Sequence {
				return nil
			}
		}
	}
	return errors.New("no answer")
}

// reader remembers the names of interfaces.
type reader struct {
	links *vnetlink.Handle
	names map[uint32]string
	at    time.Time
}

// take turns one message into an event.
func (s *Source) take(m netlink.Message, r *reader, emit func(inspector.Event)) {
	if m.Header.Type != subsystem|msgPacket {
		return
	}
	s.Counters.Packets.Add(1)
	now := time.Now()
	e, in, err := parse(m.Data)
	if err != nil {
		s.Counters.Bad.Add(1)
		return
	}
	e.At, e.Source = now, s.Name()
	if name := r.name(in, now); name != "" {
		e.Flow.IfaceIn = flow.Some(name)
	}
	emit(e)
}

var errNoPacket = errors.New("log message without an IP packet")

// parse reads a message's body: nfgenmsg (4 bytes), then attributes.
func parse(b []byte) (e inspector.Event, in uint32, err error) {
	e.Kind = inspector.Logged
	if len(b) < 4 {
		return e, 0, errNoPacket
	}
	ad, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return e, 0, err
	}
	ad.ByteOrder = binary.BigEndian
	found := false
	e.Flow.Mark = flow.Some[uint32](0) // the attribute is left out when 0
	for ad.Next() {
		switch ad.Type() {
		case attrMark:
			e.Flow.Mark = flow.Some(ad.Uint32())
		case attrInDev:
			in = ad.Uint32()
		case attrPrefix:
			p, _, _ := strings.Cut(string(ad.Bytes()), "\x00")
			e.Prefix = p[:min(len(p), maxPrefix)]
		case attrCT:
			ad.Nested(func(ct *netlink.AttributeDecoder) error {
				ct.ByteOrder = binary.BigEndian
				for ct.Next() {
					if ct.Type() == ctaMark {
						e.Mark = ct.Uint32()
					}
				}
				return ct.Err()
			})
		case attrPayload:
			var p packet.Packet
			if p, found = packet.DecodeIP(ad.Bytes(), packet.Options{}); found {
				describe(&e.Flow, p)
			}
		}
	}
	if err := ad.Err(); err != nil {
		return e, 0, err
	}
	if !found {
		return e, 0, errNoPacket
	}
	return e, in, nil
}

// describe fills a flow with what a packet tells.
func describe(f *flow.Flow, p packet.Packet) {
	f.Proto = flow.Some(p.Proto)
	f.Src, f.Dst = flow.Some(p.Src.Addr()), flow.Some(p.Dst.Addr())
	f.SrcPort, f.DstPort = flow.Absent[uint16](), flow.Absent[uint16]()
	f.DSCP = flow.Some(p.DSCP)
	if p.HasPorts {
		f.SrcPort, f.DstPort = flow.Some(p.Src.Port()), flow.Some(p.Dst.Port())
	}
}

// name returns an interface's name, "" for none: local packets have none.
func (r *reader) name(index uint32, now time.Time) string {
	if index == 0 {
		return ""
	}
	if now.Sub(r.at) > interfaceLife {
		clear(r.names)
		r.at = now
	}
	n, ok := r.names[index]
	if !ok {
		if link, err := r.links.LinkByIndex(int(index)); err == nil {
			n = link.Attrs().Name
		}
		r.names[index] = n
	}
	return n
}
