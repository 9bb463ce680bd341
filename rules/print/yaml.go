package print

import (
	"cmp"
	"slices"

	"netpolicy.dev/netpolicy/rules"
)

// YAML prints a policy in YAML. The AST must have been read without errors: of a
// partial one what is there is printed, and the caller has to refuse to use it.
// Sections have the schema's order. Compare with [Canonical] before you keep the
// result.
func YAML(a *rules.AST) []byte {
	list := declarations(a)
	p := &yamlPrinter{comments: file(a, list), ast: a}
	p.b = make([]byte, 0, len(a.Source)+len(a.Source)/2+1024)
	p.own(p.head, 0, true)
	if len(p.head) > 0 {
		p.blank()
	}
	slices.SortStableFunc(list, func(x, y decl) int { return cmp.Compare(x.section, y.section) })
	printed := len(list) > 0
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].section == list[0].section {
			n++
		}
		p.section(list[:n])
		list = list[n:]
	}
	if !printed {
		p.str("rules: []")
		p.newline()
	}
	p.own(p.tail, 0, len(p.b) == 0)
	return p.b
}

// sectionKeys are the keys of the sections, in their order.
var sectionKeys = [...]string{
	"version", "imports", "sets", "uplinks", "routes", "groups", "throttles", "quotas", "schedules", "conditions", "health", "daemon",
	"default", "rules", "assertions", "invariants",
}

// node is a part of the YAML that is printed: a scalar, or with kids a map or a list.
type node struct {
	key   string // in a map
	note  any    // what its comments belong to
	kind  kind
	text  string // of a scalar
	plain bool   // the text is written as it is: true, and whole numbers
	kids  []node
	block bool // never in one line
	// blank says that an empty line stands before it.
	blank bool
}

// isList reports sections that are lists in YAML, and not maps.
func (s section) isList() bool { return s == imports || s >= ruleList }

type kind uint8

const (
	scalar kind = iota
	mapping
	sequence
)

type yamlPrinter struct {
	writer
	*comments
	ast *rules.AST
}

// section prints a section with its declarations.
func (p *yamlPrinter) section(list []decl) {
	top := node{key: sectionKeys[list[0].section], kind: mapping, block: true}
	if list[0].section.isList() {
		top.kind = sequence
	}
	if list[0].section == health { // the block of the defaults is around the others
		slices.SortStableFunc(list, func(x, y decl) int { return compareBool(p.named(x), p.named(y)) })
	}
	single := list[0].section == version || list[0].section == defaults ||
		(list[0].section == health || list[0].section == daemon) && !p.named(list[0])
	if single {
		p.single(list, &top)
		return
	}
	n := p.at(list[0].key)
	var before, inside []note
	var open []note
	if n != nil {
		for _, c := range n.lead {
			switch {
			case c.key:
				before = append(before, c)
			case c.line && p.src.yaml && len(open) == 0 && len(inside) == 0:
				open = append(open, c)
			default:
				inside = append(inside, c)
			}
		}
		n.lead = inside
	}
	p.own(before, 0, len(p.b) == 0)
	if list[0].blank {
		p.blank()
	}
	p.str(top.key)
	p.str(":")
	p.trail(open)
	p.newline()
	for i := range list {
		n := p.node(list[i])
		n.blank = list[i].blank && i > 0
		p.entry(&n, step, top.kind == sequence, i == 0)
		if m := p.at(list[i].key); m != nil {
			p.own(m.after, step, false)
		}
	}
}

