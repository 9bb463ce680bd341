// Package relay is the terminating path: it takes connections (TPROXY, SOCKS5,
// HTTP proxying), reads their first bytes where a decision waits for them, asks
// for a decision, dials by it and moves the payload, in the kernel where it can.
// Unlike the kernel's table it decides before the connection to the far end
// exists: a name that only the ClientHello tells can choose the uplink here.
//
//	r, err := relay.New(relay.Config{
//		Inbounds: []relay.Inbound{{Kind: relay.Mixed, Listen: netip.MustParseAddrPort("127.0.0.1:1080")}},
//		Decider:  snapshot, Reporter: health, Mark: plan.Bypass(),
//	})
//	err = r.Run(ctx)
//
// What it guarantees: every outbound socket carries a mark, or is not opened; a
// connection to the relay's own listeners is refused; an idle TCP connection
// costs two descriptors and less than a kilobyte of Go memory, no goroutine, no
// buffer and no pipe; all tables, queues and pools are bounded (Limits and the
// constants beside their users).
package relay

import (
	"context"
	"net/netip"
	"time"

	"netpolicy.dev/netpolicy/flow"
)

// Kind is how clients reach an inbound.
type Kind uint8

// The kinds of inbound.
const (
	// TProxy takes what the kernel's TPROXY target hands over, TCP and UDP.
	TProxy Kind = iota
	// SOCKS is SOCKS5 (RFC 1928): CONNECT and UDP ASSOCIATE.
	SOCKS
	// HTTP is an HTTP/1 proxy: CONNECT, and one plain request a connection.
	HTTP
	// Mixed is SOCKS or HTTP, told apart by the first byte.
	Mixed
)

var kindNames = [...]string{"tproxy", "socks", "http", "mixed"}

// String returns the kind in lower case.
func (k Kind) String() string { return kindNames[k] }

// Inbound is one listener. A TProxy inbound has two, TCP and UDP.
type Inbound struct {
	Kind Kind
	// Listen is where clients come in. Port 0 lets the kernel choose, see Relay.Addrs.
	// A wildcard IPv6 address takes IPv6 alone.
	Listen netip.AddrPort
	// Users are names and passwords, of which SOCKS and HTTP clients must give
	// one; nobody is asked when it is empty.
	Users map[string]string
}

// Config is what a relay needs. The zero values of all but Decider have a meaning.
type Config struct {
	Inbounds []Inbound
	Decider  Decider
	// Reporter hears what becomes of connections; nil: nobody does.
	Reporter Reporter
	// Resolver finds the addresses of names that clients ask for; nil: the system's,
	// which refuses to where the way has a Server.
	Resolver Resolver
	// Mark is the SO_MARK of outbound sockets whose way has none: the bypass mark.
	// 0 marks nothing, which is right only without TProxy.
	Mark   uint32
	Limits Limits
}

// Limits bound time and number. The zero value of each is its default.
type Limits struct {
	// Conns is how many connections and UDP sessions there are at once; more are
	// refused. Default: what the descriptor limit holds.
	Conns int
	// Handshakes is how many connections may be between accept and the first byte
	// of payload; more wait in the kernel's backlog. Default 1024: each has a
	// goroutine and up to 16 KiB of the client's first bytes.
	Handshakes int
	// Sniff is how long a decision waits for the client's first bytes. Default 300 ms.
	Sniff time.Duration
	// Request is how long a client may take to say where it wants to go. Default 10 s.
	Request time.Duration
	// Dial is how long one way is tried. Default 5 s: SYNs at 0, 1 and 3 s.
	Dial time.Duration
	// Idle ends TCP connections on which nothing moves. Default 2 h 4 min (RFC 5382, REQ-5).
	Idle time.Duration
	// HalfClosed ends those of which one side has finished. Default 4 min (the same).
	HalfClosed time.Duration
	// UDPIdle ends UDP sessions. Default 2 min (RFC 4787, REQ-5); those to port 53 end after 10 s.
	UDPIdle time.Duration
	// Sessions is how many UDP sessions one client has at an inbound; then the one that
	// has been unused for longest ends for the next. Default 1024: a quarter of the
	// destinations that are answered for at once.
	Sessions int
	// Drain is how long connections may go on when Run ends. Default: not at all.
	Drain time.Duration
}

