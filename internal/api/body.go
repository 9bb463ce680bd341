package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
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

// bodyOf reads a request of at most limit bytes: one JSON object, whose keys are all
// known, spelled as they are, and there once.
func bodyOf(w http.ResponseWriter, r *http.Request, into any, limit int64) bool {
	text, ok := readBody(w, r, limit)
	if !ok {
		return false
	}
	if err := decode(text, into); err != nil {
		problem(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return false
	}
	return true
}

func decode(text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return err
	}
	k := keys{text, 0}
	if k.space(); text[k.at] != '{' {
		return errors.New("want an object")
	}
	return k.value(reflect.TypeOf(into).Elem())
}

// keys looks through JSON that was decoded for what the decoder lets pass: keys that are
// not known, spelled in another case, or there twice.
type keys struct {
	text []byte
	at   int
}

func (k *keys) space() {
	for k.at < len(k.text) && strings.IndexByte(" \t\r\n", k.text[k.at]) >= 0 {
		k.at++
	}
}

// next steps over c where it stands next.
func (k *keys) next(c byte) bool {
	if k.space(); k.text[k.at] != c {
		return false
	}
	k.at++
	return true
}

// value looks through a value that is decoded into a t; nil is anything.
func (k *keys) value(t reflect.Type) error {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case k.next('{'):
		return k.object(t)
	case k.next('['):
		if t != nil && t.Kind() == reflect.Slice {
			t = t.Elem()
		} else {
			t = nil
		}
		for !k.next(']') {
			if err := k.value(t); err != nil {
				return err
			}
			k.next(',')
		}
	case k.text[k.at] == '"':
		k.string()
	default:
		for k.at < len(k.text) && strings.IndexByte(",]} \t\r\n", k.text[k.at]) < 0 {
			k.at++
		}
	}
	return nil
}

func (k *keys) object(t reflect.Type) error {
	var known map[string]reflect.Type
	var each reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		known = map[string]reflect.Type{}
		fields(t, known)
	} else if t != nil && t.Kind() == reflect.Map {
		each = t.Elem()
	}
	seen := map[string]bool{}
	for !k.next('}') {
		k.space()
		var name string
		if err := json.Unmarshal(k.string(), &name); err != nil {
			return err
		}
		of := each
		if known != nil {
			var ok bool
			if of, ok = known[name]; !ok {
				return fmt.Errorf("unknown field %q", name)
			}
		}
		if seen[name] {
			return fmt.Errorf("the field %q is there twice", name)
		}
		seen[name] = true
		k.next(':')
		if err := k.value(of); err != nil {
			return err
		}
		k.next(',')
	}
	return nil
}

// string steps over a string and returns it with its quotes.
func (k *keys) string() []byte {
	from := k.at
	for k.at++; k.text[k.at] != '"'; k.at++ {
		if k.text[k.at] == '\\' {
			k.at++
		}
	}
	k.at++
	return k.text[from:k.at]
}

// fields gathers the names under which a struct's fields stand in JSON.
func fields(t reflect.Type, into map[string]reflect.Type) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
		case f.Anonymous && name == "":
			fields(f.Type, into)
		case name == "":
			into[f.Name] = f.Type
		default:
			into[name] = f.Type
		}
	}
}
