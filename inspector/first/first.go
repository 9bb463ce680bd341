// Package first reads the first bytes that a client sends on a connection, and
// says which protocol they are and whom they are for. It is for everyone who
// sees them: the sniffer, which has packets, and a relay, which has a stream.
//
//	var r first.Reader
//	facts, state := r.Stream(stream) // what has come so far
//	for state == first.More {
//		n, err := conn.Read(buf) // with a deadline
//		if err != nil {
//			break
//		}
//		stream = append(stream, buf[:n]...)
//		facts, state = r.Stream(stream)
//	}
//	facts.Fill(&f, true) // what is not there now is absent
//
// It is pure, safe on hostile input, and what it keeps is bounded (MaxStream,
// MaxDatagrams). It never keeps what it is given.
package first

import (
	"errors"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/apps"
	"netpolicy.dev/netpolicy/inspector/httphost"
	"netpolicy.dev/netpolicy/inspector/quic"
	"netpolicy.dev/netpolicy/inspector/tlshello"
)

// Bounds. What lies beyond them is not looked at.
const (
	// MaxStream is how many bytes of a stream are looked at.
	MaxStream = tlshello.MaxStream
	// MaxDatagrams is how many datagrams of a client are looked at: a
	// post-quantum hello takes two or three, some of which come again.
	MaxDatagrams = 12
)

// State is how far the first bytes could be read.
type State uint8

const (
	// More bytes may tell more. Facts may hold something already, such as the
	// server name of a ClientHello that goes on.
	More State = iota
	// Done: Facts are complete.
	Done
	// Unknown: none of the protocols known. Facts are empty.
	Unknown
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case More:
		return "more"
	case Done:
		return "done"
	default:
		return "unknown"
	}
}

// Facts are what the first bytes say. A field that is empty was not found.
type Facts struct {
	// App is the protocol, one of those of package apps; "" while it is not known.
	App string
	// SNI is the server name of TLS and QUIC, as sent. With ECH it is the
	// outer, public name.
	SNI string
	// Host is the host of HTTP/1, as sent, without the port.
	Host string
	// ALPN are the protocols that TLS or QUIC offers, joined by commas:
	// "h2,http/1.1". GREASE is left out.
	ALPN string
	// ECH is true when the ClientHello has the extension encrypted_client_hello
	// (or its forerunner): another name may lie inside. GREASE looks the same.
	ECH bool
	// Hello is what the ClientHello says besides, for a reader with Details; else
	// nil. But for the QUIC version it is told of whole hellos alone.
	Hello *inspector.Hello
}

// Fill sets f's facts. With final, what was not found is set to absent;
// without, it stays as it is. A name that is no name becomes invalid.
func (x Facts) Fill(f *flow.Flow, final bool) {
	fill(&f.App, x.App, final, flow.Some)
	fill(&f.SNI, x.SNI, final, flow.Name)
	fill(&f.HTTPHost, x.Host, final, flow.Name)
	fill(&f.ALPN, x.ALPN, final, flow.Some)
}

func fill(v *flow.Value[string], s string, final bool, known func(string) flow.Value[string]) {
	if s != "" {
		*v = known(s)
	} else if final {
		*v = flow.Absent[string]()
	}
}

// Reader reads beginnings of streams that the caller keeps. The zero Reader is
// ready; it is for one goroutine and any number of streams.
type Reader struct {
	// Details also fills Facts.Hello, which takes two hashes and some strings.
	Details bool
	tls     tlshello.Parser
}

// Stream reads the beginning of a TCP stream that stream is a prefix of, as far
// as it is there. It needs no more than MaxStream bytes, and says More only
// below that. From More on, facts are only added: a longer prefix never changes
// or removes one, unless it shows that all was malformed.
func (r *Reader) Stream(stream []byte) (Facts, State) {
	stream = stream[:min(len(stream), MaxStream)]
	full := len(stream) == MaxStream
	h, err := r.tls.Parse(stream)
	switch {
	case err == nil:
		return ofWhole(h, apps.TLS, r.Details), Done
	case errors.Is(err, tlshello.ErrIncomplete) && len(stream) > 0:
		return untilFull(ofPart(h, apps.TLS), full)
	}
	host, state := httphost.Read(stream)
	switch state {
	case httphost.More:
		return untilFull(Facts{}, full)
	case httphost.Request, httphost.H2C:
		return Facts{App: apps.HTTP, Host: host}, Done
	}
	app, more := apps.Stream(stream)
	switch {
	case app != "":
		return Facts{App: app}, Done
	case more && !full:
		return Facts{}, More
	default:
		return Facts{}, Unknown
	}
}

