package api

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// contentTypes are those of the web interface's files: what a system says of
// endings is not always the same.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png", ".ico": "image/x-icon",
	".webmanifest": "application/manifest+json", ".txt": "text/plain; charset=utf-8", ".wasm": "application/wasm", ".woff2": "font/woff2",
}

// page is one file of the web interface.
type page struct {
	kind   string
	plain  []byte // nil: only compressed is there
	packed []byte // gzip; nil: only plain is there
	etag   string
	// forever: another text would have another name.
	forever bool
}

// pages serves the web interface. A file NAME.gz is NAME, compressed; the other need not be there.
// Names below assets/ have their content's hash in them. What is not there is
// the index, whose scripts know what to show.
type pages struct{ files map[string]*page }

func newPages(assets fs.FS) *pages {
	p := &pages{map[string]*page{}}
	if assets == nil {
		return p
	}
	_ = fs.WalkDir(assets, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		b, err := fs.ReadFile(assets, name)
		if err != nil {
			return nil // an embedded file can be read
		}
		base, packed := strings.CutSuffix(name, ".gz")
		one := p.files[base]
		if one == nil {
			one = &page{kind: contentTypes[path.Ext(base)], forever: strings.HasPrefix(base, "assets/")}
			p.files[base] = one
		}
		if one.kind == "" {
			one.kind = "application/octet-stream"
		}
		if packed {
			one.packed = b
		} else {
			one.plain = b
		}
		sum := sha256.Sum256(b)
		one.etag = `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
		return nil
	})
	return p
}

// ServeHTTP answers GET and HEAD.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	one := p.files[name]
	if one == nil && path.Ext(name) == "" {
		one = p.files["index.html"]
	}
	switch {
	case one == nil:
		problem(w, http.StatusNotFound, errNowhere)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		problem(w, http.StatusMethodNotAllowed, fmt.Errorf("this is not done with %s", r.Method))
	default:
		one.serve(w, r)
	}
}

func (p *page) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", p.kind)
	h.Set("Vary", "Accept-Encoding")
	h.Set("ETag", p.etag)
	h.Set("Cache-Control", "no-cache")
	if p.forever {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if matches(r.Header.Get("If-None-Match"), p.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	text := p.packed
	if text != nil && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
	} else {
		var err error
		if text, err = p.text(); err != nil {
			problem(w, http.StatusInternalServerError, err)
			return
		}
	}
	h.Set("Content-Length", fmt.Sprint(len(text)))
	if r.Method != http.MethodHead {
		w.Write(text)
	}
}

// text is the file as it is.
func (p *page) text() ([]byte, error) {
	if p.plain != nil {
		return p.plain, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(p.packed))
	if err != nil {
		return nil, fmt.Errorf("read a file of the web interface: %w", err)
	}
	return io.ReadAll(z)
}

func acceptsGzip(r *http.Request) bool {
	for one := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(one), ";")
		if name == "gzip" && strings.TrimSpace(q) != "q=0" {
			return true
		}
	}
	return false
}
