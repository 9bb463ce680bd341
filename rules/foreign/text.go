package foreign

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	// maxNameText bounds what is kept of a foreign name: a name has at most 64
	// characters, and a number or ending may follow.
	maxNameText = 40
	// maxInline is how many values stand in a rule; more become a set.
	maxInline = 6
	// maxColumn is where a condition is broken into lines.
	maxColumn = 100
	// maxShown bounds a construct in comments and in the report, in characters.
	maxShown = 120
	// maxWhy bounds a reason in the report, in characters.
	maxWhy = 500
	// maxMembers bounds a group's members: the language has no more.
	maxMembers = 64
)

// builder collects a policy and its report.
type builder struct {
	from, file string
	ways       namer // uplinks, routes and groups share their names as routes
	setNames   namer
	ruleNames  namer
	sets       []*set
	setAt      map[string]*set // by what is in it
	setNamed   map[string]*set
	decls      []*decl
	declAt     map[string]*decl // by name
	rules      []*rule
	otherwise  *target // the default
	defNote    string  // where the default came from
	defLog     bool
	report     []Line
	items      int
}

func newBuilder(from, file string) *builder {
	return &builder{
		from: from, file: file, ways: namer{}, setNames: namer{},
		ruleNames: namer{"default": 1}, // no rule may be called so
		setAt:     map[string]*set{}, setNamed: map[string]*set{}, declAt: map[string]*decl{},
	}
}

func (b *builder) fail(line int, format string, args ...any) error {
	return &Error{Name: b.file, Line: line, Text: fmt.Sprintf(format, args...)}
}

// count takes n items off the budget.
func (b *builder) count(line, n int) error {
	if b.items += n; b.items > maxItems {
		return b.fail(line, "more than %d rules, members and values, repeated ones counted", maxItems)
	}
	return nil
}

func (b *builder) say(line int, text string, v Verdict, to, why string) {
	b.report = append(b.report, Line{Line: max(line, 1), Text: clean(text), Verdict: v, To: shorten(to, maxWhy), Why: shorten(why, maxWhy)})
}

// set is a set declaration; it is written when a rule names it.
type set struct {
	name, kind string
	elems      []string
	source     string // instead of elements: `file "x" format clash`
	note       string
	used       bool
	line       *Line // the construct that it came from, reported at the end
}

// decl is an uplink, route or group.
type decl struct {
	word, name string
	text       string   // what follows the name
	refs       []string // declarations that it names
	note       string
	line       *Line
	used       bool
}

// target is where a rule sends flows.
type target struct {
	route string // the name of a declaration; or
	block string // reject or drop
	pass  bool   // goes on to the next rule
}

func (t target) String() string {
	if t.block != "" {
		return "block " + t.block
	}
	return "route " + t.route
}

// origin is one construct that went into a rule.
type origin struct {
	line int
	text string
}

type rule struct {
	want string // what its name is made of
	name string
	when cond
	to   target
	log  bool
	from []origin
}

// declare adds a declaration under a free name like want.
func (b *builder) declare(word, want, text, note string, refs []string, line *Line) *decl {
	d := &decl{word: word, name: b.ways.pick(want, word), text: text, note: note, refs: refs, line: line}
	b.decls = append(b.decls, d)
	b.declAt[d.name] = d
	return d
}

// addSet returns the set with this content, declared once.
func (b *builder) addSet(want, kind, source, note string, elems []string) *set {
	key := kind + "\x00" + source + "\x00" + strings.Join(elems, "\x00")
	if s := b.setAt[key]; s != nil {
		return s
	}
	s := &set{name: b.setNames.pick(want, "set"), kind: kind, source: source, note: note, elems: elems}
	b.sets = append(b.sets, s)
	b.setAt[key], b.setNamed[s.name] = s, s
	return s
}

// addRule appends a rule, or merges it into the last one when that leads to the
// same place: between the two no other rule can decide.
func (b *builder) addRule(want string, c cond, to target, from origin, v Verdict, why string) {
	var r *rule
	if n := len(b.rules); n > 0 && b.rules[n-1].to == to && !b.rules[n-1].log {
		r = b.rules[n-1]
		r.when = cond{op: opOr, kids: append(kidsOf(r.when), c)}
	} else {
		r = &rule{want: want, name: b.ruleNames.pick(want+"_"+strconv.Itoa(from.line), "rule"), when: c, to: to}
		b.rules = append(b.rules, r)
	}
	r.from = append(r.from, from)
	b.say(from.line, from.text, v, "rule "+r.name, why)
}

func kidsOf(c cond) []cond {
	if c.op == opOr {
		return c.kids
	}
	return []cond{c}
}

