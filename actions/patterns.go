package actions

import (
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// patternIndex finds numbers by the patterns that they were added with.
type patternIndex struct {
	exact  map[string][]int
	suffix map[string][]int // the name and what is under it
	under  map[string][]int // only what is under it
	globs  []globPattern    // keywords and the like: each is looked at
}

type globPattern struct {
	pattern rules.NamePattern
	n       int
}

func newPatternIndex() patternIndex {
	return patternIndex{exact: map[string][]int{}, suffix: map[string][]int{}, under: map[string][]int{}}
}

func (x *patternIndex) add(p rules.NamePattern, n int) {
	switch p.Kind {
	case rules.Exact:
		x.exact[p.Name] = append(x.exact[p.Name], n)
	case rules.Suffix:
		x.suffix[p.Name] = append(x.suffix[p.Name], n)
	case rules.Subdomain:
		x.under[p.Name] = append(x.under[p.Name], n)
	default:
		x.globs = append(x.globs, globPattern{p, n})
	}
}

// all returns the numbers of which a pattern matches one of names, in no order and
// maybe more than once.
func (x *patternIndex) all(names flow.Names) []int {
	hits := x.indexed(names)
	for name := range names.All() {
		for _, g := range x.globs {
			if g.pattern.Match(name) {
				hits = append(hits, g.n)
			}
		}
	}
	return hits
}

// indexed returns what is found without looking at each pattern.
func (x *patternIndex) indexed(names flow.Names) []int {
	var hits []int
	for name := range names.All() {
		hits = append(hits, x.exact[name]...)
		hits = append(hits, x.suffix[name]...)
		for rest := name; ; {
			_, parent, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			hits = append(hits, x.suffix[parent]...)
			hits = append(hits, x.under[parent]...)
			rest = parent
		}
	}
	return hits
}
