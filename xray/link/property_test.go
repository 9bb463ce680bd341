package link_test

import (
	"os"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/internal/linkrand"
	"netpolicy.dev/netpolicy/xray/link"
)

// cases is how many random profiles a property sees.
func cases() int {
	if os.Getenv("FULL") != "" {
		return 100_000
	}
	return 5_000
}

// TestFormatParse: Parse(Format(p)) is p.
func TestFormatParse(t *testing.T) {
	n := cases()
	check := func(t *rapid.T) {
		p := linkrand.Profile(t)
		out := p.Format()
		back, findings := link.Parse(out)
		if link.Refused(findings) || !reflect.DeepEqual(p, back) {
			t.Fatalf("wrote %s\nread  %q\nnot   %q\n%v", out, linkrand.Show(back), linkrand.Show(p), findings)
		}
	}
	runs := 0
	for runs < n {
		rapid.Check(t, func(t *rapid.T) { runs++; check(t) })
	}
	t.Logf("links: %d random profiles written and read again", runs)
}
