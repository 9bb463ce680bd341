// Package resolver is a small DNS forwarder whose answers feed the name map
// before the client gets them, so that already the first connection to a name
// is decided with the name.
//
//	r, err := resolver.New(resolver.Config{
//		Listen:    []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")},
//		Upstreams: []resolver.Upstream{{Name: "main", URL: "tls://192.0.2.53#dns.example"}},
//		Choose:    choose, // which way the name's traffic goes
//		Learn:     learn,  // enters the addresses
//	})
//	err = r.Run(ctx)
//
// What it guarantees:
//   - A client gets addresses after Learn returned, or after learnWithin.
//   - A question leaves by the Route that Choose gave for its name, and by no
//     other, whatever fails. Equal questions with different routes or upstreams
//     share neither cache nor flight.
//   - Messages stay as the upstream made them, so unknown types pass; only the
//     header, the case of the question, TTLs and EDNS (which is between
//     neighbours) are written anew.
//   - Everything is bounded; what a bound made it refuse is counted.
//
// It trusts its upstreams as any stub resolver does: it validates no DNSSEC, and
// passes the AD bit on to clients that ask for it.
package resolver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/internal/admit"
)

const (
	// maxUpstreams bounds Config.Upstreams: more than a person lists, and an
	// index fits into a byte.
	maxUpstreams = 16
	// queryWithin is how long the upstreams have for one question. Stub
	// resolvers ask again after 5 s.
	queryWithin = 4 * time.Second
	// attemptWithin is how long one upstream has while others are left.
	attemptWithin = 1500 * time.Millisecond
	// learnWithin is how long an answer waits for Learn: a kernel map takes
	// half a millisecond, and no person sees 50.
	learnWithin = 50 * time.Millisecond
	// staleAfter is when a client gets a stale answer although the upstreams
	// may yet reply (RFC 8767, 5).
	staleAfter = 1800 * time.Millisecond
	// penalty is how long an upstream that did not reply is asked last.
	penalty = 10 * time.Second
	// maxPenalties bounds that memory: upstreams times routes.
	maxPenalties = 256
)

// Config is what a Resolver needs. It must not change afterwards.
type Config struct {
	// Listen are the addresses served, each over UDP and TCP. Whoever reaches them
	// is served: name addresses of the inner side, not those of an uplink.
	Listen []netip.AddrPort
	// Upstreams are the resolvers asked, at most 16.
	Upstreams []Upstream
	// Choose says what becomes of a question. The daemon asks engine.Decide for a
	// flow that has the client's address, TCP port 443 and the name as SNI and
	// domain, and gives back the route of that decision, so that the question
	// leaves where the traffic will. name is in lower case without the trailing
	// dot; "" is the root; bytes that no host name has are written \DDD (RFC 1035,
	// 5.1). Choose is called for each question, by several goroutines, and must
	// neither block nor keep anything. Nil: every upstream in order, no route.
	Choose func(name string, qtype uint16, client netip.Addr) Choice
	// Learn enters the addresses of an answer, before the client gets it. It must
	// return soon after ctx is done, which is after 50 ms; then, and after an
	// error, the client is answered all the same and LateLearns counts it. Nil:
	// nothing is learned.
	Learn func(ctx context.Context, a Answer) error
	// Ready, if given, is told the addresses once all are bound.
	Ready func(bound []netip.AddrPort)
	// Blocked says how blocked names are answered.
	Blocked BlockedAnswer
	// Stale is how long after its end an answer is given while no upstream
	// replies (RFC 8767); 0: never.
	Stale time.Duration
	// StripECH takes the ECH parameter out of HTTPS and SVCB answers, so that
	// clients send names that can be seen on the wire. Clients that validate
	// DNSSEC themselves refuse such answers.
	StripECH bool
	// CacheEntries and CacheBytes bound the cache; 0: 8192, and 8 MiB.
	CacheEntries, CacheBytes int
}

// Upstream is a resolver that is asked.
type Upstream struct {
	Name string // for logs
	// URL is one of
	//
	//	udp://192.0.2.53        port 53; truncated answers are asked for over TCP
	//	tcp://192.0.2.53:5353
	//	tls://dns.example       port 853; the certificate must be dns.example's
	//	tls://192.0.2.53#dns.example
	//	https://dns.example/dns-query
	//
	// The part behind # is the name in the certificate, if it is not the host.
	URL string
	// Bootstrap are the addresses of a host that is a name, tried in order. Names
	// are never looked up.
	Bootstrap []netip.Addr
	// Roots are whom to trust for tls and https; nil: the system's.
	Roots *x509.CertPool
}

