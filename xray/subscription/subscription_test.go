package subscription

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/download"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

const token = "t0ken-of-the-user"

// rig is a store and the provider that it asks.
type rig struct {
	*Store
	t       *testing.T
	dir     string
	log     bytes.Buffer
	server  *httptest.Server
	handle  http.HandlerFunc
	changes atomic.Int64
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: t.TempDir()}
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.handle(w, q) }))
	t.Cleanup(r.server.Close)
	r.open()
	return r
}

// open is a start of the daemon.
func (r *rig) open() {
	r.t.Helper()
	s, err := Open(Config{Dir: r.dir, Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	if err != nil {
		r.t.Fatal(err)
	}
	s.transport = plainTransport
	s.Watch(r.t.Context(), func() { r.changes.Add(1) })
	r.Store = s
}

// plainTransport does without the proxy of the environment.
func plainTransport(d download.Dial) http.RoundTripper {
	t := download.NewTransport(d)
	t.Proxy = nil
	return t
}

func (r *rig) serve(body string) {
	r.handle = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

func (r *rig) settings() Settings {
	return Settings{Name: "home", URL: secretOf(r.server.URL + "/sub/" + token + "?k=" + token)}
}

func (r *rig) add(s Settings) Info {
	r.t.Helper()
	i, err := r.Add(r.t.Context(), s)
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

// update wants an error with the text, or none.
func (r *rig) update(want string) Info {
	r.t.Helper()
	i, err := r.Update(r.t.Context(), "home")
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		r.t.Errorf("error %v, want %q", err, want)
	}
	if err != nil && strings.Contains(err.Error(), token) {
		r.t.Error("told the token:", err)
	}
	i, err = r.Show("home")
	if err != nil || (want != "") != (i.Problem != "") {
		r.t.Errorf("problem %q, %v", i.Problem, err)
	}
	return i
}

func (r *rig) watched() int {
	r.Store.mu.Lock()
	defer r.Store.mu.Unlock()
	return len(r.watchers)
}

// names spells profiles, with a star at the one to use.
func names(i Info) string {
	var all []string
	for n, p := range i.Profiles {
		star := ""
		if n == i.Chosen {
			star = "*"
		}
		all = append(all, star+p.Name)
	}
	return strings.Join(all, ",")
}

func (r *rig) want(i Info, want string) {
	r.t.Helper()
	if got := names(i); got != want {
		r.t.Errorf("profiles %s, want %s", got, want)
	}
}

const (
	tokyo = "trojan://one@a.example:443#Tokyo\n"
	paris = "trojan://two@b.example:443#Paris\n"
	oslo  = "ss://aes-256-gcm:three@c.example:8388#Oslo\n"
)

// TestLastGood: nothing but a content with a usable profile replaces the one before,
// and all of it survives a restart.
func TestLastGood(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo + "junk\n" + paris)
	i := r.add(r.settings())
	r.want(i, "Tokyo,Paris")
	if i.Refused != 1 || len(i.Reasons) != 1 || !strings.Contains(i.Reasons[0], "line 2") || i.Format != "link" {
		t.Errorf("%+v", i)
	}
	big := bytes.Repeat([]byte("# a comment of some length\n"), 1<<10)
	send := func(w interface{ Write([]byte) (int, error) }) {
		for range sub.MaxBytes/len(big) + 2 {
			if _, err := w.Write(big); err != nil {
				return
			}
		}
	}
	hop := 0
	for _, c := range []struct {
		name, err string
		bad       http.HandlerFunc
	}{
		{"page", "this is none of a list of links", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>log in</html>") }},
		{"empty", "the answer is empty", func(http.ResponseWriter, *http.Request) {}},
		{"useless", "no profile in it can be used: error: ssr link", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ssr://abc\n") }},
		{"gone", "the server answered 404 Not Found", http.NotFound},
		{"too large", "larger than 16 MiB", func(w http.ResponseWriter, _ *http.Request) { send(w) }},
		{"said to be too large", "larger than 16 MiB", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(sub.MaxBytes+1))
			send(w)
		}},
		{"bomb", "larger than 16 MiB", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			send(z)
			_ = z.Close()
		}},
		{"torn", "unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, oslo)
		}},
		{"redirects for ever", "more than 5 redirects", func(w http.ResponseWriter, q *http.Request) {
			hop++
			http.Redirect(w, q, fmt.Sprintf("/%s/%d", token, hop), http.StatusFound)
		}},
		{"other scheme", "redirected from http to ftp", func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "ftp://x.example/"+token, http.StatusFound)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.t, r.handle = t, c.bad
			r.want(r.update(c.err), "Tokyo,Paris")
		})
	}
	r.t = t
	r.open()
	i, err := r.Show("home")
	if err != nil {
		t.Fatal(err)
	}
	r.want(i, "Tokyo,Paris")
	if i.Fetched.IsZero() || i.Fetched != i.Checked {
		t.Errorf("%+v", i)
	}
	r.handle = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprint(z, oslo)
		_ = z.Close()
	}
	r.want(r.update(""), "Oslo")
	if strings.Contains(r.log.String(), token) {
		t.Error("the log tells the token:", r.log.String())
	}
	if i, err = r.Show("home"); err != nil || i.URL.Reveal() != r.server.URL+"/***" {
		t.Error(i.URL.Reveal(), err)
	}
	files, err := os.ReadDir(r.dir)
	if err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
}

