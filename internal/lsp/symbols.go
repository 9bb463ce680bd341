package lsp

import (
	"cmp"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
)

// kind is a name space.
type kind uint8

const (
	noKind kind = iota
	setKind
	uplinkKind
	routeKind
	groupKind
	throttleKind
	quotaKind
	scheduleKind
	conditionKind
	ruleKind
)

func (k kind) String() string {
	return [...]string{"", "set", "uplink", "route", "group", "throttle", "quota", "schedule", "condition", "rule"}[k]
}

// key is a name in its name space.
type key struct {
	kind kind
	name string
}

// declaration is a place that gives a name its meaning.
type declaration struct {
	key
	file string
	at   diag.Span // the name
	span diag.Span // the whole
	decl *rules.Decl
	rule *rules.RuleNode
}

// occurrence is a place where a name stands.
type occurrence struct {
	key
	at       diag.Span
	declares bool
}

// symbols are the names of a file, and the declarations of its imports.
type symbols struct {
	own      []*declaration // in source order
	imported []*declaration
	uses     []occurrence // in source order, declarations included
	byKey    map[key]*declaration
}

// symbolsOf gathers the names of a file. ast may be nil.
func (s *server) symbolsOf(file string, ast *rules.AST, imported []string) *symbols {
	y := &symbols{byKey: map[key]*declaration{}}
	if ast == nil {
		return y
	}
	y.own = declarations(file, ast)
	for _, path := range imported {
		if src, err := s.readFile(path); err == nil {
			if sub, _ := load.Parse(path, src); sub != nil {
				y.imported = append(y.imported, declarations(path, sub)...)
			}
		}
	}
	for _, d := range slices.Concat(y.own, y.imported) {
		if y.byKey[d.key] == nil {
			y.byKey[d.key] = d
		}
	}
	w := walker{}
	w.file(ast)
	y.uses = w.list
	slices.SortStableFunc(y.uses, func(a, b occurrence) int { return cmp.Compare(a.at.Start, b.at.Start) })
	return y
}

// declarations returns what a file declares, in source order.
func declarations(file string, ast *rules.AST) []*declaration {
	var list []*declaration
	for _, section := range []struct {
		kind  kind
		decls []rules.Decl
	}{
		{setKind, ast.Sets},
		{uplinkKind, ast.Uplinks},
		{routeKind, ast.Routes},
		{groupKind, ast.Groups},
		{throttleKind, ast.Throttles},
		{quotaKind, ast.Quotas},
		{scheduleKind, ast.Schedules},
		{conditionKind, ast.Conditions},
	} {
		for i := range section.decls {
			d := &section.decls[i]
			list = append(list, &declaration{
				key: key{section.kind, d.Name.Text}, file: file, at: nameSpan(d.Name), span: d.Span, decl: d,
			})
		}
	}
	for i := range ast.Rules {
		if r := &ast.Rules[i]; r.Name.Given() {
			list = append(list, &declaration{key: key{ruleKind, r.Name.Text}, file: file, at: nameSpan(r.Name), span: r.Span, rule: r})
		}
	}
	slices.SortStableFunc(list, func(a, b *declaration) int { return cmp.Compare(a.at.Start, b.at.Start) })
	return list
}

// nameSpan is the place of a word's text, without its quotes.
func nameSpan(w rules.Word) diag.Span {
	if w.Body > 0 || w.Span.End-w.Span.Start == len(w.Text) {
		start := max(w.Body, w.Span.Start)
		return diag.Span{File: w.Span.File, Start: start, End: start + len(w.Text)}
	}
	return w.Span
}

// resolve returns the declaration that a name means: a route's name may be that
// of a group or an uplink. nil: nothing declares it.
func (y *symbols) resolve(k key) *declaration {
	if d := y.byKey[k]; d != nil || k.kind != routeKind {
		return d
	}
	if d := y.byKey[key{groupKind, k.name}]; d != nil {
		return d
	}
	return y.byKey[key{uplinkKind, k.name}]
}

// meaning is the key that all occurrences of one thing have in common.
func (y *symbols) meaning(k key) key {
	if d := y.resolve(k); d != nil {
		return d.key
	}
	return k
}

// at returns the occurrence around an offset; its end counts, because a caret
// stands there.
func (y *symbols) at(offset int) *occurrence {
	for i := range y.uses {
		if u := &y.uses[i]; u.at.Start <= offset && offset <= u.at.End {
			return u
		}
	}
	return nil
}

// occurrences returns every place in the file where the same thing is named.
func (y *symbols) occurrences(k key) []occurrence {
	k = y.meaning(k)
	var list []occurrence
	for _, u := range y.uses {
		if y.meaning(u.key) == k && (len(list) == 0 || list[len(list)-1].at != u.at) {
			list = append(list, u)
		}
	}
	return list
}