// Route is how a question is sent. The zero Route leaves it to the kernel.
type Route struct {
	Mark   uint32     // SO_MARK
	Device string     // SO_BINDTODEVICE
	Source netip.Addr // the address to send from
	// Server is a SOCKS5 server to go through; the zero AddrPort is none. What goes
	// over UDP elsewhere goes over TCP then.
	Server netip.AddrPort
}

// Choice is what becomes of a question.
type Choice struct {
	// Blocked: it is answered here, as Config.Blocked says.
	Blocked bool
	// NoWay: the name's traffic has no way out, and so the question has none. It is
	// answered SERVFAIL.
	NoWay bool
	// Upstreams are indices into Config.Upstreams, in order; nil: all.
	Upstreams []int
	Route     Route
}

// Answer is a name and the addresses it has.
type Answer struct {
	Name  string // canonical
	Addrs []netip.Addr
	// TTL is how long clients may use the addresses: at least a minute, since
	// programs keep answers longer than they should.
	TTL time.Duration
}

// BlockedAnswer is how blocked names are answered.
type BlockedAnswer uint8

const (
	// NXDomain, the zero value: the name does not exist. With EDNS the reason
	// "blocked" is told (RFC 8914).
	NXDomain BlockedAnswer = iota
	// ZeroAddress: 0.0.0.0 and ::, and for other types no record.
	ZeroAddress
)

// Resolver is a DNS forwarder. Make one with New.
type Resolver struct {
	cfg      Config
	all      []int // every upstream
	ups      []exchanger
	cache    *cache
	clients  admit.Gate // questions that are being answered
	conns    admit.Gate // TCP connections of clients
	own      ownAddrs
	counters Counters

	mu        sync.Mutex
	flights   map[key]*flight
	ended     bool // Run has, or is about to: no flight begins
	penalties map[tried]time.Time
	running   sync.WaitGroup // flights
}

// tried is an upstream by a route.
type tried struct {
	upstream int
	route    Route
}

// exchanger asks one upstream. The query's ID is replaced. The reply matches the
// query in question and source; it may be anything else.
type exchanger interface {
	exchange(ctx context.Context, query []byte, r Route) (reply []byte, err error)
	// close ends what is open and waits for it.
	close()
}

// New checks a configuration. Nothing is opened before Run.
func New(cfg Config) (*Resolver, error) {
	r := &Resolver{
		cfg:       cfg,
		cache:     newCache(cfg.CacheEntries, cfg.CacheBytes, cfg.Stale),
		clients:   admit.Gate{Max: maxQueries, MaxEach: maxQueriesPerClient},
		conns:     admit.Gate{Max: maxConns, MaxEach: maxConnsPerClient},
		flights:   map[key]*flight{},
		penalties: map[tried]time.Time{},
	}
	switch {
	case len(cfg.Listen) == 0:
		return nil, errors.New("dns: no address to listen on")
	case len(cfg.Upstreams) == 0:
		return nil, errors.New("dns: no upstream")
	case len(cfg.Upstreams) > maxUpstreams:
		return nil, fmt.Errorf("dns: %d upstreams, at most %d", len(cfg.Upstreams), maxUpstreams)
	}
	for i, u := range cfg.Upstreams {
		t, err := parseUpstream(u)
		if err != nil {
			return nil, fmt.Errorf("dns upstream %q: %w", u.Name, err)
		}
		for _, a := range t.addrs {
			if slices.Contains(cfg.Listen, a) {
				return nil, fmt.Errorf("dns upstream %q: %v is an address that we listen on", u.Name, a)
			}
		}
		r.all = append(r.all, i)
		r.ups = append(r.ups, t.open(&r.own, &r.counters))
	}
	return r, nil
}

// Counters returns the counters, which go on counting.
func (r *Resolver) Counters() *Counters { return &r.counters }

