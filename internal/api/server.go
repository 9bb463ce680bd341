package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/internal/telemetry"
)

const (
	// maxBody bounds a request: the largest is a flow object, far below this.
	maxBody = 64 << 10
	// maxFollowers bounds the tails that are open at once; each costs a goroutine and a connection.
	maxFollowers = 64
	// tailBatch is how many records are written between flushes.
	tailBatch = 256
	// drainTime is how long answers under way may take when the daemon stops.
	drainTime = 2 * time.Second
)

// Reader answers what changes nothing. Its methods are called concurrently.
type Reader interface {
	Status() Status
	// Plan is the host state that the daemon wants, as text.
	Plan() string
	// Explain fails with an error that wraps ErrBadRequest when the question can't be read.
	Explain(ExplainRequest) (json.RawMessage, error)
}

// Admin changes the daemon. Its methods are called concurrently and end early
// when their context does.
type Admin interface {
	Reload(context.Context) (ReloadResult, error)
	Force(context.Context, ForceRequest) error
	Clear(ctx context.Context, uplink string) error
}

// Lister lists the connections that are followed. Its method is called
// concurrently and ends early when its context does.
type Lister interface {
	Flows(context.Context, FlowsRequest) (Flows, error)
}

// ErrBadRequest marks errors that are the caller's: the answer is 400.
var ErrBadRequest = errors.New("bad request")

// Server serves the API. Every field but Log and Subscriptions must be set before Run.
type Server struct {
	Reader  Reader
	Admin   Admin
	Changes Changes
	Lister  Lister
	Tunnels Tunnels
	// Subscriptions is nil in a daemon that keeps none.
	Subscriptions Subscriptions
	Records       *telemetry.Ring
	Metrics       func(io.Writer)
	Log           *slog.Logger
}

// Listen makes the unix socket at path, in a directory made 0755 where there is none:
// with mode 0600, or with 0660 for a group that is not 0, since root needs none. A
// socket that a dead daemon left is replaced; one that answers is an error. The
// socket appears under its name only when it has its mode.
func Listen(path string, group int) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the API socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("API socket %s: the file exists and is not a socket", path)
		}
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("API socket %s: another netpolicyd answers on it", path)
		}
	}
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale API socket: %w", err)
	}
	l, err := net.Listen("unix", temp)
	if err != nil {
		return nil, fmt.Errorf("listen on API socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	err = permit(temp, group)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		l.Close()
		os.Remove(temp)
		return nil, fmt.Errorf("place API socket: %w", err)
	}
	return &socket{Listener: l, path: path}, nil
}

// permit sets who may use the socket. A file is born with the group of the process,
// and a daemon that runs as its own user may not change it to another.
func permit(path string, group int) error {
	if group == 0 {
		return os.Chmod(path, 0o600)
	}
	if group != os.Getegid() {
		if err := os.Lchown(path, -1, group); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o660)
}

// socket removes its own file when it is closed.
type socket struct {
	net.Listener
	path string
}

func (s *socket) Close() error {
	err := s.Listener.Close()
	os.Remove(s.path)
	return err
}

// Run serves on l until ctx ends, then closes it, ends every tail, and waits a
// moment for the other answers.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if srv.Shutdown(drain) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API: %w", err)
}

// Handler returns the API as a handler.
func (s *Server) Handler() http.Handler {
	followers := make(chan struct{}, maxFollowers)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.Reader.Status()) })
	mux.HandleFunc("GET /v1/uplinks", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, s.Reader.Status().Uplinks)
	})
	mux.HandleFunc("GET /v1/plan", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, s.Reader.Plan())
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		s.Metrics(w)
	})
	mux.HandleFunc("GET /v1/decisions", func(w http.ResponseWriter, r *http.Request) {
		select {
		case followers <- struct{}{}:
			defer func() { <-followers }()
			s.decisions(w, r)
		default:
			problem(w, http.StatusServiceUnavailable, fmt.Errorf("%d tails are open already", maxFollowers))
		}
	})
	s.flows(mux)
	s.changes(mux)
	s.tunnels(mux)
	s.subscriptions(mux)
	mux.HandleFunc("POST /v1/explain", s.explain)
	mux.HandleFunc("POST /v1/reload", s.reload)
	mux.HandleFunc("PUT /v1/state", s.force)
	mux.HandleFunc("DELETE /v1/state", func(w http.ResponseWriter, r *http.Request) {
		s.changed(w, s.Admin.Clear(r.Context(), r.URL.Query().Get("uplink")))
	})
	return mux
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	var q ExplainRequest
	if !body(w, r, &q) {
		return
	}
	out, err := s.Reader.Explain(q)
	if err != nil {
		problem(w, statusOf(err), err)
		return
	}
	answer(w, http.StatusOK, out)
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	res, err := s.Admin.Reload(r.Context())
	switch {
	case err != nil:
		problem(w, statusOf(err), err)
	case res.Result == Rejected:
		answer(w, http.StatusUnprocessableEntity, res)
	default:
		answer(w, http.StatusOK, res)
	}
}

func (s *Server) force(w http.ResponseWriter, r *http.Request) {
	var q ForceRequest
	if body(w, r, &q) {
		s.changed(w, s.Admin.Force(r.Context(), q))
	}
}

func (s *Server) changed(w http.ResponseWriter, err error) {
	if err != nil {
		problem(w, statusOf(err), err)
		return
	}
	answer(w, http.StatusOK, s.Reader.Status().Uplinks)
}

// decisions writes the newest records, and with follow=1 those that come, until
// the caller leaves. A caller who is too slow gets {"dropped":n} in their place.
func (s *Server) decisions(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	last := 0
	if v := q.Get("last"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			problem(w, http.StatusBadRequest, fmt.Errorf("last=%q: want a number of records", v))
			return
		}
		last = n
	}
	follow := q.Get("follow") == "1"
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w)
	next := s.Records.Last(last)
	// The headers go out now, so that a follower knows that it is connected.
	if err := flush.Flush(); err != nil {
		return
	}
	for {
		b := s.Records.Read(next, tailBatch)
		next = b.Next
		if b.Missed > 0 {
			fmt.Fprintf(w, "{\"dropped\":%d}\n", b.Missed)
		}
		for _, line := range b.Lines {
			if _, err := w.Write(append(line[:len(line):len(line)], '\n')); err != nil {
				return
			}
		}
		if err := flush.Flush(); err != nil || !follow && len(b.Lines) < tailBatch {
			return
		}
		select {
		case <-b.More:
		case <-r.Context().Done():
			return
		}
	}
}

func body(w http.ResponseWriter, r *http.Request, into any) bool { return bodyOf(w, r, into, maxBody) }

// bodyOf reads a request of at most limit bytes.
func bodyOf(w http.ResponseWriter, r *http.Request, into any, limit int64) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		problem(w, http.StatusRequestEntityTooLarge, fmt.Errorf("the request is larger than %d bytes", limit))
		return false
	case err != nil:
		problem(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return false
	}
	return true
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		problem(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

func problem(w http.ResponseWriter, status int, err error) {
	detail := err.Error()
	for _, mark := range []error{ErrBadRequest, ErrConflict, ErrNotFound} {
		detail = strings.TrimSuffix(detail, ": "+mark.Error())
	}
	b, jerr := json.Marshal(Problem{Title: http.StatusText(status), Status: status, Detail: detail})
	if jerr != nil {
		status, b = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrBadRequest):
		return http.StatusBadRequest
	case errors.Is(err, ErrConflict):
		return http.StatusConflict
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}
