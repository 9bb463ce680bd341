package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
)

const (
	// every is the default time between polls.
	every = time.Second
	// maxSockets bounds the sockets remembered by default; one takes about 300 bytes.
	maxSockets = 32768
)

// Options says how to observe. The zero Options are the defaults.
type Options struct {
	Every      time.Duration // between polls; 0 means 1 s
	MaxSockets int           // remembered; 0 means 32,768
	Proc       string        // where /proc is; "" means /proc
}

// Counters says what a source did. They may be read at any time.
type Counters struct {
	Polls   atomic.Uint64
	Partial atomic.Uint64 // listings that the kernel called inconsistent
	Full    atomic.Uint64 // sockets not observed for want of room
	Scans   atomic.Uint64 // searches of /proc for owners
}

// Source is an inspector.Source. Run it once at a time.
type Source struct {
	opt      Options
	Counters Counters
}

// New returns a source for the network namespace that Run is called in.
func New(opt Options) *Source {
	if opt.Every <= 0 {
		opt.Every = every
	}
	if opt.MaxSockets <= 0 {
		opt.MaxSockets = maxSockets
	}
	if opt.Proc == "" {
		opt.Proc = "/proc"
	}
	return &Source{opt: opt}
}

// Name implements inspector.Source.
func (s *Source) Name() string { return "sockdiag" }

// Losses implements inspector.Counted.
func (s *Source) Losses() map[string]uint64 {
	return map[string]uint64{
		"partial": s.Counters.Partial.Load(),
		"room":    s.Counters.Full.Load(),
	}
}

