package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/internal/durable"
)

const (
	// tokenBytes of chance make a token: 256 bits, which nobody guesses.
	tokenBytes = 32
	// sessionTime is how long a cookie is good.
	sessionTime = 24 * time.Hour
	// maxSessions bounds the sessions; the one that ends first goes when there are more.
	maxSessions = 256
	// maxTries wrong tokens of one address in tryTime are answered; further ones are told to wait.
	maxTries = 5
	tryTime  = time.Minute
	// maxTriers bounds the addresses that are remembered. When there are more, all wait for each other.
	maxTriers = 1024
)

// tokenFiles are the files with the tokens, in the state directory.
var tokenFiles = map[Role]string{RoleAdmin: "api.token", RoleRead: "api.read-token"}

// Tokens are what opens the API over TCP: one token for each role, in a file of mode 0600,
// and the sessions that they have begun. A restart of the daemon ends all sessions. It is safe for concurrent use.
type Tokens struct {
	dir string

	loading sync.Mutex // not held by those that only use them
	loaded  bool

	mu       sync.Mutex
	tokens   map[Role]string
	sessions map[[sha256.Size]byte]*session // by the hash of the cookie
	streams  map[*underWay]bool
	tries    map[netip.Addr]*tries
}

// session is what a cookie stands for.
type session struct {
	role  Role
	until time.Time
	key   [sha256.Size]byte
}

// underWay is an answer that goes on only as long as what its caller came by is good.
type underWay struct {
	caller
	end context.CancelFunc
}

// tries are the wrong tokens of one address.
type tries struct {
	n     int
	since time.Time
}

// NewTokens returns tokens that open nothing until Load has read them from dir.
func NewTokens(dir string) *Tokens {
	return &Tokens{dir: dir, tokens: map[Role]string{}, sessions: map[[sha256.Size]byte]*session{}, streams: map[*underWay]bool{}, tries: map[netip.Addr]*tries{}}
}

// OpenTokens reads the tokens in dir, and makes those that are not there.
func OpenTokens(dir string) (*Tokens, error) {
	t := NewTokens(dir)
	if err := t.Load(); err != nil {
		return nil, err
	}
	return t, nil
}

// Load reads the tokens, once, and makes those that are not there. After an error it may be called again.
func (t *Tokens) Load() error {
	t.loading.Lock()
	defer t.loading.Unlock()
	if t.loaded {
		return nil
	}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return fmt.Errorf("keep the API's tokens: %w", err)
	}
	for role, name := range tokenFiles {
		text, err := ReadSecret(filepath.Join(t.dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if _, err := t.Renew(role); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("read the API's token: %w", err)
		}
		if raw, err := base64.RawURLEncoding.DecodeString(text); err != nil || len(raw) != tokenBytes {
			return fmt.Errorf("the API's token in %s is not one: remove the file, and the daemon makes another", filepath.Join(t.dir, name))
		}
		t.mu.Lock()
		t.tokens[role] = text
		t.mu.Unlock()
	}
	t.loaded = true
	return nil
}

// maxSecret bounds the files of secrets.
const maxSecret = 4 << 10

// ReadSecret returns the text in a file that its owner alone may use, without the white space around it. As with
// the keys of ssh a file that others may read or write is refused: what is in it may be no secret any more.
func ReadSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" { // where modes say nothing
		return "", fmt.Errorf("%s may be used by others than its owner (mode %04o): `chmod 600` it, or remove it where they may have read it, and the daemon makes another", path, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	return string(bytes.TrimSpace(b)), err
}

func randomText() string {
	b := make([]byte, tokenBytes)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// Get returns the token of a role.
func (t *Tokens) Get(role Role) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tokens[role]
}

// Renew makes a new token for a role and ends the sessions and the streams of the old one.
func (t *Tokens) Renew(role Role) (string, error) {
	name, ok := tokenFiles[role]
	if !ok {
		return "", fmt.Errorf("role %q: want %s or %s: %w", role, RoleAdmin, RoleRead, ErrBadRequest)
	}
	text := randomText()
	if err := durable.Replace(filepath.Join(t.dir, name), []byte(text+"\n")); err != nil {
		return "", fmt.Errorf("write the API's token: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tokens[role] = text
	for key, s := range t.sessions {
		if s.role == role {
			delete(t.sessions, key)
		}
	}
	t.endStreams()
	return text, nil
}

// good reports whether what a caller came by is still good; t.mu is held.
func (t *Tokens) good(c *caller) bool {
	if c.session != nil {
		return t.sessions[c.session.key] == c.session
	}
	return t.tokens[c.role] == c.token
}

// endStreams ends those whose callers came by what is good no more; t.mu is held.
func (t *Tokens) endStreams() {
	for s := range t.streams {
		if !t.good(&s.caller) {
			s.end()
		}
	}
}

// during returns a context that ends with ctx, and when what the caller came by is good no
// more: its token was renewed, its session was ended or is over.
func (t *Tokens) during(ctx context.Context, c caller) (context.Context, context.CancelFunc) {
	var cancel context.CancelFunc
	if c.session != nil {
		ctx, cancel = context.WithDeadline(ctx, c.session.until)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	s := &underWay{c, cancel}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams[s] = true
	if !t.good(&c) { // since who asks was found out
		cancel()
	}
	return ctx, func() {
		cancel()
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.streams, s)
	}
}

// check returns the role of a token. It takes as long for a wrong one as for a right one.
func (t *Tokens) check(text string) (role Role, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	given := sha256.Sum256([]byte(text))
	for r, token := range t.tokens {
		right := sha256.Sum256([]byte(token))
		if subtle.ConstantTimeCompare(given[:], right[:]) == 1 {
			role, ok = r, true
		}
	}
	return role, ok
}

// wrong notes a wrong token, and returns how long its sender has to wait when there were too many.
func (t *Tokens) wrong(from netip.Addr) (wait time.Duration) {
	from = networkOf(from)
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for a, seen := range t.tries {
		if now.Sub(seen.since) >= tryTime {
			delete(t.tries, a)
		}
	}
	if t.tries[from] == nil && len(t.tries) >= maxTriers {
		from = netip.Addr{}
	}
	seen := t.tries[from]
	if seen == nil {
		seen = &tries{since: now}
		t.tries[from] = seen
	}
	if seen.n++; seen.n > maxTries {
		return tryTime - now.Sub(seen.since)
	}
	return 0
}

// begin makes a session and returns its cookie's value.
func (t *Tokens) begin(role Role) (value string, until time.Time) {
	value = randomText()
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	var first *session
	for key, s := range t.sessions {
		if now.After(s.until) {
			delete(t.sessions, key)
		} else if first == nil || s.until.Before(first.until) {
			first = s
		}
	}
	if len(t.sessions) >= maxSessions {
		delete(t.sessions, first.key)
		t.endStreams()
	}
	s := &session{role: role, until: now.Add(sessionTime), key: sha256.Sum256([]byte(value))}
	t.sessions[s.key] = s
	return value, s.until
}

// session returns what a cookie stands for; nil for nothing. It is found by its hash, so that
// the time it takes tells nothing of other cookies.
func (t *Tokens) session(value string) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[sha256.Sum256([]byte(value))]
	if s == nil || time.Now().After(s.until) {
		return nil
	}
	return s
}

// end ends a session.
func (t *Tokens) end(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sessions, s.key)
	t.endStreams()
}
