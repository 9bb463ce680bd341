package rules

import "strings"

// PatternKind is the form of a name pattern.
type PatternKind uint8

// The forms, from most to least specific.
const (
	Exact     PatternKind = iota // zoom.us
	Suffix                       // .zoom.us: the name and everything under it
	Subdomain                    // *.zoom.us: everything under it, not the name itself
	GlobName                     // zoom-*.us: * stays inside one label unless it is the whole leftmost label
)

// NamePattern matches canonical names. Name is the pattern without its leading
// "." or "*.", canonical; for GlobName it is the whole glob.
type NamePattern struct {
	Kind PatternKind
	Name string
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
