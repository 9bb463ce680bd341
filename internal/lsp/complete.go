package lsp

import (
	"fmt"
	"slices"
	"strings"
)

// maxItems bounds a list of completions; the client asks again when more is typed.
const maxItems = 500

func (s *server) completion(p positionParams) (any, error) {
	d, err := s.document(p.TextDocument.URI)
	if err != nil {
		return nil, err
	}
	offset := d.text.offset(p.Position)
	place := d.placeAt(offset)
	c := completer{list: completionList{Items: []completionItem{}}, taken: map[string]bool{}}
	c.edit = d.text.rangeOf(place.start, offset)
	c.prefix = d.text.slice(place.start, offset)
	symbols := s.analyse(d).symbols
	for _, n := range symbols.names(place.names) {
		c.add(n.name, itemReference, n.kind.String(), n.summaryText())
	}
	for _, category := range place.in {
		kind, ok := itemKinds[category]
		if !ok {
			kind = itemKeyword
		}
		for _, w := range texts[category] {
			c.add(w.label, kind, string(category), w.doc)
		}
	}
	if place.metrics {
		for _, n := range symbols.names([]kind{uplinkKind}) {
			c.metrics("uplink."+n.name, n.kind)
		}
		for _, n := range symbols.names([]kind{routeKind}) {
			c.metrics("route."+n.name, routeKind)
		}
	}
	return c.list, nil
}

// completer gathers the items of one answer.
type completer struct {
	list   completionList
	edit   textRange
	prefix string
	taken  map[string]bool
}

func (c *completer) add(label string, kind int, detail, doc string) {
	switch {
	case c.taken[label] || !hasPrefixFold(label, c.prefix):
		return
	case len(c.list.Items) == maxItems:
		c.list.IsIncomplete = true
		return
	}
	c.taken[label] = true
	item := completionItem{
		Label: label, Kind: kind, Detail: detail, SortText: fmt.Sprintf("%03d", len(c.list.Items)),
		TextEdit: textEdit{c.edit, label},
	}
	if doc != "" {
		item.Documentation = &markup{"markdown", doc}
	}
	c.list.Items = append(c.list.Items, item)
}

// metrics adds the metrics of one uplink or route, once the first part is written:
// before that they would drown all else.
func (c *completer) metrics(subject string, k kind) {
	first, _, _ := strings.Cut(subject, ".")
	if !strings.HasPrefix(c.prefix, first+".") {
		c.add(first+".", itemField, "metric", "A metric of an "+first+": `"+first+".NAME.rtt`.")
		return
	}
	for _, w := range texts[inMetric] {
		c.add(subject+"."+w.label, itemProperty, string(inMetric)+" of the "+k.String(), w.doc)
	}
}

// hasPrefixFold compares without case, and takes "-" for "_".
func hasPrefixFold(label, prefix string) bool {
	return len(label) >= len(prefix) && strings.EqualFold(
		strings.ReplaceAll(label[:len(prefix)], "-", "_"), strings.ReplaceAll(prefix, "-", "_"))
}

// summaryText is a declaration's summary for a completion.
func (d *declaration) summaryText() string {
	if d.rule != nil {
		return ""
	}
	return d.summary()
}

// keywords are the names that a condition can't have: conditions stand where they do.
func reserved(name string) bool {
	same := func(w word) bool { return w.label == name }
	return name == "like" || isField(name) || slices.ContainsFunc(texts[inPredicate], same)
}
