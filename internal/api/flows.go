package api

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

const (
	// MaxFlows bounds the flows of one page: about 1 KiB each.
	MaxFlows = 1000
	// defaultFlows is how many flows a page has where the caller does not say.
	defaultFlows = 100
	// maxLists bounds the lists under way at once: each looks at every flow.
	maxLists = 4
	// sharedFor is how long a page is given to others who ask for the same, unless it has more than keptPage bytes:
	// programs that look at everything are few, and their pages large.
	sharedFor = 500 * time.Millisecond
	keptPage  = 256 << 10
)

// The orders of flows.
const (
	ByBytes = "bytes" // most bytes first
	ByRate  = "rate"  // most bytes a second first
	ByRTT   = "rtt"   // longest round trip first, those not measured last
	ByAge   = "age"   // oldest first
)

// Orders are the orders of flows, the default first.
var Orders = []string{ByBytes, ByRate, ByRTT, ByAge}

// FlowsRequest asks for a page of flows. The zero FlowsRequest is the 100 that
// have carried most.
type FlowsRequest struct {
	Sort   string // one of Orders; "" means ByBytes
	Limit  int    // 0 means 100; at most MaxFlows
	Offset int
	// Match is a text that the name, the process, the rule, the route or an address
	// of a flow must contain, in any case; "" matches every flow.
	Match string
}

func (q FlowsRequest) query() url.Values {
	v := url.Values{}
	set := func(key, value string) {
		if value != "" && value != "0" {
			v.Set(key, value)
		}
	}
	set("sort", q.Sort)
	set("limit", strconv.Itoa(q.Limit))
	set("offset", strconv.Itoa(q.Offset))
	set("match", q.Match)
	return v
}

// parseFlows reads what query wrote, and fills in the defaults.
func parseFlows(v url.Values) FlowsRequest {
	return FlowsRequest{
		Sort: cmp.Or(v.Get("sort"), ByBytes), Limit: cmp.Or(number(v, "limit", 0), defaultFlows), Offset: number(v, "offset", 0), Match: v.Get("match"),
	}
}

// Flows is a page of the connections that the daemon follows.
type Flows struct {
	Now     time.Time `json:"now"`
	Total   int       `json:"total"`   // followed
	Matched int       `json:"matched"` // of these, what matches the request
	Flows   []Flow    `json:"flows"`
}

// Flow is one connection, with what was decided about it.
type Flow struct {
	ID   string          `json:"id"`   // the same as in decision records
	Flow json.RawMessage `json:"flow"` // its facts
	// Name is the best name known of the far end, and NameFrom the fact that it
	// comes from: sni, http_host or dns. Of names out
	// of DNS the first four are given, with commas.
	Name     string `json:"name,omitempty"`
	NameFrom string `json:"name_from,omitempty"`
	// Decision is the engine's object: rule, action, route, why and more.
	Decision json.RawMessage `json:"decision"`
	// Uplink is the line that the flow leaves by; "" where there is none.
	Uplink string `json:"uplink,omitempty"`
	// Pinned: it stays on PinnedRoute, because moving it could break it.
	Pinned      bool   `json:"pinned,omitempty"`
	PinnedRoute string `json:"pinned_route,omitempty"`
	// Killed: it was ended by hand, and is refused until its end.
	Killed bool   `json:"killed,omitempty"`
	Source string `json:"source"` // who saw it first
	// Age is how long it has been followed, in seconds; -1 when it began before the daemon.
	Age float64 `json:"age_seconds"`
	// RTTms is its round-trip time, -1 when that is not known: smoothed by the kernel
	// for TCP of this host; for what is forwarded, from here to the first answer.
	RTTms       float64 `json:"rtt_ms"`
	Retransmits uint64  `json:"retransmits"`
	// BytesUp and BytesDown are what it has carried, UpRate and DownRate bytes a
	// second between the last two readings. All are 0 where nothing counts them.
	BytesUp   uint64 `json:"bytes_up"`
	BytesDown uint64 `json:"bytes_down"`
	UpRate    uint64 `json:"up_rate"`
	DownRate  uint64 `json:"down_rate"`
}

// flows adds the route of Lister.
func (s *Server) flows(r *router) {
	made := lists{from: s.Lister, places: make(chan struct{}, maxLists), pages: map[FlowsRequest]*flowPage{}}
	r.HandleFunc("DELETE /api/v1/connections/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.kill(w, r)
		made.forget()
	})
	r.HandleFunc("GET /api/v1/connections", func(w http.ResponseWriter, r *http.Request) {
		body, err := made.get(r.Context(), parseFlows(r.URL.Query()))
		if err != nil {
			problem(w, statusOf(err), err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(body)
	})
}

// lists makes pages of connections, some at once; who comes meanwhile waits. A page serves everybody who asks for it
// while it is made or soon after: the web interface of everyone asks for the same.
type lists struct {
	from   Lister
	places chan struct{}

	mu    sync.Mutex
	pages map[FlowsRequest]*flowPage
}

// flowPage is a page that is made, or was.
type flowPage struct {
	made chan struct{} // closed when there is what follows
	body []byte
	err  error
}

// get returns the page as JSON.
func (l *lists) get(ctx context.Context, q FlowsRequest) ([]byte, error) {
	for {
		l.mu.Lock()
		p := l.pages[q]
		if p == nil {
			p = &flowPage{made: make(chan struct{})}
			l.pages[q] = p
			l.mu.Unlock()
			l.make(ctx, q, p)
			return p.body, p.err
		}
		l.mu.Unlock()
		select {
		case <-p.made:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if p.err == nil || ctx.Err() != nil {
			return p.body, p.err
		}
		// Who made it has left, perhaps: then another does.
	}
}

// make makes the page p.
func (l *lists) make(ctx context.Context, q FlowsRequest, p *flowPage) {
	defer close(p.made)
	select {
	case l.places <- struct{}{}:
		var list Flows
		if list, p.err = l.from.Flows(ctx, q); p.err == nil {
			p.body, p.err = json.Marshal(list)
			p.body = append(p.body, '\n')
		}
		<-l.places
	case <-ctx.Done():
		p.err = ctx.Err()
	}
	if p.err != nil || len(p.body) > keptPage {
		l.drop(q, p)
		return
	}
	time.AfterFunc(sharedFor, func() { l.drop(q, p) })
}

// drop ends the sharing of a page.
func (l *lists) drop(q FlowsRequest, p *flowPage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pages[q] == p {
		delete(l.pages, q)
	}
}

// forget ends the sharing of all: something was changed by hand.
func (l *lists) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.pages)
}
