package relay

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/inspector/apps"
	"netpolicy.dev/netpolicy/inspector/first"
	"netpolicy.dev/netpolicy/internal/socks"
)

// maxHTTPHead bounds the head of a request. Go's own server takes as much again
// and more; browsers send a few kilobytes.
const maxHTTPHead = 64 << 10

var errHTTP = errors.New("not a request for a proxy")

// requestHTTP reads a request.
func requestHTTP(in *greeting, c net.Conn) (*request, error) {
	hr, err := http.ReadRequest(in.Reader)
	if err != nil {
		_, _ = io.WriteString(c, statusLine(http.StatusBadRequest))
		return nil, err
	}
	if len(in.users) > 0 && !loggedIn(hr, in.users) {
		_, _ = io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"netpolicy\"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		return nil, socks.ErrAuth
	}
	req := &request{left: -1}
	if hr.Method == http.MethodConnect {
		if req.target, err = hostPort(hr.Host, 0); err != nil {
			_, _ = io.WriteString(c, statusLine(http.StatusBadRequest))
			return nil, err
		}
		// What has been read beyond the head is the client's first bytes.
		req.early = in.rest()
		req.answer = func(err error) error {
			if err == nil {
				_, err = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
				return err
			}
			return writeFailure(c, err)
		}
		return req, nil
	}
	if hr.URL.Scheme != "http" || hr.URL.Host == "" {
		_, _ = io.WriteString(c, statusLine(http.StatusBadRequest))
		return nil, errHTTP
	}
	if req.target, err = hostPort(hr.URL.Host, 80); err != nil {
		_, _ = io.WriteString(c, statusLine(http.StatusBadRequest))
		return nil, err
	}
	plain(req, in, hr, c)
	return req, nil
}

// plain forwards one request: what follows it on the connection is not for its
// far end, so that nothing more is taken from the client.
func plain(req *request, in *greeting, hr *http.Request, c net.Conn) {
	said := hr.Header.Get("Content-Length") != ""
	goesOn := strings.EqualFold(hr.Header.Get("Expect"), "100-continue")
	for _, name := range strings.Split(strings.Join(hr.Header.Values("Connection"), ","), ",") {
		hr.Header.Del(strings.TrimSpace(name))
	}
	for _, name := range []string{"Connection", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Content-Length", "Upgrade", "Expect", "Host"} {
		hr.Header.Del(name)
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", hr.Method, hr.URL.RequestURI(), hr.URL.Host)
	_ = hr.Header.Write(&head) // a Buffer takes everything
	switch n := hr.ContentLength; {
	case n < 0:
		head.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		in.from.N = 1<<63 - 1
		req.left = 0
		req.body = func(to io.Writer) error { return copyChunks(to, hr.Body) }
	default:
		if n > 0 || said {
			fmt.Fprintf(&head, "Content-Length: %d\r\n", n)
		}
		head.WriteString("\r\n")
		begin := in.rest()
		begin = begin[:min(int64(len(begin)), n)]
		head.Write(begin)
		req.left = n - int64(len(begin))
	}
	req.early = head.Bytes()
	req.facts = &first.Facts{App: apps.HTTP, Host: req.Name}
	req.answer = func(err error) error {
		if err == nil && goesOn {
			_, err = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		} else if err != nil {
			err = writeFailure(c, err)
		}
		return err
	}
}

// copyChunks sends a body of unknown length. Its trailers are left out.
func copyChunks(to io.Writer, body io.Reader) error {
	w := httputil.NewChunkedWriter(to)
	if _, err := io.Copy(w, body); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(to, "\r\n")
	return err
}

// hostPort reads "host:port"; without a port it is the given one, if that is not 0.
func hostPort(s string, port uint16) (target, error) {
	host, number, err := net.SplitHostPort(s)
	if err != nil && port != 0 {
		host, number = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), strconv.Itoa(int(port))
	} else if err != nil {
		return target{}, errHTTP
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || host == "" || len(host) > 255 {
		return target{}, errHTTP
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return target{Addr: a.Unmap().WithZone(""), Port: uint16(n)}, nil
	}
	return target{Name: host, Port: uint16(n)}, nil
}

// loggedIn looks at the request's Proxy-Authorization (RFC 7617).
func loggedIn(hr *http.Request, users map[string]string) bool {
	kind, code, _ := strings.Cut(hr.Header.Get("Proxy-Authorization"), " ")
	text, err := base64.StdEncoding.DecodeString(code)
	user, password, ok := strings.Cut(string(text), ":")
	return err == nil && ok && strings.EqualFold(kind, "Basic") && socks.Known(users, user, password)
}

func statusLine(code int) string {
	return "HTTP/1.1 " + strconv.Itoa(code) + " " + http.StatusText(code) + "\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
}

// writeFailure tells an HTTP client why it gets nothing.
func writeFailure(w io.Writer, err error) error {
	code := http.StatusBadGateway
	if errors.Is(err, errBlocked) {
		code = http.StatusForbidden
	} else if failureOf(err) == TimedOut {
		code = http.StatusGatewayTimeout
	}
	_, err = io.WriteString(w, statusLine(code))
	return err
}
