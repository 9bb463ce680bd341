package yaml

import (
	"slices"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// topKeys are the keys at the top of a file.
var topKeys = []string{
	"version", "imports", "sets", "uplinks", "routes", "groups", "throttles", "quotas", "schedules", "conditions", "health", "daemon",
	"default", "rules", "assertions", "invariants",
}

// policy walks the whole file.
func (l *loader) policy(root *yaml.Node) *rules.AST {
	ast := &rules.AST{File: l.name, Source: l.src.Text}
	before := l.diags.Len()
	entries := l.entries(root, "a policy")
	// Of a section that stands twice, the second part is not read.
	l.lost = l.lost || l.diags.Len() > before && root.Kind == yaml.MappingNode && 2*len(entries) < len(root.Content)
	l.conditions = conditionNames(entries)
	for _, e := range entries {
		switch e.key.Text {
		case "version":
			ast.Version, _ = l.scalar(e.value, "version")
		case "imports":
			ast.Imports = append(ast.Imports, l.imports(e.value)...)
		case "sets":
			ast.Sets = l.decls(e, l.set)
		case "uplinks":
			ast.Uplinks = l.decls(e, l.plain)
		case "routes":
			ast.Routes = l.decls(e, l.short(l.routeWords))
		case "groups":
			ast.Groups = l.decls(e, l.short(l.groupWords))
		case "throttles":
			ast.Throttles = l.decls(e, l.plain)
		case "quotas":
			ast.Quotas = l.decls(e, l.quota)
		case "schedules":
			ast.Schedules = l.decls(e, l.short(l.scheduleWords))
		case "conditions":
			ast.Conditions = l.decls(e, l.conditionDecl)
		case "health":
			ast.Health = l.health(e)
		case "daemon":
			ast.Daemon = l.block(e)
		case "default":
			ast.Default = l.action(e.value, "default")
		case "rules":
			l.rules(ast, e.value)
		case "assertions":
			ast.Asserts = l.asserts(e.value)
		case "invariants":
			ast.Invariants = l.invariants(e.value)
		default:
			l.unknownTop(e.key)
		}
	}
	ast.Comments = l.comments(root)
	ast.Lost, ast.Partial = l.lost, diag.HasErrors(l.diags.List())
	return ast
}

func (l *loader) unknownTop(key rules.Word) {
	l.lost = true // it may be a misspelt section
	if slices.Contains(ruleKeys, key.Text) {
		l.report("NP010", key.Span, "%s belongs into a rule", diag.Quote(key.Text)).
			Help = "rules are a list: `rules: [{name: ..., match: ..., action: ...}]`"
		return
	}
	d := l.report("NP101", key.Span, "no section is called %s", diag.Quote(key.Text))
	if d.Help = foreignKey(topWords, key.Text); d.Help != "" {
		return
	}
	if d.Help = diag.DidYouMean(key.Text, topKeys); d.Help == "" {
		d.Help = "the sections are " + list(topKeys)
	}
}

// list joins words for a sentence.
func list(words []string) string {
	s := ""
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			s += " and "
		default:
			s += ", "
		}
		s += w
	}
	return s
}

// decls reads a map from names to declarations.
func (l *loader) decls(section entry, read func(entry, *rules.Decl)) []rules.Decl {
	if isNull(section.value) {
		return nil // `routes:` with nothing below
	}
	entries := l.entries(section.value, section.key.Text)
	l.lost = l.lost || entries == nil
	list := make([]rules.Decl, len(entries))
	for i, e := range entries {
		list[i] = rules.Decl{Name: e.key, Span: l.span(e.key.Span.Start, l.nodeEnd(e.value))}
		read(e, &list[i])
	}
	return list
}

// plain reads a declaration that is a block of keys.
func (l *loader) plain(e entry, d *rules.Decl) {
	d.Items = l.items(e.value, diag.Quote(e.key.Text))
	d.Bad = d.Items == nil
}

// short reads a declaration that can also be a short string.
func (l *loader) short(words func(rules.Word) []rules.Item) func(entry, *rules.Decl) {
	return func(e entry, d *rules.Decl) {
		if e.value.Kind != yaml.ScalarNode || isNull(e.value) {
			l.plain(e, d)
			return
		}
		if w, ok := l.scalar(e.value, e.key.Text); ok {
			d.Items = words(w)
		}
		d.Bad = d.Items == nil
	}
}

// block reads a section that is one declaration without a name.
func (l *loader) block(section entry) []rules.Decl {
	if isNull(section.value) {
		return nil
	}
	return []rules.Decl{{
		Span:  l.span(section.key.Span.Start, l.nodeEnd(section.value)),
		Items: l.items(section.value, section.key.Text),
	}}
}

// items reads the keys of a declaration; nil where there is no block of keys.
func (l *loader) items(n *yaml.Node, what string) []rules.Item {
	entries := l.entries(n, what)
	if entries == nil {
		return nil
	}
	list := make([]rules.Item, len(entries))
	for i, e := range entries {
		list[i] = l.item(e)
	}
	return list
}

// inWords are the keys whose values consist of words, as in NPL.
var inWords = map[string]bool{
	"via": true, "gateway": true, "probe": true, "targets": true, "threshold": true, "rtt": true, "loss": true, "errors": true,
	"masquerade": true, "relay": true, "tproxy": true, "dns_listen": true,
	"api_tls": true, "api_hosts": true, "decision_mask": true, "alerts": true, "weekday": true, "time": true, "date": true,
}

// item reads one key: a value, a list of values, or a block.
func (l *loader) item(e entry) rules.Item {
	item := rules.Item{Key: e.key, Span: l.span(e.key.Span.Start, max(l.nodeEnd(e.value), e.key.Span.End))}
	switch e.value.Kind {
	case yaml.MappingNode:
		item.Block, item.Items = true, l.items(e.value, e.key.Text)
	case yaml.SequenceNode:
		item.List = true
		if len(e.value.Content) == 0 && e.key.Text == "values" && l.legal(e.value) {
			break // an empty set
		}
		item.Args = l.scalars(e.value, e.key.Text)
		item.Bad = len(item.Args) == 0
	default:
		w, ok := l.scalar(e.value, e.key.Text)
		if item.Bad = !ok; ok {
			item.Args = []rules.Word{w}
		}
	}
	if inWords[e.key.Text] {
		args := make([]rules.Word, 0, len(item.Args))
		for _, w := range item.Args {
			args = append(args, w.Split()...)
		}
		item.Args = args
	}
	return item
}

// routeWords reads `via uplink wan1` or `uplink wan1`.
func (l *loader) routeWords(w rules.Word) []rules.Item {
	words := w.Split()
	key := rules.Word{Text: "via", Span: w.Span}
	if len(words) > 0 && words[0].Text == "via" {
		key, words = words[0], words[1:]
	}
	return []rules.Item{{Key: key, Args: words, Span: w.Span}}
}

// groupWords reads `fallback(a, b) tolerance 30ms`.
func (l *loader) groupWords(w rules.Word) []rules.Item {
	var items []rules.Item
	open := false
	for _, word := range w.Split() {
		last := len(items) - 1
		switch {
		case word.Text == "(" && last >= 0:
			open, items[last].List = true, true
		case word.Text == ")":
			open = false
		case open, last >= 0 && !items[last].List && len(items[last].Args) == 0:
			items[last].Args = append(items[last].Args, word)
			items[last].Span.End = word.Span.End
		default:
			items = append(items, rules.Item{Key: word, Span: word.Span})
		}
	}
	return items
}
