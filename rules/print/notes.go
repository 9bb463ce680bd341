package print

import (
	"cmp"
	"slices"

	"netpolicy.dev/netpolicy/rules"
)

// note is one comment on its way to its place.
type note struct {
	text  string
	blank bool // an empty line stands before it
	key   bool // YAML: it stands before the key of the section
	line  bool // it stood at the end of a line
}

// notes are the comments of one unit. All methods work on nil.
type notes struct {
	lead  []note // on lines of their own before it
	open  []note // at the end of its first line
	tail  []note // at its end, on lines of their own
	trail []note // at the end of its last line
	after []note // YAML: behind it, at the end of its section
	inner bool   // something inside it has comments
}

// unit is a part of the policy that a comment can belong to. Its key is the
// address of the part in the AST.
type unit struct {
	key        any
	start, end int
	parent     *unit
	kids       []unit
	expand     func() []unit // makes kids the first time they are needed
}

func (u *unit) children() []unit {
	if u.expand != nil {
		u.kids = u.expand()
		u.expand = nil
		for i := range u.kids {
			u.kids[i].parent = u
		}
	}
	return u.kids
}

// sortUnits brings units into source order and drops what has no place in the text.
func sortUnits(list []unit) []unit {
	list = slices.DeleteFunc(list, func(u unit) bool { return u.end <= u.start })
	slices.SortStableFunc(list, func(a, b unit) int { return cmp.Compare(a.start, b.start) })
	return list
}

// comments holds the comments of a whole policy by what they belong to.
type comments struct {
	src  source
	of   map[any]*notes
	head []note // of the file
	tail []note
}

func (c *comments) at(key any) *notes {
	if len(c.of) == 0 {
		return nil
	}
	return c.of[key]
}

// make returns the notes of a unit for writing.
func (c *comments) make(u *unit) *notes {
	n := c.of[u.key]
	if n == nil {
		n = &notes{}
		c.of[u.key] = n
	}
	for p := u.parent; p != nil; p = p.parent {
		if p.key == nil {
			continue
		}
		m := c.of[p.key]
		if m == nil {
			m = &notes{}
			c.of[p.key] = m
		}
		m.inner = true
	}
	return n
}

// inside reports whether a comment has to be printed between the first and the
// last byte of the part.
func (c *comments) inside(key any) bool {
	n := c.at(key)
	return n != nil && (n.inner || len(n.open)+len(n.tail) > 0)
}

// attach gives every comment of list, which stands inside u, to u or to a part of it.
func (c *comments) attach(u *unit, list []rules.Comment) {
	kids := u.children()
	next := 0 // the first kid that begins behind the comment
	for len(list) > 0 {
		at := list[0].Span.Start
		for next < len(kids) && kids[next].start <= at {
			next++
		}
		var prev, following *unit
		if next > 0 {
			prev = &kids[next-1]
		}
		if next < len(kids) {
			following = &kids[next]
		}
		if prev != nil && at < prev.end {
			n := 1
			for n < len(list) && list[n].Span.Start < prev.end {
				n++
			}
			c.attach(prev, list[:n])
			list = list[n:]
			continue
		}
		c.place(u, prev, following, list[0])
		list = list[1:]
	}
}

// place gives a comment between two neighbours to one of them or to what is around them.
func (c *comments) place(u, prev, following *unit, com rules.Comment) {
	at := com.Span.Start
	n := note{text: com.Text, blank: com.Own && c.src.blankBefore(at), line: !com.Own}
	top := u.parent == nil && u.key == nil
	switch {
	case !com.Own && prev != nil && !c.src.broken(prev.end, at):
		c.trailing(prev, n)
	case !com.Own && !top && !c.src.broken(u.start, at):
		m := c.make(u)
		m.open = append(m.open, n)
	case com.Own && prev != nil && c.src.yaml && !(top && c.src.keyBetween(prev.end, at)) && c.endOf(prev, n, c.src.column(at)):
	case following != nil:
		if top && c.src.yaml && c.src.keyBetween(at, following.start) {
			if prev != nil && com.Own && c.src.column(at) > 0 && !c.src.keyBetween(prev.end, at) {
				m := c.make(prev)
				m.after = append(m.after, n)
				return
			}
			n.key = true
		}
		m := c.make(following)
		if n.line && !top {
			m.open = append(m.open, n)
		} else {
			m.lead = append(m.lead, n)
		}
	case top:
		if prev != nil && com.Own && c.src.yaml && c.src.column(at) > 0 {
			m := c.make(prev)
			m.after = append(m.after, n)
			return
		}
		c.tail = append(c.tail, n)
	default:
		m := c.make(u)
		m.tail = append(m.tail, n)
	}
}

// trailing gives a comment at the end of a line to the unit that ends there, or
// to its last part if that stands on a line of its own.
func (c *comments) trailing(u *unit, n note) {
	for at := u; ; {
		kids := at.children()
		if len(kids) == 0 {
			break
		}
		last := &kids[len(kids)-1]
		if !c.src.ends(last.end, u.end) {
			break
		}
		switch {
		case c.src.broken(u.start, last.start):
			u = last
		case last.start != u.start:
			kids = nil
		}
		if kids == nil {
			break
		}
		at = last
	}
	m := c.make(u)
	m.trail = append(m.trail, n)
}

// endOf gives an indented comment of YAML to the block before it, if it stands
// in the column of its keys or farther right.
func (c *comments) endOf(u *unit, n note, column int) bool {
	kids := u.children()
	if len(kids) == 0 {
		return false
	}
	last := &kids[len(kids)-1]
	if last.start == u.start { // the only part: it has no line of its own
		return c.endOf(last, n, column)
	}
	if !c.src.leads(last.start) {
		return false
	}
	at := c.src.column(last.start)
	if dash := c.src.indent(last.start); dash > c.src.column(u.start) { // of an element of a list
		at = dash
	}
	if at > column {
		return false
	}
	if !c.endOf(last, n, column) {
		m := c.make(u)
		m.tail = append(m.tail, n)
	}
	return true
}