// reach marks a declaration and all it leads to.
func (b *builder) reach(name string) {
	d := b.declAt[name]
	if d == nil || d.used {
		return
	}
	d.used = true
	for _, r := range d.refs {
		b.reach(r)
	}
}

// npl writes the policy.
func (b *builder) npl() ([]byte, error) {
	bodies := make([]string, len(b.rules))
	for i, r := range b.rules {
		if r.when.op == opOr {
			r.when = or(r.when.kids...)
		}
		bodies[i] = b.condText(r, r.when, opAny)
		b.reach(r.to.route)
	}
	if b.otherwise != nil {
		b.reach(b.otherwise.route)
	}
	var w bytes.Buffer
	fmt.Fprintf(&w, "# Imported from %s: %s\n", b.from, clean(b.file))
	w.WriteString("policy 1\n")
	b.writeSets(&w)
	b.writeDecls(&w)
	if b.otherwise != nil {
		w.WriteString("\n")
		comment(&w, b.defNote)
		fmt.Fprintf(&w, "default %s%s\n", b.otherwise, logText(b.defLog))
	}
	for i, r := range b.rules {
		w.WriteString("\n")
		r.comments(&w)
		fmt.Fprintf(&w, "rule %s priority %d {\n  match %s\n  do    %s%s\n}\n", r.name, 10*(len(b.rules)-i), bodies[i], r.to, logText(r.log))
		if w.Len() > MaxOutput {
			break
		}
	}
	if w.Len() > MaxOutput {
		return nil, b.fail(0, "the policy would be larger than %d MiB", MaxOutput>>20)
	}
	return w.Bytes(), nil
}

// refresh says how often a list is fetched: a minute to 30 days.
func refresh(seconds int) string { return " refresh " + duration(min(max(seconds, 60), 30*86400)) }

// duration writes seconds in the largest unit that is exact.
func duration(seconds int) string {
	switch {
	case seconds%3600 == 0:
		return strconv.Itoa(seconds/3600) + "h"
	case seconds%60 == 0:
		return strconv.Itoa(seconds/60) + "m"
	}
	return strconv.Itoa(seconds) + "s"
}

func logText(log bool) string {
	if log {
		return ", log"
	}
	return ""
}

func (r *rule) comments(w *bytes.Buffer) {
	const most = 3
	for i, o := range r.from {
		if i == most && len(r.from) > most+1 {
			comment(w, fmt.Sprintf("and %d more, to line %d", len(r.from)-most, r.from[len(r.from)-1].line))
			return
		}
		if o.line == 0 {
			comment(w, o.text)
			continue
		}
		comment(w, "line "+strconv.Itoa(o.line)+": "+o.text)
	}
}

func comment(w *bytes.Buffer, text string) {
	if text != "" {
		fmt.Fprintf(w, "# %s\n", clean(text))
	}
}

func (b *builder) writeSets(w *bytes.Buffer) {
	first := true
	for _, s := range b.sets {
		if s.line != nil {
			l := *s.line
			if !s.used {
				l.Verdict, l.To, l.Why = Dropped, "", "no rule uses it"
			}
			b.say(l.Line, l.Text, l.Verdict, l.To, l.Why)
		}
		if !s.used {
			continue
		}
		if first {
			w.WriteString("\n")
			first = false
		}
		comment(w, s.note)
		if s.source != "" {
			fmt.Fprintf(w, "set %s: %s = %s\n", s.name, s.kind, s.source)
			continue
		}
		fmt.Fprintf(w, "set %s: %s = {", s.name, s.kind)
		if len(s.elems) <= maxInline && len(strings.Join(s.elems, ", ")) < 90 {
			fmt.Fprintf(w, " %s }\n", strings.Join(s.elems, ", "))
			continue
		}
		for _, e := range s.elems {
			fmt.Fprintf(w, "\n  %s,", e)
			if w.Len() > MaxOutput {
				return
			}
		}
		w.WriteString("\n}\n")
	}
}

// writeDecls writes what is used; the rest becomes comments, so that it is at
// hand without being declared for nothing.
func (b *builder) writeDecls(w *bytes.Buffer) {
	for _, word := range []string{"uplink", "route", "group"} {
		first := true
		for _, d := range b.decls {
			if d.word != word || w.Len() > MaxOutput {
				continue
			}
			if first {
				w.WriteString("\n")
				first = false
			}
			if d.line != nil {
				l := *d.line
				if l.To = word + " " + d.name; !d.used {
					l.Verdict, l.To, l.Why = Dropped, "", "no rule leads to it; it is in the policy as a comment"
				}
				b.say(l.Line, l.Text, l.Verdict, l.To, l.Why)
			}
			text := word + " " + d.name + " " + d.text
			if d.used {
				comment(w, d.note)
			} else {
				text = "# " + strings.ReplaceAll(text, "\n", "\n# ")
			}
			w.WriteString(text + "\n")
		}
	}
}

