package inspector

import (
	"container/heap"
	"net/netip"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/flow"
)

// Bounds of a NameTable.
const (
	// MaxAddrs is how many addresses a table holds by default: a day's
	// destinations of a large household, about 4 MiB.
	MaxAddrs = 16384
	// MaxNamesPerAddr bounds the names of one shared (CDN) address; beyond it
	// the name that expires first makes room.
	MaxNamesPerAddr = 32
	// MinTTL is the least life of a name: programs keep answers longer than
	// their TTL says (browsers for a minute), and a TTL of 0 must still cover
	// the connection that follows the answer.
	MinTTL = time.Minute
	// MaxTTL bounds what an answer may claim: a day (RFC 8767, 4, advises a cap
	// of days; names move faster).
	MaxTTL = 24 * time.Hour
)

// ClampTTL brings a TTL into [MinTTL, MaxTTL]: how long a NameTable holds a
// name. Who keeps names elsewhere (in kernel sets) uses the same.
func ClampTTL(ttl time.Duration) time.Duration { return min(max(ttl, MinTTL), MaxTTL) }

// NameTable maps addresses to the DNS names that live answers gave them. It is
// bounded: when full, the address whose names are all stale soonest makes
// room. Time is handed in and must not go back. It is for one goroutine.
type NameTable struct {
	max   int
	addrs map[netip.Addr]*nameEntry
	order expiryHeap
	// Counters since the table was made.
	counters NameCounters
}

// NameCounters says what a table did.
type NameCounters struct {
	Added   uint64 // names added or prolonged
	Expired uint64 // addresses whose last name ran out
	Evicted uint64 // live addresses removed to make room
	Dropped uint64 // live names of one address removed to make room
	Refused uint64 // names or addresses that are not legal
}

type nameEntry struct {
	addr  netip.Addr
	names []liveName // by name
	until time.Time  // the latest of names
	index int        // in the heap
}

type liveName struct {
	name  string
	until time.Time
}

// NewNameTable returns a table for at most max addresses; 0 means MaxAddrs.
func NewNameTable(max int) *NameTable {
	if max <= 0 {
		max = MaxAddrs
	}
	return &NameTable{max: max, addrs: make(map[netip.Addr]*nameEntry)}
}

// Add enters an answer that was seen at now. It reports whether the set of
// live names of any address changed (a mere longer life is no change).
func (t *NameTable) Add(a Answer, now time.Time) (changed bool) {
	t.expire(now)
	name, err := flow.CanonicalName(a.Name)
	if err != nil {
		t.counters.Refused++
		return false
	}
	until := now.Add(ClampTTL(a.TTL))
	for _, addr := range a.Addrs {
		if !addr.IsValid() || addr.IsUnspecified() {
			t.counters.Refused++
			continue
		}
		if t.add(addr.Unmap().WithZone(""), name, now, until) {
			changed = true
		}
	}
	return changed
}

func (t *NameTable) add(addr netip.Addr, name string, now, until time.Time) (changed bool) {
	t.counters.Added++
	e := t.addrs[addr]
	if e == nil {
		if len(t.addrs) >= t.max {
			t.counters.Evicted++
			t.remove(t.order[0])
		}
		e = &nameEntry{addr: addr, until: until}
		t.addrs[addr] = e
		heap.Push(&t.order, e)
	}
	i, found := slices.BinarySearchFunc(e.names, name, func(l liveName, n string) int { return strings.Compare(l.name, n) })
	if found {
		changed = !e.names[i].until.After(now)
		if until.After(e.names[i].until) {
			e.names[i].until = until
		}
	} else {
		changed = true
		if len(e.names) >= MaxNamesPerAddr {
			t.counters.Dropped++
			first := 0
			for j, l := range e.names {
				if l.until.Before(e.names[first].until) {
					first = j
				}
			}
			e.names = slices.Delete(e.names, first, first+1)
			if first < i {
				i--
			}
		}
		e.names = slices.Insert(e.names, i, liveName{name, until})
	}
	if until.After(e.until) {
		e.until = until
		heap.Fix(&t.order, e.index)
	}
	return changed
}

// Names returns the live names of addr.
func (t *NameTable) Names(addr netip.Addr, now time.Time) flow.Names {
	e := t.addrs[addr.Unmap().WithZone("")]
	if e == nil {
		return flow.Names{}
	}
	return liveOf(e.names, now)
}

func liveOf(list []liveName, now time.Time) flow.Names {
	var live []string
	for _, l := range list {
		if l.until.After(now) {
			live = append(live, l.name)
		}
	}
	return flow.NewNames(live...)
}

// Held is what a table held of one address when it was asked: an immutable copy
// for other goroutines.
type Held struct {
	all   flow.Names
	first time.Time // until when all of them live
	names []liveName
}

// Held returns a copy of what the table holds of addr; nil for nothing.
func (t *NameTable) Held(addr netip.Addr, now time.Time) *Held {
	e := t.addrs[addr.Unmap().WithZone("")]
	if e == nil || !e.until.After(now) {
		return nil
	}
	h := &Held{all: liveOf(e.names, now), first: e.until, names: slices.Clone(e.names)}
	for _, l := range e.names {
		if l.until.After(now) && l.until.Before(h.first) {
			h.first = l.until
		}
	}
	return h
}

// Names returns the names that are still alive; of a nil Held there are none.
func (h *Held) Names(now time.Time) flow.Names {
	switch {
	case h == nil:
		return flow.Names{}
	case h.first.After(now):
		return h.all
	default:
		return liveOf(h.names, now)
	}
}

// Until returns the time until which addr has a live name; zero for none.
func (t *NameTable) Until(addr netip.Addr, now time.Time) time.Time {
	e := t.addrs[addr.Unmap().WithZone("")]
	if e == nil || !e.until.After(now) {
		return time.Time{}
	}
	return e.until
}

// Addrs returns the addresses that have a live name for which match is true,
// in order, with the time until which the last such name lives. It walks the
// whole table: for a reload, not for a packet.
func (t *NameTable) Addrs(now time.Time, match func(name string) bool) []LiveAddr {
	var out []LiveAddr
	for addr, e := range t.addrs {
		var until time.Time
		for _, l := range e.names {
			if l.until.After(now) && l.until.After(until) && match(l.name) {
				until = l.until
			}
		}
		if !until.IsZero() {
			out = append(out, LiveAddr{addr, until})
		}
	}
	slices.SortFunc(out, func(a, b LiveAddr) int { return a.Addr.Compare(b.Addr) })
	return out
}

// LiveAddr is an address and until when it has a name.
type LiveAddr struct {
	Addr  netip.Addr
	Until time.Time
}

// Len returns the number of addresses held, live or not yet collected.
func (t *NameTable) Len() int { return len(t.addrs) }

// Counters returns what the table did so far.
func (t *NameTable) Counters() NameCounters { return t.counters }

// expire removes the addresses without a live name.
func (t *NameTable) expire(now time.Time) {
	for len(t.order) > 0 && !t.order[0].until.After(now) {
		t.counters.Expired++
		t.remove(t.order[0])
	}
}

func (t *NameTable) remove(e *nameEntry) {
	heap.Remove(&t.order, e.index)
	delete(t.addrs, e.addr)
}

// expiryHeap orders entries by the time at which their last name runs out.
type expiryHeap []*nameEntry

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *expiryHeap) Push(x any) {
	if e, ok := x.(*nameEntry); ok {
		e.index = len(*h)
		*h = append(*h, e)
	}
}

func (h *expiryHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
