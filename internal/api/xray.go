package api

import (
	"context"
	"net/http"
	"time"
)

// Xray is what runs for the routes via xray. It has no secrets.
type Xray struct {
	State   string    `json:"state"` // stopped, running, waiting, degraded, failed
	Since   time.Time `json:"since,omitzero"`
	Version string    `json:"version,omitempty"`
	PID     int       `json:"pid,omitempty"`
	// Adopted: an earlier run of the daemon started it.
	Adopted       bool      `json:"adopted,omitempty"`
	StoppedByUser bool      `json:"stopped_by_user,omitempty"`
	Restarts      int       `json:"restarts"`
	Reason        string    `json:"reason,omitempty"` // why it does not run
	Next          time.Time `json:"next,omitzero"`    // when it is started again
	Memory        int64     `json:"memory,omitempty"` // bytes
	CPUms         int64     `json:"cpu_ms,omitempty"`
	// Problems are what of the policy's routes is not carried out, and why.
	Problems []string    `json:"problems,omitempty"`
	Routes   []XrayRoute `json:"routes"`
}

// XrayRoute is one route via xray.
type XrayRoute struct {
	Route   string      `json:"route"`
	Proxy   string      `json:"proxy"`            // the name in the policy
	Listen  string      `json:"listen,omitempty"` // its SOCKS server
	Proxies []XrayProxy `json:"proxies"`
}

// XrayProxy is one proxy that a route can use.
type XrayProxy struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Used    bool   `json:"used"`
	Chosen  bool   `json:"chosen,omitempty"` // by the user
	Alive   string `json:"alive"`            // true, false or unknown
	DelayMS int64  `json:"delay_ms,omitempty"`
}

// XrayRequest asks for something to be done with Xray: start, stop or restart.
type XrayRequest struct {
	Do string `json:"do"`
}

// XrayLog is what Xray has printed last, without secrets, the oldest line first.
type XrayLog struct {
	Lines []string `json:"lines"`
}

// XrayTrialRequest is a link to try with a page.
type XrayTrialRequest struct {
	Link string `json:"link"`
	URL  string `json:"url,omitempty"` // of http or https; "" is one that answers 204
}

// XrayTrial is what came of a link; times are in milliseconds, those that were not
// taken are left out. It has no secrets.
type XrayTrial struct {
	Name      string  `json:"name,omitempty"`
	Protocol  string  `json:"protocol"`
	Server    string  `json:"server"` // host and port
	OK        bool    `json:"ok"`
	StartMS   float64 `json:"start_ms,omitempty"`      // Xray's test of the configuration, and its start
	ConnectMS float64 `json:"connect_ms,omitempty"`    // to the server, past Xray
	TLSMS     float64 `json:"tls_ms,omitempty"`        // with the page, from the request on
	FirstMS   float64 `json:"first_byte_ms,omitempty"` // likewise
	TotalMS   float64 `json:"total_ms,omitempty"`      // likewise
	Status    int     `json:"status,omitempty"`        // of HTTP
	Bytes     int64   `json:"bytes"`
	Error     string  `json:"error,omitempty"` // why there is no page
	Help      string  `json:"help,omitempty"`  // the way out
}

// Tunnels is the Xray of the routes via xray. Its methods are called concurrently. Xray
// and XrayLog fail with an error that wraps ErrConflict where the policy has no such routes.
type Tunnels interface {
	// Xray does what is asked for, if anything, and tells what runs then.
	Xray(context.Context, XrayRequest) (Xray, error)
	XrayLog() (XrayLog, error)
	// TryXray tries a link with an Xray of its own, one at a time: ErrConflict where another
	// is under way, or there is no Xray.
	TryXray(context.Context, XrayTrialRequest) (XrayTrial, error)
}

// tunnels adds the routes of Tunnels.
func (s *Server) tunnels(r *router) {
	r.HandleFunc("GET /api/v1/xray", func(w http.ResponseWriter, req *http.Request) {
		s.xray(w, req, XrayRequest{})
	})
	r.HandleFunc("POST /api/v1/xray", func(w http.ResponseWriter, req *http.Request) {
		var q XrayRequest
		if body(w, req, &q) {
			s.xray(w, req, q)
		}
	})
	r.HandleFunc("GET /api/v1/xray/log", func(w http.ResponseWriter, _ *http.Request) {
		out, err := s.Tunnels.XrayLog()
		if err != nil {
			problem(w, statusOf(err), err)
			return
		}
		answer(w, http.StatusOK, out)
	})
	// It starts a process, and sends where a link says: for admins.
	r.HandleFunc("POST /api/v1/xray-test", func(w http.ResponseWriter, req *http.Request) {
		var q XrayTrialRequest
		if !body(w, req, &q) {
			return
		}
		out, err := s.Tunnels.TryXray(req.Context(), q)
		if err != nil {
			problem(w, statusOf(err), err)
			return
		}
		answer(w, http.StatusOK, out)
	})
}

func (s *Server) xray(w http.ResponseWriter, r *http.Request, q XrayRequest) {
	out, err := s.Tunnels.Xray(r.Context(), q)
	if err != nil {
		problem(w, statusOf(err), err)
		return
	}
	answer(w, http.StatusOK, out)
}

// Xray asks for something to be done with Xray ("" for nothing), and what runs then.
func (c *Client) Xray(ctx context.Context, do string) (Xray, error) {
	var x Xray
	if do == "" {
		return x, c.call(ctx, http.MethodGet, "/api/v1/xray", nil, &x)
	}
	return x, c.call(ctx, http.MethodPost, "/api/v1/xray", XrayRequest{Do: do}, &x)
}

// XrayLog asks for the last lines that Xray has printed.
func (c *Client) XrayLog(ctx context.Context) (XrayLog, error) {
	var l XrayLog
	return l, c.call(ctx, http.MethodGet, "/api/v1/xray/log", nil, &l)
}

// TryXray has the daemon try a link.
func (c *Client) TryXray(ctx context.Context, q XrayTrialRequest) (XrayTrial, error) {
	var x XrayTrial
	return x, c.call(ctx, http.MethodPost, "/api/v1/xray-test", q, &x)
}
