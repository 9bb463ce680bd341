package lsp

import (
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

const (
	// maxShown bounds the lines of a declaration that a hover repeats: what is read at a glance.
	maxShown = 12
	// maxShownBytes bounds them where lines are long.
	maxShownBytes = 2000
)

func (s *server) hover(p positionParams) (any, error) {
	d, err := s.document(p.TextDocument.URI)
	if err != nil {
		return nil, err
	}
	a := s.analyse(d)
	offset := d.text.offset(p.Position)
	if u := a.symbols.at(offset); u != nil {
		if text := s.about(a, u.key); text != "" {
			return hover{markup{"markdown", text}, d.text.rangeOfSpan(u.at)}, nil
		}
	}
	end := d.wordEnd(offset)
	place := d.placeAt(end)
	label := d.text.slice(place.start, end)
	if place.start > offset || label == "" {
		return nil, nil
	}
	if text := place.meaning(label); text != "" {
		return hover{markup{"markdown", text}, d.text.rangeOf(place.start, end)}, nil
	}
	return nil, nil
}

// meaning returns what a word means at a place, or "".
func (p *place) meaning(label string) string {
	for _, c := range p.in {
		for _, w := range texts[c] {
			if w.label == label || c == inState && strings.EqualFold(w.label, label) {
				return fmt.Sprintf("**%s** (%s)\n\n%s", w.label, c, w.doc)
			}
		}
	}
	if subject, metric, ok := metricOf(label); ok && p.metrics {
		for _, w := range texts[inMetric] {
			if w.label == metric {
				return fmt.Sprintf("**%s** of %s (%s)\n\n%s", metric, subject, inMetric, w.doc)
			}
		}
	}
	return ""
}

// metricOf splits `uplink.fiber.rtt`.
func metricOf(label string) (subject, metric string, ok bool) {
	first, rest, _ := strings.Cut(label, ".")
	name, metric, ok := strings.Cut(rest, ".")
	return first + " " + name, metric, ok && (first == "uplink" || first == "route")
}

// about describes what a name stands for.
func (s *server) about(a *knowledge, k key) string {
	d := a.symbols.resolve(k)
	switch {
	case d == nil:
		return ""
	case d.rule != nil:
		return s.aboutRule(a, d)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "**%s** (%s)", d.name, d.kind)
	if summary := d.summary(); summary != "" {
		b.WriteString(": " + summary)
	}
	s.quote(&b, a, d)
	n := 0
	for _, u := range a.symbols.occurrences(k) {
		if !u.declares {
			n++
		}
	}
	fmt.Fprintf(&b, "\n\nused %s in this file", times(n))
	return b.String()
}

func times(n int) string {
	switch n {
	case 0:
		return "nowhere"
	case 1:
		return "once"
	default:
		return fmt.Sprintf("%d times", n)
	}
}

// quote repeats a declaration's source.
func (s *server) quote(b *strings.Builder, a *knowledge, d *declaration) {
	t := a.files[d.file]
	if t == nil {
		fmt.Fprintf(b, "\n\ndeclared in %s", d.file)
		return
	}
	source := t.slice(d.span.Start, min(d.span.End, d.span.Start+maxShownBytes))
	lines := strings.Split(strings.TrimRight(source, " \r\n"), "\n")
	if len(lines) > maxShown {
		lines = append(lines[:maxShown], "...")
	}
	// The first line starts behind its indentation: the others lose as much.
	start := t.lines[t.position(d.span.Start).Line]
	indent := strings.Repeat(" ", len(t.slice(start, d.span.Start)))
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], indent)
	}
	language := "yaml"
	if strings.HasSuffix(d.file, ".npl") {
		language = "npl"
	}
	text := strings.ReplaceAll(strings.Join(lines, "\n"), "```", "'''")
	fmt.Fprintf(b, "\n\n```%s\n%s\n```", language, strings.ToValidUTF8(text, "\ufffd"))
}

// summary says in some words what a declaration is.
func (d *declaration) summary() string {
	item := func(name string) *rules.Item {
		for i := range d.decl.Items {
			if strings.ReplaceAll(d.decl.Items[i].Key.Text, "-", "_") == name {
				return &d.decl.Items[i]
			}
		}
		return nil
	}
	words := func(i *rules.Item) string {
		if i == nil {
			return ""
		}
		return joined(i.Args)
	}
	switch d.kind {
	case setKind:
		text := words(item("type"))
		switch values := item("values"); {
		case values != nil && len(values.Args) == 1:
			text += ", 1 element"
		case values != nil:
			text += fmt.Sprintf(", %d elements", len(values.Args))
		case item("file") != nil:
			text += ", from a file"
		case item("url") != nil:
			text += ", from a URL"
		}
		return text
	case uplinkKind:
		if dev := words(item("dev")); dev != "" {
			return "on the device " + dev
		}
	case routeKind:
		if via := words(item("via")); via != "" {
			return "via " + via
		}
	case groupKind:
		for _, strategy := range strategies {
			if i := item(strategy); i != nil {
				return strategy + " of " + words(i)
			}
		}
	}
	return ""
}

// joined shows words as a list, at most eight of them.
func joined(list []rules.Word) string {
	const most = 8
	var b strings.Builder
	for i, w := range list {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(list)-most)
			break
		}
		if i > 0 {
			b.WriteString(" ")
		}
		b.WriteString(w.Text)
	}
	return b.String()
}

// aboutRule tells a rule's place in the order.
func (s *server) aboutRule(a *knowledge, d *declaration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s** (rule)", d.name)
	program := a.compiled()
	if program == nil {
		b.WriteString("\n\nIts place in the order is known once the policy has no errors.")
		return b.String()
	}
	list, order := a.Policy.Rules, program.Order()
	at := slices.IndexFunc(order, func(i int) bool { return list[i].Name == d.name })
	if at < 0 {
		if d.rule.Disabled.Given() {
			b.WriteString("\n\nThe rule is disabled: it is checked and never looked at.")
		}
		return b.String()
	}
	r := &list[order[at]]
	spec := r.Specificity()
	fmt.Fprintf(&b, ": number %d of %d\n\npriority %d, specificity %v", at+1, len(order), r.Priority, spec)
	names, parts := spec.Components(), [4]int{spec.Fields, spec.Name, spec.IP, spec.Port}
	for i, name := range names {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s %d", sep, name, parts[i])
	}
	if at > 0 {
		fmt.Fprintf(&b, "\n\nbehind `%s`: %s", list[order[at-1]].Name, before(&list[order[at-1]], r))
	}
	if at+1 < len(order) {
		fmt.Fprintf(&b, "\n\nbefore `%s`: %s", list[order[at+1]].Name, before(r, &list[order[at+1]]))
	} else {
		b.WriteString("\n\nthe last rule; then the default")
	}
	return b.String()
}

// before says why rule a is looked at before rule b.
func before(a, b *rules.Rule) string {
	sa, sb := a.Specificity(), b.Specificity()
	if a.Priority != b.Priority {
		return fmt.Sprintf("priority %d is higher than %d", a.Priority, b.Priority)
	}
	pa, pb := [4]int{sa.Fields, sa.Name, sa.IP, sa.Port}, [4]int{sb.Fields, sb.Name, sb.IP, sb.Port}
	for i, name := range sa.Components() {
		if pa[i] != pb[i] {
			return fmt.Sprintf("the priorities are equal, and by %s specificity %v goes before %v", name, sa, sb)
		}
	}
	return "priority and specificity are equal, and it is listed first"
}
