package api

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxConns bounds the connections over TCP: some people with some tabs.
	maxConns = 256
	// maxStrangers bounds those of one address by which nobody has shown a token yet.
	maxStrangers = 32
	// writeStall is how long one piece of an answer may take to be taken, and writePiece
	// its size: whoever is slower than 2 KiB a second has left.
	writeStall = 30 * time.Second
	writePiece = 64 << 10
)

// crowd is a listener to which anybody may come. When there are too many connections the
// oldest by which nobody has shown a token is closed for the new one, then the oldest of the
// role read: who only holds places keeps nobody else out. This host's own addresses are
// not told from each other, as a proxy may be behind them, and bounded together alone.
type crowd struct {
	net.Listener
	most, strangers int

	mu   sync.Mutex
	here []*visitor // the oldest first
}

// visitor is a connection of a crowd.
type visitor struct {
	net.Conn
	in   *crowd
	from netip.Addr   // its network; the zero Addr is this host
	rank atomic.Int32 // stranger, reader, admin
	once sync.Once
}

// The ranks of visitors, by the best token that they have shown.
const (
	stranger int32 = iota
	reader
	admin
)

// Accept waits for a connection for which there is a place.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		v := &visitor{Conn: conn, in: c}
		if a, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil && !a.Addr().Unmap().IsLoopback() {
			v.from = networkOf(a.Addr())
		}
		leaves, ok := c.admit(v)
		if leaves != nil {
			leaves.Close()
		}
		if ok {
			return v, nil
		}
		conn.Close()
	}
}

// admit takes v in, and returns who has to leave for it; false: there is no place.
func (c *crowd) admit(v *visitor) (leaves *visitor, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := 0
	for _, one := range c.here {
		if v.from.IsValid() && one.from == v.from && one.rank.Load() == stranger {
			if same++; leaves == nil {
				leaves = one
			}
		}
	}
	if same < c.strangers {
		leaves = nil
	}
	for rank := stranger; leaves == nil && len(c.here) >= c.most; rank++ {
		if rank == admin {
			return nil, false
		}
		if i := slices.IndexFunc(c.here, func(one *visitor) bool { return one.rank.Load() == rank }); i >= 0 {
			leaves = c.here[i]
		}
	}
	if leaves != nil {
		c.remove(leaves)
	}
	c.here = append(c.here, v)
	return leaves, true
}

func (c *crowd) remove(v *visitor) {
	if i := slices.Index(c.here, v); i >= 0 {
		c.here = slices.Delete(c.here, i, i+1)
	}
}

// Close leaves the crowd.
func (v *visitor) Close() error {
	v.once.Do(func() {
		v.in.mu.Lock()
		defer v.in.mu.Unlock()
		v.in.remove(v)
	})
	return v.Conn.Close()
}

// Write writes in pieces, each of which has its time.
func (v *visitor) Write(b []byte) (n int, err error) {
	for piece := range slices.Chunk(b, writePiece) {
		if err := v.SetWriteDeadline(time.Now().Add(writeStall)); err != nil {
			return n, err
		}
		wrote, err := v.Conn.Write(piece)
		if n += wrote; err != nil {
			return n, err
		}
	}
	return n, nil
}

// networkOf returns what counts as one sender: who has one IPv6 address of a network has them all.
func networkOf(a netip.Addr) netip.Addr {
	if a = a.Unmap().WithZone(""); a.Is6() {
		p, _ := a.Prefix(64)
		a = p.Addr()
	}
	return a
}

type visitorKey struct{}

// withVisitor notes the connection of a crowd, for shows.
func withVisitor(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // within TLS
		c = t.NetConn()
	}
	return context.WithValue(ctx, visitorKey{}, c)
}

// shows notes that a token of a role was shown by the connection of a request.
func shows(ctx context.Context, r Role) {
	v, ok := ctx.Value(visitorKey{}).(*visitor)
	switch {
	case !ok:
	case r == RoleAdmin:
		v.rank.Store(admin)
	default:
		v.rank.CompareAndSwap(stranger, reader)
	}
}
