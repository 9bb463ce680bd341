package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// memory is an upstream in the same process, so that a test can own the clock.
type memory func(ctx context.Context, m dnsmessage.Message, r Route) (*dnsmessage.Message, error)

func (f memory) close() {}

func (f memory) exchange(ctx context.Context, query []byte, r Route) ([]byte, error) {
	setID(query)
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	reply, err := f(ctx, m, r)
	if err != nil {
		return nil, err
	}
	return reply.Pack()
}

// inMemory is a resolver without sockets.
func inMemory(t *testing.T, cfg Config, up memory) *Resolver {
	t.Helper()
	cfg.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	cfg.Upstreams = []Upstream{{URL: "udp://192.0.2.53"}}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.ups[0] = up
	return r
}

// asks puts a question as a client does, and waits.
func (r *Resolver) asks(t *testing.T, name string) dnsmessage.Message {
	t.Helper()
	q, c, reply, more := r.first(nil, question(t, name, dnsmessage.TypeA, 1232), netip.MustParseAddrPort("10.0.0.5:4000"), 0)
	if more {
		reply = r.respond(t.Context(), nil, &q, c, 0)
	}
	return unpack(t, reply)
}

// recorder keeps what a Learn is told.
type recorder struct {
	mu   sync.Mutex
	list []Answer
}

func (r *recorder) learn(_ context.Context, a Answer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, a)
	return nil
}

func (r *recorder) learned() []Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// TestTTL: TTLs count down, and an answer is asked for again when it has run out.
func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r := inMemory(t, Config{}, func(_ context.Context, m dnsmessage.Message, _ Route) (*dnsmessage.Message, error) {
			asked++
			return addressed(100, "192.0.2.7")("", m), nil
		})
		for _, c := range []struct {
			after time.Duration
			ttl   uint32
			asked int
		}{{0, 100, 1}, {0, 100, 1}, {30 * time.Second, 70, 1}, {69*time.Second + 900*time.Millisecond, 1, 1}, {100 * time.Millisecond, 100, 2}, {time.Hour, 100, 3}} {
			time.Sleep(c.after)
			if m := r.asks(t, "a.example."); m.Answers[0].Header.TTL != c.ttl || asked != c.asked {
				t.Errorf("after %v: TTL %d, asked %d times; want %+v", c.after, m.Answers[0].Header.TTL, asked, c)
			}
		}
	})
}

// TestNegative keeps what does not exist for as long as the SOA says.
func TestNegative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r := inMemory(t, Config{}, func(_ context.Context, m dnsmessage.Message, _ Route) (*dnsmessage.Message, error) {
			asked++
			reply := replyTo(m)
			reply.RCode = dnsmessage.RCodeNameError
			reply.Authorities = []dnsmessage.Resource{soa(60, 30)}
			return reply, nil
		})
		for i, after := range []time.Duration{0, 29 * time.Second, time.Second} {
			time.Sleep(after)
			if m := r.asks(t, "a.example."); m.RCode != dnsmessage.RCodeNameError || asked != 1+i/2 {
				t.Errorf("after %v: %v, asked %d times", after, m.RCode, asked)
			}
		}
	})
}

// TestStale: while no upstream replies, what has run out is given, with a short TTL:
// first after a while, then at once; and no longer than Config.Stale.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		var learned recorder
		r := inMemory(t, Config{Stale: time.Hour, Learn: learned.learn}, func(ctx context.Context, m dnsmessage.Message, _ Route) (*dnsmessage.Message, error) {
			if down {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return addressed(100, "192.0.2.7")("", m), nil
		})
		r.asks(t, "a.example.")
		down = true
		time.Sleep(200 * time.Second)
		took := func() time.Duration {
			began := time.Now()
			m := r.asks(t, "a.example.")
			if addresses(m) != "192.0.2.7" || m.Answers[0].Header.TTL != staleTTL {
				t.Errorf("got %+v", m)
			}
			return time.Since(began)
		}
		if d := took(); d != staleAfter {
			t.Errorf("the first took %v", d)
		}
		if n := len(learned.learned()); n != 2 {
			t.Errorf("learned %d times: a stale answer is used, too", n)
		}
		time.Sleep(queryWithin)
		if d := took(); d != 0 {
			t.Errorf("the second took %v", d)
		}
		time.Sleep(staleRetry)
		down = false
		if m := r.asks(t, "a.example."); m.Answers[0].Header.TTL != 100 {
			t.Errorf("up again: %+v", m)
		}
		down = true
		time.Sleep(100*time.Second + time.Hour)
		if m := r.asks(t, "a.example."); m.RCode != dnsmessage.RCodeServerFailure {
			t.Errorf("too stale: %+v", m)
		}
		if got := r.Counters().Stale.Load(); got != 2 {
			t.Errorf("stale %d", got)
		}
	})
}