func (p *yamlPrinter) named(d decl) bool {
	dec, ok := d.key.(*rules.Decl)
	return ok && dec.Name.Text != ""
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// single prints a section that is one declaration; several of NPL are put together.
func (p *yamlPrinter) single(list []decl, top *node) {
	var after []note
	first := p.node(list[0])
	first.key, first.blank = top.key, list[0].blank
	for i, d := range list {
		if i > 0 {
			n := p.node(d)
			if p.named(d) {
				first.kids = append(first.kids, n)
				continue
			}
			p.join(&first, n, d)
		}
		if m := p.at(d.key); m != nil {
			after = append(after, m.after...)
			m.after = nil
		}
	}
	if m := p.at(first.note); m != nil {
		for _, c := range m.lead {
			if c.line && p.src.yaml {
				m.open = append(m.open, note{text: c.text})
			}
		}
		m.lead = slices.DeleteFunc(m.lead, func(c note) bool { return c.line && p.src.yaml })
	}
	p.entry(&first, 0, false, len(p.b) == 0)
	p.own(after, step, false)
}

// join adds the keys of another declaration of the same kind.
func (p *yamlPrinter) join(to *node, n node, d decl) {
	if m := p.at(d.key); m != nil {
		list := slices.Concat(own(m.lead), own(m.open), own(m.trail))
		at := to.note
		if len(n.kids) > 0 {
			at = n.kids[0].note
		}
		k := p.make(&unit{key: at, parent: &unit{key: to.note}})
		k.lead = append(list, k.lead...)
		if t := p.make(&unit{key: to.note}); len(m.tail) > 0 {
			t.tail = append(t.tail, own(m.tail)...)
		}
		m.lead, m.open, m.trail, m.tail = nil, nil, nil, nil
		if m.inner {
			p.make(&unit{key: to.note}).inner = true
		}
	}
	to.kids = append(to.kids, n.kids...)
}

// entry prints a key with its value, or an element of a list, with its comments.
// The line must be at its start, and is so afterwards.
func (p *yamlPrinter) entry(n *node, indent int, element, first bool) {
	c := p.at(n.note)
	if c != nil {
		p.arrange(n, c, element, indent)
		p.own(c.lead, indent, first)
	}
	if element && n.kind == mapping && len(n.kids) > 0 && !p.fits(n, indent, true) {
		k := &n.kids[0]
		if m := p.at(k.note); m != nil {
			p.arrange(k, m, false, indent+step) // may leave comments to go before it
			p.own(m.lead, indent, first && (c == nil || len(c.lead) == 0))
			m.lead = nil
		}
		if n.blank {
			p.blank()
		}
		p.indent(indent)
		p.str("- ")
		for i := range n.kids {
			if i > 0 {
				p.entry(&n.kids[i], indent+step, false, false)
			} else {
				p.value(k, indent+step)
			}
		}
		if c != nil {
			p.own(c.tail, indent+step, false)
		}
		return
	}
	if n.blank {
		p.blank()
	}
	p.indent(indent)
	if element {
		p.str("- ")
	}
	p.value(n, indent)
}

// arrange settles which comments stand at the end of which line.
func (p *yamlPrinter) arrange(n *node, c *notes, element bool, indent int) {
	switch {
	case n.kind == scalar || len(n.kids) == 0:
		c.flatten()
	case element && n.kind == mapping && !p.fits(n, indent, true):
		// It has no line of its own: its first key's is the first.
		k := &n.kids[0]
		line := slices.Concat(c.open, c.trail)
		c.open, c.trail = nil, nil
		if len(line) == 0 {
			return
		}
		if k.note == nil {
			k.note = k
		}
		m := p.make(&unit{key: k.note, parent: &unit{key: n.note}})
		if len(m.trail)+len(m.open) > 0 {
			c.lead = append(c.lead, own(line)...)
			return
		}
		if k.kind == scalar {
			m.trail = line
		} else {
			m.open = line
		}
	case p.fits(n, indent, element):
		c.flatten()
	default:
		c.open = append(c.open, c.trail...)
		c.trail = nil
		if len(c.open) > 1 {
			c.lead = append(c.lead, own(c.open[1:])...)
			c.open = c.open[:1]
		}
	}
}

// lift moves comments up to where they are found again when the text is read:
// those at the end of a block without parts of its own before it, and those before
// the first key of a list's element before its dash.
func (p *yamlPrinter) lift(n *node, element bool) {
	if len(p.of) == 0 {
		return
	}
	for i := range n.kids {
		p.lift(&n.kids[i], n.kind == sequence)
	}
	if c := p.at(n.note); c != nil && len(c.tail) > 0 && !n.holdsTail() {
		c.lead, c.tail = append(c.lead, own(c.tail)...), nil
	}
	if !element || n.kind != mapping || len(n.kids) == 0 || n.note == n.kids[0].note {
		return
	}
	if m := p.at(n.kids[0].note); m != nil && len(m.lead) > 0 {
		if n.note == nil {
			n.note = n
		}
		to := p.make(&unit{key: n.note})
		to.lead = append(to.lead, m.lead...)
		m.lead = nil
	}
}

// holdsTail reports whether a comment behind the last of its parts is known again as its own.
func (n *node) holdsTail() bool {
	if len(n.kids) == 0 {
		return false
	}
	last := &n.kids[len(n.kids)-1]
	return last.note != nil || last.key == "" && len(last.kids) == 1 && last.kids[0].note != nil
}

// fits reports whether a map or list is printed on one line.
func (p *yamlPrinter) fits(n *node, indent int, element bool) bool {
	if n.kind == scalar || len(n.kids) == 0 {
		return true
	}
	if n.block || p.hasComments(n) {
		return false
	}
	at, line := p.mark()
	p.line = len(p.b)
	p.indent(indent)
	if element {
		p.str("- ")
	}
	if n.key != "" {
		p.str(scalarYAML(n.key, false))
		p.str(": ")
	}
	ok := p.flow(n)
	p.reset(at, line)
	return ok
}

// hasComments reports comments that a line can't hold.
func (p *yamlPrinter) hasComments(n *node) bool {
	if len(p.of) == 0 {
		return false
	}
	if c := p.at(n.note); c != nil && len(c.tail) > 0 {
		return true
	}
	for i := range n.kids {
		k := &n.kids[i]
		if c := p.at(k.note); c != nil && k.note != n.note && len(c.lead)+len(c.open)+len(c.tail)+len(c.trail) > 0 || p.hasComments(k) {
			return true
		}
	}
	return false
}

// value prints a key and its value, or an element's value, from where the line stands.
func (p *yamlPrinter) value(n *node, indent int) {
	c := p.at(n.note)
	if n.key != "" {
		p.str(scalarYAML(n.key, false))
		p.str(":")
	}
	if n.kind == scalar || len(n.kids) == 0 || !n.block && !p.hasComments(n) {
		at, line := p.mark()
		if n.key != "" {
			p.str(" ")
		}
		if p.flow(n) || n.kind == scalar || len(n.kids) == 0 {
			if c != nil {
				p.trail(c.trail)
			}
			p.newline()
			return
		}
		p.reset(at, line)
	}
	if c != nil {
		p.trail(c.open)
	}
	p.newline()
	for i := range n.kids {
		p.entry(&n.kids[i], indent+step, n.kind == sequence, i == 0)
	}
	if c != nil {
		p.own(c.tail, indent+step, false)
	}
}

// flow prints a value in one line; false when the line is too long.
func (p *yamlPrinter) flow(n *node) bool {
	return p.inline(n, false)
}

func (p *yamlPrinter) inline(n *node, within bool) bool {
	switch {
	case n.kind == scalar && n.plain:
		p.str(n.text)
	case n.kind == scalar:
		p.str(scalarYAML(n.text, within))
	case n.kind == mapping:
		p.str("{")
		for i := range n.kids {
			if i > 0 {
				p.str(", ")
			}
			p.str(scalarYAML(n.kids[i].key, true))
			p.str(": ")
			if !p.inline(&n.kids[i], true) {
				return false
			}
		}
		p.str("}")
	default:
		p.str("[")
		for i := range n.kids {
			if i > 0 {
				p.str(", ")
			}
			if !p.inline(&n.kids[i], true) {
				return false
			}
		}
		p.str("]")
	}
	return !p.full()
}