// Run implements inspector.Source. Without root, other users' programs stay unknown.
func (s *Source) Run(ctx context.Context, emit func(inspector.Event)) error {
	h, err := netlink.NewHandle(unix.NETLINK_INET_DIAG)
	if err != nil {
		return fmt.Errorf("open inet_diag netlink: %w", err)
	}
	defer h.Close()
	r := &run{source: s, emit: emit, handle: h, known: make(map[key]*socket), owners: newOwners(s.opt.Proc, &s.Counters)}
	tick := time.NewTicker(s.opt.Every)
	defer tick.Stop()
	for {
		if err := r.poll(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// key identifies a socket among those alive: the kernel's cookie, with the
// ends, because a TIME_WAIT socket keeps neither owner nor figures.
type key struct {
	proto         flow.Proto
	local, remote netip.AddrPort
	cookie        [2]uint32
}

// socket is a living connection.
type socket struct {
	key      key
	flow     flow.Flow
	stats    inspector.Stats
	inode    uint32
	accepted bool // by a listener here: the far end opened it
	round    uint64
	searches int // for its owner
}

// maxSearches is how often an owner is looked for: a socket may be passed on
// right after it is made, and the owner of another user's may never be seen.
const maxSearches = 3

// run is the state of one Run; one goroutine owns it.
type run struct {
	source *Source
	emit   func(inspector.Event)
	handle *netlink.Handle
	known  map[key]*socket
	order  []*socket // as they were opened
	round  uint64
	owners *owners
}

// listed is one socket of a listing; info is nil for UDP.
type listed struct {
	proto flow.Proto
	msg   *netlink.Socket
	info  *netlink.TCPInfo
}

// poll lists all sockets, and tells of new, changed and vanished ones.
func (r *run) poll() error {
	r.round++
	r.source.Counters.Polls.Add(1)
	found, err := r.list()
	if err != nil {
		return err
	}
	listening := map[uint16]bool{}
	for _, s := range found {
		if s.proto == flow.TCP && s.msg.State == netlink.TCP_LISTEN {
			listening[s.msg.ID.SourcePort] = true
		}
	}
	ownerless := map[uint32]*socket{}
	known := len(r.order)
	for _, s := range found {
		if n := r.enter(s, listening); n != nil && n.flow.Process.Unknown() && n.inode != 0 && n.searches < maxSearches {
			n.searches++
			ownerless[n.inode] = n
		}
	}
	if len(ownerless) > 0 {
		r.owners.find(ownerless)
	}
	for _, n := range r.order[known:] {
		r.tell(inspector.Open, n)
	}
	for _, n := range r.order[:known] { // their Open is out without the owner
		if ownerless[n.inode] == n && !n.flow.Process.Unknown() {
			r.tell(inspector.Update, n)
		}
	}
	r.sweep()
	return nil
}

func (r *run) list() ([]listed, error) {
	var found []listed
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		tcp, err := r.handle.SocketDiagTCPInfo(family)
		if err := r.tolerable(err); err != nil {
			return nil, fmt.Errorf("list TCP sockets: %w", err)
		}
		for _, t := range tcp {
			found = append(found, listed{flow.TCP, t.InetDiagMsg, t.TCPInfo})
		}
		udp, err := r.handle.SocketDiagUDP(family)
		if err := r.tolerable(err); err != nil {
			return nil, fmt.Errorf("list UDP sockets: %w", err)
		}
		for _, u := range udp {
			found = append(found, listed{flow.UDP, u, nil})
		}
	}
	return found, nil
}

// tolerable drops the errors of a listing that mean nothing: interrupted, which
// the next poll completes, and a family or protocol that the kernel lacks.
func (r *run) tolerable(err error) error {
	switch {
	case errors.Is(err, netlink.ErrDumpInterrupted):
		r.source.Counters.Partial.Add(1)
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT):
		return nil
	}
	return err
}

// enter notes one socket of a listing; it returns nil for those without a far
// end and those beyond the bound.
func (r *run) enter(s listed, listening map[uint16]bool) *socket {
	k, ok := keyOf(s)
	if !ok {
		return nil
	}
	n := r.known[k]
	if n == nil {
		if len(r.known) >= r.source.opt.MaxSockets {
			r.source.Counters.Full.Add(1)
			return nil
		}
		n = &socket{key: k, accepted: k.proto == flow.TCP && listening[k.local.Port()]}
		n.describe()
		r.owned(n, s.msg)
		n.measure(s.info)
		r.known[k] = n
		r.order = append(r.order, n)
	} else {
		r.owned(n, s.msg)
		if n.measure(s.info) {
			r.tell(inspector.Update, n)
		}
	}
	n.round = r.round
	return n
}

// owned notes whose the socket is. A connection that its listener has not accepted yet is
// nobody's: it has no inode, and the kernel says root.
func (r *run) owned(n *socket, m *netlink.Socket) {
	if n.inode == 0 && m.INode != 0 {
		n.inode, n.flow.User = m.INode, r.owners.users.Name(m.UID)
	}
}

// keyOf names a socket; false for those without a far end.
func keyOf(s listed) (key, bool) {
	id := s.msg.ID
	local, ok1 := netip.AddrFromSlice(id.Source)
	remote, ok2 := netip.AddrFromSlice(id.Destination)
	connected := ok1 && ok2 && id.DestinationPort != 0 && !remote.Unmap().IsUnspecified()
	switch s.msg.State {
	case netlink.TCP_LISTEN, netlink.TCP_TIME_WAIT, netlink.TCP_NEW_SYN_REC, netlink.TCP_CLOSE:
		connected = false
	}
	return key{
		proto:  s.proto,
		local:  netip.AddrPortFrom(local.Unmap(), id.SourcePort),
		remote: netip.AddrPortFrom(remote.Unmap(), id.DestinationPort),
		cookie: id.Cookie,
	}, connected
}

// describe fills the flow with what the ends say.
func (n *socket) describe() {
	src, dst := n.key.local, n.key.remote
	if n.accepted {
		src, dst = dst, src
	}
	n.flow = flow.Flow{
		Proto: flow.Some(n.key.proto),
		Src:   flow.Some(src.Addr()), SrcPort: flow.Some(src.Port()),
		Dst: flow.Some(dst.Addr()), DstPort: flow.Some(dst.Port()),
	}
}

// measure takes the kernel's figures, nil for none; it reports a change.
func (n *socket) measure(i *netlink.TCPInfo) bool {
	if i == nil {
		return false
	}
	s := inspector.Stats{
		RTT: time.Duration(i.Rtt) * time.Microsecond, Retrans: uint64(i.Total_retrans),
		BytesUp: i.Bytes_acked, BytesDown: i.Bytes_received,
		PacketsUp: uint64(i.Segs_out), PacketsDown: uint64(i.Segs_in),
		Replied: i.State != netlink.TCP_SYN_SENT,
	}
	if i.Min_rtt != ^uint32(0) { // else not measured yet
		s.MinRTT = time.Duration(i.Min_rtt) * time.Microsecond
	}
	if n.accepted {
		s.BytesUp, s.BytesDown = s.BytesDown, s.BytesUp
		s.PacketsUp, s.PacketsDown = s.PacketsDown, s.PacketsUp
	}
	if s.RTT > 0 {
		n.flow.RTT = flow.Some(s.RTT.Microseconds())
	}
	changed := s != n.stats
	n.stats = s
	return changed
}

// sweep tells of the sockets that are gone.
func (r *run) sweep() {
	kept := r.order[:0]
	for _, n := range r.order {
		if n.round == r.round {
			kept = append(kept, n)
			continue
		}
		delete(r.known, n.key)
		r.tell(inspector.Close, n)
	}
	clear(r.order[len(kept):])
	r.order = kept
}

func (r *run) tell(kind inspector.Kind, n *socket) {
	r.emit(inspector.Event{Kind: kind, At: time.Now(), Source: "sockdiag", Flow: n.flow, Stats: n.stats})
}
