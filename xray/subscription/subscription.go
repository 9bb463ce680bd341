// Package subscription keeps subscriptions: lists of profiles that a provider
// publishes at a URL and changes now and then.
//
//	store, err := subscription.Open(subscription.Config{Dir: "/var/lib/netpolicy/subs"})
//	go store.Run(ctx) // fetches what is due
//	_, err = store.Add(ctx, subscription.Settings{Name: "home", URL: "https://provider.example/sub/TOKEN"})
//	profiles, chosen, ok := store.Profiles("home")
//
// It guarantees that the last content that had a usable profile is kept until there
// is another, through crashes and full disks too; that a profile keeps its id, and
// so the user's choice holds, when the provider renames, moves or reorders it; and
// that no message, no list and no error repeats a URL beyond its host. Every input
// is bounded (sub.MaxBytes, the constants below, those of package download).
package subscription

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/internal/download"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

const (
	// maxSubscriptions bounds a store: each may hold 16 MiB on the disk and more in memory.
	maxSubscriptions = 32
	// maxName, maxURL, maxPattern and maxRenames bound what the user says of one.
	maxName    = 64
	maxURL     = 8 << 10
	maxPattern = 1 << 10
	maxRenames = 32
	// maxTold is how many reasons for refused entries are kept to be shown.
	maxTold = 20
	// MinEvery keeps a slip from being a burden to a server.
	MinEvery = 5 * time.Minute
	// defaultEvery is how often is asked where neither the user nor the provider says.
	defaultEvery = 24 * time.Hour
	// longestEvery bounds what a provider says: its word is not the user's.
	longestEvery = 7 * 24 * time.Hour
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists")
	ErrInvalid  = errors.New("invalid") // of what the user said
)

// kindOf is an error of one of those kinds, which its text does not repeat.
type kindOf struct {
	error
	kind error
}

// Unwrap returns both.
func (e kindOf) Unwrap() []error { return []error{e.error, e.kind} }

func errorf(kind error, format string, args ...any) error {
	return kindOf{fmt.Errorf(format, args...), kind}
}

// Settings are what the user says of a subscription.
type Settings struct {
	Name string      `json:"name"` // letters, digits, - and _
	URL  link.Secret `json:"-"`    // http or https; it usually holds a token
	// Every is how often it is asked for; 0 is what the provider says, else a day.
	Every     time.Duration `json:"every,omitempty"`
	Via       string        `json:"via,omitempty"` // the route by which it is fetched; "" is the host's own
	UserAgent string        `json:"user_agent,omitempty"`
	// Keep and Drop are regular expressions on a profile's name as the provider
	// writes it: what Keep does not match goes, and what Drop matches. "" does nothing.
	Keep string `json:"keep,omitempty"`
	Drop string `json:"drop,omitempty"`
	// Protocols are those to keep, as links spell them; nil is all.
	Protocols []string `json:"protocols,omitempty"`
	Rename    []Rename `json:"rename,omitempty"` // in their order
}

// Rename replaces what a regular expression matches in a name. In the template
// $1 or ${name} is what a group of it has matched.
type Rename struct {
	Match    string `json:"match"`
	Template string `json:"template"`
}

// ParseRename reads RE=TEMPLATE; the first = divides them.
func ParseRename(s string) (Rename, error) {
	match, template, ok := strings.Cut(s, "=")
	if !ok || match == "" {
		return Rename{}, fmt.Errorf("rename %q: want RE=TEMPLATE", s)
	}
	return Rename{match, template}, nil
}

// String is what ParseRename reads.
func (r Rename) String() string { return r.Match + "=" + r.Template }

// Usage is what a provider says of an account, in its header
// subscription-userinfo. Zeros are not said.
type Usage struct {
	Used    int64     `json:"used,omitempty"`  // bytes, both ways
	Total   int64     `json:"total,omitempty"` // bytes
	Expires time.Time `json:"expires,omitzero"`
}

// Profile is one profile of a subscription.
type Profile struct {
	// ID stays the same over updates, as long as the profile can be recognised.
	ID string
	// Profile has the name that the settings give it, which no other one has.
	link.Profile
	known known
}

// Info is what there is to know of one subscription. Nothing of it is secret but
// the profiles.
type Info struct {
	Settings           // with the URL's host alone
	Format   string    // of the last good content; "" before there is any
	Profiles []Profile // those that can be used, in the provider's order
	Filtered int       // how many Keep, Drop and Protocols took away
	Refused  int       // how many could not be read, and why, of the first ones
	Reasons  []string
	// Chosen is the index of the user's choice, -1 without one. Lost says that the one
	// that the user has chosen is not there; it is the choice again when it comes back.
	Chosen  int
	Lost    bool
	Fetched time.Time // when the content was taken; zero is never
	Checked time.Time // when the provider last said that it still is so
	Next    time.Time // when it is asked again; zero is soon
	Problem string    // why the last try failed; "" if it did not
	Usage   Usage
}

// Config says what a Store works with.
type Config struct {
	Dir string // the folder of the store alone, made where there is none
	// ReadOnly makes, moves and removes nothing there; only what looks at it works then.
	ReadOnly bool
	// Route returns the way to connect that a name stands for. Nil knows none.
	Route func(via string) (download.Dial, error)
	Rand  *rand.Rand   // spreads the times of fetches; nil: they are exact. The Store owns it
	Log   *slog.Logger // nil: nothing is logged
}

