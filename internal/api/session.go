package api

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

// cookieName begins the name of the session's cookie; over TLS it has the prefix that browsers
// hold to TLS. The port follows: cookies know no ports, and daemons on one host have each their own.
const cookieName = "netpolicy"

// maxLogin bounds a login, which anybody may send.
const maxLogin = 1 << 10

// LoginRequest exchanges a token for a cookie.
type LoginRequest struct {
	Token string `json:"token"`
}

// Session is who asks, and what they may do.
type Session struct {
	Role  Role      `json:"role"`
	By    string    `json:"by"` // socket, token, cookie
	Who   string    `json:"who,omitempty"`
	Until time.Time `json:"until,omitzero"` // when the cookie ends
}

// TokenRequest asks for the token of a role, or for a new one.
type TokenRequest struct {
	Role  Role `json:"role"`
	Renew bool `json:"renew,omitempty"`
}

// Token is a role's token.
type Token struct {
	Role  Role   `json:"role"`
	Token string `json:"token"`
}

// sessions adds login and logout.
func (s *Server) sessions(r *router) {
	r.add(forAnybody, "POST /api/v1/login", s.login)
	r.add(forAnybody, "POST /api/v1/logout", s.logout)
	r.HandleFunc("GET /api/v1/session", func(w http.ResponseWriter, req *http.Request) {
		who, _ := callerOf(req.Context())
		out := Session{Role: who.role, By: who.by, Who: who.who}
		if who.session != nil {
			out.Until = who.session.until
		}
		answer(w, http.StatusOK, out)
	})
	r.add(forSocket, "POST /api/v1/token", s.token)
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var q LoginRequest
	if !bodyOf(w, r, &q, maxLogin) {
		return
	}
	if s.Tokens == nil {
		problem(w, http.StatusConflict, errors.New("over the unix socket nobody has to log in"))
		return
	}
	role, ok := s.Tokens.check(q.Token)
	if !ok {
		s.refuseToken(w, r)
		return
	}
	value, until := s.Tokens.begin(role)
	http.SetCookie(w, cookie(r, value, int(sessionTime.Seconds())))
	s.logger().Info("API login", "role", string(role), "address", r.RemoteAddr)
	answer(w, http.StatusOK, Session{Role: role, By: byCookie, Until: until})
}

// refuseToken answers a wrong token: 401, and 429 when there were too many.
func (s *Server) refuseToken(w http.ResponseWriter, r *http.Request) {
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	if wait := s.Tokens.wrong(from.Addr()); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		problem(w, http.StatusTooManyRequests, fmt.Errorf("too many wrong tokens: try again in %d seconds", int(math.Ceil(wait.Seconds()))))
		return
	}
	s.logger().Warn("API: wrong token", "address", r.RemoteAddr)
	problem(w, http.StatusUnauthorized, errors.New("the token is wrong"))
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	if !bodyOf(w, r, &struct{}{}, maxLogin) {
		return
	}
	if who, _ := callerOf(r.Context()); who.session != nil {
		s.Tokens.end(who.session)
	}
	http.SetCookie(w, cookie(r, "", -1))
	w.WriteHeader(http.StatusNoContent)
}

// cookie is the session's, for maxAge seconds; negative removes it.
func cookie(r *http.Request, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: cookieOf(r), Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}

// cookieOf is the name of the cookie, by the port that the browser sees.
func cookieOf(r *http.Request) string {
	name := cookieName
	if _, text, err := net.SplitHostPort(r.Host); err == nil {
		if port, err := strconv.ParseUint(text, 10, 16); err == nil {
			name = fmt.Sprintf("%s-%d", name, port)
		}
	}
	if r.TLS != nil {
		return "__Host-" + name
	}
	return name
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	var q TokenRequest
	if !body(w, r, &q) {
		return
	}
	switch {
	case s.Tokens == nil:
		problem(w, http.StatusConflict, errors.New("the API is served over the unix socket alone: there is no token (api_listen in the policy's daemon section)"))
	case tokenFiles[q.Role] == "":
		problem(w, http.StatusBadRequest, fmt.Errorf("role %q: want %s or %s", q.Role, RoleAdmin, RoleRead))
	case q.Renew:
		text, err := s.Tokens.Renew(q.Role)
		if err == nil {
			s.logger().Info("API token renewed", "role", string(q.Role), "who", Who(r.Context()))
		}
		answerOr(w, Token{q.Role, text}, err)
	default:
		err := s.Tokens.Load() // nobody may have asked over TCP yet
		answerOr(w, Token{q.Role, s.Tokens.Get(q.Role)}, err)
	}
}
