package print

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// Canonical spells what a policy says, independent of its syntax, its layout and
// its comments, of how its lists are written (the word `22,80` and two words) and of
// the spelling of its keys. Two texts with the same Canonical are the same
// policy. Values and names are not looked into: `443` and `0x1bb` are not the same here.
//
// Tools that write policies compare the Canonical of what they have read with
// that of what they are about to write.
func Canonical(a *rules.AST) string {
	c := canonical{b: make([]byte, 0, len(a.Source)+1024)}
	version := "1"
	if a.Version.Given() {
		version = a.Version.Text
	}
	c.line("version", version)
	for i := range a.Imports {
		n := &a.Imports[i]
		// The rules of an import stand where it does.
		before, _ := slices.BinarySearchFunc(a.Rules, n.Span.Start, func(r rules.RuleNode, at int) int { return cmp.Compare(r.Span.Start, at) })
		c.line("import", strconv.Itoa(before), n.Path.Text, n.SHA256.Text)
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
	} {
		for i := range s.decls {
			c.decl(s.section, &s.decls[i])
		}
	}
	c.health(a.Health)
	c.daemon(a.Daemon)
	if a.Default != nil {
		c.word("default")
		c.action(a.Default)
		c.end()
	}
	for i := range a.Rules {
		c.rule(&a.Rules[i])
	}
	for i := range a.Asserts {
		n := &a.Asserts[i]
		c.word("assert")
		if n.Expr != nil {
			c.expr(n.Expr)
		} else {
			c.text(n.Target.Text)
			c.text(n.Proto.Text)
			c.text(n.Port.Text)
		}
		c.expect(n.When, &n.Expect)
	}
	for i := range a.Invariants {
		n := &a.Invariants[i]
		c.word(n.Kind.Text)
		if n.Expr == nil {
			c.text(n.Level.Text)
			c.end()
			continue
		}
		c.expr(n.Expr)
		c.expect(n.When, &n.Expect)
	}
	return string(c.b)
}

// canonical writes words; texts are in quotes, so that no two policies share a spelling.
type canonical struct{ b []byte }

func (c *canonical) word(s string) {
	if len(c.b) > 0 && c.b[len(c.b)-1] != '\n' && c.b[len(c.b)-1] != '(' {
		c.b = append(c.b, ' ')
	}
	c.b = append(c.b, s...)
}

func (c *canonical) text(s string) {
	c.word("")
	c.b = strconv.AppendQuote(c.b, s)
}

func (c *canonical) open(s string) {
	c.word(s)
	c.b = append(c.b, '(')
}

func (c *canonical) shut() { c.b = append(c.b, ')') }

func (c *canonical) end() { c.b = append(c.b, '\n') }

func (c *canonical) line(keyword string, texts ...string) {
	c.word(keyword)
	for _, s := range texts {
		c.text(s)
	}
	c.end()
}

// field is one key of a declaration with its values.
type field struct {
	key    string
	values []string
}

func (c *canonical) fields(list []field) {
	slices.SortStableFunc(list, func(a, b field) int { return cmp.Compare(a.key, b.key) })
	for _, f := range list {
		c.open(f.key)
		for _, v := range f.values {
			c.text(v)
		}
		c.shut()
	}
}

func (c *canonical) decl(s section, d *rules.Decl) {
	c.word(sectionKeys[s])
	c.text(d.Name.Text)
	if d.Expr != nil {
		c.expr(d.Expr)
	}
	if s == routes { // YAML may say parts of it under keys of their own
		c.text(via(d))
	} else {
		c.fields(fieldsOf(s, d.Items))
	}
	c.end()
}

// fieldsOf are the keys of a declaration, in one spelling.
func fieldsOf(s section, items []rules.Item) []field {
	list := make([]field, 0, len(items))
	strategy := (*rules.Item)(nil)
	process := false
	switch s {
	case groups:
		strategy = strategyOf(items)
	case sets:
		if t := find(items, "type"); t != nil && len(t.Args) == 1 {
			process = t.Args[0].Text == "process" || t.Args[0].Text == "user"
		}
	}
	for i := range items {
		it := &items[i]
		f := field{key: plain(it.Key.Text)}
		switch {
		case it == strategy:
			f.key, f.values = "choose "+f.key, texts(split(it.Args))
		case f.key == "sla" && s == groups:
			f.key, f.values = "meets", texts(it.Args)
		case f.key == "probe":
			kind, targets, every := probe(it)
			f.values = append([]string{kind, strings.Join(texts(every), " ")}, texts(targets)...)
		case f.key == "threshold":
			for _, sub := range appendItem(nil, s, it) {
				list = append(list, field{key: "threshold " + sub.words})
			}
			continue
		case f.key == "values" && s == sets:
			f.values = elements(it.Args, !process)
		case f.key == "gateway", isList(f.key), f.key == "weekday":
			f.values = texts(split(it.Args))
		case s == schedules && (f.key == "time" || f.key == "date"):
			f.values = []string{strings.ReplaceAll(strings.Join(texts(it.Args), "-"), " ", "")}
		default:
			f.values = texts(it.Args)
		}
		list = append(list, f)
	}
	return list
}

