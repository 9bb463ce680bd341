package rulesets

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"netpolicy.dev/netpolicy/internal/download"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// serve returns a rig that may ask a server, and the server's URL.
func serve(t *testing.T, handle http.HandlerFunc) (*rig, rules.ListRef) {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	r := newRig(t)
	r.client = download.NewClient(nil)
	r.client.Transport.(*http.Transport).Proxy = nil
	return r, rules.ListRef{URL: server.URL, Format: "list"}
}

// refresh wants changed, or an error that contains the text.
func (r *rig) refresh(ref rules.ListRef, changed bool, text string) {
	r.t.Helper()
	got, err := r.store().Refresh(r.t.Context(), ref, typeOf(ref))
	switch {
	case text == "" && err != nil, text != "" && (err == nil || !strings.Contains(err.Error(), text)):
		r.t.Errorf("error %v, want %q", err, text)
	case got != changed:
		r.t.Errorf("changed %v, want %v", got, changed)
	}
}

// TestUnchanged: an ETag or a date goes back to the server, which then need not
// send the list.
func TestUnchanged(t *testing.T) {
	body, tagged, dated, sent := "a.example\n", true, true, 0
	r, ref := serve(t, func(w http.ResponseWriter, q *http.Request) {
		if got := q.Header.Get("User-Agent"); got != "netpolicy" {
			t.Errorf("user agent %q", got)
		}
		etag := `"` + strconv.Itoa(len(body)) + `"`
		const date = "Tue, 24 Nov 2026 10:00:00 GMT"
		if tagged {
			w.Header().Set("ETag", etag)
		}
		if dated {
			w.Header().Set("Last-Modified", date)
		}
		if q.Header.Get("If-None-Match") == etag || q.Header.Get("If-None-Match") == "" && q.Header.Get("If-Modified-Since") == date {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		sent++
		fmt.Fprint(w, body)
	})
	step := func(changed bool, wantSent int) {
		t.Helper()
		sent = 0
		r.refresh(ref, changed, "")
		if sent != wantSent {
			t.Errorf("sent %d times, want %d", sent, wantSent)
		}
		r.load(ref, strings.TrimSpace(body))
		r.oneCopy()
	}
	r.load(ref, "", "not fetched yet; it is empty")
	step(true, 1)
	step(false, 0)
	body = "bb.example\n"
	step(true, 1)
	tagged = false
	body = "ccc.example\n"
	step(true, 1)
	step(false, 0) // by the date
	name, data := only(r.snapshot(), ".data")
	r.restore(r.snapshot(), map[string][]byte{name: data[1:]})
	r.load(ref, "", "the copy that was fetched can't be used: damaged")
	step(true, 1) // a damaged copy is not asked about
	dated = false
	body = "d.example\n"
	ref.SHA256 = sumOf([]byte(body))
	step(true, 1) // nor one of another checksum
	step(false, 1)
}

// TestReplaced: a server's "not modified" is about the copy that was asked about,
// not about one that another process put there meanwhile.
func TestReplaced(t *testing.T) {
	var meanwhile func()
	r, ref := serve(t, func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("If-None-Match") != "" {
			meanwhile()
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("ETag", "x")
		fmt.Fprint(w, "a.example\n")
	})
	r.refresh(ref, true, "")
	meanwhile = func() {
		other := r.store()
		l, err := other.list(ref, rules.DomainSet)
		if err != nil {
			t.Error(err)
		}
		data := []byte("b.example\n")
		if err := other.keep(l, content{data: data, sum: sumOf(data)}); err != nil {
			t.Error(err)
		}
	}
	r.refresh(ref, false, "")
	r.load(ref, "b.example")
}

// TestBadDownload: nothing that is not the list replaces the last good copy.
func TestBadDownload(t *testing.T) {
	var bad http.HandlerFunc
	r, ref := serve(t, func(w http.ResponseWriter, q *http.Request) {
		if bad == nil {
			w.Header().Set("ETag", `"1"`)
			fmt.Fprint(w, "a.example\n")
			return
		}
		bad(w, q)
	})
	r.refresh(ref, true, "")
	chunk := bytes.Repeat([]byte("a.example\n"), 1<<16)
	send := func(w io.Writer, size int) {
		for size > 0 {
			n, err := w.Write(chunk[:min(size, len(chunk))])
			if err != nil {
				return
			}
			size -= n
		}
	}
	for _, c := range []struct {
		name, err string
		bad       http.HandlerFunc
	}{
		{"portal", "a web page, not a list", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\n<!doctype html><title>Log in</title>") }},
		{"other format", "nothing in it can be read", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\x00\x01\x02") }},
		{"empty", "the answer is empty", func(http.ResponseWriter, *http.Request) {}},
		{"no content", "the server answered 204 No Content", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }},
		{"part", "the server answered 206 Partial Content", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(206) }},
		{"not found", "the server answered 404 Not Found", func(w http.ResponseWriter, q *http.Request) { http.NotFound(w, q) }},
		{"broken", "the server answered 503 Service Unavailable", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }},
		{"said to be too large", "larger than 64 MiB", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(lists.MaxSize+1))
			_, _ = w.Write(chunk)
		}},
		{"too large", "larger than 64 MiB", func(w http.ResponseWriter, _ *http.Request) { send(w, lists.MaxSize+1) }},
		{"torn", "read the answer: unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "b.example\n")
		}},
		{"torn in chunks", "read the answer: unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "b.example\n")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
		{"bomb", "larger than 64 MiB", func(w http.ResponseWriter, q *http.Request) {
			if q.Header.Get("Accept-Encoding") != "gzip" {
				t.Errorf("encoding asked for: %q", q.Header.Get("Accept-Encoding"))
			}
			w.Header().Set("Content-Encoding", "gzip")
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
			send(z, lists.MaxSize+1)
			_ = z.Close()
		}},
		{"torn gzip", "read the answer: unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			fmt.Fprint(z, "b.example\n")
			_ = z.Flush() // without its end
		}},
		{"other encoding", "in an encoding that was not asked for", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			fmt.Fprint(w, "b.example\n")
		}},
		{"header", "server response headers exceeded", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", download.MaxHeader))
			fmt.Fprint(w, "b.example\n")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad = c.bad
			r.t = t
			r.refresh(ref, false, "fetch list "+ref.URL+": ")
			r.refresh(ref, false, c.err)
			r.load(ref, "a.example")
			r.oneCopy()
		})
	}
	r.t = t
	pinned := ref
	pinned.SHA256 = sumOf([]byte("a.example\n"))
	bad = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "b.example\n") }
	r.refresh(pinned, false, "its SHA-256 is 8543219a446ac4d442628119f250f2901f9b3c0c939b0998a57b060db5b253cf, not 2f12e445")
	r.load(pinned, "a.example")
	bad = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprint(z, "b.example\n")
		_ = z.Close()
	}
	r.refresh(ref, true, "")
	r.load(ref, "b.example")
	bad = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) } // nothing was asked about
	r.refresh(ref, false, "the server answered 304 Not Modified")
}

