package api

import (
	"cmp"
	"context"
	_ "embed" // the contract
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
	"sync"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/internal/telemetry"
)

const (
	// maxBody bounds a request: the largest is a flow object, far below this.
	maxBody = 64 << 10
	// drainTime is how long answers under way may take when the daemon stops.
	drainTime = 2 * time.Second
	// idleTime is how long a connection may be idle.
	idleTime = 2 * time.Minute
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

// Lister lists the connections that are followed, and ends them. Its methods are called
// concurrently and end early when their context does.
type Lister interface {
	Flows(context.Context, FlowsRequest) (Flows, error)
	// Kill ends a connection. ErrNotFound: there is none; ErrConflict: it can't be ended.
	Kill(ctx context.Context, id uint64) error
}

// ErrBadRequest marks errors that are the caller's: the answer is 400.
var ErrBadRequest = errors.New("bad request")

// Server serves the API. Every field but Log, Feeds, Subscriptions and Tokens must be
// set before Run.
type Server struct {
	Reader  Reader
	Admin   Admin
	Changes Changes
	Lister  Lister
	Viewer  Viewer
	Desk    Desk
	Records *telemetry.Ring
	Feeds   Feeds
	Metrics func(io.Writer)
	Log     *slog.Logger
	// Tokens are what opens the API over TCP; nil: nothing does.
	Tokens  *Tokens
	Tunnels Tunnels
	// Subscriptions is nil in a daemon that keeps none.
	Subscriptions Subscriptions

	stall   time.Duration // how long a body may take to begin; 0: bodyStall. Tests set it
	stage   stage
	status  lastStatus
	working atomic.Int32 // requests that carry policies
	ran     sync.Once
	runID   string
}

// run names this run of the daemon, for ids of events.
func (s *Server) run() string {
	s.ran.Do(func() { s.runID = strconv.FormatInt(time.Now().UnixNano(), 36) })
	return s.runID
}

// Contract is the OpenAPI file.
func Contract() []byte { return contract }

//go:embed openapi.yaml
var contract []byte

// ErrInUse is why a socket can't be listened on: another daemon answers on it.
var ErrInUse = errors.New("another netpolicyd answers on it")

// Listen makes the unix socket at path, in a directory made 0755 where there is none:
// with mode 0600, or with 0660 for a group that is not 0, since root needs none. A
// socket that a dead daemon left is replaced; one that answers is ErrInUse. The
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
			return nil, fmt.Errorf("API socket %s: %w", path, ErrInUse)
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

// Run serves the unix socket l until ctx ends, then closes it, ends every tail, and waits a
// moment for the other answers.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	return s.serveOn(ctx, &http.Server{Handler: s.Handler(), ConnContext: withPeer}, l)
}

// serveOn serves l until ctx ends.
func (s *Server) serveOn(ctx context.Context, srv *http.Server, l net.Listener) error {
	srv.Handler = paced(srv.Handler, cmp.Or(s.stall, bodyStall))
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	srv.DisableGeneralOptionsHandler = true
	srv.ReadHeaderTimeout, srv.IdleTimeout, srv.MaxHeaderBytes = 5*time.Second, idleTime, 16<<10
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

func (s *Server) logger() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// errBrowser is why a browser's request that comes by the unix socket is not served: behind a
// forwarded port nothing would tell the user's own pages from any other site's.
var errBrowser = errors.New("browsers are served over TCP alone (api_listen in the policy's daemon section)")

// Handler returns the API as a handler, for whoever comes by the unix socket.
func (s *Server) Handler() http.Handler {
	api := s.routes().handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			problem(w, http.StatusForbidden, errBrowser)
			return
		}
		who, _ := r.Context().Value(peerKey{}).(string)
		api.ServeHTTP(w, r.WithContext(withCaller(r.Context(), caller{role: RoleAdmin, by: bySocket, who: who})))
	})
}

// routes are all operations.
func (s *Server) routes() *router {
	r := new(router)
	r.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.Reader.Status()) })
	r.HandleFunc("GET /api/v1/uplinks", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, s.Reader.Status().Uplinks)
	})
	r.HandleFunc("GET /api/v1/plan", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, s.Reader.Plan())
	})
	r.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		s.Metrics(w)
	})
	s.tails(r)
	s.flows(r)
	s.views(r)
	s.editor(r)
	s.changes(r)
	s.config(r)
	s.sessions(r)
	s.health(r)
	s.tunnels(r)
	s.subscriptions(r)
	r.HandleFunc("POST /api/v1/reload", s.reload)
	r.HandleFunc("PUT /api/v1/state", s.force)
	r.HandleFunc("DELETE /api/v1/state", func(w http.ResponseWriter, req *http.Request) {
		s.changed(w, s.Admin.Clear(req.Context(), req.URL.Query().Get("uplink")))
	})
	return r
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if !body(w, r, &struct{}{}) {
		return
	}
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
