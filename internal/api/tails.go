package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/internal/telemetry"
)

const (
	// maxFollowers bounds the tails that are open at once; each costs a goroutine and a connection.
	// keptFollowers of them are the role admin's.
	maxFollowers, keptFollowers = 64, 16
	// tailBatch is how many records are read in one go, and tailBuffer from how many bytes on they are sent at
	// once: what a reader that is too slow holds, about 64 KiB.
	tailBatch  = 32
	tailBuffer = 16 << 10
	// tailPace is how long is waited after what there was is sent: what comes meanwhile goes out in one write, which
	// costs more than all that is in it. The eye does not see it.
	tailPace = 50 * time.Millisecond
	// tailPatience is how long a follower may take to read what was written: behind it is nobody any more.
	tailPatience = 30 * time.Second
	// statusEvery is how often followers of the status get it.
	statusEvery = time.Second
	// aliveEvery is how often a stream on which nothing happens has a comment.
	aliveEvery = 15 * time.Second
)

// MaxEvents bounds how many events of each topic a new follower may ask for.
const MaxEvents = 1000

// The topics of events.
const (
	TopicDecisions   = "decisions"
	TopicEnded       = "ended"
	TopicTransitions = "transitions"
	TopicChanges     = "changes"
	TopicLogs        = "logs"
	TopicStatus      = "status"
	// TopicLost is that of what a reader has missed, {"topic", "lost"}.
	TopicLost = "lost"
)

// Feeds are the rings behind the topics of events, besides the decisions. A nil ring has nothing.
type Feeds struct {
	Ended, Transitions, Changes, Logs *telemetry.Ring
}

// feed is one topic that has a ring.
type feed struct {
	topic string
	key   byte // in event ids
	ring  *telemetry.Ring
}

// feeds lists the topics with rings, in the order in which they are written.
func (s *Server) feeds() []feed {
	return []feed{
		{TopicTransitions, 't', s.Feeds.Transitions},
		{TopicChanges, 'c', s.Feeds.Changes},
		{TopicDecisions, 'd', s.Records},
		{TopicEnded, 'e', s.Feeds.Ended},
		{TopicLogs, 'l', s.Feeds.Logs},
	}
}

// tails adds the routes that go on and on.
func (s *Server) tails(r *router) {
	open := newGate(maxFollowers, keptFollowers)
	limited := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			leave, ok := open.enter(req, 0)
			if !ok {
				problem(w, http.StatusServiceUnavailable, errors.New("as many tails as may be are open already"))
				return
			}
			defer leave()
			if who, _ := callerOf(req.Context()); isRemote(req) {
				ctx, end := s.Tokens.during(req.Context(), who)
				defer end()
				req = req.WithContext(ctx)
			}
			h(w, req)
		}
	}
	r.HandleFunc("GET /api/v1/decisions", limited(s.decisions))
	r.HandleFunc("GET /api/v1/events", limited(s.events))
	r.HandleFunc("GET /api/v1/logs", s.logs)
}

// number is a number of the query, which is as the contract has it; without one it is the default.
func number(q url.Values, key string, otherwise int) int {
	n, err := strconv.Atoi(q.Get(key))
	if err != nil {
		return otherwise
	}
	return n
}

// decisions writes the newest records, and with follow=1 those that come, until
// the caller leaves. A caller who is too slow gets {"dropped":n} in their place.
func (s *Server) decisions(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	last, follow := number(query, "last", 0), query.Get("follow") == "1"
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := newStream(w)
	next := s.Records.Last(last)
	// The headers go out now, so that a follower knows that it is connected.
	if out.send() != nil {
		return
	}
	for {
		b := s.Records.Read(next, tailBatch)
		next = b.Next
		if b.Missed > 0 {
			out.text = fmt.Appendf(out.text, "{\"dropped\":%d}\n", b.Missed)
		}
		for _, line := range b.Lines {
			out.text = append(append(out.text, line...), '\n')
		}
		full := len(b.Lines) == tailBatch
		if (len(out.text) >= tailBuffer || !full) && out.send() != nil {
			return
		}
		switch {
		case full:
			continue
		case !follow || !out.rest(r.Context()):
			return
		}
		select {
		case <-b.More:
		case <-r.Context().Done():
			return
		}
	}
}

