package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Viewer answers how things came to be. Its methods are called concurrently.
type Viewer interface {
	Rules() (Rules, error)
	Range(RangeRequest) Range
	// Healthy says what keeps the daemon from being well, or from being ready; nil: nothing.
	Healthy() (alive, ready error)
}

// StateAnswer is the state and how it came to be.
type StateAnswer struct {
	Now         time.Time         `json:"now"`
	State       string            `json:"state"`
	Since       time.Time         `json:"since,omitzero"`
	Uplinks     []Uplink          `json:"uplinks"`
	Transitions []json.RawMessage `json:"transitions"` // the oldest first
	Lost        uint64            `json:"lost"`        // older ones that are not kept any more
}

// Transition is a change of state, of an uplink or with "" of the host.
type Transition struct {
	Time   time.Time `json:"time"`
	Uplink string    `json:"uplink"`
	From   string    `json:"from"`
	To     string    `json:"to"`
	Why    string    `json:"why"`
}

// Ended is a connection that has ended.
type Ended struct {
	ID        string    `json:"id"`
	Time      time.Time `json:"time"`
	BytesUp   uint64    `json:"bytes_up"`
	BytesDown uint64    `json:"bytes_down"`
	// Duration is left out of one that began before the daemon.
	Duration int64 `json:"duration_ms,omitempty"`
	// RTTms is the last round-trip time; left out when none is known.
	RTTms  float64 `json:"rtt_ms,omitempty"`
	Reason string  `json:"reason"` // EndClosed, EndMoved, EndForgotten, EndKilled
}

// Why a connection is not followed any more: its end was seen; its next packet takes
// another way, as a new connection; nobody will tell of its end; it was ended by hand, and what comes now is a new one.
const (
	EndClosed    = "closed"
	EndMoved     = "moved"
	EndForgotten = "forgotten"
	EndKilled    = "killed"
)

// What becomes of the text that is staged, beside the results of changes.
const (
	Staged   = "staged"
	Unstaged = "unstaged" // dropped, or committed
)

// PolicyEvent is what became of a policy, or of the text that is staged.
type PolicyEvent struct {
	Time   time.Time `json:"time"`
	Result string    `json:"result"`
	Hash   string    `json:"hash"` // of the policy that decides now
	N      int       `json:"n,omitempty"`
	Who    string    `json:"who"`
	Detail string    `json:"detail,omitempty"`
}

// Rules are those of the policy that decides, in the order in which they are looked at.
type Rules struct {
	Policy  Policy      `json:"policy"`
	Rules   []Rule      `json:"rules"`
	Default DefaultRule `json:"default"`
	// DeadUpTo is left out unless the policy has more rules than this: then which of them can never decide is not
	// looked at.
	DeadUpTo int `json:"dead_up_to,omitempty"`
}

// DefaultRule is what happens when no rule matches; Action "" where that is not said.
type DefaultRule struct {
	Action    string    `json:"action"`
	Decisions uint64    `json:"decisions"`
	Last      time.Time `json:"last,omitzero"`
}

// Rule is one rule and what was found in it.
type Rule struct {
	Name        string   `json:"name"`
	File        string   `json:"file"`
	Line        int      `json:"line"`
	Priority    int      `json:"priority"`
	Specificity string   `json:"specificity"`
	Action      string   `json:"action"`
	States      []string `json:"states"`
	Disabled    bool     `json:"disabled,omitempty"` // it is in no state looked at
	// Decisions is how often it has decided since the policy became live.
	Decisions uint64 `json:"decisions"`
	// Last is when it has decided last; zero for never.
	Last time.Time `json:"last,omitzero"`
	// Dead: a finding says that it can never decide.
	Dead     bool         `json:"dead,omitempty"`
	Findings []Diagnostic `json:"findings,omitempty"`
}

// RangeRequest asks for series of measurements.
type RangeRequest struct {
	Series []string // of RangeSeries; none: all
	Uplink string   // "": of all
	Back   time.Duration
}

// RangeSeries are the names of series: of uplinks, and from states on of the host.
var RangeSeries = []string{"rtt_ms", "loss", "error_rate", "share", "rx_rate", "tx_rate", "state", "flows", "decisions_rate"}