func texts(list []rules.Word) []string {
	out := make([]string, len(list))
	for i, w := range list {
		out[i] = w.Text
	}
	return out
}

// elements are values, the parts of comma lists apart.
func elements(list []rules.Word, commas bool) []string {
	out := make([]string, 0, len(list))
	for _, w := range list {
		switch {
		case !commas:
			out = append(out, w.Text)
		case isElement(w):
			out = append(out, "element "+element(w))
		default:
			out = append(out, commaParts(w)...)
		}
	}
	return out
}

// health puts the blocks without a name together, as YAML does.
func (c *canonical) health(list []rules.Decl) {
	var all []field
	for i := range list {
		if list[i].Name.Text == "" {
			all = append(all, fieldsOf(health, list[i].Items)...)
		}
	}
	if len(all) > 0 {
		c.word("health")
		c.fields(all)
		c.end()
	}
	for i := range list {
		if list[i].Name.Text != "" {
			c.decl(health, &list[i])
		}
	}
}

func (c *canonical) daemon(list []rules.Decl) {
	var all []field
	for i := range list {
		all = append(all, fieldsOf(daemon, list[i].Items)...)
	}
	if len(all) > 0 {
		c.word("daemon")
		c.fields(all)
		c.end()
	}
}

func (c *canonical) rule(r *rules.RuleNode) {
	c.word("rule")
	c.text(r.Name.Text)
	if r.Priority.Given() {
		c.text(r.Priority.Text)
	} else {
		c.text("0")
	}
	if isDisabled(r) {
		c.word("disabled")
	}
	if r.Match != nil {
		c.open("match")
		c.expr(r.Match)
		c.shut()
	}
	if r.When != nil {
		c.open("when")
		c.expr(r.When)
		c.shut()
	}
	for _, list := range []struct {
		key   string
		texts []string
	}{
		{"disable", elements(r.Disable, true)},
		{"on_unknown", texts(split([]rules.Word{r.OnUnknown}))},
		{"description", []string{r.Description.Text}},
		{"allow", texts(r.Allow)},
	} {
		if len(list.texts) == 0 || list.key == "on_unknown" && !r.OnUnknown.Given() || list.key == "description" && !r.Description.Given() {
			continue
		}
		c.open(list.key)
		for _, s := range list.texts {
			c.text(s)
		}
		c.shut()
	}
	if r.Do != nil {
		c.open("do")
		c.action(r.Do)
		c.shut()
	}
	c.end()
}

// action writes actions as NPL spells them, where that is one for all ways to write them.
func (c *canonical) action(a *rules.Action) {
	said := false
	for i := range a.Items {
		it := &a.Items[i]
		if it.Key.Text == "log" && len(it.Args) == 1 && it.Args[0].Text == "" {
			c.text("log") // without a text
			said = true
			continue
		}
		if s := action(it); s != "" {
			c.text(s)
			said = true
		}
	}
	if !said {
		c.text("continue")
	}
}

func (c *canonical) expect(when []rules.Word, o *rules.OutcomeNode) {
	if len(when) > 0 {
		c.open("when")
		for _, s := range elements(when, true) {
			c.text(s)
		}
		c.shut()
	}
	c.word("->")
	switch {
	case o.Action != nil:
		c.action(o.Action)
	default:
		c.word(outcome(o))
	}
	c.end()
}

func (c *canonical) expr(n *rules.ExprNode) {
	switch n.Op {
	case rules.OpAny:
		c.word("any")
	case rules.OpPred:
		c.pred(&n.Pred)
	default:
		switch {
		case n.Op == rules.OpAnd && len(n.Kids) == 1:
			c.expr(&n.Kids[0])
			return
		case n.Op == rules.OpAnd:
			c.open("and")
		case n.Op == rules.OpOr:
			c.open("or")
		default:
			c.open("not")
		}
		for i := range n.Kids {
			c.expr(&n.Kids[i])
		}
		c.shut()
	}
}

func (c *canonical) pred(p *rules.PredNode) {
	key := p.Field.String()
	switch {
	case p.Field == rules.FieldUplink || p.Field == rules.FieldRoute:
		key = fieldNPL(p)
	case p.Field >= rules.FieldSchedule:
		c.open(key)
		c.text(p.Subject.Text)
		c.shut()
		return
	}
	c.open(key)
	switch {
	case p.Negated:
		c.word("not in")
	case p.Cmp.Text != "":
		c.word(p.Cmp.Text)
	}
	if p.Set.Text != "" {
		c.word("set")
		c.text(p.Set.Text)
	} else {
		for _, s := range elements(p.Values, splits(p.Field)) {
			c.text(s)
		}
	}
	if p.For.Text != "" {
		c.word("for")
		c.text(p.For.Text)
	}
	c.shut()
}
