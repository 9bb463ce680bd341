// Package rulesets gives policies the rule-set files that their sets refer to:
// it reads local files, keeps the last good copy of every list, and fetches
// lists from the web in the background.
//
//	store := rulesets.New(rulesets.Config{Cache: "/var/lib/netpolicy/lists", Policy: "/etc/netpolicy"})
//	elements, problems, err := store.Load(ref, rules.DomainSet) // disk only
//	go store.Run(ctx, wanted, changed)                         // network only
//
// It guarantees that Load never waits for a network, so that a start without one
// is as fast as any; that a copy, once good, is only ever replaced by another good
// one, and never deleted; that a crash at any moment leaves either the former copy
// or the new one; and that every input is bounded (lists.MaxSize, maxMeta,
// maxNames, fetchTimeout, and those of package download).
package rulesets

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/download"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// Config says where a Store finds things. The zero Config reads files, keeps no
// copies, and fetches nothing.
type Config struct {
	Cache  string       // folder of the last good copies, made where there is none; "": none are kept
	Policy string       // folder that files of references are relative to
	Client *http.Client // nil: one with time-outs; without CheckRedirect at most download.MaxRedirects are followed
	Rand   *rand.Rand   // spreads the times of fetches; nil: they are exact. The Store owns it
	Log    *slog.Logger // failures of background fetches; nil: none are logged
}

// Store gets the elements of lists. It is safe for concurrent use, and several
// processes can share a cache folder (on Linux; elsewhere one process at a time).
type Store struct {
	policy string
	cache  cache
	client *http.Client
	log    *slog.Logger

	randMu sync.Mutex
	rand   *rand.Rand
}

var _ rules.Lists = (*Store)(nil)

// New returns a Store. It touches neither disk nor network.
func New(c Config) *Store {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{policy: c.Policy, cache: cache{dir: c.Cache}, client: download.NewClient(c.Client), log: log, rand: c.Rand}
}

// Load returns the elements of a list from local files: a file itself, else its
// last good copy; of a URL, what was fetched last. Without either it does what
// ref.OnError says. A file that can be read becomes the last good copy. The error
// is about a reference that no file could satisfy, or there are no elements and
// ref.OnError is ListFail.
func (s *Store) Load(ref rules.ListRef, t rules.SetType) (rules.Elements, []string, error) {
	l, err := s.list(ref, t)
	if err != nil {
		return rules.Elements{}, nil, err
	}
	var cause error = notFetched{}
	if l.url == nil {
		c, err := l.read()
		if err == nil {
			problems := l.spell(c.problems)
			if err := s.keep(l, c); err != nil {
				problems = append(problems, l.name+": the last good copy can't be kept: "+err.Error())
			}
			return c.elements, problems, nil
		}
		cause = err
	}
	e, found, m, err := s.loadCopy(l)
	switch {
	case err == nil && l.url == nil:
		old := fmt.Sprintf("%s: %v; the last good copy is used, %s", l.name, cause, age(time.Since(m.Fetched)))
		return e, append([]string{old}, l.spell(found)...), nil
	case err == nil:
		problems := l.spell(found)
		if since := time.Since(m.Checked); since/staleAfter > interval(l.ref) {
			problems = append([]string{fmt.Sprintf("%s: the copy that is used is %s", l.name, age(since))}, problems...)
		}
		return e, problems, nil
	case errors.Is(err, fs.ErrNotExist):
	case l.url == nil:
		cause = fmt.Errorf("%v; and the last good copy can't be used: %w", cause, err) // no longer a mere absence
	default:
		cause = fmt.Errorf("the copy that was fetched can't be used: %w", err)
	}
	return l.absent(cause)
}

// staleAfter is how many intervals a copy goes without a word before Load says
// so: one fetch may fail.
const staleAfter = 2

// absent is what Load returns when there are no elements. A list that may be
// empty is not a problem for being absent, but for being damaged.
func (l list) absent(cause error) (rules.Elements, []string, error) {
	problem := []string{fmt.Sprintf("%s: %v; it is empty", l.name, cause)}
	switch {
	case l.ref.OnError == rules.ListFail:
		return rules.Elements{}, nil, fmt.Errorf("load list %s: %w", l.name, cause)
	case l.ref.OnError == rules.ListEmpty && errors.Is(cause, fs.ErrNotExist):
		return rules.Elements{}, nil, nil
	default:
		return rules.Elements{}, problem, nil
	}
}