// Range are series of measurements, one value each step.
type Range struct {
	From   time.Time `json:"from"`
	Step   int       `json:"step_seconds"`
	Series []Series  `json:"series"`
}

// Series is one of them; a nil value was not measured. Uplink "" is the host.
type Series struct {
	Name   string     `json:"name"`
	Uplink string     `json:"uplink"`
	Values []*float64 `json:"values"`
}

// views adds the routes of Viewer, and the state's.
func (s *Server) views(r *router) {
	r.HandleFunc("GET /api/v1/state", s.state)
	r.HandleFunc("GET /api/v1/rules", func(w http.ResponseWriter, _ *http.Request) {
		list, err := s.Viewer.Rules()
		answerOr(w, list, err)
	})
	r.HandleFunc("GET /api/v1/metrics/range", func(w http.ResponseWriter, req *http.Request) {
		q, err := parseRange(req.URL.Query())
		if err != nil {
			problem(w, statusOf(err), err)
			return
		}
		answer(w, http.StatusOK, s.Viewer.Range(q))
	})
}

func (s *Server) state(w http.ResponseWriter, r *http.Request) {
	last := number(r.URL.Query(), "last", 200)
	now := s.Reader.Status()
	out := StateAnswer{Now: now.Now, State: now.State, Since: now.Since, Uplinks: now.Uplinks, Transitions: []json.RawMessage{}}
	b := s.Feeds.Transitions.Read(0, MaxEvents)
	out.Lost = b.Missed
	for _, line := range b.Lines[max(len(b.Lines)-last, 0):] {
		out.Transitions = append(out.Transitions, json.RawMessage(line))
	}
	answer(w, http.StatusOK, out)
}

// MaxRange is how far back series go.
const MaxRange = 24 * time.Hour

func parseRange(v url.Values) (q RangeRequest, err error) {
	q.Back, q.Uplink = time.Duration(number(v, "minutes", 30))*time.Minute, v.Get("uplink")
	if text := v.Get("series"); text != "" {
		q.Series = strings.Split(text, ",")
	}
	for _, name := range q.Series {
		if !slices.Contains(RangeSeries, name) {
			return q, fmt.Errorf("series: there is no %q, but %s: %w", name, strings.Join(RangeSeries, ", "), ErrBadRequest)
		}
	}
	return q, nil
}

// kill ends a connection.
func (s *Server) kill(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		problem(w, http.StatusBadRequest, errors.New("the id of a connection is a number"))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), drainTime)
	defer cancel()
	if err := s.Lister.Kill(ctx, id); err != nil {
		problem(w, statusOf(err), err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// healthOK is the answer of healthz and readyz.
type healthOK struct {
	OK bool `json:"ok"`
}

// health adds what watchers of the daemon ask for.
func (s *Server) health(r *router) {
	say := func(of func() error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if err := of(); err != nil {
				problem(w, http.StatusServiceUnavailable, err)
				return
			}
			answer(w, http.StatusOK, healthOK{true})
		}
	}
	r.HandleFunc("GET /api/v1/healthz", say(func() error { alive, _ := s.Viewer.Healthy(); return alive }))
	r.HandleFunc("GET /api/v1/readyz", say(func() error {
		alive, ready := s.Viewer.Healthy()
		return errors.Join(alive, ready)
	}))
	r.HandleFunc("GET /api/v1/openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		w.Write(contract)
	})
	r.add(forSocket, "GET /debug/pprof/{profile}", profile)
}

// profile writes one of Go's profiles: "profile" is that of the processor, over some
// seconds. The library's own handlers can do more and weigh half a mebibyte.
func profile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("profile")
	known := pprof.Lookup(name)
	if name != "profile" && known == nil {
		problem(w, http.StatusNotFound, errNowhere)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if known != nil {
		_ = known.WriteTo(w, 0) // who asks has left
		return
	}
	if err := pprof.StartCPUProfile(w); err != nil {
		problem(w, http.StatusConflict, err)
		return
	}
	defer pprof.StopCPUProfile()
	select {
	case <-time.After(time.Duration(number(r.URL.Query(), "seconds", 30)) * time.Second):
	case <-r.Context().Done():
	}
}
