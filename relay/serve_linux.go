package relay

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/first"
	"netpolicy.dev/netpolicy/internal/socks"
)

// target is where a client wants to go.
type target = socks.Target

// request is what a client wants.
type request struct {
	target
	early []byte // the client's bytes that have been read and are for the far end
	// answer tells the client how it went, once, before payload moves; nil where
	// it is not told (TPROXY).
	answer func(err error) error
	// body copies what must go through our hands to the far end; nil: nothing.
	body func(to io.Writer) error
	left int64 // bytes of the client's that may follow, -1 for any number
	// facts are what the request itself says; nil: the first bytes may say something.
	facts *first.Facts
}

// errBlocked is what clients are told of Drop and Reject.
var errBlocked = errors.New("not allowed by policy")

// serve takes one connection from accept to the loop, which has it from then on.
func (r *Relay) serve(ctx context.Context, in *inbound, c *net.TCPConn, src netip.AddrPort) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	e := r.table.add(in.Kind, false, src, r.clock(), cancel)
	if e == nil {
		r.counts.full.Add(1)
		refuse(c)
		return
	}
	if !r.handshake(ctx, in, c, e) {
		r.table.remove(e)
	}
}

// handshake does all that comes before payload moves. It reports whether the
// entry has gone on into a loop; else it has closed the connection.
func (r *Relay) handshake(ctx context.Context, in *inbound, c *net.TCPConn, e *entry) bool {
	_ = c.SetDeadline(time.Now().Add(r.limits.Request))
	g := greet(c, in.Users)
	defer g.release()
	req, err := r.request(in.Kind, g, c, e)
	if err != nil {
		_ = c.Close()
		return false
	}
	if req == nil {
		return true
	}
	e.aim(req.target)
	if ctx.Err() != nil || c.SetDeadline(time.Time{}) != nil || ctx.Err() != nil {
		refuse(c)
		return false
	}
	a := &attempt{question: question{r: r, e: e, target: req.target}, c: c, req: req}
	defer a.release()
	to, err := a.connect(ctx)
	if err != nil {
		a.turnDown(err)
		return false
	}
	if err = a.begin(ctx, to); err != nil {
		refuse(to)
		refuse(c)
		return false
	}
	return r.hand(a, to)
}

// request asks the client what it wants. nil without an error: an association,
// which a loop has now, with the entry.
func (r *Relay) request(kind Kind, in *greeting, c *net.TCPConn, e *entry) (*request, error) {
	if kind == TProxy {
		to, _ := c.LocalAddr().(*net.TCPAddr) // the kernel gave the socket the original destination
		if r.isSelf(unmap(to.AddrPort())) {
			return nil, errSelf
		}
		return &request{target: socks.TargetOf(to.AddrPort()), left: -1}, nil
	}
	begin, err := in.Peek(1)
	if err != nil {
		return nil, err
	}
	switch asks := begin[0] == socks.Version; {
	case asks && kind != HTTP:
		return r.requestSOCKS(in, c, e)
	case !asks && kind != SOCKS:
		return requestHTTP(in, c)
	}
	return nil, socks.ErrProtocol
}

// greeting is what a client says first, in as few reads as can be.
type greeting struct {
	*bufio.Reader
	from  io.LimitedReader
	users map[string]string
}

// greetings are their buffers, of which as many are in use as handshakes. Most
// that SOCKS clients say fits, and heads of HTTP take some reads more.
var greetings = sync.Pool{New: func() any { return &greeting{Reader: bufio.NewReaderSize(nil, 1<<10)} }}

func greet(c net.Conn, users map[string]string) *greeting {
	g, _ := greetings.Get().(*greeting)
	g.from = io.LimitedReader{R: c, N: maxHTTPHead}
	g.users = users
	g.Reset(&g.from)
	return g
}

func (g *greeting) release() {
	g.from.R, g.users = nil, nil
	greetings.Put(g)
}

// rest is what was read beyond what has been asked for. It lives as long as the greeting.
func (g *greeting) rest() []byte {
	b, _ := g.Peek(g.Buffered())
	return b
}

// attempt is one TCP connection on its way to the far end.
type attempt struct {
	question
	c        *net.TCPConn
	req      *request
	answered bool
	buf      *[first.MaxStream]byte
}

// firstBytes are buffers for what clients send first: at most Limits.Handshakes
// are in use, each until the far end has its bytes.
var firstBytes = sync.Pool{New: func() any { return new([first.MaxStream]byte) }}

func (a *attempt) release() {
	if a.buf != nil {
		firstBytes.Put(a.buf)
		a.buf = nil
	}
}

// connect finds the way and dials it.
func (a *attempt) connect(ctx context.Context) (to *net.TCPConn, err error) {
	a.describe(flow.TCP, a.e.src)
	if a.req.facts != nil {
		a.req.facts.Fill(&a.flow, true)
		a.ask.Sniffed = true
	}
	err = a.dial(ctx, a.sniff, func(ctx context.Context, d *dialer, t target, o *Outcome) error {
		var err error
		to, err = d.connect(ctx, t, a.addrs, o)
		return err
	})
	return to, err
}