// stream is an answer that goes on and on.
type stream struct {
	w    http.ResponseWriter
	c    *http.ResponseController
	text []byte // what is to be sent
	pace *time.Timer
}

func newStream(w http.ResponseWriter) *stream {
	return &stream{w: w, c: http.NewResponseController(w), pace: time.NewTimer(tailPace)}
}

// send sends what there is, and gives the other end some time to take it. While nothing
// comes there is nothing to be patient about: HTTP/2 ends a stream whose time is up even then.
func (s *stream) send() error {
	_ = s.c.SetWriteDeadline(time.Now().Add(tailPatience)) // where it can't be, it is not needed: tests
	_, err := s.w.Write(s.text)
	s.text = s.text[:0]
	if err == nil {
		err = s.c.Flush()
	}
	_ = s.c.SetWriteDeadline(time.Time{})
	return err
}

// rest waits for tailPace; false: the caller has left.
func (s *stream) rest(ctx context.Context) bool {
	s.pace.Reset(tailPace)
	select {
	case <-s.pace.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// follower is one stream of events.
type follower struct {
	*stream
	id    string // of this run of the daemon
	feeds []feed
	at    []uint64 // where to read on, by feed
}

// events is the stream of server-sent events.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	last := number(q, "last", 0)
	topics := []string{TopicDecisions, TopicEnded, TopicTransitions, TopicChanges, TopicStatus}
	if text := q.Get("topics"); text != "" {
		topics = strings.Split(text, ",")
	}
	all := s.feeds()
	for _, t := range topics {
		if t != TopicStatus && !slices.ContainsFunc(all, func(f feed) bool { return f.topic == t }) {
			problem(w, http.StatusBadRequest, fmt.Errorf("topics: there is no %q", t))
			return
		}
	}
	follow := q.Get("follow") != "0"
	f := &follower{stream: newStream(w), id: s.run()}
	for _, one := range all {
		if slices.Contains(topics, one.topic) && one.ring != nil {
			f.feeds = append(f.feeds, one)
			f.at = append(f.at, one.ring.Last(last))
		}
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // proxies must not collect it
	if id := r.Header.Get("Last-Event-ID"); id != "" && !f.resume(id) {
		f.event(TopicLost, []byte(`{"topic":"*"}`))
	}
	if f.send() != nil {
		return
	}
	if status := slices.Contains(topics, TopicStatus); follow {
		f.follow(r, s, status)
	} else {
		f.kept(s, status)
	}
}

// resume goes on where an id says. It returns false, and changes nothing, for what is no id of this run: one of
// another, one that can't be read or lies ahead, and one without a place in each feed.
func (f *follower) resume(id string) bool {
	parts := strings.Split(id, "-")
	if parts[0] != f.id {
		return false
	}
	places := map[byte]uint64{}
	for _, part := range parts[1:] {
		if part == "" {
			return false
		}
		n, err := strconv.ParseUint(part[1:], 10, 64)
		if err != nil {
			return false
		}
		places[part[0]] = n
	}
	at := make([]uint64, len(f.feeds))
	for i, one := range f.feeds {
		n, ok := places[one.key]
		if !ok || n > one.ring.Last(0) {
			return false
		}
		at[i] = n
	}
	f.at = at
	return true
}

// kept writes what there is, and the id behind it, which is no event.
func (f *follower) kept(s *Server, status bool) {
	if status {
		f.event(TopicStatus, s.status.get(s.Reader))
	}
	for range MaxEvents/tailBatch + 1 { // however fast more comes
		if _, full, err := f.batch(); err != nil {
			return
		} else if !full {
			break
		}
	}
	f.text = append(f.appendID(append(f.text, "id: "...)), "\n\n"...)
	_ = f.send() // who asks has left
}

// follow writes what there is and what comes, until the caller leaves.
func (f *follower) follow(r *http.Request, s *Server, status bool) {
	var tick <-chan time.Time
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	if status {
		t := time.NewTicker(statusEvery)
		defer t.Stop()
		tick = t.C
		f.event(TopicStatus, s.status.get(s.Reader))
	}
	for {
		more, full, err := f.batch()
		switch {
		case err != nil || !full && f.send() != nil:
			return
		case full:
			continue
		case !f.rest(r.Context()):
			return
		}
		select {
		case <-more[0]:
		case <-more[1]:
		case <-more[2]:
		case <-more[3]:
		case <-more[4]:
		case <-tick:
			f.event(TopicStatus, s.status.get(s.Reader))
		case <-alive.C:
			f.text = append(f.text, ":\n\n"...)
		case <-r.Context().Done():
			return
		}
	}
}

// batch takes some of what each feed has, sends it where it is much, and returns what says that there is more; full:
// there is, already.
func (f *follower) batch() (more [5]<-chan struct{}, full bool, err error) {
	for i := range f.feeds {
		b := f.feeds[i].ring.Read(f.at[i], tailBatch)
		if b.Missed > 0 {
			f.at[i] += b.Missed
			f.event(TopicLost, fmt.Appendf(nil, `{"topic":%q,"lost":%d}`, f.feeds[i].topic, b.Missed))
		}
		for _, line := range b.Lines {
			f.at[i]++
			f.event(f.feeds[i].topic, line)
		}
		if len(f.text) >= tailBuffer {
			if err := f.send(); err != nil {
				return more, false, err
			}
		}
		more[i] = b.More
		full = full || len(b.Lines) == tailBatch
	}
	return more, full, nil
}

// event takes one event. Its data is JSON on one line.
func (f *follower) event(topic string, data []byte) {
	b := append(append(f.text, "event: "...), topic...)
	b = f.appendID(append(b, "\nid: "...))
	b = append(b, "\ndata: "...)
	b = append(b, bytes.TrimSpace(data)...)
	f.text = append(b, "\n\n"...)
}

// appendID writes where to go on from.
func (f *follower) appendID(b []byte) []byte {
	b = append(b, f.id...)
	for i := range f.feeds {
		b = append(b, '-', f.feeds[i].key)
		b = strconv.AppendUint(b, f.at[i], 10)
	}
	return b
}

// lastStatus is the status as one line of JSON, made at most once a second for all followers.
type lastStatus struct {
	mu   sync.Mutex
	at   time.Time
	line []byte
}

func (l *lastStatus) get(from Reader) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.at) >= statusEvery/2 {
		line, err := json.Marshal(from.Status())
		if err != nil {
			line = []byte("{}")
		}
		l.at, l.line = time.Now(), line
	}
	return l.line
}

// levels are those of the log, the least first.
var levels = []string{"DEBUG", "INFO", "WARN", "ERROR"}

// Logs are the newest lines of the log.
type Logs struct {
	Lines []json.RawMessage `json:"lines"`
	Lost  uint64            `json:"lost"` // older ones that are not kept any more
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	ring, query := s.Feeds.Logs, r.URL.Query()
	if ring == nil {
		problem(w, http.StatusInternalServerError, errors.New("no log is kept"))
		return
	}
	last, least := number(query, "last", 200), slices.Index(levels, query.Get("level")) // -1: all
	out := Logs{Lines: []json.RawMessage{}}
	b := ring.Read(0, telemetry.LogLines)
	out.Lost = b.Missed
	for _, line := range b.Lines {
		var l struct{ Level string }
		if json.Unmarshal(line, &l) == nil && slices.Index(levels, l.Level) >= least {
			out.Lines = append(out.Lines, json.RawMessage(line))
		}
	}
	out.Lines = out.Lines[max(len(out.Lines)-last, 0):]
	answer(w, http.StatusOK, out)
}
