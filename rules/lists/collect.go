package lists

import (
	"bytes"
	"cmp"
	"errors"
	"net/netip"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// collector gathers what a parser finds.
type collector struct {
	t        rules.SetType
	file     string // the included file that is being read
	e        rules.Elements
	n        int // elements added
	program  int // size of the expressions, see maxProgram
	problems []Problem
	left     map[string]int // index into problems, of what is counted
}

// problem reports one bad line.
func (c *collector) problem(line int, text string) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, Problem{File: c.file, Line: line, Count: 1, Text: text})
		return
	}
	c.leaveOut(line, "and more lines with a problem")
}

// bad reports a line by what is wrong with it and its text.
func (c *collector) bad(line int, what, text string) {
	c.problem(line, what+": "+diag.Quote(text))
}

// leaveOut counts a line that can't be used; all of one kind are one problem.
func (c *collector) leaveOut(line int, kind string) {
	key := c.file + "\x00" + kind
	i, ok := c.left[key]
	if !ok && len(c.left) >= maxProblems {
		key, kind = "", "and more problems, not shown"
		i, ok = c.left[key]
	}
	if ok {
		c.problems[i].Count++
		return
	}
	if c.left == nil {
		c.left = make(map[string]int)
	}
	c.left[key] = len(c.problems)
	c.problems = append(c.problems, Problem{File: c.file, Line: line, Count: 1, Text: kind})
}

// room counts one more element; false if there are too many.
func (c *collector) room() bool {
	c.n++
	return c.n <= MaxElements
}

func (c *collector) add(p rules.NamePattern) {
	if c.room() {
		c.e.Names = append(c.e.Names, p)
	}
}

// name adds an exact name, or one with everything (Suffix) or only what is
// under it (Subdomain).
func (c *collector) name(line int, kind rules.PatternKind, s string) {
	if p, ok := c.canonical(line, kind, s); ok {
		c.add(p)
	}
}

func (c *collector) canonical(line int, kind rules.PatternKind, s string) (rules.NamePattern, bool) {
	name, err := flow.CanonicalName(s)
	if err != nil {
		c.bad(line, "not a name", s)
		return rules.NamePattern{}, false
	}
	return rules.NamePattern{Kind: kind, Name: name}, true
}

func (c *collector) keyword(line int, s string) (rules.NamePattern, bool) {
	p, ok := rules.NewKeyword(s)
	if !ok {
		c.bad(line, "no name can contain this keyword", s)
	}
	return p, ok
}

func (c *collector) regex(line int, s string) (rules.NamePattern, bool) {
	if s == "" {
		c.problem(line, "an empty expression")
		return rules.NamePattern{}, false
	}
	if c.program > maxProgram {
		return rules.NamePattern{}, false // elements reports it
	}
	p, err := rules.NewRegex(strings.Clone(s))
	if err != nil {
		why := err.Error()
		if bad, ok := errors.AsType[*syntax.Error](err); ok {
			why = string(bad.Code) // its text repeats the expression as it is
		}
		c.problem(line, "not an RE2 expression: "+diag.Quote(s)+": "+why)
		return rules.NamePattern{}, false
	}
	if tree, err := syntax.Parse(s, syntax.Perl); err == nil {
		c.program += programSize(tree)
	}
	return p, true
}

// maxProgram bounds the expressions of one list, in instructions of their
// programs (some 40 bytes each): a repetition such as x{1000} makes a short text
// a large program. The largest lists in use have some 20,000.
const maxProgram = 1 << 19

// programSize estimates how many instructions an expression compiles to.
func programSize(re *syntax.Regexp) int {
	size := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		size += programSize(sub)
	}
	if re.Op == syntax.OpRepeat {
		size *= max(re.Min+1, re.Max)
	}
	return size
}