// TestDown: a server that can't be had at the start costs no time.
func TestDown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ref := rules.ListRef{URL: "http://" + listener.Addr().String() + "/ads.txt", Format: "list"}
	r := newRig(t)
	r.load(ref, "", "not fetched yet") // the listener never answers, and r has no network
	listener.Close()
	r.client = download.NewClient(nil)
	r.refresh(ref, false, "connection refused")
	r.load(ref, "", "not fetched yet")
}

// TestRedirects: few are followed, and only to where it is no less safe.
func TestRedirects(t *testing.T) {
	var hops atomic.Int64
	handle := func(w http.ResponseWriter, q *http.Request) {
		if q.Referer() != "" {
			t.Errorf("told where it came from: %s", q.Referer())
		}
		switch n, err := strconv.Atoi(q.URL.Query().Get("n")); {
		case q.URL.Query().Has("to"):
			http.Redirect(w, q, q.URL.Query().Get("to"), http.StatusFound)
		case err == nil && n > 0:
			hops.Add(1)
			http.Redirect(w, q, fmt.Sprintf("/?n=%d", n-1), http.StatusMovedPermanently)
		default:
			fmt.Fprint(w, "a.example\n")
		}
	}
	r, ref := serve(t, handle)
	base := ref.URL
	ref.URL = base + "/?n=" + strconv.Itoa(download.MaxRedirects)
	r.refresh(ref, true, "")
	r.load(ref, "a.example")
	hops.Store(0)
	ref.URL = base + "/?n=100"
	r.refresh(ref, false, "more than 5 redirects")
	if hops.Load() != download.MaxRedirects+1 {
		t.Errorf("%d hops", hops.Load())
	}
	ref.URL = base + "/?to=ftp://x.example/secret"
	r.refresh(ref, false, base+"/?...: redirected from http to ftp")
	ref.URL = base + "/?to=file:///etc/passwd"
	r.refresh(ref, false, "redirected from http to file")

	secure := httptest.NewTLSServer(http.HandlerFunc(handle))
	defer secure.Close()
	r.client = secure.Client() // has no CheckRedirect of its own
	ref.URL = secure.URL + "/?to=" + base
	r.refresh(ref, false, "redirected from https to http")
	ref.URL = secure.URL + "/?n=1"
	r.refresh(ref, true, "")
	ref.URL = base + "/?to=" + secure.URL
	r.refresh(ref, true, "")
	secure.Client().CloseIdleConnections()
}