// TestSecure: from https nothing leads to http.
func TestSecure(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, r.server.URL, http.StatusFound)
	}))
	defer secure.Close()
	r.Store.transport = func(download.Dial) http.RoundTripper { return secure.Client().Transport }
	s := r.settings()
	s.URL = secretOf(secure.URL + "/" + token)
	if i := r.add(s); i.Problem != "redirected from https to http" || i.Chosen != -1 {
		t.Errorf("%+v", i)
	}
	s.Name, s.URL = "other", secretOf(r.server.URL)
	r.Store.transport = plainTransport
	r.want(r.add(s), "Tokyo")
}

// TestUnchanged: the provider is asked with what it said, and need not send again;
// what it says in headers is heard.
func TestUnchanged(t *testing.T) {
	r := newRig(t)
	sent, asked := 0, ""
	body := tokyo
	r.handle = func(w http.ResponseWriter, q *http.Request) {
		asked = q.Header.Get("User-Agent")
		etag := `"` + strconv.Itoa(len(body)) + `"`
		w.Header().Set("ETag", etag)
		w.Header().Set("Last-Modified", "Tue, 24 Nov 2026 10:00:00 GMT")
		w.Header().Set("Profile-Update-Interval", "12")
		w.Header().Set("Subscription-Userinfo", "upload=10; download=2.5e3; total=1000000; expire=1800000000; odd=x")
		if q.Header.Get("If-None-Match") == etag && q.Header.Get("If-Modified-Since") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		sent++
		fmt.Fprint(w, body)
	}
	s := r.settings()
	s.UserAgent = "v2rayN/7.0"
	i := r.add(s)
	if want := (Usage{2510, 1000000, time.Unix(1800000000, 0).UTC()}); i.Usage != want || i.Every != 12*time.Hour || asked != s.UserAgent {
		t.Errorf("%+v, asked by %s", i, asked)
	}
	if i.Next != i.Checked.Add(12*time.Hour) {
		t.Errorf("checked %v, next %v", i.Checked, i.Next)
	}
	r.update("")
	r.open()
	r.update("")
	if sent != 1 {
		t.Errorf("sent %d times", sent)
	}
	if n := r.changes.Load(); n != 1 {
		t.Errorf("%d changes", n)
	}
	body += paris
	r.want(r.update(""), "Tokyo,Paris")
	if n := r.changes.Load(); sent != 2 || n != 2 {
		t.Errorf("sent %d times, %d changes", sent, n)
	}
	// A copy that rots is not asked about.
	data, err := filepath.Glob(filepath.Join(r.dir, "*.data"))
	if err != nil || len(data) != 1 {
		t.Fatal(data, err)
	}
	if err := os.WriteFile(data[0], []byte(oslo), 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	if i, err := r.Show("home"); err != nil || i.Problem != "the last good copy can't be used: damaged" || len(i.Profiles) != 0 {
		t.Errorf("%+v, %v", i, err)
	}
	r.want(r.update(""), "Tokyo,Paris")
	if sent != 3 {
		t.Errorf("sent %d times", sent)
	}
}

// TestChoice: the user's choice holds over new names, another order and other
// paths, is remembered while the profile is away, and is kept over restarts.
func TestChoice(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo + paris + oslo)
	i := r.add(r.settings())
	id := i.Profiles[1].ID
	i, err := r.Choose("home", "Paris")
	if err != nil {
		t.Fatal(err)
	}
	r.want(i, "Tokyo,*Paris,Oslo")
	for _, c := range []struct {
		name, body, want string
		lost             bool
	}{
		{"decorated", "trojan://one@a.example:443#Tokyo | 3 GB\ntrojan://two@b.example:443#Paris | 7 GB\n", "Tokyo | 3 GB,*Paris | 7 GB", false},
		{"order and form", "trojan://two@b.example:443?sni=b.example#FR\n" + tokyo, "*FR,Tokyo", false},
		{"path", tokyo + "trojan://two@b.example:443?type=ws&path=%2Fnew#FR\n", "Tokyo,*FR", false},
		{"password", tokyo + "trojan://new@b.example:443?type=ws&path=%2Fnew#FR\n", "Tokyo,*FR", false},
		{"away", tokyo + oslo, "Tokyo,Oslo", true},
		{"longer", oslo + tokyo, "Oslo,Tokyo", true},
		{"back", tokyo + "trojan://new@b.example:443#Back\n", "Tokyo,*Back", false},
		{"two of one server", "trojan://new@b.example:443?type=ws#WS\ntrojan://new@b.example:443#Back\n", "WS,*Back", false},
	} {
		r.serve(c.body)
		i := r.update("")
		r.want(i, c.want)
		if i.Lost != c.lost || !c.lost && i.Profiles[i.Chosen].ID != id {
			t.Errorf("%s: lost %v, id %s, want %s", c.name, i.Lost, i.Profiles[i.Chosen].ID, id)
		}
		r.open()
		if i, err = r.Show("home"); err != nil {
			t.Fatal(err)
		}
		r.want(i, c.want)
		if i.Lost != c.lost {
			t.Errorf("%s: lost %v after a restart", c.name, i.Lost)
		}
	}
	list, chosen, ok := r.Profiles("home")
	if !ok || chosen != 1 || list[1].Name != "Back" {
		t.Error(list, chosen, ok)
	}
	if _, err := r.Choose("home", "Nobody"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if i, err = r.Show("home"); err != nil {
		t.Fatal(err)
	}
	if i, err = r.Choose("home", i.Profiles[0].ID); err != nil {
		t.Fatal(err)
	}
	r.want(i, "*WS,Back")
	if i, err = r.Choose("home", ""); err != nil || i.Lost || i.Chosen != -1 {
		t.Fatal(i, err)
	}
	r.want(i, "WS,Back")
	if n := r.changes.Load(); n != 12 {
		t.Errorf("%d changes", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.Watch(ctx, func() { t.Error("called after its end") })
	cancel()
	for r.watched() > 1 {
		time.Sleep(time.Millisecond)
	}
	if _, err := r.Choose("home", "Back"); err != nil {
		t.Fatal(err)
	}
}

// TestShape: filters and renames, and names that are distinct in the end.
func TestShape(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo + paris + oslo + "trojan://four@d.example:443#Tokyo\ntrojan://five@e.example:443#Expires 2027\ntrojan://six@f.example:443\n")
	s := r.settings()
	s.Drop, s.Protocols = "^Expires", []string{"trojan"}
	s.Rename = []Rename{{"^(.)(.*)$", "$1-${2}"}, {"^T-", "t "}}
	i := r.add(s)
	r.want(i, "t okyo,P-aris,t okyo 2,f.example:443")
	if i.Filtered != 2 {
		t.Errorf("%+v", i)
	}
	s.Name, s.Keep = "none", "^Nowhere$"
	if i := r.add(s); i.Problem != "the filters keep none of its 6 profiles" {
		t.Errorf("%+v", i)
	}
}

func TestSettings(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo)
	for _, c := range []struct {
		change func(*Settings)
		want   string
	}{
		{func(s *Settings) { s.Name = "a/b" }, "letters, digits"},
		{func(s *Settings) { s.Name = "" }, "letters, digits"},
		{func(s *Settings) { s.URL = "ftp://x.example/" + token }, "one of http or https"},
		{func(s *Settings) { s.URL = "http://a:" + token + "%zz" }, "not a URL with a host"},
		{func(s *Settings) { s.URL = secretOf("http://x.example/" + strings.Repeat(token, 1000)) }, "longer than 8192 bytes"},
		{func(s *Settings) { s.Every = time.Second }, "at least 5m0s"},
		{func(s *Settings) { s.Keep = "(" }, "keep: error parsing regexp"},
		{func(s *Settings) { s.Drop = "[" }, "drop: error parsing regexp"},
		{func(s *Settings) { s.Rename = []Rename{{"(", ""}} }, "rename: error parsing regexp"},
		{func(s *Settings) { s.Rename = make([]Rename, maxRenames+1) }, "more than 32 renames"},
		{func(s *Settings) { s.Keep = strings.Repeat("a", maxPattern+1) }, "longer than 1024 bytes"},
		{func(s *Settings) { s.Protocols = []string{"ssr"} }, `protocol "ssr": known are vless`},
		{func(s *Settings) { s.UserAgent = "a\nb" }, "user agent"},
		{func(s *Settings) { s.Via = "wan2" }, `there is no route "wan2"`},
	} {
		s := r.settings()
		c.change(&s)
		if _, err := r.Add(t.Context(), s); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), token) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	r.add(r.settings())
	if _, err := r.Add(t.Context(), r.settings()); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if got, err := ParseRename("^a=b=c"); err != nil || got != (Rename{"^a", "b=c"}) || got.String() != "^a=b=c" {
		t.Error(got, err)
	}
	for _, bad := range []string{"a", "=b"} {
		if _, err := ParseRename(bad); err == nil {
			t.Error(bad, "is taken")
		}
	}
	for n := range maxSubscriptions - 1 {
		s := r.settings()
		s.Name += strconv.Itoa(n)
		r.add(s)
	}
	s := r.settings()
	s.Name = "more"
	if _, err := r.Add(t.Context(), s); !errors.Is(err, ErrInvalid) || len(r.Names()) != maxSubscriptions || len(r.List()) != maxSubscriptions {
		t.Error(err)
	}
	if err := r.Remove("home"); err != nil {
		t.Error(err)
	}
	for _, err := range []error{r.Remove("home"), second(r.Update(t.Context(), "home")), second(r.Show("home")), second(r.Choose("home", ""))} {
		if !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
	if _, _, ok := r.Profiles("home"); ok {
		t.Error("it is still there")
	}
	r.open()
	if slices.Contains(r.Names(), "home") || len(r.Names()) != maxSubscriptions-1 {
		t.Error(r.Names())
	}
}

func second[T any](_ T, err error) error { return err }

// TestRoute: what a route dials is what fetches.
func TestRoute(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo)
	dialled := ""
	r.route = func(via string) (download.Dial, error) {
		return func(ctx context.Context, network, _ string) (net.Conn, error) {
			dialled = via
			return (&net.Dialer{}).DialContext(ctx, network, r.server.Listener.Addr().String())
		}, nil
	}
	s := r.settings()
	s.URL, s.Via = "http://provider.example/"+token, "wan2"
	r.want(r.add(s), "Tokyo")
	if dialled != "wan2" {
		t.Error(dialled)
	}
}