// prefix adds a prefix or a bare address. Host bits are cleared, as every tool
// of the field does, and reported.
func (c *collector) prefix(line int, s string) {
	if c.t != rules.CIDRSet {
		c.leaveOut(line, "an address is not for a "+typeName(c.t)+" set")
		return
	}
	var p netip.Prefix
	if strings.Contains(s, "/") {
		var err error
		if p, err = netip.ParsePrefix(s); err != nil {
			c.bad(line, "not a prefix", s)
			return
		}
	} else {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			c.bad(line, "not an address or prefix", s)
			return
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p != p.Masked() {
		c.bad(line, "host bits are set, read as "+p.Masked().String(), s)
	}
	c.addPrefix(p)
}

// addPrefix adds a valid prefix, unmapped and masked.
func (c *collector) addPrefix(p netip.Prefix) {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if c.room() {
		c.e.Prefixes = append(c.e.Prefixes, p.Masked())
	}
}

// ports adds a port or a range "lo-hi".
func (c *collector) ports(line int, s, sep string) {
	lo, hi, isRange := strings.Cut(s, sep)
	if !isRange {
		hi = lo
	}
	a, ok := port(strings.Trim(lo, blanks))
	b, ok2 := port(strings.Trim(hi, blanks))
	if !ok || !ok2 || a > b {
		c.bad(line, "not a port or range of ports", s)
		return
	}
	c.portRange(a, b)
}

func (c *collector) portRange(lo, hi uint16) {
	if c.room() {
		c.e.Ports = append(c.e.Ports, rules.PortRange{Lo: lo, Hi: hi})
	}
}

func port(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && len(s) <= 5
}

// mac adds a hardware address: six bytes with ":" or "-" between them.
func (c *collector) mac(line int, s string) {
	m, ok := parseMAC(s)
	if !ok {
		c.bad(line, "not a MAC address", s)
		return
	}
	if c.room() {
		c.e.MACs = append(c.e.MACs, m)
	}
}

func parseMAC(s string) (m flow.MAC, ok bool) {
	if len(s) != 3*len(m)-1 || s[2] != ':' && s[2] != '-' {
		return m, false
	}
	for i := range m {
		if i > 0 && s[3*i-1] != s[2] {
			return m, false
		}
		n, err := strconv.ParseUint(s[3*i:3*i+2], 16, 8)
		if err != nil {
			return m, false
		}
		m[i] = byte(n)
	}
	return m, true
}

// The same bounds as for patterns that a policy writes: a path of Linux
// (PATH_MAX), and the wildcards of one pattern.
const (
	maxGlob  = 4096
	maxStars = 3
)

// glob adds a pattern over processes or users.
func (c *collector) glob(line int, s string) {
	if s == "" || len(s) > maxGlob || strings.Contains(s, "**") || strings.Count(s, "*") > maxStars {
		c.bad(line, "not a name or pattern with up to 3 `*`", s)
		return
	}
	if c.room() {
		c.e.Globs = append(c.e.Globs, rules.Glob(strings.Clone(s)))
	}
}

// literal adds a process of a format in which * is a character like any other.
func (c *collector) literal(line int, s string) {
	if strings.Contains(s, "*") {
		c.bad(line, "a `*` that stands for itself, which no set can hold", s)
		return
	}
	c.glob(line, s)
}

// elements returns what was gathered in its one form.
func (c *collector) elements() (rules.Elements, error) {
	switch {
	case c.n > MaxElements:
		return rules.Elements{}, errElements
	case c.program > maxProgram:
		return rules.Elements{}, errProgram
	case c.n == 0 && len(c.problems) > 0:
		return rules.Elements{}, errNothing
	}
	c.e.Names = minimalNames(c.e.Names)
	c.e.Prefixes = minimalPrefixes(c.e.Prefixes)
	c.e.Ports = rules.MergePorts(c.e.Ports)
	slices.SortFunc(c.e.MACs, func(a, b flow.MAC) int { return bytes.Compare(a[:], b[:]) })
	c.e.MACs = slices.Clip(slices.Compact(c.e.MACs))
	slices.Sort(c.e.Globs)
	c.e.Globs = slices.Clip(slices.Compact(c.e.Globs))
	return c.e, nil
}

// coverage says what a set has of one name.
type coverage uint8

const (
	itself coverage = 1 << iota
	below
)

// minimalNames sorts by kind and name, drops duplicates and what a suffix or
// sub-domain pattern covers, and joins a name with all that is under it. The
// texts are copied, so that the file they come from can be freed.
func minimalNames(list []rules.NamePattern) []rules.NamePattern {
	tree := make(map[string]coverage)
	rest := list[:0:0]
	for _, p := range list {
		switch p.Kind {
		case rules.Exact:
			tree[p.Name] |= itself
		case rules.Suffix:
			tree[p.Name] |= itself | below
		case rules.Subdomain:
			tree[p.Name] |= below
		default:
			rest = append(rest, p)
		}
	}
	kinds := [...]rules.PatternKind{itself: rules.Exact, below: rules.Subdomain, itself | below: rules.Suffix}
	kept := list[:0]
	for name, has := range tree {
		if !covered(tree, name) {
			kept = append(kept, rules.NamePattern{Kind: kinds[has], Name: name})
		}
	}
	kept = append(kept, rest...)
	slices.SortFunc(kept, comparePatterns)
	kept = slices.CompactFunc(kept, func(a, b rules.NamePattern) bool { return comparePatterns(a, b) == 0 })
	pack(kept)
	return slices.Clip(kept)
}

func comparePatterns(a, b rules.NamePattern) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// covered reports whether a name above has everything below it.
func covered(tree map[string]coverage, name string) bool {
	for {
		i := strings.IndexByte(name, '.')
		if i < 0 {
			return false
		}
		name = name[i+1:]
		if tree[name]&below != 0 {
			return true
		}
	}
}

// pack copies the names into one string.
func pack(list []rules.NamePattern) {
	size := 0
	for _, p := range list {
		size += len(p.Name)
	}
	var b strings.Builder
	b.Grow(size)
	for _, p := range list {
		b.WriteString(p.Name)
	}
	all := b.String()
	for i := range list {
		n := len(list[i].Name)
		list[i].Name, all = all[:n], all[n:]
	}
}
