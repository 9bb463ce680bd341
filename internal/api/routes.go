package api

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strings"
)

// access is who may use a route.
type access uint8

const (
	forAnyRole access = iota // whoever has a token, or the socket
	forAdmin
	forAnybody // login
	forSocket  // over the unix socket alone
)

// route is one operation of the API.
type route struct {
	method, path string
	access       access
	handler      http.HandlerFunc
}

// router gathers the routes. Whatever is not said to be harmless needs the role admin.
type router struct{ routes []route }

// HandleFunc adds a route, "GET /api/v1/status". Reading is for any role; everything else is for the
// role admin. GET never changes anything.
func (r *router) HandleFunc(pattern string, h http.HandlerFunc) {
	a := forAdmin
	if strings.HasPrefix(pattern, "GET ") {
		a = forAnyRole
	}
	r.add(a, pattern, h)
}

// ask adds a question that needs a body and changes nothing: for any role.
func (r *router) ask(pattern string, h http.HandlerFunc) { r.add(forAnyRole, pattern, h) }

func (r *router) add(a access, pattern string, h http.HandlerFunc) {
	method, path, _ := strings.Cut(pattern, " ")
	r.routes = append(r.routes, route{method, path, a, h})
}

// handler serves the routes. Whoever asks was found out before; see withCaller.
func (r *router) handler() http.Handler {
	mux := http.NewServeMux()
	for _, one := range r.routes {
		mux.HandleFunc(one.method+" "+one.path, func(w http.ResponseWriter, req *http.Request) {
			if status, err := one.refuses(req); err != nil {
				problem(w, status, err)
				return
			}
			if err := operations()[req.Pattern].refuses(req); err != nil {
				problem(w, http.StatusBadRequest, err)
				return
			}
			if readsOnly(req) && !unmasked[one.path] {
				w = masker{w}
			}
			one.handler(w, req)
		})
	}
	nothing := func(w http.ResponseWriter, req *http.Request) {
		if _, known := callerOf(req.Context()); !known {
			problem(w, http.StatusUnauthorized, errNoToken)
			return
		}
		if allowed := methods(mux, req); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			problem(w, http.StatusMethodNotAllowed, errors.New("this is not done with "+req.Method))
			return
		}
		problem(w, http.StatusNotFound, errNowhere)
	}
	mux.HandleFunc("/", nothing)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !isClean(req.URL.Path) { // the mux would lead elsewhere
			nothing(w, req)
			return
		}
		mux.ServeHTTP(w, req)
	})
}

func isClean(p string) bool { return path.Clean("/"+p) == p }

// methods lists those that a path is asked with.
func methods(mux *http.ServeMux, req *http.Request) (list []string) {
	if !isClean(req.URL.Path) {
		return nil
	}
	for _, m := range []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut} {
		other := req.WithContext(req.Context())
		other.Method = m
		if _, pattern := mux.Handler(other); strings.HasPrefix(pattern, m) || m == http.MethodHead && strings.HasPrefix(pattern, "GET ") {
			list = append(list, m)
		}
	}
	return list
}

var (
	errNoToken  = errors.New("a token is needed: Authorization: Bearer, or the cookie that login gives")
	errReadOnly = errors.New("the token is for reading alone")
	errNowhere  = errors.New("there is nothing here")
	errNotJSON  = errors.New("the body has to be application/json, and not compressed")
)

// refuses says why a request is not served.
func (r *route) refuses(req *http.Request) (status int, err error) {
	who, known := callerOf(req.Context())
	switch {
	case r.access == forAnybody:
	case !known:
		return http.StatusUnauthorized, errNoToken
	case r.access == forSocket && who.by != bySocket:
		return http.StatusNotFound, errNowhere
	case r.access == forAdmin && who.role != RoleAdmin:
		return http.StatusForbidden, errReadOnly
	}
	if req.ContentLength != 0 && (!isJSON(req.Header.Get("Content-Type")) || req.Header.Get("Content-Encoding") != "") {
		return http.StatusUnsupportedMediaType, errNotJSON
	}
	return 0, nil
}

func isJSON(contentType string) bool {
	kind, params, _ := strings.Cut(contentType, ";")
	params = strings.ToLower(strings.TrimSpace(params))
	return strings.EqualFold(strings.TrimSpace(kind), "application/json") && (params == "" || params == "charset=utf-8")
}

// Role is what somebody may do.
type Role string

// The roles.
const (
	RoleAdmin Role = "admin"
	RoleRead  Role = "read"
)

// How a caller is known.
const (
	bySocket = "socket"
	byToken  = "token"
	byCookie = "cookie"
)

// caller is who asks.
type caller struct {
	role Role
	by   string
	who  string // the user at the socket's other end, or the address
	// session is that of the cookie; nil without one. token is what was shown instead.
	session *session
	token   string
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

func callerOf(ctx context.Context) (caller, bool) {
	c, ok := ctx.Value(callerKey{}).(caller)
	return c, ok
}

// isRemote reports whether somebody asks who did not come by the unix socket.
func isRemote(r *http.Request) bool {
	c, _ := callerOf(r.Context())
	return c.by != bySocket
}

// Who returns who asks, in the context of a request: as the socket tells, "root (uid 0)", or by what and from where,
// "token from 192.0.2.7"; "" in any other and where the system does not tell.
func Who(ctx context.Context) string {
	c, _ := callerOf(ctx)
	return c.who
}
