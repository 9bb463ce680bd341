package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// visit is a kind of connection that Traffic makes.
type visit struct {
	name, port, kind string // kind is tcp, tls or udp
	// chunk is how much is exchanged at a time, every pause, for the time last.
	chunk       int
	pause, last time.Duration
}

// visits are what a household does, in small: calls that go on, pages, downloads,
// and names that a policy may want to treat alike or apart.
var visits = []visit{
	{"us01.zoom.us", "443", "tls", 1200, 60 * time.Millisecond, 25 * time.Second},
	{"us01.zoom.us", "443", "udp", 1024, 100 * time.Millisecond, 20 * time.Second},
	{"api.zoom.us", "443", "tls", 2 << 10, time.Second, 8 * time.Second},
	{"www.example.com", "443", "tls", 24 << 10, 500 * time.Millisecond, 3 * time.Second},
	{"example.com", "443", "tls", 8 << 10, time.Second, 3 * time.Second},
	{"www.example.com", "80", "tcp", 12 << 10, time.Second, 2 * time.Second},
	{"ads.example.com", "443", "tls", 4 << 10, time.Second, 2 * time.Second},
	{"bulk.example.net", "443", "tls", 64 << 10, 200 * time.Millisecond, 30 * time.Second},
	{"bulk.example.net", "5001", "tcp", 48 << 10, 250 * time.Millisecond, 20 * time.Second},
	{"echo.example.net", "22", "tcp", 256, 700 * time.Millisecond, 40 * time.Second},
	{"echo.example.net", "23", "tcp", 64, time.Second, time.Second},
	{"evilzoom.us", "443", "tls", 2 << 10, time.Second, 3 * time.Second},
}

const (
	// trafficConns is how many connections Traffic has open at once, and
	// trafficEvery how often it begins one.
	trafficConns = 40
	trafficEvery = 400 * time.Millisecond
)

// names are what the client has resolved, as its system would keep them: else most
// connections would be questions to the resolver. Each is asked for anew after its TTL,
// from when the gateway does not know whose the address is either.
type names struct {
	ask   func(ctx context.Context, name string, v6 bool) (netip.Addr, error)
	mu    sync.Mutex
	known map[string]knownName
}

type knownName struct {
	addr  netip.Addr
	until time.Time
}

func (n *names) resolve(ctx context.Context, name string, v6 bool) (netip.Addr, error) {
	key := name
	if v6 {
		key += " v6"
	}
	now := time.Now()
	n.mu.Lock()
	k := n.known[key]
	n.mu.Unlock()
	if now.Before(k.until) {
		return k.addr, nil
	}
	addr, err := n.ask(ctx, name, v6)
	if err == nil {
		n.mu.Lock()
		n.known[key] = knownName{addr, now.Add(dnsTTL * time.Second)}
		n.mu.Unlock()
		sleep(ctx, namePause)
	}
	return addr, err
}

// Traffic makes connections from the client to the lab's names until ctx ends, as
// people behind a gateway do, and waits for them to end. Which of them fail is for
// the policy and the lines to say; nothing is measured.
func (l *Lab) Traffic(ctx context.Context) error {
	// The gateway counts the bytes of connections, as one whose operator wants to see them does.
	if err := l.gw.sysctl("net/netfilter/nf_conntrack_acct=1"); err != nil {
		return fmt.Errorf("count bytes: %w", err)
	}
	random := rand.New(rand.NewPCG(l.opts.Seed, 1))
	known := &names{ask: l.Client().Resolve, known: map[string]knownName{}}
	open := make(chan struct{}, trafficConns)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		v := visits[random.IntN(len(visits))]
		v6 := random.IntN(4) == 0
		select {
		case open <- struct{}{}:
			wg.Add(1)
			go func() {
				defer l.rescue()
				defer wg.Done()
				defer func() { <-open }()
				l.visit(ctx, known, v, v6)
			}()
		default: // as many as may be are open
		}
		if !sleep(ctx, trafficEvery) {
			return nil
		}
	}
}

// visit makes one connection of the kind, and ends early when it fails or ctx ends.
func (l *Lab) visit(ctx context.Context, known *names, v visit, v6 bool) {
	asking, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	addr, err := known.resolve(asking, v.name, v6)
	if err != nil {
		return
	}
	network := "tcp"
	if v.kind == "udp" {
		network = "udp"
	}
	conn, err := l.Client().Dial(asking, network, net.JoinHostPort(addr.String(), v.port))
	if err != nil {
		return
	}
	defer conn.Close()
	under := conn // conn becomes the TLS session over it, or nil where there is none
	defer context.AfterFunc(ctx, func() { under.SetDeadline(time.Unix(1, 0)) })()
	if v.kind == "tls" {
		conn.SetDeadline(time.Now().Add(connectTime))
		if conn, err = l.Client().TLS(ctx, conn, v.name); err != nil {
			return
		}
	}
	for end := time.Now().Add(v.last); time.Now().Before(end); {
		// A datagram that is lost ends nothing; a stream that stands still does.
		err := exchange(conn, v.chunk, time.Now().Add(connectTime))
		if err != nil && v.kind != "udp" || ctx.Err() != nil || !sleep(ctx, v.pause) {
			return
		}
	}
}
