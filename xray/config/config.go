// Package config writes configurations for Xray out of profiles, and says what is
// wrong with a configuration before Xray does.
//
//	data, findings := config.Build(config.V26_3, profiles, config.Options{
//		Inbounds: []config.Inbound{{Name: "home", Kind: config.Mixed, Listen: addr, Group: "fast"}},
//		Groups:   []config.Group{{Name: "fast", Members: []int{0, 1}}},
//	})
//	config.Validate(config.V26_3, data) // nothing
//
// The engine of netpolicy decides, Xray carries: each inbound leads to one group,
// each group is one balancer whose choice is overridden from outside, and what no
// rule takes is blocked. The same input gives the same bytes.
//
// What old links ask for and Xray has changed is migrated with a warning; what Xray
// can't run is refused with the reason and the way out, and costs no other profile.
// Validate finds what `xray run -test` takes and that does not work: keys that
// nobody reads, rules that lead nowhere, protocols over transports that can't carry
// them.
//
// The package is pure. A configuration holds secrets; a finding never does.
package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// Version is a series of Xray's releases with the same rules.
type Version uint8

// The versions; the zero value is V26_3. The rules of V26_3 were measured with
// 26.3.27; those of V26_7 are read out of its source, and what we build of links was tried
// with 26.7.28.
const (
	V26_3 Version = iota
	V26_7
)

// String returns the version as Xray writes it, such as 26.3.
func (v Version) String() string { return [...]string{"26.3", "26.7"}[v] }

// ParseVersion reads "26.3" or "26.3.27", also with a v in front. It is false for
// versions whose rules are not known.
func ParseVersion(s string) (Version, bool) {
	parts := strings.Split(strings.TrimPrefix(s, "v"), ".")
	if len(parts) < 2 || len(parts) > 3 {
		return 0, false
	}
	if len(parts) == 3 {
		if _, err := strconv.ParseUint(parts[2], 10, 16); err != nil {
			return 0, false
		}
	}
	switch parts[0] + "." + parts[1] {
	case "26.3":
		return V26_3, true
	case "26.7":
		return V26_7, true
	default:
		return 0, false
	}
}

// Finding is something to know about a configuration or a profile.
type Finding struct {
	Severity diag.Severity // Error: it can't be run
	// Profile names the profile by protocol and address; "" for a configuration.
	Profile string
	// Key is the key of the link, "" where the finding is not about one.
	Key string
	// Path is where the configuration says it, such as
	// outbounds[0].streamSettings.security; of a profile that is not in the
	// configuration yet it begins with outbound. "" is none.
	Path    string
	Message string
	Help    string // the way out; "" if there is nothing to say
}

// String returns the finding on one line.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", f.Severity)
	var about []string
	if f.Profile != "" {
		about = append(about, f.Profile)
	}
	if f.Key != "" {
		about = append(about, "key "+diag.Quote(f.Key))
	}
	if f.Path != "" {
		about = append(about, "at "+f.Path)
	}
	if len(about) > 0 {
		b.WriteString(strings.Join(about, ", ") + ": ")
	}
	b.WriteString(f.Message)
	if f.Help != "" {
		fmt.Fprintf(&b, " (%s)", f.Help)
	}
	return b.String()
}

// Refused reports whether a finding is an error.
func Refused(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == diag.Error })
}

// object is a JSON object; encoding/json writes its keys in order.
type object = map[string]any

// encode writes a value as indented JSON with a newline at its end.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic("config: a value that is no JSON: " + err.Error()) // all is made of maps, lists, texts and numbers
	}
	return b.Bytes()
}

// decode reads JSON with its numbers as they are written.
func decode(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, fmt.Errorf("more than one value")
	}
	return v, nil
}

// FirstError returns the first finding that is an error, in words and with the way out.
func FirstError(findings []Finding) (message, help string) {
	for _, f := range findings {
		if f.Severity == diag.Error {
			about := ""
			if f.Key != "" {
				about = "key " + diag.Quote(f.Key) + ": "
			}
			return about + f.Message, f.Help
		}
	}
	return "", ""
}
