package rulesets

import (
	"fmt"
	"iter"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// Lines yields elements as lines of a plain list, in their order, without
// newlines. Reading them again gives elements of the same meaning; only a glob
// with " #" or control characters has no spelling in such a list.
func Lines(e rules.Elements) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, p := range e.Names {
			if !yield(nameLine(p)) {
				return
			}
		}
		for _, p := range e.Prefixes {
			if !yield(p.String()) {
				return
			}
		}
		for _, p := range e.Ports {
			if !yield(portLine(p)) {
				return
			}
		}
		for _, m := range e.MACs {
			if !yield(fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])) {
				return
			}
		}
		for _, g := range e.Globs {
			if !yield(string(g)) {
				return
			}
		}
	}
}

func nameLine(p rules.NamePattern) string {
	switch p.Kind {
	case rules.Keyword:
		return "keyword:" + p.Name
	case rules.Regex:
		return "regexp:" + plainExpression(p.Name)
	default:
		return p.String()
	}
}

func portLine(p rules.PortRange) string {
	lo := strconv.Itoa(int(p.Lo))
	if p.Lo == p.Hi {
		return lo
	}
	return lo + "-" + strconv.Itoa(int(p.Hi))
}

// plainExpression spells an expression without blanks that a list would trim or
// take for the beginning of a comment, and without control characters.
func plainExpression(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }) {
		return s
	}
	tree, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return s // can't be: it was compiled
	}
	return strings.ReplaceAll(tree.String(), " ", `\x20`)
}

// printList prints elements as a plain list; an error if it would be too large
// to be read again.
func printList(e rules.Elements) ([]byte, error) {
	size := 0
	for line := range Lines(e) {
		if size += len(line) + 1; size > lists.MaxSize {
			return nil, errSize
		}
	}
	b := make([]byte, 0, size)
	for line := range Lines(e) {
		b = append(append(b, line...), '\n')
	}
	return b, nil
}
