package rulesets

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/rules"
)

// snapshot is the cache, file by file.
func (r *rig) snapshot() map[string][]byte {
	r.t.Helper()
	all := make(map[string][]byte)
	entries, err := os.ReadDir(r.cache)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(r.cache, e.Name()))
		if err != nil {
			r.t.Fatal(err)
		}
		all[e.Name()] = data
	}
	return all
}

// restore makes the cache what it was, with some files more.
func (r *rig) restore(files ...map[string][]byte) {
	r.t.Helper()
	if err := os.RemoveAll(r.cache); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Mkdir(r.cache, 0o700); err != nil {
		r.t.Fatal(err)
	}
	for _, some := range files {
		for name, data := range some {
			if err := os.WriteFile(filepath.Join(r.cache, name), data, 0o600); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

func only(files map[string][]byte, suffix string) (name string, data []byte) {
	for name, data := range files {
		if strings.HasSuffix(name, suffix) {
			return name, data
		}
	}
	return "", nil
}

// copied returns a rig with a copy of a file that is gone.
func copied(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.write("ads.txt", "a.example\nkeyword:ads\n")
	r.load(file("ads.txt"), "a.example keyword:ads")
	r.remove("ads.txt")
	return r
}

// TestTorn: a copy of which a part is missing is noticed and not used.
func TestTorn(t *testing.T) {
	r := copied(t)
	whole := r.snapshot()
	for suffix, cause := range map[string]string{".data": "can't be used: damaged", ".json": "can't be used: its description is damaged"} {
		name, data := only(whole, suffix)
		for n := range len(data) {
			r.restore(whole, map[string][]byte{name: data[:n]})
			if suffix == ".json" && n == len(data)-1 {
				r.load(file("ads.txt"), "a.example keyword:ads", "the last good copy is used") // but for the newline
				continue
			}
			r.load(file("ads.txt"), "", cause)
		}
		r.restore(whole, map[string][]byte{name: append(bytes.Clone(data), 'x')})
		r.load(file("ads.txt"), "", cause)
	}
	_, data := only(whole, ".data")
	name, description := only(whole, ".json")
	r.restore(map[string][]byte{name: description})
	r.load(file("ads.txt"), "", "can't be used: damaged")
	r.restore(map[string][]byte{"x.data": data})
	r.load(file("ads.txt"), "", "no such file or directory; it is empty")
	r.restore(whole)
	r.load(file("ads.txt"), "a.example keyword:ads", "the last good copy is used")
}

// TestRot: whichever bit of a copy changes, what is used is what was written.
func TestRot(t *testing.T) {
	r := copied(t)
	whole := r.snapshot()
	s := r.store()
	l, err := s.list(file("ads.txt"), rules.DomainSet)
	if err != nil {
		t.Fatal(err)
	}
	right, err := s.cache.check(l.key)
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, suffix := range []string{".data", ".json"} {
		name, data := only(whole, suffix)
		path := filepath.Join(r.cache, name)
		for bit := range 8 * len(data) {
			rotten := bytes.Clone(data)
			rotten[bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, rotten, 0o600); err != nil {
				t.Fatal(err)
			}
			e, _, m, err := s.loadCopy(l)
			if err == nil && (m != right || spell(e) != "a.example keyword:ads") {
				t.Fatalf("bit %d of %s: %+v, %s", bit, name, m, spell(e))
			}
			if err == nil {
				used++ // the case of a key, or the newline
			}
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if used > 20 {
		t.Errorf("%d changed copies are used", used)
	}
}

// TestMend: a damaged copy is written anew as soon as the file can be read.
func TestMend(t *testing.T) {
	r := copied(t)
	whole := r.snapshot()
	for _, suffix := range []string{".data", ".json"} {
		name, _ := only(whole, suffix)
		r.restore(whole, map[string][]byte{name: []byte("x")})
		r.write("ads.txt", "a.example\nkeyword:ads\n")
		r.load(file("ads.txt"), "a.example keyword:ads")
		r.remove("ads.txt")
		r.load(file("ads.txt"), "a.example keyword:ads", "the last good copy is used")
		r.oneCopy()
	}
}

// TestCrash puts the cache into each state that a crash can leave while a copy is
// replaced: it is the former copy or the new one, and the next good one cleans up.
func TestCrash(t *testing.T) {
	r := copied(t)
	before := r.snapshot()
	r.write("ads.txt", "b.example\n")
	r.load(file("ads.txt"), "b.example")
	after := r.snapshot()
	r.remove("ads.txt")

	name, description := only(after, ".json")
	dataName, data := only(after, ".data")
	temp := strings.TrimSuffix(name, ".json") + ".new"
	added := map[string][]byte{dataName: data}
	var former, latter []map[string][]byte
	for n := range len(data) + 1 {
		former = append(former, with(before, temp, data[:n]))
	}
	for n := range len(description) + 1 {
		state := with(before, temp, description[:n])
		maps.Copy(state, added)
		former = append(former, state)
	}
	state := maps.Clone(before)
	maps.Copy(state, after)
	latter = append(latter, state, after)

	for i, states := range [][]map[string][]byte{former, latter} {
		want := []string{"a.example keyword:ads", "b.example"}[i]
		for n, state := range states {
			r.restore(state)
			r.load(file("ads.txt"), want, "the last good copy is used")
			if n%50 > 0 && n < len(states)-1 {
				continue // writing syncs the disk
			}
			r.write("ads.txt", "c.example\n")
			r.load(file("ads.txt"), "c.example")
			r.oneCopy()
			r.remove("ads.txt")
			r.load(file("ads.txt"), "c.example", "the last good copy is used")
		}
	}
}

func with(files map[string][]byte, name string, data []byte) map[string][]byte {
	files = maps.Clone(files)
	files[name] = data
	return files
}

// TestTwoLists: copies of two lists don't touch each other.
func TestTwoLists(t *testing.T) {
	r := newRig(t)
	other := file("other.txt")
	geo := func(part string) rules.ListRef { return rules.ListRef{File: "ads.txt", Format: "dlc", Select: part} }
	r.write("ads.txt", "a.example @x\n")
	r.write("other.txt", "b.example\n")
	r.load(other, "b.example")
	r.load(geo("@x"), ".a.example")
	r.load(geo("@-y"), ".a.example")
	r.load(file("ads.txt"), "", "nothing in it can be read")
	r.write("ads.txt", "c.example @y\nd.example @x\n")
	r.load(geo("@x"), ".d.example")
	r.remove("ads.txt")
	r.remove("other.txt")
	r.load(other, "b.example", "the last good copy is used")
	r.load(geo("@x"), ".d.example", "the last good copy is used")
	r.load(geo("@-y"), ".a.example", "the last good copy is used")
	r.policy = t.TempDir() // the file of another policy
	r.load(other, "", "no such file")
}

// TestMetaBound: what is known of a copy is bounded when written and when read.
func TestMetaBound(t *testing.T) {
	r := copied(t)
	c := cache{dir: r.cache}
	if err := c.writeMeta("key", meta{Source: strings.Repeat("x", maxMeta)}); err == nil || err.Error() != "its description is larger than 64 KiB" {
		t.Errorf("written: %v", err)
	}
	name, _ := only(r.snapshot(), ".json")
	if err := os.Truncate(filepath.Join(r.cache, name), maxMeta+1); err != nil {
		t.Fatal(err)
	}
	r.load(file("ads.txt"), "", "larger than 64 MiB")
}

// TestNoRoom: a copy that can't be written leaves the former one, and no part of
// itself.
func TestNoRoom(t *testing.T) {
	r := copied(t)
	name, _ := only(r.snapshot(), ".json")
	key := strings.TrimSuffix(name, ".json")
	if err := os.MkdirAll(filepath.Join(r.cache, key+"-"+sumOf([]byte("b.example\n"))+".data", "x"), 0o700); err != nil { // where the data should go
		t.Fatal(err)
	}
	r.write("ads.txt", "b.example\n")
	r.load(file("ads.txt"), "b.example", "the last good copy can't be kept: rename ")
	if _, err := os.Stat(filepath.Join(r.cache, key+".new")); !os.IsNotExist(err) {
		t.Errorf("a part is left: %v", err)
	}
	r.remove("ads.txt")
	r.load(file("ads.txt"), "a.example keyword:ads", "the last good copy is used")
}
