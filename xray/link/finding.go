package link

import (
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// Finding is something to know about a link: why it is refused, what is dropped or
// migrated, what was left out and assumed. It never repeats a secret: of the link's
// values it names only those out of short lists, such as a transport's.
type Finding struct {
	Severity diag.Severity // Error refuses the link
	// Link names the link: its scheme, and host and port once they are known.
	Link string
	// Key is the key that it is about, as the link spells it, in forms that are no
	// URLs as a URL would; or host, port, user. "" is the link as a whole.
	Key string
	// Offset is the byte of the text given to Parse where the key's value begins;
	// in payloads of base64 the group of four that holds it. Of files it counts from
	// the beginning of the line; entries that are no links have no offset.
	Offset int
	// Line is the 1-based line of a file; 0 for a link alone.
	Line    int
	Message string
	Help    string // how to mend it; "" if there is nothing to say
}

// String returns the finding on one line.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", f.Severity, f.Link)
	if f.Key != "" {
		fmt.Fprintf(&b, ", key %s", diag.Quote(f.Key))
	}
	if f.Line > 0 {
		fmt.Fprintf(&b, " on line %d", f.Line)
	}
	if f.Line == 0 || f.Offset > 0 {
		fmt.Fprintf(&b, " at byte %d", f.Offset)
	}
	b.WriteString(": " + f.Message)
	if f.Help != "" {
		fmt.Fprintf(&b, " (%s)", f.Help)
	}
	return b.String()
}

// Refused reports whether a finding is an error, that is, there is no profile.
func Refused(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == diag.Error })
}
