package flow

import (
	"iter"
	"slices"
	"strings"
)

// Names is a small set of canonical names as one comparable value. The zero
// Names is empty.
type Names struct{ joined string }

// NewNames returns the set of the given names; those that are not legal are left out.
func NewNames(names ...string) Names {
	var list []string
	for _, n := range names {
		if c, err := CanonicalName(n); err == nil {
			list = append(list, c)
		}
	}
	slices.Sort(list)
	return Names{strings.Join(slices.Compact(list), " ")}
}

// Empty reports whether the set has no names.
func (n Names) Empty() bool { return n.joined == "" }

// First returns the set of the first so many names in order, at least one.
func (n Names) First(most int) Names {
	end := 0
	for range most {
		i := strings.IndexByte(n.joined[end:], ' ')
		if i < 0 {
			return n
		}
		end += i + 1
	}
	return Names{n.joined[:end-1]}
}

// All yields the names in order.
func (n Names) All() iter.Seq[string] {
	return func(yield func(string) bool) {
		for rest := n.joined; rest != ""; {
			name, tail, _ := strings.Cut(rest, " ")
			if !yield(name) {
				return
			}
			rest = tail
		}
	}
}