// maxTries is how many ways are tried for one connection: a client waits for
// some ten seconds, and each may take Limits.Dial.
const maxTries = 3

func (l Limits) withDefaults() Limits {
	or := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if l.Handshakes <= 0 {
		l.Handshakes = 1024
	}
	if l.Sessions <= 0 {
		l.Sessions = 1024
	}
	or(&l.Sniff, 300*time.Millisecond)
	or(&l.Request, 10*time.Second)
	or(&l.Dial, 5*time.Second)
	or(&l.Idle, 2*time.Hour+4*time.Minute)
	or(&l.HalfClosed, 4*time.Minute)
	or(&l.UDPIdle, 2*time.Minute)
	return l
}

// Decider says what becomes of connections. The daemon's asks its newest snapshot.
type Decider interface {
	// Decide answers an ask. It is called from many goroutines, among them those
	// that move payload: it must not block. It must keep neither argument. v is
	// the zero Verdict.
	Decide(a *Ask, v *Verdict)
}

// Ask is a question about one connection.
type Ask struct {
	// Flow is what is known. Facts of the client's first bytes (SNI, HTTPHost,
	// ALPN, App) are unknown on the first ask, and known or absent on the next.
	Flow *flow.Flow
	// Failed are the routes on which dialling failed, oldest first: a group
	// should give another member. A verdict with one of them ends the tries.
	Failed []string
	// Sniffed and Resolved tell that Verdict.Sniff and Resolve have been done.
	Sniffed, Resolved bool
}

// Action is what a verdict says.
type Action uint8

// The actions.
const (
	// Dial connects by Verdict.Way.
	Dial Action = iota
	// Drop ends the connection without a word: the client sees an end of file, or
	// nothing where it sends datagrams. SOCKS and HTTP clients are told "not allowed".
	Drop
	// Reject resets the connection. For SOCKS, HTTP and datagrams it is Drop.
	Reject
	// Resolve finds the address of the name the client asked for, by Verdict.Way,
	// and asks again, once, with Flow.Dst.
	Resolve
)

// Verdict is the answer to an Ask.
type Verdict struct {
	Do Action
	// Sniff asks for the client's first bytes before anything is done: they could
	// change the verdict. It is not looked at when there is nothing to wait for.
	Sniff bool
	Way   Way
	// Throttle limits the connection's rate; the zero Throttle does not.
	Throttle Throttle
}

// Way is how to dial.
type Way struct {
	// Route names the concrete route in reports and in Ask.Failed.
	Route string
	// Uplink is the index of the uplink the way leads over, in reports; -1 for none.
	Uplink int
	// Mark is the sockets' SO_MARK, which selects the uplink's table; 0: Config.Mark.
	Mark uint32
	// Dev binds the sockets to a device; "": none.
	Dev string
	// Src4 and Src6 are the sockets' source addresses; the zero Addr leaves it to the kernel.
	Src4, Src6 netip.Addr
	// Server is a SOCKS5 server to go through; the zero AddrPort is none. User and
	// Password are for it. Names that were not resolved for the decision are left to it.
	Server         netip.AddrPort
	User, Password string
	// SendName gives the server the name, asked for or sniffed, also where an address
	// is known. It must not be set where the decision hangs on the address: the server
	// may find another one.
	SendName bool
}

// Throttle is a rate, bytes per second; 0 is no limit.
type Throttle struct {
	// Name tells profiles apart: flows of one name share a rate, as Per says.
	Name     string
	Up, Down int64
	// Burst is how many bytes may pass at once after a pause. Default: 64 KiB, or a
	// twentieth of a second's worth if that is more.
	Burst int64
	Per   Per
}