// TestSecrets: a password or token is sent, and not told to anybody else.
func TestSecrets(t *testing.T) {
	fail := true
	r, ref := serve(t, func(w http.ResponseWriter, q *http.Request) {
		user, password, _ := q.BasicAuth()
		if user != "ann" || password != "hunter2" || q.URL.Query().Get("token") != "sesame" {
			t.Errorf("got %q, %q, %s", user, password, q.URL)
		}
		if fail {
			w.WriteHeader(500)
			return
		}
		fmt.Fprint(w, "a.example\n!\n")
	})
	ref.URL = strings.Replace(ref.URL, "//", "//ann:hunter2@", 1) + "/ads.txt?token=sesame#part"
	var texts []string
	load := func() {
		_, problems, err := r.store().Load(ref, rules.DomainSet)
		texts = append(texts, fmt.Sprint(problems, err))
	}
	refresh := func(ref rules.ListRef) {
		_, err := r.store().Refresh(t.Context(), ref, rules.DomainSet)
		texts = append(texts, fmt.Sprint(err))
	}
	load()
	refresh(ref)
	fail = false
	refresh(ref)
	load()
	down := ref
	down.URL = "http://ann:hunter2@127.0.0.1:1/ads.txt?token=sesame"
	refresh(down)
	down.URL = "http://ann:hunter2/sesame@x.example/"
	refresh(down)
	for name, data := range r.snapshot() {
		texts = append(texts, name, string(data))
	}
	all := strings.Join(texts, "\n")
	for _, secret := range []string{"ann", "hunter2", "sesame"} {
		if strings.Contains(all, secret) {
			t.Errorf("%s is told:\n%s", secret, all)
		}
	}
	if !strings.Contains(all, "/ads.txt?...: line 2: ") || !strings.Contains(all, "/ads.txt?...: the server answered 500") {
		t.Errorf("the source is not told:\n%s", all)
	}
}

