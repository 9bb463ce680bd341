package web

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"regexp"
	"strings"
	"testing"
)

// load returns every file's text.
func load(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(Files(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(Files(), name)
		files[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// packed is how many bytes a text has on the wire.
func packed(t *testing.T, text string) int {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Len()
}

var (
	named   = regexp.MustCompile(`(?:src|href)="\./([^"]+)"`)
	imports = regexp.MustCompile(`(?:\bfrom\s*|\bimport\s*)["'` + "`" + `]\./([^"'` + "`" + `]+)["'` + "`" + `]`)
)

// TestSizes holds the interface to what a router's flash and a slow line bear:
// all of it under 220 kB packed, and of that at most 60 kB for the first screen.
func TestSizes(t *testing.T) {
	files := load(t)
	all := 0
	for _, text := range files {
		all += packed(t, text)
	}
	// The first screen is the page, all it imports at once, one language, and the
	// page of connections with what that imports.
	first := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		text, ok := files[name]
		if !ok {
			t.Errorf("%s is imported, and not there", name)
		}
		if !ok || first[name] {
			return
		}
		first[name] = true
		if strings.HasSuffix(name, ".js") {
			for _, m := range imports.FindAllStringSubmatch(text, -1) {
				add("assets/" + m[1])
			}
		}
	}
	add("index.html")
	for _, m := range named.FindAllStringSubmatch(files["index.html"], -1) {
		add(m[1])
	}
	for name := range files {
		// Russian is the largest of the languages.
		if strings.HasPrefix(name, "assets/connections-") || strings.HasPrefix(name, "assets/ru-") {
			add(name)
		}
	}
	screen := 0
	for name := range first {
		screen += packed(t, files[name])
	}
	t.Logf("first screen %d bytes in %d files, all %d bytes in %d files", screen, len(first), all, len(files))
	if screen > 60_000 || len(first) < 8 {
		t.Errorf("the first screen has %d bytes in %d files", screen, len(first))
	}
	if all >= 220_000 {
		t.Errorf("all files have %d bytes", all)
	}
}

// TestNoOutside: nothing asks any other host for anything.
func TestNoOutside(t *testing.T) {
	// Names of XML's vocabularies are no addresses to fetch from.
	allowed := regexp.MustCompile(`^https?://www\.w3\.org$`)
	for name, text := range load(t) {
		for _, url := range regexp.MustCompile(`https?://[a-z0-9.-]+`).FindAllString(text, -1) {
			if !allowed.MatchString(url) {
				t.Errorf("%s: %s", name, url)
			}
		}
	}
}
