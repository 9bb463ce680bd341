package rulesets

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/leaktest"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// rig is a policy's folder and a cache.
type rig struct {
	t             *testing.T
	policy, cache string
	client        *http.Client // nil: any request fails the test
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, policy: filepath.Join(dir, "policy"), cache: filepath.Join(dir, "cache")}
	if err := os.Mkdir(r.policy, 0o700); err != nil {
		t.Fatal(err)
	}
	return r
}

// store returns a new Store, as after a restart.
func (r *rig) store() *Store {
	client := r.client
	if client == nil {
		client = &http.Client{Transport: roundTrip(func(q *http.Request) (*http.Response, error) {
			r.t.Errorf("a request for %s", q.URL)
			return nil, errors.New("no network")
		})}
	}
	return New(Config{Cache: r.cache, Policy: r.policy, Client: client})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.policy, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) remove(name string) {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.policy, name)); err != nil {
		r.t.Fatal(err)
	}
}

// load loads by a new Store and wants these elements, and problems that contain
// these texts, one each.
func (r *rig) load(ref rules.ListRef, want string, problems ...string) {
	r.t.Helper()
	loadFrom(r.t, r.store(), ref, want, problems...)
}

func loadFrom(t *testing.T, s *Store, ref rules.ListRef, want string, problems ...string) {
	t.Helper()
	e, got, err := s.Load(ref, typeOf(ref))
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	if diff := cmp.Diff(want, spell(e)); diff != "" {
		t.Errorf("elements (-want +got):\n%s", diff)
	}
	if len(got) != len(problems) {
		t.Fatalf("problems %q, want %q", got, problems)
	}
	for i, p := range problems {
		if !strings.Contains(got[i], p) {
			t.Errorf("problem %q, want %q", got[i], p)
		}
	}
}

func typeOf(ref rules.ListRef) rules.SetType {
	if ref.Format == "geoip" {
		return rules.CIDRSet
	}
	return rules.DomainSet
}

func spell(e rules.Elements) string { return strings.Join(slices.Collect(Lines(e)), " ") }

// files lists the cache, without the keys.
func (r *rig) files() (names []string) {
	r.t.Helper()
	entries, err := os.ReadDir(r.cache)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			r.t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			r.t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		names = append(names, strings.TrimLeft(e.Name(), "0123456789abcdef-"))
	}
	return names
}

// oneCopy wants nothing in the cache but one copy.
func (r *rig) oneCopy() {
	r.t.Helper()
	if diff := cmp.Diff([]string{".data", ".json", "lock"}, slices.Sorted(slices.Values(r.files()))); diff != "" {
		r.t.Errorf("files of the cache (-want +got):\n%s", diff)
	}
}

func file(name string) rules.ListRef { return rules.ListRef{File: name, Format: "list"} }

// TestLastGood: what was good once is used until something else is good.
func TestLastGood(t *testing.T) {
	pinned := file("ads.txt")
	pinned.SHA256 = strings.ToUpper(sumOf([]byte("a.example\n")))
	for _, c := range []struct {
		name  string
		ref   rules.ListRef
		spoil func(*rig)
		cause string
	}{
		{"missing", file("ads.txt"), func(r *rig) { r.remove("ads.txt") }, "no such file or directory"},
		{"web page", file("ads.txt"), func(r *rig) { r.write("ads.txt", "<html>log in</html>") }, "a web page, not a list"},
		{"damaged", file("ads.txt"), func(r *rig) { r.write("ads.txt", "\x00\x01\x02") }, "nothing in it can be read"},
		{"checksum", pinned, func(r *rig) { r.write("ads.txt", "b.example\n") }, "its SHA-256 is 8543219a446ac4d442628119f250f2901f9b3c0c939b0998a57b060db5b253cf, not 2f12e445"},
		{"folder", file("ads.txt"), func(r *rig) { r.remove("ads.txt"); r.write("ads.txt/x", "") }, "not a regular file"},
		{"too large", file("ads.txt"), func(r *rig) { r.huge("ads.txt") }, "larger than 64 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.write("ads.txt", "a.example\n")
			r.load(c.ref, "a.example")
			r.oneCopy()
			c.spoil(r)
			for _, on := range []rules.ListError{rules.ListKeep, rules.ListFail, rules.ListEmpty} {
				c.ref.OnError = on
				r.load(c.ref, "a.example", "ads.txt: "+c.cause)
				r.load(c.ref, "a.example", "; the last good copy is used, less than a minute old")
			}
			r.oneCopy()
		})
	}
}