// TestTags: tags that are too long, or that JSON might change, are not kept.
func TestTags(t *testing.T) {
	for _, c := range []struct {
		tag  string
		kept bool
	}{
		{`"` + strings.Repeat("x", download.MaxTag-2) + `"`, true},
		{`"` + strings.Repeat("x", download.MaxTag-1) + `"`, false},
		{"\"\xff\"", false},
		{`W/"<&>\"`, true},
	} {
		r := newRig(t)
		asked := ""
		r.client = &http.Client{Transport: roundTrip(func(q *http.Request) (*http.Response, error) {
			asked = q.Header.Get("If-None-Match")
			return answer(http.StatusOK, "a.example\n", "ETag", c.tag), nil
		})}
		ref := rules.ListRef{URL: "http://lists.example", Format: "list"}
		r.refresh(ref, true, "")
		r.refresh(ref, false, "")
		if want := map[bool]string{true: c.tag}[c.kept]; asked != want {
			t.Errorf("%q came back as %q", c.tag, asked)
		}
	}
}

func answer(status int, body string, header ...string) *http.Response {
	resp := &http.Response{
		StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
	for i := 0; i < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp
}

// TestTimeouts: neither a server that never answers nor one that never ends
// keeps a fetch for long.
func TestTimeouts(t *testing.T) {
	r := newRig(t)
	ref := rules.ListRef{URL: "http://lists.example", Format: "list"}
	synctest.Test(t, func(t *testing.T) {
		r.t = t
		start := time.Now()
		r.client = &http.Client{Transport: roundTrip(func(q *http.Request) (*http.Response, error) {
			<-q.Context().Done()
			return nil, q.Context().Err()
		})}
		r.refresh(ref, false, "deadline exceeded")
		if got := time.Since(start); got != fetchTimeout {
			t.Errorf("took %v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r.t = t
		start := time.Now()
		client, server := net.Pipe()
		defer server.Close()
		go func() { _, _ = io.Copy(io.Discard, server) }()
		r.client = download.NewClient(nil)
		transport := r.client.Transport.(*http.Transport)
		transport.Proxy = nil
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return client, nil }
		r.refresh(ref, false, "timeout awaiting response headers")
		if got := time.Since(start); got != download.StepTimeout {
			t.Errorf("took %v", got)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.store().Refresh(ctx, ref, rules.DomainSet); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestStale: a copy that nobody confirmed for two intervals is used, and that is said.
func TestStale(t *testing.T) {
	r := newRig(t)
	ref := rules.ListRef{URL: "http://lists.example/x", Format: "list", Refresh: time.Hour}
	synctest.Test(t, func(t *testing.T) {
		r.t = t
		status := http.StatusOK
		r.client = &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			return answer(status, "a.example\n", "ETag", "x"), nil
		})}
		r.refresh(ref, true, "")
		time.Sleep(2 * time.Hour)
		r.load(ref, "a.example")
		time.Sleep(time.Hour)
		r.load(ref, "a.example", "http://lists.example/x: the copy that is used is 3 hours old")
		status = http.StatusNotModified
		r.refresh(ref, false, "")
		r.load(ref, "a.example")
	})
}

// TestConcurrent: whoever loads while lists are replaced gets one whole list.
func TestConcurrent(t *testing.T) {
	var n atomic.Int64
	r, ref := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		k := n.Add(1) % 3
		for i := range 50 {
			fmt.Fprintf(w, "x%d-%d.example\n", i, k)
		}
	})
	r.write("ads.txt", "a.example\n")
	s := r.store()
	done := make(chan struct{})
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 15 {
				if _, err := s.Refresh(t.Context(), ref, rules.DomainSet); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	go func() {
		defer func() { done <- struct{}{} }()
		for range 50 {
			e, problems, err := s.Load(ref, rules.DomainSet)
			if names := spell(e); err != nil || names != "" && (len(e.Names) != 50 || strings.Count(names, "-"+string(names[3])) != 50) {
				t.Errorf("got %q, %q, %v", names, problems, err)
			}
			loadFrom(t, s, file("ads.txt"), "a.example")
		}
	}()
	for range 3 {
		<-done
	}
}