// setKinds are the types of set that each field takes.
var setKinds = map[string]string{
	"domain": "domain", "dst.ip": "cidr", "src.ip": "cidr", "port": "port", "src.port": "port", "src.mac": "mac",
	"process": "process", "process.path": "process", "user": "user", "asn": "asn", "country": "country",
}

// condText writes a condition; outer is the operator around it.
func (b *builder) condText(r *rule, c cond, outer op) string {
	switch c.op {
	case opAny:
		return "any"
	case opPred:
		return b.predText(r, c)
	case opNot:
		k := c.kids[0]
		if k.op != opPred {
			return "not " + b.condText(r, k, opNot)
		}
		if set := b.asSet(r, k); set != "" {
			return k.field + " not in " + set
		}
		return k.field + " not in { " + strings.Join(k.vals, ", ") + " }"
	}
	parts := make([]string, len(c.kids))
	for i, k := range c.kids {
		parts[i] = b.condText(r, k, c.op)
	}
	word := map[op]string{opAnd: " and", opOr: " or"}[c.op]
	if outer != opAny {
		return "(" + strings.Join(parts, word+" ") + ")"
	}
	if line := strings.Join(parts, word+" "); len(line) < maxColumn {
		return line
	}
	return strings.Join(parts, word+"\n        ")
}

func (b *builder) predText(r *rule, c cond) string {
	if set := b.asSet(r, c); set != "" {
		return c.field + " in " + set
	}
	return c.field + " " + strings.Join(c.vals, ", ")
}

// asSet returns the name of the set that the predicate names or needs; "" if its
// values can stand in the rule.
func (b *builder) asSet(r *rule, c cond) string {
	if c.set != "" {
		b.setNamed[c.set].used = true
		return c.set
	}
	kind := setKinds[c.field]
	onlySet := func(v string) bool { return strings.HasPrefix(v, "keyword ") || strings.HasPrefix(v, "regex ") }
	if kind == "" || len(c.vals) <= maxInline && !slices.ContainsFunc(c.vals, onlySet) {
		return ""
	}
	s := b.addSet(r.name+"_"+strings.ReplaceAll(c.field, ".", "_"), kind, "", "of rule "+r.name, c.vals)
	s.used = true
	return s.name
}

// namer gives out names that are unique and legal.
type namer map[string]int

// pick returns a name like want that was not given out yet; other is what a
// name without any letter of ASCII becomes.
func (n namer) pick(want, other string) string {
	base := legalName(want, other)
	for {
		n[base]++
		if n[base] == 1 {
			return base
		}
		if try := base + "_" + strconv.Itoa(n[base]); n[try] == 0 {
			n[try] = 1
			return try
		}
	}
}

// legalName keeps letters, digits, _ and - of ASCII; other runs become one _.
func legalName(s, other string) string {
	var b strings.Builder
	gap := false
	for _, r := range s {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_') {
			if gap && b.Len() > 0 {
				b.WriteByte('_')
			}
			gap = false
			if b.WriteRune(r); b.Len() >= maxNameText {
				break
			}
			continue
		}
		gap = true
	}
	name := strings.Trim(b.String(), "-_")
	if name == "" {
		return other
	}
	if !unicode.IsLetter(rune(name[0])) {
		name = other + "_" + name
	}
	return name
}

// clean makes a foreign text safe for a comment or a terminal: one line, no
// control characters, of bounded length.
func clean(s string) string { return shorten(s, maxShown) }

func shorten(s string, most int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > most {
			b.WriteString("...")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}

// quote writes a string of NPL. A backslash is doubled only where it would be
// an escape.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range s {
		switch {
		case r == '"':
			b.WriteString(`\"`)
		case r == '\\':
			b.WriteByte('\\')
			if i+1 == len(s) || strings.IndexByte(`"\nrtu`, s[i+1]) >= 0 {
				b.WriteByte('\\')
			}
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// word writes a value without quotes where NPL takes it so.
func word(s string) string {
	reserved := []string{"in", "not", "like", "and", "or", "for", "any", "keyword", "regex", "schedule", "quota"}
	if s == "" || slices.Contains(reserved, s) || strings.ContainsAny(s, " \t\r\n{}(),;=<>!\"#") {
		return quote(s)
	}
	return s
}