// TestDamaged: a record that can't be read costs no other one.
func TestDamaged(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo)
	r.add(r.settings())
	s := r.settings()
	s.Name = "other"
	r.add(s)
	data, err := os.ReadFile(r.recordFile("home"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(r.recordFile("home")); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if err := os.WriteFile(r.recordFile("home"), data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	if got := r.Names(); len(got) != 1 || got[0] != "other" {
		t.Error(got)
	}
	if _, err := os.Stat(r.recordFile("home") + ".damaged"); err != nil {
		t.Error(err)
	}
}

// TestNoRoom: a content that can't be kept leaves the former one in use and on the disk.
func TestNoRoom(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo)
	r.add(r.settings())
	if err := os.MkdirAll(filepath.Join(r.dataFile("home", sumOf([]byte(paris))), "x"), 0o700); err != nil { // where it should go
		t.Fatal(err)
	}
	r.serve(paris)
	r.want(r.update("keep it: "), "Tokyo")
	r.open()
	i, err := r.Show("home")
	if err != nil {
		t.Fatal(err)
	}
	r.want(i, "Tokyo")
}

// TestRemovedMeanwhile: a fetch under way brings nothing back.
func TestRemovedMeanwhile(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo)
	r.add(r.settings())
	r.handle = func(w http.ResponseWriter, _ *http.Request) {
		if err := r.Remove("home"); err != nil {
			t.Error(err)
		}
		fmt.Fprint(w, paris)
	}
	if _, err := r.Update(t.Context(), "home"); !errors.Is(err, errRemoved) {
		t.Error(err)
	}
	if files, err := os.ReadDir(r.dir); err != nil || len(files) != 0 {
		t.Error(files, err)
	}
}