// Run serves until ctx is done, and returns nil then. It is called once.
func (r *Resolver) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socks, err := r.listen(ctx)
	if err != nil {
		return err
	}
	if r.cfg.Ready != nil {
		bound := make([]netip.AddrPort, len(socks))
		for i, s := range socks {
			bound[i] = s.addr
		}
		r.cfg.Ready(bound)
	}
	var serving sync.WaitGroup
	failed := make(chan error, len(socks)*(udpReaders+1))
	for _, s := range socks {
		for range udpReaders {
			serving.Go(func() { failed <- r.serveUDP(ctx, s) })
		}
		serving.Go(func() { failed <- r.serveTCP(ctx, s.tcp) })
	}
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	cancel()
	for _, s := range socks {
		s.close()
	}
	serving.Wait()
	r.land()
	for _, u := range r.ups {
		u.close()
	}
	return err
}

// choose asks Config.Choose.
func (r *Resolver) choose(q *query, client netip.Addr) Choice {
	if r.cfg.Choose == nil {
		return Choice{Upstreams: r.all}
	}
	c := r.cfg.Choose(q.name(), q.qtype, client.WithZone(""))
	if !c.Blocked && !c.NoWay {
		r.sound(&c)
	}
	return c
}

// sound fills in the upstreams of a choice, and drops indices that are none.
func (r *Resolver) sound(c *Choice) {
	if len(c.Upstreams) == 0 {
		c.Upstreams = r.all
	}
	for _, i := range c.Upstreams {
		if i < 0 || i >= len(r.ups) {
			c.Upstreams = slices.DeleteFunc(slices.Clone(c.Upstreams), func(i int) bool { return i < 0 || i >= len(r.ups) })
			break
		}
	}
	c.Upstreams = c.Upstreams[:min(len(c.Upstreams), maxUpstreams)]
}

// order returns the upstreams of c, those last that lately did not reply.
func (r *Resolver) order(c Choice, now time.Time) []int {
	var good, bad []int
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range c.Upstreams {
		if until, ok := r.penalties[tried{i, c.Route}]; ok && now.Before(until) {
			bad = append(bad, i)
		} else {
			good = append(good, i)
		}
	}
	return append(good, bad...)
}

// note remembers whether an upstream replied.
func (r *Resolver) note(i int, route Route, replied bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if replied {
		delete(r.penalties, tried{i, route})
		return
	}
	if len(r.penalties) >= maxPenalties {
		clear(r.penalties)
	}
	r.penalties[tried{i, route}] = time.Now().Add(penalty)
}

// errPoor says that an upstream replied that it failed itself.
var errPoor = errors.New("no upstream could find an answer")

// ask asks the upstreams in order until one settles the question. With errPoor the
// answer is set all the same.
func (r *Resolver) ask(ctx context.Context, q *query, c Choice) (*answer, error) {
	err := errors.New("no upstream")
	var poor *answer
	order := r.order(c, time.Now())
	for n, i := range order {
		a, e := r.askOne(ctx, i, q, c.Route, n == len(order)-1)
		if e == nil && a.rcode() != rcodeServFail && a.rcode() != rcodeRefused {
			return a, nil
		}
		r.counters.UpstreamErrors.Add(1)
		if e == nil {
			poor = a
			continue
		}
		if err = fmt.Errorf("ask upstream %q: %w", r.cfg.Upstreams[i].Name, e); ctx.Err() != nil {
			break
		}
	}
	if poor != nil {
		return poor, errPoor
	}
	return nil, err
}

func (r *Resolver) askOne(ctx context.Context, i int, q *query, route Route, last bool) (*answer, error) {
	if !last {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, attemptWithin)
		defer cancel()
	}
	a, err := r.askWith(ctx, i, q, route, true)
	if err == nil && (a.rcode() == rcodeFormErr || a.rcode() == rcodeNotImp) && !a.edns {
		a, err = r.askWith(ctx, i, q, route, false) // it may not know EDNS (RFC 6891, 7)
	}
	if !errors.Is(err, context.Canceled) {
		r.note(i, route, err == nil)
	}
	return a, err
}

func (r *Resolver) askWith(ctx context.Context, i int, q *query, route Route, edns bool) (*answer, error) {
	msg, err := r.ups[i].exchange(ctx, q.forward(edns), route)
	if err != nil {
		return nil, err
	}
	if isTruncated(msg) {
		return nil, errBroken // over UDP it would have been asked for over TCP
	}
	if r.cfg.StripECH && (q.qtype == typeHTTPS || q.qtype == typeSVCB) {
		if msg, err = stripECH(msg); err != nil {
			return nil, fmt.Errorf("take ECH out of the answer: %w", err)
		}
	}
	return readAnswer(msg, q)
}

// isClosed reports an error that only says that we closed the socket.
func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