// names returns the declared names of some kinds, sorted; routes include groups and uplinks.
func (y *symbols) names(kinds []kind) []*declaration {
	seen := map[string]bool{}
	var list []*declaration
	for _, k := range kinds {
		for _, want := range also(k) {
			for _, d := range slices.Concat(y.own, y.imported) {
				if d.kind == want && !seen[d.name] && d.name != "" {
					seen[d.name] = true
					list = append(list, d)
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b *declaration) int { return cmp.Compare(a.name, b.name) })
	return list
}

// also returns the name spaces in which a name of a kind is looked up, in order.
func also(k kind) []kind {
	if k == routeKind {
		return []kind{routeKind, groupKind, uplinkKind}
	}
	return []kind{k}
}

// walker gathers the occurrences of names in a file.
type walker struct{ list []occurrence }

func (w *walker) add(k kind, word rules.Word, declares bool) {
	if !word.Given() || word.Text == "" {
		return
	}
	w.list = append(w.list, occurrence{key: key{k, word.Text}, at: nameSpan(word), declares: declares})
}

// all adds every word of a list; commas in them separate.
func (w *walker) all(k kind, words []rules.Word) {
	for _, word := range words {
		for _, part := range word.Split() {
			if !slices.Contains([]string{"(", ")", "="}, part.Text) {
				w.add(k, part, false)
			}
		}
	}
}

func (w *walker) file(a *rules.AST) {
	for _, section := range []struct {
		kind  kind
		decls []rules.Decl
	}{
		{setKind, a.Sets},
		{uplinkKind, a.Uplinks},
		{routeKind, a.Routes},
		{groupKind, a.Groups},
		{throttleKind, a.Throttles},
		{quotaKind, a.Quotas},
		{scheduleKind, a.Schedules},
		{conditionKind, a.Conditions},
	} {
		for i := range section.decls {
			d := &section.decls[i]
			w.add(section.kind, d.Name, true)
			w.decl(section.kind, d)
		}
	}
	for i := range a.Health {
		w.add(uplinkKind, a.Health[i].Name, false)
		w.itemNames(a.Health[i].Items, "primary", uplinkKind)
	}
	for i := range a.Daemon {
		w.itemNames(a.Daemon[i].Items, "masquerade", uplinkKind)
	}
	w.action(a.Default)
	for i := range a.Rules {
		r := &a.Rules[i]
		w.add(ruleKind, r.Name, true)
		w.expr(r.Match)
		w.expr(r.When)
		w.action(r.Do)
	}
	for i := range a.Asserts {
		w.expr(a.Asserts[i].Expr)
		w.outcome(&a.Asserts[i].Expect)
	}
	for i := range a.Invariants {
		w.expr(a.Invariants[i].Expr)
		w.outcome(&a.Invariants[i].Expect)
	}
}

func (w *walker) itemNames(items []rules.Item, name string, k kind) {
	for _, i := range items {
		if i.Key.Text == name {
			w.all(k, i.Args)
		}
	}
}

// decl adds the names that a declaration's items refer to.
func (w *walker) decl(k kind, d *rules.Decl) {
	w.expr(d.Expr)
	switch k {
	case routeKind:
		for _, i := range d.Items {
			if i.Key.Text == "via" {
				w.via(i.Args)
			}
		}
	case groupKind:
		for _, i := range d.Items {
			if slices.Contains(strategies, strings.ReplaceAll(i.Key.Text, "-", "_")) && (i.List || i.Key.Text != "sla") {
				w.all(routeKind, i.Args)
			}
		}
		for _, i := range d.Items {
			if i.Key.Text == "sla" && !i.List {
				w.all(conditionKind, i.Args)
			}
		}
	}
}

// strategies are the keys of a group whose values are its members.
var strategies = []string{"lowest_latency", "fallback", "weighted", "hash", "sla"}

// via reads `uplink wan1`, `group best`, `xray "x" on wan1`.
func (w *walker) via(args []rules.Word) {
	var words []rules.Word
	for _, a := range args {
		words = append(words, a.Split()...)
	}
	for i := 0; i+1 < len(words); i++ {
		switch {
		case words[i].Quoted:
		case i == 0 && words[i].Text == "uplink", i > 0 && words[i].Text == "on":
			w.add(uplinkKind, words[i+1], false)
		case i == 0 && words[i].Text == "group":
			w.add(groupKind, words[i+1], false)
		}
	}
}

func (w *walker) action(a *rules.Action) {
	if a == nil {
		return
	}
	for _, i := range a.Items {
		switch i.Key.Text {
		case "route", "switch_route", "failover", "fallback":
			w.all(routeKind, i.Args)
		case "throttle":
			w.all(throttleKind, i.Args)
		}
	}
}

func (w *walker) expr(e *rules.ExprNode) {
	if e == nil {
		return
	}
	for i := range e.Kids {
		w.expr(&e.Kids[i])
	}
	if e.Op != rules.OpPred {
		return
	}
	p := &e.Pred
	w.add(setKind, p.Set, false)
	switch p.Field {
	case rules.FieldUplink:
		w.add(uplinkKind, p.Subject, false)
	case rules.FieldRoute:
		w.add(routeKind, p.Subject, false)
	case rules.FieldSchedule:
		w.add(scheduleKind, p.Subject, false)
	case rules.FieldQuota:
		w.add(quotaKind, p.Subject, false)
	case rules.FieldCondition:
		w.add(conditionKind, p.Subject, false)
	}
}

func (w *walker) outcome(o *rules.OutcomeNode) {
	w.action(o.Action)
	w.add(ruleKind, o.Rule, false)
	w.add(routeKind, o.Via, false)
}
