package rules

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"netpolicy.dev/netpolicy/flow"
)

// maxStars bounds the wildcards of one pattern, and with them the work of a match.
const maxStars = 3

// ParseNamePattern reads a pattern as a policy spells it; false if it is not a
// legal one. Check says why.
func ParseNamePattern(s string) (NamePattern, bool) {
	p, problem := parseNamePattern(s)
	return p, problem == patternOK
}

// maxRegex bounds the text of a regular expression, in bytes.
const maxRegex = 1 << 10

// NewKeyword returns the pattern of every name that contains s; false if no
// canonical name could.
func NewKeyword(s string) (NamePattern, bool) {
	s = strings.ToLower(s)
	ok := s != "" && len(s) <= 253 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
	return NamePattern{Kind: Keyword, Name: s}, ok
}

// NewRegex returns the pattern of every canonical name in which the expression
// (RE2 syntax, not anchored) is found.
func NewRegex(s string) (NamePattern, error) {
	if len(s) > maxRegex {
		return NamePattern{}, fmt.Errorf("the expression is longer than %d bytes", maxRegex)
	}
	re, err := regexp.Compile(s)
	return NamePattern{Kind: Regex, Name: s, re: re}, err
}

// patternProblem is what is wrong with a pattern.
type patternProblem uint8

const (
	patternOK      patternProblem = iota
	patternName                   // not a legal name
	patternAddress                // an IP literal
	patternStars                  // more than maxStars wildcards
	patternForm                   // a wildcard where none can be
)

func parseNamePattern(s string) (NamePattern, patternProblem) {
	body, kind := s, Exact
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		body, kind = rest, Subdomain
	} else if rest, ok := strings.CutPrefix(s, "."); ok {
		body, kind = rest, Suffix
	}
	stars := strings.Count(body, "*")
	switch {
	case strings.Contains(s, "**") || s == "*" || body == "" && kind != Exact:
		return NamePattern{}, patternForm
	case strings.Count(s, "*") > maxStars:
		return NamePattern{}, patternStars
	case stars > 0 && kind == Suffix:
		return NamePattern{}, patternForm
	case stars > 0:
		return parseNameGlob(s)
	}
	name, err := flow.CanonicalName(body)
	if err != nil {
		if isAddress(body) {
			return NamePattern{}, patternAddress
		}
		return NamePattern{}, patternName
	}
	return NamePattern{Kind: kind, Name: name}, patternOK
}

// parseNameGlob canonicalises the labels one by one; a label with a wildcard is
// ASCII letters, digits, "-" and "_".
func parseNameGlob(s string) (NamePattern, patternProblem) {
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	for i, label := range labels {
		plain := strings.ReplaceAll(label, "*", "")
		if plain == label {
			name, err := flow.CanonicalName(label)
			if err != nil || strings.Contains(name, ".") {
				return NamePattern{}, patternName
			}
			labels[i] = name
			continue
		}
		label = strings.ToLower(label)
		if strings.Trim(strings.ToLower(plain), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || len(label) > 63 {
			return NamePattern{}, patternForm
		}
		labels[i] = label
	}
	glob := strings.Join(labels, ".")
	if len(glob) > 253 {
		return NamePattern{}, patternName
	}
	return NamePattern{Kind: GlobName, Name: glob}, patternOK
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return err == nil
}

// PatternKind is the form of a name pattern.
type PatternKind uint8

// The forms, from most to least specific.
const (
	Exact     PatternKind = iota // zoom.us
	Suffix                       // .zoom.us: the name and everything under it
	Subdomain                    // *.zoom.us: everything under it, not the name itself
	GlobName                     // zoom-*.us: * stays inside one label unless it is the whole leftmost label
	Keyword                      // any name that contains it; only in sets
	Regex                        // RE2, found anywhere in the name; only in sets
)

// NamePattern matches canonical names. Name is the pattern without its leading
// "." or "*.", canonical; for GlobName it is the whole glob.
// For Keyword it is the text, for Regex the expression.
type NamePattern struct {
	Kind PatternKind
	Name string
	re   *regexp.Regexp // Regex only
}

// Match reports whether the canonical name matches.
func (p NamePattern) Match(name string) bool {
	switch p.Kind {
	case Exact:
		return name == p.Name
	case Suffix:
		return name == p.Name || under(name, p.Name)
	case Subdomain:
		return under(name, p.Name)
	case Keyword:
		return strings.Contains(name, p.Name)
	case Regex:
		return p.re.MatchString(name)
	default:
		return matchNameGlob(p.Name, name)
	}
}

// String returns the pattern as a policy spells it.
func (p NamePattern) String() string {
	switch p.Kind {
	case Suffix:
		return "." + p.Name
	case Subdomain:
		return "*." + p.Name
	case Keyword:
		return `keyword "` + p.Name + `"`
	case Regex:
		return `regex "` + p.Name + `"`
	default:
		return p.Name
	}
}

func under(name, parent string) bool {
	return len(name) > len(parent)+1 && strings.HasSuffix(name, parent) && name[len(name)-len(parent)-1] == '.'
}

func matchNameGlob(pattern, name string) bool {
	if rest, ok := strings.CutPrefix(pattern, "*."); ok {
		// A whole leftmost label spans labels: try every split.
		for i := strings.IndexByte(name, '.'); i >= 0; {
			if i > 0 && Glob(rest).matchSep(name[i+1:], '.') {
				return true
			}
			next := strings.IndexByte(name[i+1:], '.')
			if next < 0 {
				return false
			}
			i += 1 + next
		}
		return false
	}
	return Glob(pattern).matchSep(name, '.')
}

// Glob is a pattern in which * matches any run without the separator.
type Glob string

// Match reports whether s matches, with "/" as the separator.
func (g Glob) Match(s string) bool { return g.matchSep(s, '/') }

// matchSep backtracks to the last star only, which is enough for globs and
// bounds the work by len(g)*len(s).
func (g Glob) matchSep(s string, sep byte) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(g) && g[p] == '*':
			star, mark = p, i
			p++
		case p < len(g) && g[p] == s[i]:
			p++
			i++
		case star >= 0 && s[mark] != sep:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(g) && g[p] == '*' {
		p++
	}
	return p == len(g)
}
