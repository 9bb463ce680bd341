package relay

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

const (
	// quantum is how many bytes a throttled direction waits for at least, unless
	// the burst is smaller: less would be a system call for next to nothing.
	quantum = 4 << 10
	// minBurst is the default burst of slow profiles.
	minBurst = 64 << 10
	// maxBuckets bounds the buckets of hosts; the one unused for longest goes
	// first, and its host starts anew with a full burst.
	maxBuckets = 8192
)

// bucket is a token bucket, for any number of goroutines. Its clock is in
// nanoseconds since an epoch of the caller's.
type bucket struct {
	mu     sync.Mutex
	rate   int64 // bytes per second
	burst  int64
	tokens int64
	at     int64 // when tokens was right
}

func newBucket(rate, burst, now int64) *bucket {
	if burst <= 0 {
		burst = max(minBurst, rate/20)
	}
	return &bucket{rate: rate, burst: burst, tokens: burst, at: now}
}

// take gives up to want tokens, or says how long to wait for some.
func (b *bucket) take(want, now int64) (n int64, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	least := min(want, quantum, b.burst)
	if b.tokens < least {
		// fill counts whole microseconds.
		return 0, time.Duration((least-b.tokens)*int64(time.Second)/b.rate) + 2*time.Microsecond
	}
	n = min(want, b.tokens)
	b.tokens -= n
	return n, 0
}

// takeAll takes n tokens if they are all there: for datagrams, which can't be cut.
// One that is larger than the burst passes with a full bucket.
func (b *bucket) takeAll(n, now int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	if b.tokens < min(n, b.burst) {
		return false
	}
	b.tokens -= n
	return true
}

// back returns tokens that were not used.
func (b *bucket) back(n int64) {
	if n <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.tokens+n, b.burst)
}

// fill adds what has come since the last call. A full bucket needs no
// multiplication, which could overflow after a long pause.
func (b *bucket) fill(now int64) {
	since := now - b.at
	if since <= 0 {
		return
	}
	missing := b.burst - b.tokens
	if since/int64(time.Second) > missing/b.rate {
		b.tokens, b.at = b.burst, now
		return
	}
	// At most one second more than what fills the bucket: no overflow below 9 GB/s.
	come := since/int64(time.Second)*b.rate + since%int64(time.Second)/1000*b.rate/int64(time.Second/time.Microsecond)
	b.tokens = min(b.tokens+come, b.burst)
	b.at += come/b.rate*int64(time.Second) + come%b.rate*int64(time.Second)/b.rate // what is not worth a byte yet stays
}

// shaper holds the buckets that flows share.
type shaper struct {
	mu      sync.Mutex
	buckets map[bucketKey]*list.Element
	order   list.List // of *held, the one used last in front
}

type bucketKey struct {
	name string
	host netip.Addr // PerHost
	down bool
	rate int64 // another rate under an old name is another bucket
}

type held struct {
	key bucketKey
	b   *bucket
}

// pair returns the buckets of a flow from host, nil where nothing limits it.
func (s *shaper) pair(t *Throttle, host netip.Addr, now int64) (up, down *bucket) {
	return s.one(t, host, t.Up, false, now), s.one(t, host, t.Down, true, now)
}

func (s *shaper) one(t *Throttle, host netip.Addr, rate int64, down bool, now int64) *bucket {
	if rate <= 0 {
		return nil
	}
	if t.Per == PerConn {
		return newBucket(rate, t.Burst, now)
	}
	key := bucketKey{name: t.Name, down: down, rate: rate}
	if t.Per == PerHost {
		key.host = host
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.buckets[key]; e != nil {
		s.order.MoveToFront(e)
		return e.Value.(*held).b
	}
	if s.buckets == nil {
		s.buckets = map[bucketKey]*list.Element{}
	}
	if len(s.buckets) >= maxBuckets {
		old := s.order.Remove(s.order.Back()).(*held)
		delete(s.buckets, old.key)
	}
	b := newBucket(rate, t.Burst, now)
	s.buckets[key] = s.order.PushFront(&held{key, b})
	return b
}
