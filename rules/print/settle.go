package print

// settle moves the comments of parts that have no line of their own in the
// output to what they are a part of: known says which parts have one.
func (c *comments) settle(u *unit, known func(key any) bool) {
	n := c.at(u.key)
	if n == nil || !n.inner {
		return
	}
	n.inner = false
	kids := u.children()
	for i := range kids {
		k := &kids[i]
		c.settle(k, known)
		m := c.at(k.key)
		if m == nil {
			continue
		}
		if known(k.key) {
			n.inner = n.inner || m.any()
			continue
		}
		delete(c.of, k.key)
		n.inner = n.inner || m.inner
		n.lead = append(n.lead, own(m.lead)...)
		n.lead = append(n.lead, own(m.tail)...)
		n.lead = append(n.lead, own(m.after)...)
		for _, t := range append(m.open, m.trail...) {
			if len(n.trail) == 0 {
				n.trail = append(n.trail, t)
			} else {
				n.lead = append(n.lead, note{text: t.text})
			}
		}
	}
}

// any reports whether there is a comment.
func (n *notes) any() bool {
	return n != nil && (n.inner || len(n.lead)+len(n.open)+len(n.tail)+len(n.trail)+len(n.after) > 0)
}

// own makes comments such that stand on lines of their own, without empty lines between.
func own(list []note) []note {
	for i := range list {
		list[i] = note{text: list[i].text}
	}
	return list
}

// flatten makes a part that is one line in the output ready for it: comments
// at its top or end stand before it, and one behind it.
func (n *notes) flatten() {
	if n == nil {
		return
	}
	n.lead = append(n.lead, own(n.tail)...)
	n.tail = nil
	n.trail = append(n.trail, n.open...)
	n.open = nil
	n.single()
}

// single leaves one comment at the end of the line.
func (n *notes) single() {
	if n != nil && len(n.trail) > 1 {
		n.lead = append(n.lead, own(n.trail[1:])...)
		n.trail = n.trail[:1]
	}
}
