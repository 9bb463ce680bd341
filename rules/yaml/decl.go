package yaml

import (
	"strings"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// set reads `{type: domain, values: [...]}`, or one with a file or URL.
func (l *loader) set(e entry, d *rules.Decl) {
	if e.value.Kind == yaml.SequenceNode && l.legal(e.value) {
		l.report("NP004", l.opening(e.value), "expected a block of keys for %s, found a list", diag.Quote(e.key.Text)).
			Help = "write `" + e.key.Text + ": {type: domain, values: [...]}`"
		d.Bad = true
		return
	}
	l.plain(e, d)
	for i := range d.Items {
		item := &d.Items[i]
		if item.Key.Text != "values" || item.Bad || item.Block {
			continue
		}
		item.List = true
		kept := item.Args[:0]
		for _, w := range item.Args {
			if !l.foreignValue(w, true) {
				kept = append(kept, w)
			}
		}
		item.Args, item.Bad = kept, len(kept) < len(item.Args)
	}
}

// quota reads `{match: ..., limit: 3GiB, per: day, reset: "04:00"}`.
func (l *loader) quota(e entry, d *rules.Decl) {
	entries := l.entries(e.value, diag.Quote(e.key.Text))
	d.Bad = entries == nil
	d.Items = make([]rules.Item, 0, len(entries))
	for _, k := range entries {
		if k.key.Text == "match" {
			d.Expr = l.match(k)
			continue
		}
		item := l.item(k)
		d.Items = append(d.Items, item)
		if k.key.Text == "limit" && len(item.Args) == 1 {
			d.Items = append(d.Items[:len(d.Items)-1], limitWords(item)...)
		}
	}
}

// limitWords reads `limit: 3GiB per day`, the short string for limit and per.
func limitWords(item rules.Item) []rules.Item {
	words := item.Args[0].Split()
	if len(words) != 3 || words[1].Text != "per" {
		return []rules.Item{item}
	}
	per := rules.Item{Key: words[1], Args: words[2:], Span: words[1].Span}
	per.Span.End = words[2].Span.End
	item.Args = words[:1]
	item.Span.End = words[0].Span.End
	return []rules.Item{item, per}
}

// conditionDecl reads a condition: a block of keys, or a string.
func (l *loader) conditionDecl(e entry, d *rules.Decl) {
	if isNull(e.value) {
		l.missing(e.value, diag.Quote(e.key.Text))
		d.Bad = true
		return
	}
	node := l.condition(e.value, conditionScope)
	d.Expr = &node
}

// conditionNames are the names under conditions, before they are read.
func conditionNames(entries []entry) map[string]bool {
	names := map[string]bool{}
	for _, e := range entries {
		if e.key.Text == "conditions" && e.value.Kind == yaml.MappingNode {
			for i := 0; i < len(e.value.Content); i += 2 {
				names[e.value.Content[i].Value] = true
			}
		}
	}
	return names
}

// health reads the defaults for all uplinks, and blocks of single ones: a key
// with a block is the name of an uplink, unless it is the threshold.
func (l *loader) health(section entry) []rules.Decl {
	if isNull(section.value) {
		return nil
	}
	all := rules.Decl{Span: l.span(section.key.Span.Start, l.nodeEnd(section.value))}
	var single []rules.Decl
	entries := l.entries(section.value, section.key.Text)
	for _, e := range entries {
		if e.value.Kind != yaml.MappingNode || e.key.Text == "threshold" || diag.Suggest(e.key.Text, []string{"threshold"}) != "" {
			all.Items = append(all.Items, l.item(e))
			continue
		}
		d := rules.Decl{Name: e.key, Span: l.span(e.key.Span.Start, l.nodeEnd(e.value))}
		l.plain(e, &d)
		single = append(single, d)
	}
	if len(all.Items) == 0 && len(single) > 0 {
		return single
	}
	return append([]rules.Decl{all}, single...)
}

// scheduleWords reads `weekday mon-thu,sun time 20:30-06:30 tz "Europe/Berlin"`.
func (l *loader) scheduleWords(w rules.Word) []rules.Item {
	var items []rules.Item
	for _, word := range w.Split() {
		last := len(items) - 1
		if !word.Quoted && strings.Contains(" weekday time date tz ", " "+word.Text+" ") || last < 0 {
			items = append(items, rules.Item{Key: word, Span: word.Span})
			continue
		}
		items[last].Args = append(items[last].Args, word)
		items[last].Span.End = word.Span.End
	}
	return items
}