// sniff reads the client's first bytes. A client that waits for the far end to
// speak first sends none: then there are no names. SOCKS and HTTP clients send
// none before they are told that all is well.
func (a *attempt) sniff(ctx context.Context) error {
	if err := a.tell(nil); err != nil {
		return err
	}
	a.buf, _ = firstBytes.Get().(*[first.MaxStream]byte)
	n := copy(a.buf[:], a.req.early)
	var reader first.Reader
	facts, state := first.Facts{}, first.More
	if n > 0 {
		facts, state = reader.Stream(a.buf[:n])
	}
	_ = a.c.SetReadDeadline(time.Now().Add(a.r.limits.Sniff))
	for state == first.More && n < len(a.buf) && ctx.Err() == nil {
		k, err := a.c.Read(a.buf[n:])
		if err != nil && !errors.Is(err, io.EOF) && !isTimeout(err) {
			return err
		}
		if err != nil {
			break // the loop sees the end of file again
		}
		n += k
		facts, state = reader.Stream(a.buf[:n])
	}
	_ = a.c.SetReadDeadline(time.Time{})
	a.req.early = a.buf[:n]
	facts.Fill(&a.flow, true)
	if name, ok := sniffed(&a.flow); ok {
		a.e.called(name)
	}
	return ctx.Err()
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// tell answers the client, unless that has been done.
func (a *attempt) tell(err error) error {
	if a.answered || a.req.answer == nil {
		return nil
	}
	a.answered = true
	return a.req.answer(err)
}

// begin tells the client, and gives the far end what is there already.
func (a *attempt) begin(ctx context.Context, to *net.TCPConn) error {
	if err := a.tell(nil); err != nil {
		return err
	}
	if len(a.req.early) > 0 {
		_ = to.SetDeadline(time.Now().Add(a.r.limits.Request))
		if _, err := to.Write(a.req.early); err != nil {
			return err
		}
		a.e.up.Add(uint64(len(a.req.early)))
	}
	if a.req.body == nil {
		return nil
	}
	// The far end may answer, and close, before it has read all: that answer is
	// still the client's to see.
	_ = a.c.SetReadDeadline(time.Now().Add(a.r.limits.Request))
	_ = a.req.body(&progress{ctx, to, a.c, a.r.limits.Request})
	return ctx.Err()
}

// progress is a writer whose source and target must not rest for longer than limit.
type progress struct {
	ctx      context.Context // of the connection: it is written by what reads it
	to, from *net.TCPConn
	limit    time.Duration
}

// Write ends with the connection, too: whoever ended it has set the deadlines before.
func (p *progress) Write(b []byte) (int, error) {
	stop := context.AfterFunc(p.ctx, func() {
		past := time.Unix(1, 0)
		_ = p.to.SetDeadline(past)
		_ = p.from.SetReadDeadline(past)
	})
	until := time.Now().Add(p.limit)
	_ = p.to.SetDeadline(until)
	_ = p.from.SetReadDeadline(until)
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.to.Write(b)
	if !stop() {
		return n, p.ctx.Err()
	}
	_ = p.from.SetReadDeadline(time.Now().Add(p.limit))
	if p.ctx.Err() != nil { // between the two
		_ = p.from.SetReadDeadline(time.Unix(1, 0))
		return n, p.ctx.Err()
	}
	return n, err
}

// turnDown ends the connection of a client that gets nothing.
func (a *attempt) turnDown(err error) {
	told := a.req.answer != nil && !a.answered
	_ = a.tell(err)
	if told || errors.Is(err, errBlocked) && a.verdict.Do == Drop {
		_ = a.c.Close()
	} else {
		refuse(a.c)
	}
}

// refuse closes a connection with a reset.
func refuse(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// hand gives both sockets to a loop.
func (r *Relay) hand(a *attempt, to *net.TCPConn) bool {
	client, err := dup(a.c)
	if err != nil {
		refuse(a.c)
		refuse(to)
		return false
	}
	server, err := dup(to)
	_ = a.c.Close()
	_ = to.Close()
	if err != nil {
		closeFD(client)
		return false
	}
	up, down := r.shaper.pair(&a.verdict.Throttle, a.e.src.Addr(), r.clock())
	e, p := a.e, newPair(a.e, client, server, a.req.left, up, down)
	l := r.pick()
	killed := e.stage(func() { l.post(func(l *loop) { p.end(l, Killed) }) })
	r.opened(e)
	ok := l.post(func(l *loop) {
		l.adopt(p)
		if killed {
			p.end(l, Killed)
		}
	})
	if !ok { // the relay has ended
		closeFD(client)
		closeFD(server)
		r.closed(e, &End{Why: Stopped})
	}
	return true
}

// requestSOCKS reads a SOCKS request.
func (r *Relay) requestSOCKS(in *greeting, c *net.TCPConn, e *entry) (*request, error) {
	command, t, err := socks.Accept(in, c, in.users)
	if err != nil {
		return nil, err
	}
	switch command {
	case socks.Connect:
		return &request{target: t, left: -1, early: in.rest(), answer: func(err error) error {
			return socks.WriteReply(c, replyOf(err), netip.AddrPort{})
		}}, nil
	case socks.Associate:
		return nil, r.associate(c, e)
	}
	_ = socks.WriteReply(c, socks.ReplyCommand, netip.AddrPort{})
	return nil, socks.ErrProtocol
}

// replyOf is what a SOCKS client is told.
func replyOf(err error) byte {
	switch {
	case err == nil:
		return socks.ReplyOK
	case errors.Is(err, errBlocked):
		return socks.ReplyNotAllowed
	}
	switch failureOf(err) {
	case Refused:
		return socks.ReplyRefused
	case Unreachable, NoName:
		return socks.ReplyUnreachable
	case TimedOut:
		return socks.ReplyTimedOut
	default:
		return socks.ReplyFailed
	}
}