// huge makes a file that is one byte too large; it takes no room.
func (r *rig) huge(name string) {
	r.t.Helper()
	r.write(name, "")
	if err := os.Truncate(filepath.Join(r.policy, name), lists.MaxSize+1); err != nil {
		r.t.Fatal(err)
	}
}

// TestOnError: without a copy the reference says what to do.
func TestOnError(t *testing.T) {
	r := newRig(t)
	r.write("bad.txt", "<html>")
	for _, c := range []struct {
		ref     rules.ListRef
		cause   string
		missing bool
	}{
		{file("none.txt"), "none.txt: no such file or directory", true},
		{file("bad.txt"), "bad.txt: a web page, not a list", false},
		{rules.ListRef{URL: "https://lists.example/x", Format: "list"}, "https://lists.example/x: not fetched yet", true},
	} {
		r.load(c.ref, "", c.cause+"; it is empty")
		c.ref.OnError = rules.ListEmpty
		if c.missing {
			r.load(c.ref, "") // as the policy has it
		} else {
			r.load(c.ref, "", c.cause)
		}
		c.ref.OnError = rules.ListFail
		if _, _, err := r.store().Load(c.ref, rules.DomainSet); err == nil || err.Error() != "load list "+c.cause {
			t.Errorf("error %v, want %s", err, c.cause)
		}
	}
	if got := r.files(); got != nil {
		t.Errorf("the cache has %q", got)
	}
}

// TestReference: what no file could satisfy is an error whatever OnError says.
func TestReference(t *testing.T) {
	for _, c := range []struct {
		ref rules.ListRef
		set rules.SetType
		err string
	}{
		{rules.ListRef{Format: "list"}, rules.DomainSet, "a list has either a file or a URL"},
		{rules.ListRef{File: "x", URL: "http://x.example", Format: "list"}, rules.DomainSet, "a list has either a file or a URL"},
		{rules.ListRef{File: "x", Format: "mmdb"}, rules.DomainSet, "list x: no format is called `mmdb`"},
		{rules.ListRef{File: "x", Format: "hosts"}, rules.CIDRSet, "list x: a hosts file can't fill a cidr set"},
		{rules.ListRef{File: "x", Format: "list"}, rules.UserSet + 1, "list x: a list file can't fill a SetType(6) set"},
		{rules.ListRef{File: "x", Format: "list", SHA256: "abc"}, rules.DomainSet, "list x: a SHA-256 has 64 hexadecimal digits, not `abc`"},
		{rules.ListRef{File: "x", Format: "list", SHA256: strings.Repeat("x", 64)}, rules.DomainSet, "list x: a SHA-256 has 64 hexadecimal digits, not `xxxxxxxx"},
		{rules.ListRef{URL: "ftp://x.example/", Format: "list"}, rules.DomainSet, "the URL of a list is one of http or https"},
		{rules.ListRef{URL: "http:///x", Format: "list"}, rules.DomainSet, "the URL of a list is not a URL with a host"},
		{rules.ListRef{URL: "http://user:secret/x@x.example/", Format: "list"}, rules.DomainSet, "the URL of a list is not a URL with a host"},
	} {
		s := New(Config{Cache: t.TempDir()})
		if _, _, err := s.Load(c.ref, c.set); err == nil || !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%+v: error %v, want %s", c.ref, err, c.err)
		}
		if _, err := s.Refresh(t.Context(), c.ref, c.set); err == nil || !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%+v: refresh: error %v, want %s", c.ref, err, c.err)
		}
	}
	if _, err := New(Config{}).Refresh(t.Context(), file("x.txt"), rules.DomainSet); err == nil || err.Error() != "fetch list x.txt: it is a file" {
		t.Errorf("refresh of a file: %v", err)
	}
}

// TestPinMoved: a copy of another checksum than the one that is asked for now is
// no good copy.
func TestPinMoved(t *testing.T) {
	r := newRig(t)
	r.write("ads.txt", "a.example\n")
	r.load(file("ads.txt"), "a.example")
	ref := file("ads.txt")
	ref.SHA256 = sumOf([]byte("b.example\n"))
	r.load(ref, "", "; and the last good copy can't be used: its SHA-256 is ")
	r.write("ads.txt", "b.example\n")
	r.load(ref, "b.example")
	r.remove("ads.txt")
	r.load(ref, "b.example", "no such file")
}

