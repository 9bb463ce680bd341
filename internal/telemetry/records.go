package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// RingSize is how many decision records are kept in memory: at about 700 bytes, and with rules that
// came nearest 1.5 KiB, each, 3 to 6 MiB, which a router with 64 MiB can spare, and ten seconds of a busy gateway.
const RingSize = 4096

// lineSize is how many bytes a ring has for each of its lines on average: when they take more, it holds fewer.
const lineSize = 2 << 10

// Record is one decision with what the daemon knows around it. It is encoded as
// the decision object of language.md section 8, unchanged, with the fields of
// Record added to it.
type Record struct {
	Decision json.RawMessage // the engine's object; must be a JSON object
	Context  Context
	// What follows is not encoded.

	Log    bool   // a rule wants it in the log
	Rule   string // that decided; "" is the default
	Always bool   // it is never sampled away
	// Near returns Context.Near; nil leaves it out. Finding it takes longer than deciding, so that is
	// for who writes records down.
	Near func() json.RawMessage
}

// Schema names the form of records.
const Schema = "np.decision/1"

// Context is what a record adds to a decision.
type Context struct {
	Time time.Time `json:"time"` // when the daemon decided
	// Event says why it was decided: open; name or facts, when more became known
	// of the flow; state or policy, when the world or the policy changed under
	// it; logged, when the kernel reported a packet that it dropped.
	Event string `json:"event"`
	// Mode is "enforce", or "observe" where nothing is carried out.
	Mode string `json:"mode"`
	// Policy is the first 12 hexadecimal digits of the policy's hash.
	Policy string `json:"policy"`
	// State is the state of the host, and RuleSrc where the rule stands, "policy.npl:12".
	State   string          `json:"state,omitempty"`
	RuleSrc string          `json:"rule_src,omitempty"`
	Flow    json.RawMessage `json:"flow"`
	// Name is the best name known of the far end, and NameFrom the fact that it
	// comes from: sni, http_host or dns. Of names out
	// of DNS the first four are given, with commas.
	Name     string `json:"name,omitempty"`
	NameFrom string `json:"name_from,omitempty"`
	// Uplink is the line that the given route leads over; "" where it has none.
	Uplink string `json:"uplink,omitempty"`
	// Pinned: the flow is established and stays on its former route, because moving it could break it.
	Pinned bool `json:"pinned,omitempty"`
	// PinnedRoute is the route that a pinned flow stays on.
	PinnedRoute string `json:"pinned_route,omitempty"`
	// Source is the inspector source that saw the flow.
	Source string `json:"source,omitempty"`
	// LogRule is the rule under whose name the kernel logged the packet.
	LogRule string `json:"log_rule,omitempty"`
	// Text is what the rule's log action says, where it says something.
	Text string `json:"text,omitempty"`
	// Near are the rules that came nearest, each with its first condition that did not
	// hold. They are left out when too much is decided to look for them.
	Near json.RawMessage `json:"near,omitempty"`
	// Sampled says that the record stands for so many of its rule, in a segment.
	Sampled int `json:"sampled_1_in,omitempty"`
}

// MarshalJSON merges the decision and its context into one flat object.
func (r Record) MarshalJSON() ([]byte, error) {
	head := bytes.TrimSpace(r.Decision)
	if len(head) < 2 || head[0] != '{' || head[len(head)-1] != '}' {
		return nil, errors.New("encode decision record: the decision is not a JSON object")
	}
	tail, err := json.Marshal(r.Context)
	if err != nil {
		return nil, fmt.Errorf("encode decision record: %w", err)
	}
	const schema = `{"schema":"` + Schema + `",`
	out := make([]byte, 0, len(schema)+len(head)+len(tail))
	out = append(out, schema...)
	if inner := bytes.TrimSpace(head[1 : len(head)-1]); len(inner) > 0 {
		out = append(append(out, inner...), ',')
	}
	return append(out, tail[1:]...), nil
}

// Ring keeps the newest encoded records, so many and lineSize bytes for each together. When it is full the
// oldest go: a reader that is too slow misses records and is told how many.
// It is safe for concurrent use; Append never waits for a reader.
type Ring struct {
	mu    sync.Mutex
	lines [][]byte
	first uint64        // sequence number of the oldest record that is kept
	next  uint64        // of the next record
	bytes int           // of all that are kept
	wake  chan struct{} // nil while nobody waits
}

// NewRing returns an empty ring of size records; 0 means RingSize.
func NewRing(size int) *Ring {
	if size <= 0 {
		size = RingSize
	}
	return &Ring{lines: make([][]byte, size)}
}

// Append adds a line, which the ring then owns.
func (r *Ring) Append(line []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := uint64(len(r.lines))
	for r.bytes += len(line); r.first < r.next && (r.next-r.first == size || r.bytes > len(r.lines)*lineSize); r.first++ {
		old := &r.lines[r.first%size]
		r.bytes -= len(*old)
		*old = nil
	}
	r.lines[r.next%size] = line
	r.next++
	if r.wake != nil {
		close(r.wake)
		r.wake = nil
	}
}

// Batch is what one Read found.
type Batch struct {
	Lines  [][]byte        // not to be modified
	Next   uint64          // from where to read on
	Missed uint64          // records between from and the first line that were overwritten
	More   <-chan struct{} // closed when a record after Next exists
}

// Read returns at most limit records beginning with sequence number from. limit
// must be positive.
func (r *Ring) Read(from uint64, limit int) Batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := Batch{Next: from}
	if from < r.first {
		b.Missed, b.Next = r.first-from, r.first
	}
	if n := min(r.next-b.Next, uint64(limit)); b.Next < r.next {
		b.Lines = make([][]byte, 0, n)
	}
	for b.Next < r.next && len(b.Lines) < limit {
		b.Lines = append(b.Lines, r.lines[b.Next%uint64(len(r.lines))])
		b.Next++
	}
	if b.Next < r.next {
		b.More = closed
		return b
	}
	if r.wake == nil {
		r.wake = make(chan struct{})
	}
	b.More = r.wake
	return b
}

// Last returns the sequence number from which a reader sees the newest n records.
func (r *Ring) Last(n int) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	back := min(uint64(max(n, 0)), r.next)
	return max(r.next-back, r.first)
}

// closed is a channel that is always ready.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()
