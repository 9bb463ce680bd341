package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	// bodyStall is how long a body may take at least, and minPace the bytes a second at
	// which more of it has to come: a policy of 16 MiB may come over a slow line.
	bodyStall = 10 * time.Second
	minPace   = 4 << 10
)

// paced hands requests on whose bodies have to come at a pace. Whoever is answered before
// the whole body came is parted with: nobody waits for the rest of it.
func paced(next http.Handler, stall time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			b := &pacedBody{r.Body, http.NewResponseController(w), w.Header(), time.Now().Add(stall)}
			_ = b.c.SetReadDeadline(b.until) // where it can't be, it is not needed: tests
			if r.ProtoMajor == 1 {
				b.header.Set("Connection", "close")
			}
			r = r.WithContext(r.Context()) // the server keeps its own
			r.Body = b
		}
		next.ServeHTTP(w, r)
	})
}

// pacedBody is a body with a deadline that moves as it comes.
type pacedBody struct {
	io.ReadCloser
	c      *http.ResponseController
	header http.Header // of the answer
	until  time.Time
}

func (p *pacedBody) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	p.until = p.until.Add(time.Duration(n) * time.Second / minPace)
	if err == io.EOF { //nolint:errorlint // readers return it as it is
		p.until = time.Time{}
		p.header.Del("Connection")
	}
	_ = p.c.SetReadDeadline(p.until)
	return n, err
}

// whole is a body that has been read.
type whole struct {
	*bytes.Reader
	text []byte
}

func (whole) Close() error { return nil }

// readBody reads a request of at most limit bytes, or answers why not.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, bool) {
	if b, ok := r.Body.(whole); ok {
		return b.text, true
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return text, true
	case errors.As(err, &large):
		problem(w, http.StatusRequestEntityTooLarge, fmt.Errorf("the request is larger than %d bytes", limit))
	case errors.Is(err, os.ErrDeadlineExceeded):
		problem(w, http.StatusRequestTimeout, errors.New("the body did not come in time"))
	default:
		problem(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
	}
	return nil, false
}

func body(w http.ResponseWriter, r *http.Request, into any) bool { return bodyOf(w, r, into, maxBody) }

// bodyOf reads a request of at most limit bytes: one JSON value as the contract has it, whose keys are all known,
// spelled as they are, and there once. Where it may be left out it may be empty.
func bodyOf(w http.ResponseWriter, r *http.Request, into any, limit int64) bool {
	text, ok := readBody(w, r, limit)
	if !ok {
		return false
	}
	s, needed := operations()[r.Pattern].body()
	if len(text) == 0 && !needed {
		return true
	}
	if err := decode(text, s, into); err != nil {
		problem(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return false
	}
	return true
}

func decode(text []byte, s *schema, into any) error {
	err := json.Unmarshal(text, into)
	var broken *json.SyntaxError
	if errors.As(err, &broken) {
		return err
	}
	k := keys{text, 0}
	if wrong := k.value(s); wrong != nil { // says it in the words of the contract
		return wrong
	}
	return err
}
