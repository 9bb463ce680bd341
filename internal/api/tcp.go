package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxStreams bounds the requests under way on one connection of HTTP/2.
	maxStreams = 64
	// certLook is how often the certificate's file is looked at for a new one.
	certLook = 10 * time.Second
)

// TCP says how the API is served over TCP.
type TCP struct {
	// CertFile and KeyFile are PEM files; "" serves without TLS.
	CertFile, KeyFile string
	// Hosts are names under which browsers may ask, besides localhost and the address itself.
	Hosts []string
	// InsecureLAN allows an address that is not loopback without TLS.
	InsecureLAN bool
	// Assets is the web interface; nil serves none.
	Assets fs.FS
}

// ErrPublic is why a listener is not served.
var ErrPublic = errors.New("an address that others can reach needs TLS (api_tls), or insecure_lan where the network is trusted")

// Check says why a listener can't be served like this.
func (o *TCP) Check(l net.Listener) error {
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("serve the API over TCP: %s is no TCP listener", l.Addr().Network())
	}
	return o.CheckAddr(addr.AddrPort())
}

// CheckAddr says why it would not be safe to serve like this at an address.
func (o *TCP) CheckAddr(a netip.AddrPort) error {
	if o.CertFile == "" && !a.Addr().Unmap().IsLoopback() && !o.InsecureLAN {
		return fmt.Errorf("serve the API on %s: %w", a, ErrPublic)
	}
	return nil
}

// CheckFiles says why the certificate can't be used now; it may be written later.
func (o *TCP) CheckFiles() error {
	if o.CertFile == "" {
		return nil
	}
	_, err := (&certificate{cert: o.CertFile, key: o.KeyFile}).get(nil)
	return err
}

// RunTCP serves on l until ctx ends, then closes it. Everything but login and the web
// interface's files needs a token of s.Tokens.
func (s *Server) RunTCP(ctx context.Context, l net.Listener, o TCP) error {
	if err := o.Check(l); err != nil {
		l.Close()
		return err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true) // and no HTTP/2 in the clear
	srv := &http.Server{
		Handler: s.HandlerTCP(l.Addr().(*net.TCPAddr).IP.IsLoopback(), o), Protocols: &protocols, ConnContext: withVisitor,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		ErrorLog: slog.NewLogLogger(s.logger().Handler(), slog.LevelDebug), // strangers' broken handshakes
	}
	l = &crowd{Listener: l, most: maxConns, strangers: maxStrangers}
	if o.CertFile != "" {
		c := &certificate{cert: o.CertFile, key: o.KeyFile}
		if _, err := c.get(nil); err != nil {
			l.Close()
			return err
		}
		protocols.SetHTTP2(true)
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"h2", "http/1.1"}}
		l = tls.NewListener(l, srv.TLSConfig)
	}
	return s.serveOn(ctx, srv, l)
}

// certificate is read again when its file has changed: certificates are renewed.
type certificate struct {
	cert, key string

	mu     sync.Mutex
	loaded *tls.Certificate
	of     time.Time // when the file was written
	looked time.Time
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loaded != nil && time.Since(c.looked) < certLook {
		return c.loaded, nil
	}
	c.looked = time.Now()
	info, err := os.Stat(c.cert)
	if err == nil && c.loaded != nil && info.ModTime().Equal(c.of) {
		return c.loaded, nil
	}
	pair, perr := tls.LoadX509KeyPair(c.cert, c.key)
	switch {
	case perr != nil && c.loaded != nil: // half written, perhaps
		return c.loaded, nil
	case perr != nil:
		return nil, fmt.Errorf("read the API's certificate: %w", perr)
	}
	if c.loaded = &pair; err == nil {
		c.of = info.ModTime()
	}
	return c.loaded, nil
}

// HandlerTCP returns the API and the web interface as a handler for whoever comes over
// TCP. Outermost stands what costs least: the Host, then where the request comes
// from, then who asks.
func (s *Server) HandlerTCP(loopback bool, o TCP) http.Handler {
	api, pages := s.routes().handler(), newPages(o.Assets)
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, known, wrong := s.caller(r)
		switch {
		case wrong:
			s.refuseToken(w, r)
			return
		case known:
			shows(r.Context(), who.role)
			r = r.WithContext(withCaller(r.Context(), who))
		}
		if isAPI(r.URL.Path) {
			w.Header().Set("Cache-Control", "no-store")
			api.ServeHTTP(w, r)
			return
		}
		pages.ServeHTTP(w, r)
	})
	same := http.NewCrossOriginProtection()
	same.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem(w, http.StatusForbidden, errors.New("the request comes from another site"))
	}))
	guarded := same.Handler(inner)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !o.allows(r, loopback) {
			problem(w, http.StatusNotFound, errNowhere)
			return
		}
		protect(w.Header())
		guarded.ServeHTTP(w, r)
	})
}

// isAPI reports paths that are not the web interface's.
func isAPI(path string) bool {
	return path == "/metrics" || strings.HasPrefix(path, "/api/") || path == "/api" || strings.HasPrefix(path, "/debug/")
}

// protect sets the headers that keep browsers from helping others.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "+
		"manifest-src 'self'; worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// allows reports whether the Host of a request is one of ours. A name that is not can
// be anybody's who has it lead here (DNS rebinding).
func (o *TCP) allows(r *http.Request, loopback bool) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if a, err := netip.ParseAddr(host); err == nil {
		if loopback {
			return a.Unmap().IsLoopback()
		}
		here, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		return here != nil && here.AddrPort().Addr().Unmap().WithZone("") == a.Unmap().WithZone("")
	}
	return strings.EqualFold(host, "localhost") && loopback ||
		slices.ContainsFunc(o.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// caller finds out who asks, by a bearer token or by the cookie. wrong is a token
// that is none.
func (s *Server) caller(r *http.Request) (c caller, known, wrong bool) {
	if s.Tokens == nil {
		return caller{}, false, false
	}
	if scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		text = strings.TrimSpace(text)
		role, ok := s.Tokens.check(text)
		return caller{role: role, by: byToken, who: "token (" + string(role) + ") from " + r.RemoteAddr, token: text}, ok, !ok
	}
	for _, given := range r.CookiesNamed(cookieOf(r)) { // others can have set some of this name
		if one := s.Tokens.session(given.Value); one != nil {
			return caller{role: one.role, by: byCookie, who: "web (" + string(one.role) + ") from " + r.RemoteAddr, session: one}, true, false
		}
	}
	return caller{}, false, false
}
