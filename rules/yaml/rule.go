package yaml

import (
	"cmp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// The keys of a rule.
var ruleKeys = []string{"name", "priority", "when", "disable", "disabled", "match", "action", "on_unknown", "description", "allow"}

// rules reads the list of rules.
func (l *loader) rules(ast *rules.AST, n *yaml.Node) {
	blocks := l.blocks(n, "rules", "a rule", "name: ...")
	ast.Rules = make([]rules.RuleNode, 0, len(blocks))
	for _, k := range blocks {
		if len(k.Content) > 0 && k.Content[0].Value == "import" {
			ast.Imports = append(ast.Imports, l.importAmong(k)...)
			continue
		}
		ast.Rules = append(ast.Rules, l.rule(k))
	}
	slices.SortStableFunc(ast.Imports, func(a, b rules.ImportNode) int { return cmp.Compare(a.Span.Start, b.Span.Start) })
}

// importAmong reads `import: FILE` in the place of a rule: the rules of the file
// stand there.
func (l *loader) importAmong(n *yaml.Node) []rules.ImportNode {
	var list []rules.ImportNode
	for _, e := range l.entries(n, "an import") {
		if e.key.Text != "import" {
			l.badKey(e.key, "an import among rules", []string{"import"}, nil)
			continue
		}
		if list = l.imports(e.value); len(list) > 1 {
			l.report("NP004", l.opening(e.value), "expected one import among rules, found a list")
			list = list[:1]
		}
	}
	for i := range list {
		list[i].Span = l.nodeSpan(n)
	}
	return list
}

func (l *loader) rule(n *yaml.Node) rules.RuleNode {
	r := rules.RuleNode{Span: l.nodeSpan(n)}
	guess := map[string]bool{} // clauses that are there, or that an unknown key may be meant for
	for _, e := range l.entries(n, "a rule") {
		switch e.key.Text {
		case "name":
			r.Name, _ = l.given(e)
		case "priority":
			r.Priority, _ = l.scalar(e.value, "priority")
			guess["priority"] = true
		case "when":
			r.When = l.when(e)
		case "disable":
			r.Disable = l.disable(e)
		case "disabled":
			r.Disabled = l.disabled(e)
		case "match":
			r.Match = l.match(e)
		case "action":
			r.Do = l.action(e.value, "action")
			if r.Do == nil { // reported; not missing
				r.Do = unread(e.key.Span)
			}
		case "on_unknown":
			r.OnUnknown, _ = l.scalar(e.value, "on_unknown")
		case "description":
			r.Description, _ = l.scalar(e.value, "description")
		case "allow":
			r.Allow = l.scalars(e.value, "allow")
		default:
			guess[l.unknownClause(e.key)] = true
		}
	}
	if !guess["priority"] {
		place := r.Name.Span
		if !r.Name.Given() {
			place = l.opening(n)
		}
		l.report("NP107", place, "the rule has no priority").Help = "add `priority: 100`; rules with a higher one are looked at first"
	}
	if r.Match == nil && guess["match"] {
		r.Match = &rules.ExprNode{}
	}
	if r.Do == nil && guess["action"] {
		r.Do = unread(r.Span)
	}
	return r
}

// unread stands for an action that was reported.
func unread(span diag.Span) *rules.Action {
	return &rules.Action{Span: span, Items: []rules.Item{{Key: rules.Word{Text: "continue", Span: span}, Span: span, Bad: true}}}
}

// given reads a scalar whose absence is reported here already: the word keeps a place.
func (l *loader) given(e entry) (rules.Word, bool) {
	w, ok := l.scalar(e.value, e.key.Text)
	if !ok {
		w = rules.Word{Text: "_", Span: e.key.Span}
	}
	return w, ok
}

// unknownClause reports a key and returns the clause that it may be meant for.
func (l *loader) unknownClause(key rules.Word) string {
	_, known := fields[key.Text]
	switch {
	case key.Text == "state":
		l.report("NP010", key.Span, "%s belongs under when", diag.Quote(key.Text)).Help = "write `when: {state: ...}`"
		return "when"
	case known:
		l.report("NP010", key.Span, "%s belongs under match", diag.Quote(key.Text)).Help = "write `match: {" + key.Text + ": ...}`"
		return "match"
	case slices.Contains(rules.Actions(), key.Text):
		l.report("NP010", key.Span, "%s belongs under action", diag.Quote(key.Text)).Help = "write `action: {" + key.Text + ": ...}`"
		return "action"
	}
	d := l.report("NP102", key.Span, "a rule has no key %s", diag.Quote(key.Text))
	if d.Help = foreignKey(ruleWords, key.Text); d.Help != "" {
		return meant(d.Help)
	}
	if d.Help = foreignKey(matchWords, key.Text); d.Help != "" {
		if strings.Count(d.Help, "`") == 2 && strings.HasSuffix(d.Help, "`") {
			d.Help += " under match"
		}
		return "match"
	}
	if d.Help = diag.DidYouMean(key.Text, ruleKeys); d.Help == "" {
		d.Help = "it has " + list(ruleKeys)
	}
	if first, _, found := strings.Cut(key.Text, " "); found {
		return first // "match {port" for want of a colon
	}
	return diag.Suggest(key.Text, ruleKeys)
}

// meant is the clause that a help text of ruleWords names.
func meant(help string) string {
	clause := strings.TrimPrefix(help, "write `")
	return clause[:strings.IndexAny(clause+"`", ":`")]
}

// disabled reads `disabled: true`; false is the same as nothing.
func (l *loader) disabled(e entry) (w rules.Word) {
	w, ok := l.scalar(e.value, "disabled")
	switch {
	case !ok || w.Text == "false":
		return rules.Word{}
	case w.Text == "true":
		return w
	}
	d := l.report("NP004", w.Span, "expected true or false for disabled, found %s", diag.Quote(w.Text))
	if d.Help = "write `disabled: true`"; l.onlyStates(w.Text) {
		d.Help = "write `disable: " + w.Text + "`"
	}
	return rules.Word{}
}

// disable reads the states in which a rule is skipped.
func (l *loader) disable(e entry) []rules.Word {
	list := l.scalars(e.value, "disable")
	if len(list) == 1 && (list[0].Text == "true" || list[0].Text == "false") {
		l.report("NP004", list[0].Span, "expected states for disable, found %s", diag.Quote(list[0].Text)).
			Help = "write `disabled: true` to switch the rule off"
		return nil
	}
	return list
}

// action reads primary actions and modifiers: a block, or a short string such
// as "route direct, log". It returns nil where that fails.
func (l *loader) action(n *yaml.Node, what string) *rules.Action {
	if n.Kind == yaml.ScalarNode {
		w, ok := l.scalar(n, what)
		if !ok {
			return nil
		}
		a := &rules.Action{Span: w.Span, Items: l.knownActions(actionWords(w), foreignWord)}
		if len(a.Items) == 0 {
			return nil
		}
		return a
	}
	if !l.legal(n) || n.Kind != yaml.MappingNode {
		l.entries(n, what) // says why
		return nil
	}
	a := &rules.Action{Span: l.nodeSpan(n)}
	entries := l.entries(n, what)
	a.Items = make([]rules.Item, 0, len(entries))
	for _, e := range entries {
		item := l.item(e)
		if e.key.Text == "continue" {
			item.Bad = item.Bad || l.refused(item)
		}
		a.Items = append(a.Items, item)
	}
	if a.Items = l.knownActions(a.Items, foreignActionKey); len(a.Items) == 0 && len(entries) > 0 {
		return nil // every key was reported
	}
	return a
}

// refused reports `continue` with a value other than true.
func (l *loader) refused(item rules.Item) bool {
	if len(item.Args) == 1 && item.Args[0].Text == "true" {
		return false
	}
	l.report("NP004", item.Span, "expected `continue: true`")
	return true
}

// knownActions drops and reports unknown actions.
func (l *loader) knownActions(items []rules.Item, foreign func(rules.Item) string) []rules.Item {
	known := rules.Actions()
	return slices.DeleteFunc(items, func(item rules.Item) bool {
		if slices.Contains(known, item.Key.Text) {
			return false
		}
		d := l.report("NP120", item.Key.Span, "no action is called %s", diag.Quote(item.Key.Text))
		if d.Help = foreign(item); d.Help != "" {
			return true
		}
		if d.Help = diag.DidYouMean(item.Key.Text, known); d.Help != "" {
			return true
		}
		if d.Help = "the actions are " + list(known); len(items) == 1 && len(item.Args) == 0 && !item.Block && rules.IsName(item.Key.Text) {
			d.Help = "to send flows over the route " + item.Key.Text + " write `route " + item.Key.Text + "`"
		}
		return true
	})
}