// TestLearnsAgain: a client that gets an old answer may use it when the name would
// be forgotten, so it is learned again; but seldom.
func TestLearnsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var learned recorder
		r := inMemory(t, Config{Learn: learned.learn}, func(_ context.Context, m dnsmessage.Message, _ Route) (*dnsmessage.Message, error) {
			return addressed(300, "192.0.2.7")("", m), nil
		})
		began := time.Now()
		var until time.Duration
		known := 0
		for time.Since(began) < 299*time.Second {
			r.asks(t, "a.example.")
			at := time.Since(began)
			if list := learned.learned(); len(list) > known {
				until, known = at+list[known].TTL, len(list)
			}
			if until < max(300*time.Second, at+minHold) {
				t.Fatalf("after %v the name is known until %v", at, until)
			}
			time.Sleep(time.Second)
		}
		if known != 2 {
			t.Errorf("learned %d times", known)
		}
	})
}

// TestRoutes: an answer that came by one route is not given to whom another is for,
// and a question never leaves by a route that it should not.
func TestRoutes(t *testing.T) {
	route := Route{Mark: 1}
	var asked []Route
	r := inMemory(t, Config{Choose: func(string, uint16, netip.Addr) Choice { return Choice{Route: route, Upstreams: []int{7, 0, -1}} }},
		func(_ context.Context, m dnsmessage.Message, r Route) (*dnsmessage.Message, error) {
			asked = append(asked, r)
			return addressed(300, fmt.Sprintf("192.0.2.%d", r.Mark))("", m), nil
		})
	for _, mark := range []uint32{1, 2, 1, 2} {
		route.Mark = mark
		if m := r.asks(t, "a.example."); addresses(m) != fmt.Sprintf("192.0.2.%d", mark) {
			t.Errorf("route %d: %s", mark, addresses(m))
		}
	}
	if fmt.Sprint(asked) != fmt.Sprint([]Route{{Mark: 1}, {Mark: 2}}) {
		t.Errorf("asked by %+v", asked)
	}
}

// TestCoalesced asks the same a hundred times at once: the upstream is asked once,
// also when it fails.
func TestCoalesced(t *testing.T) {
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var asked atomic.Int64
			r := inMemory(t, Config{}, func(_ context.Context, m dnsmessage.Message, _ Route) (*dnsmessage.Message, error) {
				asked.Add(1)
				time.Sleep(time.Second)
				if fails {
					return nil, errors.New("unreachable")
				}
				return addressed(0, "192.0.2.7")("", m), nil
			})
			var all sync.WaitGroup
			for i := range 100 {
				all.Go(func() {
					m := r.asks(t, []string{"a.example.", "A.EXAMPLE."}[i%2])
					if (m.RCode == dnsmessage.RCodeServerFailure) != fails || !fails && addresses(m) != "192.0.2.7" {
						t.Errorf("got %+v", m)
					}
				})
			}
			all.Wait()
			if asked.Load() != 1 || r.Counters().Coalesced.Load() != 99 {
				t.Errorf("asked %d, coalesced %d", asked.Load(), r.Counters().Coalesced.Load())
			}
			if len(r.flights) != 0 {
				t.Errorf("%d flights left", len(r.flights))
			}
		})
	}
}

// TestCacheBounds: neither entries nor bytes are more than allowed, and what is used
// stays.
func TestCacheBounds(t *testing.T) {
	r := inMemory(t, Config{CacheEntries: 10, CacheBytes: 6000}, func(_ context.Context, m dnsmessage.Message, _ Route) (*dnsmessage.Message, error) {
		return addressed(300, "192.0.2.7")("", m), nil
	})
	for i := range 100 {
		r.asks(t, fmt.Sprintf("n%d.example.", i))
		r.asks(t, "used.example.")
		bytes := 0
		for el := r.cache.order.Front(); el != nil; el = el.Next() {
			bytes += el.Value.(*entry).cost
		}
		if n := len(r.cache.entries); n > 10 || n != r.cache.order.Len() || bytes != r.cache.bytes || bytes > 6000 {
			t.Fatalf("%d entries, %d bytes, counted %d", n, bytes, r.cache.bytes)
		}
	}
	if got := r.Counters().Cached.Load(); got != 99 {
		t.Errorf("the used one was found %d times", got)
	}
}