// Per is who shares a throttle's rate.
type Per uint8

// The sharings.
const (
	PerAll  Per = iota // all flows with the throttle
	PerHost            // those of one source address
	PerConn            // each flow has its own
)

// Resolver finds the addresses of a name that a client asks for. way is how the
// connection will be dialled, and the question must leave by it: where it has a
// Server, through that.
type Resolver interface {
	Resolve(ctx context.Context, client netip.Addr, name string, way *Way) ([]netip.Addr, error)
}

// Reporter hears what becomes of connections, from many goroutines. It must not
// block and not keep its arguments.
type Reporter interface {
	// Dialled is called after each try, successful or not.
	Dialled(d *Outcome)
	// Opened is called when payload can move.
	Opened(c *Conn)
	// Closed is called once for each that was opened.
	Closed(c *Conn, e *End)
}

// Outcome is how a try to dial ended.
type Outcome struct {
	ID     uint64 // the connection's
	Route  string
	Uplink int
	Dst    netip.AddrPort // where to; the zero Addr, with the port, where a SOCKS server was given a name
	// Took is from the first packet to the last answer, SOCKS handshake included.
	Took time.Duration
	// RTT is the kernel's measurement of the TCP handshake; 0 where there was none.
	RTT time.Duration
	// Retransmits are those of the handshake.
	Retransmits int
	Failure     Failure
	Err         error // nil if Failure is None
}

// Failure is why a dial failed.
type Failure uint8

// The failures.
const (
	None        Failure = iota
	Refused             // the far end, or something before it, reset the handshake
	Unreachable         // no route, or a router says so
	TimedOut            // nobody answered
	Local               // this host could not make the socket: mark, device, source address, descriptors
	ByServer            // the SOCKS server said no, or does not speak SOCKS
	NoName              // the name has no address
	Canceled            // killed, or Run ended
)

var failureNames = [...]string{"none", "refused", "unreachable", "timed out", "local", "by server", "no name", "canceled"}

// String returns the failure in lower case.
func (f Failure) String() string { return failureNames[f] }

// BlamesUplink reports whether the failure speaks against the line: a refusal is
// an answer, and what this host or a SOCKS server can't do is not the line's fault.
func (f Failure) BlamesUplink() bool { return f == Unreachable || f == TimedOut }

// Conn is one connection or UDP session as the table shows it.
type Conn struct {
	ID      uint64
	Inbound Kind
	Proto   flow.Proto
	Src     netip.AddrPort
	Dst     netip.AddrPort // the zero Addr while only the name is known
	Name    string         // what the client asked for, or what its first bytes said
	Route   string         // "" before the dial
	Uplink  int            // -1 without
	Opened  time.Time
	// Up and Down are payload bytes from and to the client.
	Up, Down uint64
}

// Why is the reason of a connection's end.
type Why uint8

// The reasons.
const (
	Finished    Why = iota // both sides have finished
	ClientReset            // the client, or its line, broke off
	ServerReset            // the far end, or its line, broke off
	Idled                  // nothing moved for too long
	Killed                 // Relay.Kill
	Stopped                // Run ended
	Displaced              // a newer session took its place
)

var whyNames = [...]string{"finished", "client reset", "server reset", "idle", "killed", "stopped", "displaced"}

// String returns the reason in lower case.
func (w Why) String() string { return whyNames[w] }

// End is how a connection ended. RTT, MinRTT and Retransmits are the
// kernel's of the side to the far end, and zero for UDP.
type End struct {
	Why         Why
	RTT         time.Duration // smoothed
	MinRTT      time.Duration
	Retransmits uint32 // segments sent again
	// EarlyReset tells that the far end broke off before it had sent a byte: for
	// the state machine that is a failed dial.
	EarlyReset bool
}
