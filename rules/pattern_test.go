package rules

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNamePattern(t *testing.T) {
	for _, c := range []struct{ pattern, yes, no string }{
		{"zoom.us", "zoom.us", "evilzoom.us us01.zoom.us zoom.us.example us"},
		{".zoom.us", "zoom.us us01.zoom.us a.b.zoom.us", "evilzoom.us zoom.us.example us"},
		{"*.zoom.us", "us01.zoom.us a.b.zoom.us", "zoom.us evilzoom.us zoom.us.example"},
		{"zoom-*.us", "zoom-1.us zoom-.us zoom-a-b.us", "zoom.us a.zoom-1.us zoom-1.a.us"},
		{"foo*", "foo foobar", "foo.bar xfoo"},
		{"a.*.c", "a.b.c", "a.b.b.c a.c"},
		{"*.a*.c", "x.ab.c x.y.a.c", "ab.c x.b.c x.a.b.c"},
		{"Zoom.US.", "zoom.us", "zoom.us.us"},
		{".Bücher.example", "xn--bcher-kva.example a.xn--bcher-kva.example", "bcher.example"},
	} {
		p, ok := ParseNamePattern(c.pattern)
		if !ok {
			t.Errorf("%s is refused", c.pattern)
		}
		for _, name := range strings.Fields(c.yes) {
			if !p.Match(name) {
				t.Errorf("%s does not match %s", c.pattern, name)
			}
		}
		for _, name := range strings.Fields(c.no) {
			if p.Match(name) {
				t.Errorf("%s matches %s", c.pattern, name)
			}
		}
		if again, ok := ParseNamePattern(p.String()); !ok || again != p {
			t.Errorf("%s: printed as %s, read as %v", c.pattern, p, again)
		}
	}
	for _, bad := range []string{"", "*", ".", "*.", "**.a", "a.**", ".a*.b", "a..b", "1.2.3.4", "a*b*c*d*e", "ü*.de", "a b", "a/b*"} {
		if p, ok := ParseNamePattern(bad); ok {
			t.Errorf("%q is read as %v", bad, p)
		}
	}
}

// TestGlobAgainstRegexp: a glob is the regular expression in which * is any run
// without the separator.
func TestGlobAgainstRegexp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringMatching(`[ab/*]{0,8}`).Draw(t, "glob")
		s := rapid.StringMatching(`[ab/]{0,10}`).Draw(t, "s")
		re := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(glob), `\*`, "[^/]*") + "$")
		if got := Glob(glob).Match(s); got != re.MatchString(s) {
			t.Fatalf("%q on %q: %v", glob, s, got)
		}
	})
}

// TestWords: the parts of a word stand where they say.
func TestWords(t *testing.T) {
	const src = `xx"dev wg0 gateway 10.0.0.1, fe80::1 fallback(a,b) \"q w\""`
	w := Word{Text: `dev wg0 gateway 10.0.0.1, fe80::1 fallback(a,b) "q w"`, Body: 3}
	text := src[:3] + w.Text
	var got []string
	for _, p := range w.Split() {
		got = append(got, p.Text)
		if text[p.Span.Start:p.Span.End] != p.Text {
			t.Errorf("%q stands at %q", p.Text, text[p.Span.Start:p.Span.End])
		}
	}
	if want := "dev|wg0|gateway|10.0.0.1|fe80::1|fallback|(|a|b|)|q w"; strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", strings.Join(got, "|"), want)
	}
	rapid.Check(t, func(t *rapid.T) {
		w := Word{Text: rapid.StringMatching(`[a,() "=]{0,12}`).Draw(t, "text"), Body: 7}
		for _, p := range append(w.Split(), w.commaList()...) {
			if i := p.Span.Start - 7; p != w && (i < 0 || w.Text[i:p.Span.End-7] != p.Text) {
				t.Fatalf("%q of %q stands at %v", p.Text, w.Text, p.Span)
			}
		}
	})
}