// TestFormats: each format goes through the cache and comes out the same.
func TestFormats(t *testing.T) {
	r := newRig(t)
	for name, text := range map[string]string{
		"x.hosts": "0.0.0.0 ads.example\n", "x.yaml": "payload:\n  - '+.ads.example'\n  - ''\n",
		"x.list": "keyword:ads\nregexp:^ad[0-9]+\\.\n*.ads.example\n",
	} {
		r.write(name, text)
	}
	for _, name := range []string{"geosite.dat", "geoip.dat", "sing-box-v2.srs", "sing-box.json"} {
		data, err := os.ReadFile(filepath.Join("../../rules/lists/testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		r.write(name, string(data))
	}
	for _, c := range []rules.ListRef{
		{File: "x.hosts", Format: "hosts"},
		{File: "x.yaml", Format: "clash"},
		{File: "x.list", Format: "list"},
		{File: "geosite.dat", Format: "geosite", Select: "video"},
		{File: "geoip.dat", Format: "geoip", Select: "cn"},
		{File: "sing-box-v2.srs", Format: "srs"},
		{File: "sing-box.json", Format: "srs"},
	} {
		before, problems, err := r.store().Load(c, typeOf(c))
		if err != nil || spell(before) == "" {
			t.Fatalf("%s: %q, %q, %v", c.File, spell(before), problems, err)
		}
		r.remove(c.File)
		after, again, err := r.store().Load(c, typeOf(c))
		if err != nil || spell(after) != spell(before) || !slices.Equal(again[1:], problems) {
			t.Errorf("%s: %q, %q, %v from the copy, was %q, %q", c.File, spell(after), again, err, spell(before), problems)
		}
	}
}

// TestFolder: a dlc list includes its neighbours, and its copy holds them; no
// name leads out of the folder.
func TestFolder(t *testing.T) {
	r := newRig(t)
	ref := rules.ListRef{File: "data/root", Format: "dlc", Select: "@ads"}
	r.write("data/root", "a.example @ads\nnot-ads.example\ninclude:other\n")
	r.write("data/other", "full:b.example @ads\nkeyword:tracker @ads\nregexp:^x\\d+\\.example$ @ads\n!\n")
	r.write("data/giver", "c.example @ads &root\n")
	r.write("data/giver.txt", "d.example @ads &root\n") // not the name of a list
	const want = "b.example .a.example .c.example keyword:tracker regexp:^x\\d+\\.example$"
	r.load(ref, want, "data/root: other: line 4: not a name: `!`")
	if err := os.RemoveAll(filepath.Join(r.policy, "data")); err != nil {
		t.Fatal(err)
	}
	r.load(ref, want, "no such file or directory; the last good copy is used")

	r.write("secret", "s.example\n")
	r.write("inside/real", "i.example\n")
	for _, c := range []struct {
		name  string
		make  func(path string) error
		cause string
	}{
		{"out", func(path string) error { return os.Symlink("../secret", path) }, "path escapes from parent"},
		{"absolute", func(path string) error { return os.Symlink(filepath.Join(r.policy, "secret"), path) }, "path escapes from parent"},
		{"sub", func(path string) error { return os.Mkdir(path, 0o700) }, "not a regular file"},
		{"large", func(path string) error { r.huge("inside/large"); return nil }, "larger than 64 MiB"},
	} {
		if err := c.make(filepath.Join(r.policy, "inside", c.name)); err != nil {
			t.Fatal(err)
		}
		r.write("inside/root", "include:"+c.name+"\nz.example\n")
		r.load(rules.ListRef{File: "inside/root", Format: "dlc"}, ".z.example", "line 1: can't include `"+c.name+"`: "+c.cause)
	}
	r.write("inside/root", "include:../secret\ninclude:/etc/passwd\nz.example\n")
	r.load(rules.ListRef{File: "inside/root", Format: "dlc"}, ".z.example", "line 1: not a list to include", "line 2: not a list to include")
	if err := os.Symlink("real", filepath.Join(r.policy, "inside/within")); err != nil {
		t.Fatal(err)
	}
	r.write("inside/root", "include:within\n")
	r.load(rules.ListRef{File: "inside/root", Format: "dlc"}, ".i.example")
}

// TestFolderBound: of a folder with too many files none is searched, and that is said.
func TestFolderBound(t *testing.T) {
	r := newRig(t)
	r.write("root", "a.example\n")
	r.write("giver", "b.example &root\n")
	l, err := r.store().list(rules.ListRef{File: "root", Format: "dlc"}, rules.DomainSet)
	if err != nil {
		t.Fatal(err)
	}
	e, problems, err := l.parseBeside([]byte("a.example\n"), 2)
	if err != nil || spell(e) != ".a.example .b.example" || len(problems) > 0 {
		t.Errorf("at the bound: %s, %v, %v", spell(e), problems, err)
	}
	e, problems, err = l.parseBeside([]byte("a.example\n"), 1)
	if err != nil || spell(e) != ".a.example" || len(problems) != 1 || !strings.HasPrefix(problems[0].Text, "the folder has more than 1 files: ") {
		t.Errorf("above it: %s, %v, %v", spell(e), problems, err)
	}
}

// TestSymlink: a file may be a link to a regular file, as distributions have
// them, and nothing else.
func TestSymlink(t *testing.T) {
	r := newRig(t)
	r.write("real.txt", "a.example\n")
	for name, target := range map[string]string{"link.txt": "real.txt", "dir.txt": ".", "gone.txt": "nothing"} {
		if err := os.Symlink(target, filepath.Join(r.policy, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.load(file("link.txt"), "a.example")
	r.load(file("dir.txt"), "", "not a regular file")
	r.load(file("gone.txt"), "", "no such file")
	r.load(file(filepath.Join(r.policy, "real.txt")), "a.example")
	r.load(file("../policy/real.txt"), "a.example")
}

// TestOnlyChanges: a file that did not change is not written again, and one that
// changed back is.
func TestOnlyChanges(t *testing.T) {
	r := newRig(t)
	stamp := func() (all []string) {
		entries, err := os.ReadDir(r.cache)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprint(e.Name(), info.ModTime().UnixNano(), info.Size()))
		}
		return all
	}
	r.write("ads.txt", "a.example\n")
	r.load(file("ads.txt"), "a.example")
	first := stamp()
	r.load(file("ads.txt"), "a.example")
	if diff := cmp.Diff(first, stamp()); diff != "" {
		t.Errorf("written again:\n%s", diff)
	}
	for _, text := range []string{"b.example", "a.example", "# c\na.example"} {
		r.write("ads.txt", text)
		r.load(file("ads.txt"), strings.TrimPrefix(text, "# c\n"))
		r.oneCopy()
	}
}

// TestNoCache: without a cache that works, files still do.
func TestNoCache(t *testing.T) {
	r := newRig(t)
	r.write("ads.txt", "a.example\n!\n")
	r.cache = ""
	r.load(file("ads.txt"), "a.example", "ads.txt: line 2: ")
	if _, err := r.store().Refresh(t.Context(), rules.ListRef{URL: "http://x.example", Format: "list"}, rules.DomainSet); err == nil || !strings.Contains(err.Error(), "no cache folder") {
		t.Errorf("refresh without a cache: %v", err)
	}
	if err := r.store().Run(t.Context(), nil, nil); err == nil {
		t.Error("run without a cache: no error")
	}

	r.cache = filepath.Join(r.policy, "ads.txt") // a file where the folder should be
	r.load(file("ads.txt"), "a.example", "ads.txt: line 2: ", "ads.txt: the last good copy can't be kept: ")
	r.load(file("none.txt"), "", "none.txt: no such file or directory; and the last good copy can't be used: not a directory; it is empty")
	ref := rules.ListRef{URL: "http://x.example", Format: "list"}
	r.load(ref, "", "the copy that was fetched can't be used: not a directory")
	if _, err := r.store().Refresh(t.Context(), ref, rules.DomainSet); err == nil { // without a request
		t.Error("refresh without a folder: no error")
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "of unknown age", 0: "less than a minute old", time.Minute: "1 minute old", 59 * time.Minute: "59 minutes old",
		time.Hour: "1 hour old", 47 * time.Hour: "47 hours old", 48 * time.Hour: "2 days old", 300 * 24 * time.Hour: "300 days old",
	} {
		if got := age(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestTypes(t *testing.T) {
	for i, name := range []string{"domain", "cidr", "port", "mac", "process", "user"} {
		got, ok := ParseType(name)
		if !ok || int(got) != i || TypeName(got) != name {
			t.Errorf("%s is %v, %v", name, got, ok)
		}
	}
	if _, ok := ParseType("asn"); ok {
		t.Error("asn is a type")
	}
}

// TestReadBounded: of what never ends, one byte more than the bound is read.
func TestReadBounded(t *testing.T) {
	if b, err := readBounded(strings.NewReader("12345"), 5); err != nil || string(b) != "12345" {
		t.Errorf("at the bound: %q, %v", b, err)
	}
	r := &endless{}
	if b, err := readBounded(r, 1000); err != errSize || b != nil || r.read > 1001 {
		t.Errorf("above it: %d bytes, %v, after reading %d", len(b), err, r.read)
	}
}

type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	if e.read += len(b); e.read > 1<<20 {
		return 0, errors.New("it was read on and on")
	}
	return len(b), nil
}