// TestMarks: the record repeats no password beside the content, and of a provider's
// names no mark can be told apart without the key.
func TestMarks(t *testing.T) {
	r := newRig(t)
	r.serve("trojan://pass-w0rd@a.example:443#Tokyo\n")
	r.add(r.settings())
	data, err := os.ReadFile(r.recordFile("home"))
	if err != nil || bytes.Contains(data, []byte("pass-w0rd")) {
		t.Error(err, string(data))
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil || len(rec.Known) != 1 || rec.Known[0].All == "" {
		t.Error(err, rec.Known)
	}
	i, err := r.Show("home")
	if text := fmt.Sprintf("%v %+v", i, i); err != nil || strings.Contains(text, "pass-w0rd") || strings.Contains(text, token) {
		t.Error("shown:", text)
	}
}

// TestReadOnly: who only looks changes nothing, whatever is there.
func TestReadOnly(t *testing.T) {
	r := newRig(t)
	r.serve(tokyo)
	r.add(r.settings())
	for name, text := range map[string]string{"bad.json": "{", "home.0000.data": "what a crash left"} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	look := func() (names []string) {
		files, err := os.ReadDir(r.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			names = append(names, f.Name())
		}
		return names
	}
	before := look()
	s, err := Open(Config{Dir: r.dir, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if list, _, ok := s.Profiles("home"); !ok || len(list) != 1 {
		t.Error(list, ok)
	}
	if after := look(); len(before) != 4 || !slices.Equal(before, after) {
		t.Errorf("%v became %v", before, after)
	}
	r.open()
	if after := look(); slices.Contains(after, "home.0000.data") || !slices.Contains(after, "bad.json.damaged") {
		t.Errorf("left as it was: %v", after)
	}
	if _, err := Open(Config{Dir: filepath.Join(r.dir, "none"), ReadOnly: true}); err == nil {
		t.Error("a folder that is not there is read")
	}
}