// notFetched is the absence of a list that comes from the web: a kind of
// fs.ErrNotExist.
type notFetched struct{}

func (notFetched) Error() string        { return "not fetched yet" }
func (notFetched) Is(target error) bool { return target == fs.ErrNotExist }

// age is how old something is, roughly; a clock that is not set yet gives a
// negative duration.
func age(d time.Duration) string {
	count := func(n time.Duration, unit string) string {
		if n == 1 {
			return "1 " + unit + " old"
		}
		return fmt.Sprintf("%d %ss old", n, unit)
	}
	switch {
	case d < 0:
		return "of unknown age"
	case d < time.Minute:
		return "less than a minute old"
	case d < time.Hour:
		return count(d/time.Minute, "minute")
	case d < 48*time.Hour:
		return count(d/time.Hour, "hour")
	default:
		return count(d/(24*time.Hour), "day")
	}
}

// list is a reference that was checked: it has one source, a format that can
// fill its type, and a checksum that can be one.
type list struct {
	ref    rules.ListRef
	set    rules.SetType
	format lists.Format
	sum    string   // the checksum that is expected, lower case; "" for any
	path   string   // of a file, absolute where that is known
	url    *url.URL // nil for a file
	name   string   // the source as people are told it
	key    string   // what its files in the cache begin with
}

// list checks a reference.
func (s *Store) list(ref rules.ListRef, t rules.SetType) (list, error) {
	l := list{ref: ref, set: t, sum: strings.ToLower(ref.SHA256), name: ref.File}
	var id string
	switch {
	case (ref.File == "") == (ref.URL == ""):
		return list{}, errors.New("a list has either a file or a URL")
	case ref.URL != "":
		u, err := parseURL(ref.URL)
		if err != nil {
			return list{}, err
		}
		l.url, l.name, id = u, redact(u), "url "+ref.URL
	default:
		l.path = ref.File
		if !filepath.IsAbs(l.path) {
			l.path = filepath.Join(s.policy, l.path)
		}
		if abs, err := filepath.Abs(l.path); err == nil {
			l.path = abs
		}
		id = "file " + l.path
	}
	var ok bool
	if l.format, ok = lists.ParseFormat(ref.Format); !ok {
		return list{}, fmt.Errorf("list %s: no format is called %s", l.name, diag.Quote(ref.Format))
	}
	if !l.format.Holds(t) {
		return list{}, fmt.Errorf("list %s: a %s file can't fill a %s set", l.name, l.format, TypeName(t))
	}
	if _, err := hex.DecodeString(l.sum); err != nil || l.sum != "" && len(l.sum) != 2*sha256.Size {
		return list{}, fmt.Errorf("list %s: a SHA-256 has 64 hexadecimal digits, not %s", l.name, diag.Quote(ref.SHA256))
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", id, l.format, ref.Select, TypeName(t)))
	l.key = hex.EncodeToString(key[:keySize])
	return l, nil
}

// keySize is how much of a hash names the files of a list, in bytes: too much
// to collide by chance or by labour.
const keySize = 16

// verify compares a checksum with the one that is expected.
func (l list) verify(sum string) error {
	if l.sum != "" && l.sum != sum {
		return fmt.Errorf("its SHA-256 is %s, not %s", sum, l.sum)
	}
	return nil
}

// parse reads bytes that are in the list's own format. Files stand beside them.
func (l list) parse(data []byte, files lists.Files) (rules.Elements, []lists.Problem, error) {
	name := filepath.Base(l.path)
	if l.url != nil {
		name = l.url.Path[strings.LastIndexByte(l.url.Path, '/')+1:]
	}
	return lists.Parse(lists.Source{Format: l.format, Select: l.ref.Select, Data: data, Name: name, Files: files}, l.set)
}

// spell says where each problem is.
func (l list) spell(problems []lists.Problem) []string {
	var texts []string
	for _, p := range problems {
		texts = append(texts, l.name+": "+p.String())
	}
	return texts
}

// typeNames are the types of set as policies write them, in their order.
var typeNames = [...]string{"domain", "cidr", "port", "mac", "process", "user"}

// ParseType returns the type of set of that name; false if there is none.
func ParseType(name string) (rules.SetType, bool) {
	i := slices.Index(typeNames[:], name)
	return rules.SetType(max(i, 0)), i >= 0
}

// TypeName returns the name that ParseType takes.
func TypeName(t rules.SetType) string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("SetType(%d)", t)
}