// untilFull says More while there is room for more.
func untilFull(x Facts, full bool) (Facts, State) {
	if full {
		return x, Done
	}
	return x, More
}

// ofWhole takes the facts of a whole ClientHello.
func ofWhole(h tlshello.Hello, app string, details bool) Facts {
	x := ofHello(h, app)
	if details {
		transport := byte(tlshello.OverTCP)
		if app == apps.QUIC {
			transport = tlshello.OverQUIC
		}
		var room [64]byte
		x.Hello = &inspector.Hello{TLS: h.VersionName(), JA4: string(h.AppendJA4(room[:0], transport))}
	}
	return x
}

// ofHello takes what rules ask for.
func ofHello(h tlshello.Hello, app string) Facts {
	return Facts{App: app, SNI: string(h.ServerName), ALPN: flow.JoinALPN(h.Protocols()), ECH: h.ECH}
}

// ofPart takes those of a hello that goes on: what stands there already.
func ofPart(h tlshello.Hello, app string) Facts {
	x := ofHello(h, app)
	if x == (Facts{App: app}) {
		return Facts{} // a few bytes: it need not become a hello
	}
	return x
}

// Datagrams keeps what the first datagrams of one UDP flow say, from one side.
// The zero Datagrams is ready; it is for one goroutine.
type Datagrams struct {
	// Details also fills Facts.Hello, which takes two hashes and some strings.
	Details bool

	facts Facts
	state State
	count int
	lost  int
	quic  *quic.Client // once a datagram is QUIC
}

// Write takes the payload of the datagram that comes next. Once the state is
// not More, it does nothing.
func (d *Datagrams) Write(p []byte) State {
	if d.state != More {
		return d.state
	}
	d.count++
	begins := d.quic == nil
	if begins {
		if app := apps.Datagram(p); app != "" {
			d.facts, d.state = Facts{App: app}, Done
			return d.state
		}
		d.quic = new(quic.Client)
	}
	if isQUIC := d.quic.Datagram(p); begins && !isQUIC {
		d.quic, d.state = nil, Unknown
		return d.state
	}
	d.facts, d.state = ofQUIC(d.quic, d.Details)
	if v := d.quic.Version(); d.Details && v != "" {
		if d.facts.Hello == nil {
			d.facts.Hello = new(inspector.Hello)
		}
		d.facts.Hello.QUIC = v
	}
	d.lost = d.quic.Lost()
	if d.state == More && d.count >= MaxDatagrams {
		d.state = Done
	}
	if d.state != More {
		d.quic = nil
	}
	return d.state
}

// ofQUIC takes the facts of what a client has said so far.
func ofQUIC(c *quic.Client, details bool) (Facts, State) {
	x := Facts{App: apps.QUIC}
	if c.Google() {
		name, err := quic.ServerName(c.Message())
		x.SNI = string(name)
		if errors.Is(err, quic.ErrIncomplete) || len(c.Message()) == 0 {
			return x, More
		}
		return x, Done
	}
	switch h, err := tlshello.ParseMessage(c.Message()); {
	case err == nil:
		return ofWhole(h, apps.QUIC, details), Done
	case errors.Is(err, tlshello.ErrIncomplete):
		if part := ofPart(h, apps.QUIC); part != (Facts{}) {
			x = part
		}
		return x, More
	default:
		return x, Done
	}
}

// Held is how many bytes it keeps.
func (d *Datagrams) Held() int {
	if d.quic == nil {
		return 0
	}
	return d.quic.Held()
}

// Lost counts the pieces of a hello that were too many, or lay too far ahead.
func (d *Datagrams) Lost() int { return d.lost }

// Facts returns what is known so far.
func (d *Datagrams) Facts() Facts { return d.facts }
