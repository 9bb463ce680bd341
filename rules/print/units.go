package print

import (
	"cmp"
	"slices"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// section is the kind of a declaration, in the order of YAML's sections.
type section uint8

const (
	version section = iota
	imports
	sets
	uplinks
	routes
	groups
	throttles
	quotas
	schedules
	conditions
	health
	daemon
	defaults
	ruleList
	assertions
	invariants
)

// decl is one declaration of the file.
type decl struct {
	section section
	index   int // into the AST's list
	key     any // its address
	span    diag.Span
	blank   bool // an empty line stands before it
	nested  bool // part of the declaration before it: YAML's health of an uplink
}

// declarations returns all of them in source order; those without a place keep
// the order of the sections.
func declarations(a *rules.AST) []decl {
	list := make([]decl, 0, len(a.Rules)+len(a.Asserts)+64)
	if a.Version.Given() {
		list = append(list, decl{section: version, key: &a.Version, span: a.Version.Span})
	}
	for i := range a.Imports {
		list = append(list, decl{section: imports, index: i, key: &a.Imports[i], span: a.Imports[i].Span})
	}
	for _, s := range []struct {
		section section
		decls   []rules.Decl
	}{
		{sets, a.Sets},
		{uplinks, a.Uplinks},
		{routes, a.Routes},
		{groups, a.Groups},
		{throttles, a.Throttles},
		{quotas, a.Quotas},
		{schedules, a.Schedules},
		{conditions, a.Conditions},
		{health, a.Health},
		{daemon, a.Daemon},
	} {
		for i := range s.decls {
			list = append(list, decl{section: s.section, index: i, key: &s.decls[i], span: s.decls[i].Span})
		}
	}
	if a.Default != nil {
		list = append(list, decl{section: defaults, key: a.Default, span: a.Default.Span})
	}
	for i := range a.Rules {
		list = append(list, decl{section: ruleList, index: i, key: &a.Rules[i], span: a.Rules[i].Span})
	}
	for i := range a.Asserts {
		list = append(list, decl{section: assertions, index: i, key: &a.Asserts[i], span: a.Asserts[i].Span})
	}
	for i := range a.Invariants {
		list = append(list, decl{section: invariants, index: i, key: &a.Invariants[i], span: a.Invariants[i].Span})
	}
	slices.SortStableFunc(list, func(x, y decl) int { return cmp.Compare(x.span.Start, y.span.Start) })
	importsAmongRules(list)
	for i := range list {
		if i > 0 && list[i].section == health && list[i-1].section == health {
			first := i - 1
			for list[first].nested {
				first--
			}
			list[i].nested = list[i].span.End > 0 && list[i].span.End <= list[first].span.End
		}
	}
	return list
}

// importsAmongRules moves the imports that stand behind a rule into the list of rules:
// the rules that they bring stand where they do.
func importsAmongRules(list []decl) {
	seen := false
	for i := range list {
		switch {
		case list[i].section == ruleList:
			seen = true
		case list[i].section == imports && seen:
			list[i].section = ruleList
		}
	}
}

// file gives all comments of the policy to its parts.
func file(a *rules.AST, list []decl) *comments {
	c := &comments{src: newSource(a), of: map[any]*notes{}}
	keys := map[section]bool{}
	for i := range list {
		d := &list[i]
		at := d.span.Start
		if c.src.yaml && !keys[d.section] {
			at = c.src.sectionKey(at)
			keys[d.section] = true
			if d.section == defaults { // whose span is that of the value
				d.span.Start = at
			}
		}
		d.blank = c.src.blankBefore(at)
	}
	if len(a.Comments) == 0 {
		return c
	}
	root := unit{kids: make([]unit, 0, len(list))}
	for i := 0; i < len(list); {
		d := &list[i]
		u := unit{key: d.key, start: d.span.Start, end: d.span.End}
		n := 1
		for i+n < len(list) && list[i+n].nested {
			n++
		}
		parts := list[i : i+n]
		u.expand = func() []unit {
			kids := c.parts(a, parts[0])
			for _, p := range parts[1:] {
				kids = append(kids, unit{
					key: p.key, start: p.span.Start, end: p.span.End,
					expand: func() []unit { return c.parts(a, p) },
				})
			}
			return sortUnits(kids)
		}
		root.kids = append(root.kids, u)
		i += n
	}
	root.kids = slices.DeleteFunc(root.kids, func(u unit) bool { return u.end <= u.start })
	for i := range root.kids {
		root.kids[i].parent = &root
	}
	c.attach(&root, a.Comments)
	c.takeHead(list)
	return c
}

// takeHead makes the comments before the first empty line those of the file.
func (c *comments) takeHead(list []decl) {
	if len(list) == 0 {
		return
	}
	n := c.at(list[0].key)
	if n == nil {
		return
	}
	lead := n.lead
	cut := 0
	if list[0].blank && (!c.src.yaml || len(lead) > 0 && lead[len(lead)-1].key) {
		cut = len(lead)
	}
	for i := 1; i < len(lead) && cut == 0; i++ {
		if lead[len(lead)-i].blank {
			cut = len(lead) - i
		}
	}
	for i := range cut {
		if c.src.yaml && !lead[i].key {
			cut = i
			break
		}
	}
	c.head = slices.Clone(lead[:cut])
	n.lead = lead[cut:]
}

// parts returns the parts of a declaration, in source order.
func (c *comments) parts(a *rules.AST, d decl) []unit {
	var list []unit
	switch key := d.key.(type) {
	case *rules.RuleNode:
		list = c.ruleUnits(key)
	case *rules.Decl:
		list = c.itemUnits(key.Items)
		if key.Expr != nil {
			name := "match"
			if d.section == conditions {
				name = ""
			}
			u := c.exprUnit(&key.Expr, name)
			if c.src.yaml && d.section == conditions {
				u.start = d.span.Start
			}
			list = append(list, u)
		}
	case *rules.Action:
		list = c.itemUnits(key.Items)
	case *rules.AssertNode:
		list = append(list, c.keyed(wordUnit(&key.Target), "flow"), c.wordsUnit(&key.When, "when"), c.keyed(outcomeUnit(&key.Expect), "expect"))
		if key.Expr != nil {
			list = append(list, c.exprUnit(&key.Expr, "match"))
		}
	case *rules.InvariantNode:
		list = append(list, c.wordsUnit(&key.When, "when"), c.keyed(outcomeUnit(&key.Expect), "expect"))
		if key.Expr != nil {
			list = append(list, c.exprUnit(&key.Expr, key.Kind.Text))
		}
	case *rules.ImportNode:
		list = append(list, c.keyed(wordUnit(&key.Path), "path"), c.keyed(wordUnit(&key.SHA256), "sha256"))
	}
	return sortUnits(list)
}

func (c *comments) ruleUnits(r *rules.RuleNode) []unit {
	list := []unit{
		c.keyed(wordUnit(&r.Name), "name"), c.keyed(wordUnit(&r.Priority), "priority"), c.keyed(wordUnit(&r.Disabled), "disabled"),
		c.wordsUnit(&r.Disable, "disable"), c.keyed(wordUnit(&r.OnUnknown), "on_unknown"),
		c.keyed(wordUnit(&r.Description), "description"), c.wordsUnit(&r.Allow, "allow"),
	}
	if r.Match != nil {
		list = append(list, c.exprUnit(&r.Match, "match"))
	}
	if r.When != nil {
		list = append(list, c.exprUnit(&r.When, "when"))
	}
	if r.Do != nil {
		u := unit{key: r.Do, start: r.Do.Span.Start, end: r.Do.Span.End, kids: sortUnits(c.itemUnits(r.Do.Items))}
		list = append(list, c.keyed(adopt(u), "action"))
	}
	return list
}

// adopt widens a unit to hold its kids, and makes it their parent when it is
// asked for them.
func adopt(u unit) unit {
	for _, k := range u.kids {
		if u.end <= u.start {
			u.start, u.end = k.start, k.end
		}
		u.start, u.end = min(u.start, k.start), max(u.end, k.end)
	}
	kids := u.kids
	u.kids = nil
	if len(kids) > 0 {
		u.expand = func() []unit { return kids }
	}
	return u
}

// keyed widens a unit whose span is that of a value to YAML's key before it.
func (c *comments) keyed(u unit, name string) unit {
	if c.src.yaml && name != "" && u.end > u.start {
		u.start = c.src.keyOf(u.start, name)
	}
	return u
}

func wordUnit(w *rules.Word) unit { return unit{key: w, start: w.Span.Start, end: w.Span.End} }

// wordsUnit is a list of words; its key is the address of the list.
func (c *comments) wordsUnit(list *[]rules.Word, name string) unit {
	u := unit{key: list}
	if len(*list) > 0 {
		u.kids = wordUnits(*list)
	}
	return c.keyed(adopt(u), name)
}

func wordUnits(list []rules.Word) []unit {
	kids := make([]unit, 0, len(list))
	for i := range list {
		// The parts of one token share its span: only the first of them has a place.
		if i == 0 || list[i].Span != list[i-1].Span {
			kids = append(kids, wordUnit(&list[i]))
		}
	}
	return sortUnits(kids)
}

func (c *comments) itemUnits(items []rules.Item) []unit {
	list := make([]unit, 0, len(items))
	for i := range items {
		it := &items[i]
		if it.Block && !c.src.yaml {
			// Statements of one key that the reader put together: each has its own place.
			list = append(list, c.itemUnits(it.Items)...)
			continue
		}
		u := unit{key: it, start: it.Span.Start, end: it.Span.End}
		switch {
		case it.Block:
			u.kids = sortUnits(c.itemUnits(it.Items))
		case it.List:
			u.kids = wordUnits(it.Args)
		}
		list = append(list, adopt(u))
	}
	return list
}

// outcomeUnit is what is expected.
func outcomeUnit(o *rules.OutcomeNode) unit {
	return unit{key: o, start: o.Span.Start, end: o.Span.End}
}

// exprUnit is a condition; its key is the address of its pointer. In YAML a
// condition that is one key has a place of its own below that.
func (c *comments) exprUnit(n **rules.ExprNode, name string) unit {
	root := *n
	u := unit{key: n, start: root.Span.Start, end: root.Span.End, kids: c.exprKids(root)}
	if c.src.yaml && root.Op != rules.OpAnd && root.Op != rules.OpAny {
		inner := adopt(u)
		inner.key = root
		u.kids = []unit{c.keyed(inner, keyword(root))}
	}
	return c.keyed(adopt(u), name)
}

// keyword is YAML's key of what combines conditions; "" for a predicate.
func keyword(n *rules.ExprNode) string {
	switch n.Op {
	case rules.OpAnd:
		return "all"
	case rules.OpOr:
		return "any_of"
	case rules.OpNot:
		return "not"
	default:
		return ""
	}
}

// exprKids returns the parts of a condition: what `and` and `or` combine, or the
// values of a predicate. What stands under `not` belongs to the negation.
func (c *comments) exprKids(n *rules.ExprNode) []unit {
	switch n.Op {
	case rules.OpNot:
		if len(n.Kids) == 1 {
			return c.exprKids(&n.Kids[0])
		}
	case rules.OpPred:
		if len(n.Pred.Values) > 1 {
			return wordUnits(n.Pred.Values)
		}
	}
	var list []unit
	from := n.Span.Start
	for i := range n.Kids {
		k := &n.Kids[i]
		u := adopt(unit{key: k, start: k.Span.Start, end: k.Span.End, kids: c.exprKids(k)})
		if !c.src.yaml && (k.Op == rules.OpAnd || k.Op == rules.OpOr) {
			u.start, u.end = c.src.brackets(from, u.start, u.end)
		}
		from = u.end
		list = append(list, c.keyed(u, keyword(k)))
	}
	return sortUnits(list)
}

// isList reports whether a key of daemon takes a list.
func isList(key string) bool {
	switch key {
	case "masquerade", "relay", "tproxy", "dns_listen", "api_tls", "api_hosts", "decision_mask", "alerts":
		return true
	}
	return false
}
