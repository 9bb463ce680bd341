package resolver

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// defaultEntries and defaultBytes fit a household's names of a day into what
	// a small router can spare.
	defaultEntries = 8192
	defaultBytes   = 8 << 20
	// maxCached is the longest answer kept: few are longer than 4 KiB, and a
	// client that asks for such could empty the cache with few questions.
	maxCached = 8 << 10
	// entryCost is what an entry takes beside its bytes, roughly.
	entryCost = 400
	// staleRetry is how long after a failure a stale answer is given without
	// asking again (RFC 8767, 5).
	staleRetry = 30 * time.Second
	// staleTTL is the TTL of stale answers (RFC 8767, 4).
	staleTTL = 30
)

// key is what must be equal for two questions to have one answer. The route and
// the upstreams are part of it: a name may have other addresses elsewhere, and a
// name whose route changed must be asked for by the new one.
type key struct {
	name   string // name, type and class on the wire, in lower case
	do, cd bool
	route  Route
	via    string // indices of upstreams
}

func (q *query) key(c Choice) key {
	var buf [maxNameWire + 4]byte
	var via [maxUpstreams]byte
	for n, i := range c.Upstreams {
		via[n] = byte(i)
	}
	return key{
		name:  string(appendLower(buf[:0], q.wire)),
		do:    q.do,
		cd:    q.flags&flagsNoChecking != 0,
		route: c.Route,
		via:   string(via[:len(c.Upstreams)]),
	}
}

// entry is an answer and its times. Only the atomic fields change.
type entry struct {
	key    key
	answer *answer
	stored time.Time
	until  time.Time
	cost   int
	// learned is until when the answer's addresses are known where Learn brings
	// them, and retry the time before which it is given stale at once; both as
	// time since stored.
	learned, retry atomic.Int64
}

// cache holds answers, the least used ones leave first.
type cache struct {
	maxEntries, maxBytes int
	stale                time.Duration

	mu      sync.Mutex
	entries map[key]*list.Element // of *entry
	order   *list.List            // the front was used last
	bytes   int
}

func newCache(entries, bytes int, stale time.Duration) *cache {
	if entries <= 0 {
		entries = defaultEntries
	}
	if bytes <= 0 {
		bytes = defaultBytes
	}
	return &cache{maxEntries: entries, maxBytes: bytes, stale: stale, entries: map[key]*list.Element{}, order: list.New()}
}

// get returns what is held for k, or nil: fresh, or stale and to be given if
// nothing better comes.
func (c *cache) get(k key, now time.Time) (e *entry, fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[k]
	if el == nil {
		return nil, false
	}
	e = el.Value.(*entry)
	if fresh = now.Before(e.until); !fresh && !(e.answer.rcode() != rcodeServFail && now.Before(e.until.Add(c.stale))) {
		c.remove(el)
		return nil, false
	}
	c.order.MoveToFront(el)
	return e, fresh
}

// newEntry makes the entry of an answer that came at now.
func newEntry(k key, a *answer, now time.Time) *entry {
	e := &entry{key: k, answer: a, stored: now, until: now.Add(time.Duration(a.life) * time.Second)}
	e.cost = entryCost + len(k.name) + len(k.via) + cap(a.msg) + 2*cap(a.ttls) + len(a.learn.Name) + 24*cap(a.learn.Addrs)
	return e
}

// put keeps an entry, if it may be kept, in place of an older one.
func (c *cache) put(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[e.key]; el != nil {
		c.remove(el)
	}
	if e.answer.life == 0 || len(e.answer.msg) > maxCached || e.cost > c.maxBytes {
		return
	}
	for len(c.entries) >= c.maxEntries || c.bytes+e.cost > c.maxBytes {
		c.remove(c.order.Back())
	}
	c.entries[e.key] = c.order.PushFront(e)
	c.bytes += e.cost
}

func (c *cache) remove(el *list.Element) {
	e := el.Value.(*entry)
	c.order.Remove(el)
	delete(c.entries, e.key)
	c.bytes -= e.cost
}

// reply writes the answer for q as it is at now.
func (e *entry) reply(dst []byte, q *query, now time.Time, stale bool, limit int) ([]byte, bool) {
	least := uint32(0)
	if stale {
		least = staleTTL
	}
	return e.answer.reply(dst, q, age(now.Sub(e.stored)), least, limit)
}

// A name is learned for as long as the answer lives, at least minHold, and for
// holdSlack more, so that hits on a cached answer need to learn it again only now
// and then.
const (
	minHold   = time.Minute
	holdSlack = 30 * time.Second
)

// hold returns how long a client that gets e at now may use its addresses.
func (e *entry) hold(now time.Time) time.Duration { return max(e.until.Sub(now), minHold) }

// failed says that nobody replied at now: for a while the stale answer is given
// at once.
func (e *entry) failed(now time.Time) { e.retry.Store(int64(now.Sub(e.stored) + staleRetry)) }

func (e *entry) failing(now time.Time) bool { return now.Sub(e.stored) < time.Duration(e.retry.Load()) }

// known reports whether the addresses of e are learned for a client that gets it
// at now.
func (e *entry) known(now time.Time) bool {
	return len(e.answer.learn.Addrs) == 0 || now.Sub(e.stored)+e.hold(now) <= time.Duration(e.learned.Load())
}