// Store holds subscriptions. It is safe for concurrent use. One process has a folder.
type Store struct {
	dir   string
	route func(via string) (download.Dial, error)
	log   *slog.Logger
	now   func() time.Time
	// transport makes what fetches; tests trust their server by it.
	transport func(download.Dial) http.RoundTripper

	writing  sync.Mutex // over files, and who is in subs; taken before mu
	mu       sync.Mutex // over what follows, never held over disk or network
	subs     map[string]*subscription
	watchers map[*func()]bool
	rand     *rand.Rand
	wake     chan struct{} // has room for one: something may be due earlier
}

// subscription is one in memory. Its fields are guarded by Store.mu; record and
// list are replaced, never changed.
type subscription struct {
	record   record
	url      *url.URL
	shape    shape
	list     []Profile
	filtered int
	refused  int
	reasons  []string
	problem  string
	failures int
	next     time.Time
	running  bool          // Run fetches it
	fetching chan struct{} // holds one while it is fetched
}

// Open reads what is in the folder. What is damaged there is put aside and logged.
func Open(c Config) (*Store, error) {
	s := &Store{
		dir: c.Dir, route: c.Route, log: c.Log, rand: c.Rand, now: time.Now,
		transport: func(d download.Dial) http.RoundTripper { return download.NewTransport(d) },
		subs:      map[string]*subscription{}, watchers: map[*func()]bool{}, wake: make(chan struct{}, 1),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.load(c.ReadOnly); err != nil {
		return nil, fmt.Errorf("open the subscriptions: %w", err)
	}
	return s, nil
}

// check returns what the settings come to, or what is wrong with them.
func (s Settings) check() (*url.URL, shape, error) {
	fail := func(format string, args ...any) (*url.URL, shape, error) {
		return nil, shape{}, errorf(ErrInvalid, format, args...)
	}
	if !isName(s.Name) {
		return fail("the name of a subscription has 1 to %d letters, digits, - and _", maxName)
	}
	if len(s.URL) > maxURL {
		return fail("the URL is longer than %d bytes", maxURL)
	}
	u, err := download.ParseURL(s.URL.Reveal(), "a subscription")
	if err != nil {
		return fail("%w", err)
	}
	if s.Every != 0 && s.Every < MinEvery {
		return fail("every %v is too often: at least %v", s.Every, MinEvery)
	}
	if len(s.UserAgent) > maxPattern || strings.ContainsFunc(s.UserAgent, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fail("the user agent is longer than %d characters, or not ASCII", maxPattern)
	}
	if len(s.Via) > maxName {
		return fail("the name of the route is longer than %d characters", maxName)
	}
	sh, err := s.shape()
	if err != nil {
		return fail("%w", err)
	}
	return u, sh, nil
}

func isName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// shape is Settings about profiles, compiled.
type shape struct {
	keep, drop *regexp.Regexp // nil does nothing
	protocols  []string
	renames    []rename
}

type rename struct {
	match    *regexp.Regexp
	template string
}

func (s Settings) shape() (sh shape, err error) {
	compile := func(what, pattern string) (*regexp.Regexp, error) {
		if len(pattern) > maxPattern {
			return nil, fmt.Errorf("%s: the regular expression is longer than %d bytes", what, maxPattern)
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		return re, nil
	}
	if s.Keep != "" {
		if sh.keep, err = compile("keep", s.Keep); err != nil {
			return shape{}, err
		}
	}
	if s.Drop != "" {
		if sh.drop, err = compile("drop", s.Drop); err != nil {
			return shape{}, err
		}
	}
	if len(s.Rename) > maxRenames {
		return shape{}, fmt.Errorf("more than %d renames", maxRenames)
	}
	for _, r := range s.Rename {
		re, err := compile("rename", r.Match)
		if err != nil {
			return shape{}, err
		}
		if len(r.Template) > maxPattern {
			return shape{}, fmt.Errorf("rename: the template is longer than %d bytes", maxPattern)
		}
		sh.renames = append(sh.renames, rename{re, r.Template})
	}
	for _, name := range s.Protocols {
		if !slices.Contains(protocolNames(), name) {
			return shape{}, fmt.Errorf("protocol %q: known are %s", name, strings.Join(protocolNames(), ", "))
		}
	}
	sh.protocols = s.Protocols
	return sh, nil
}

// apply returns the profiles that are kept, with the names that they get, and how
// many were filtered out.
func (sh shape) apply(all []link.Profile) (kept []link.Profile, raw []string, filtered int) {
	names := sub.Names{}
	for _, p := range all {
		if sh.keep != nil && !sh.keep.MatchString(p.Name) || sh.drop != nil && sh.drop.MatchString(p.Name) ||
			sh.protocols != nil && !slices.Contains(sh.protocols, Protocol(p)) {
			filtered++
			continue
		}
		raw = append(raw, cut(p.Name))
		for _, r := range sh.renames {
			p.Name = r.match.ReplaceAllString(p.Name, r.template)
		}
		if p.Name = cut(strings.TrimSpace(p.Name)); p.Name == "" {
			p.Name = server(p)
		}
		p.Name = names.Take(p.Name)
		kept = append(kept, p)
	}
	return kept, raw, filtered
}

// maxShown bounds a profile's name, in bytes; a template could make it grow.
const maxShown = 256

func cut(s string) string {
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "")
	}
	return s
}
