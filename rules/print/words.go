package print

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"netpolicy.dev/netpolicy/rules"
)

// splits reports the fields and types of sets whose values separate at commas;
// in the names of processes and users commas are text.
func splits(f rules.Field) bool {
	switch f {
	case rules.FieldALPN, rules.FieldProcess, rules.FieldProcessPath, rules.FieldUser, rules.FieldGroup, rules.FieldCgroup,
		rules.FieldIfaceIn, rules.FieldIfaceOut:
		return false
	default:
		return true
	}
}

// commaParts splits a word at its commas, as Check does: not a string of NPL, and
// not `keyword "x"` and `regex "x"`.
func commaParts(w rules.Word) []string {
	if w.Quoted || !strings.Contains(w.Text, ",") || isElement(w) {
		return []string{w.Text}
	}
	parts := strings.Split(w.Text, ",")
	for i := range parts {
		parts[i] = strings.Trim(parts[i], " \t\r\n")
	}
	return parts
}

// isElement reports `keyword "x"` and `regex "x"`, which only sets hold.
func isElement(w rules.Word) bool {
	if w.Quoted {
		return false
	}
	for _, kind := range []string{"keyword", "regex"} {
		rest, ok := strings.CutPrefix(w.Text, kind)
		if ok && rest != "" && (rest[0] == ' ' || rest[0] == '\t') {
			return true
		}
	}
	return false
}

// element spells `keyword "x"` and `regex "x"` of any spacing, quoted or not, as NPL does.
func element(w rules.Word) string {
	kind := w.Text[:strings.IndexAny(w.Text, " \t")]
	rest := strings.TrimLeft(w.Text[len(kind):], " \t")
	if len(rest) >= 2 && rest[0] == '"' && rest[len(rest)-1] == '"' {
		rest = rules.Unescape(rest[1 : len(rest)-1])
	}
	return kind + " " + quoteNPL(rest)
}

// safe reports whether a character can stand in a policy as it is; the others
// need an escape.
func safe(r rune) bool {
	return r >= ' ' && (r < 0x7f || r >= 0xa0) && r != '\u2028' && r != '\u2029' && r != '\ufeff' && r != '\ufffe' && r != '\uffff'
}

// bareNPL reports whether NPL reads the text as one word.
func bareNPL(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c == 0x7f || strings.IndexByte(`{}(),;=<>!"#`, c) >= 0, c == '\'' && i == 0:
			return false
		case c >= utf8.RuneSelf:
			for _, r := range s[i:] {
				if !safe(r) || unicode.IsSpace(r) || r == utf8.RuneError || strings.ContainsRune(`{}(),;=<>!"#`, r) || !unicode.IsGraphic(r) {
					return false
				}
			}
			return true
		}
	}
	return s != "" && s != "-" // the dash of a list of YAML
}

// quoteNPL is the text as a string of NPL. Backslashes are doubled only where
// they would begin an escape, so that expressions stay readable.
func quoteNPL(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range s {
		switch {
		case r == '"':
			b.WriteString(`\"`)
		case r == '\\':
			b.WriteByte('\\')
			if next := s[i+1:]; next == "" || strings.IndexByte(`"\nrt`, next[0]) >= 0 || strings.HasPrefix(next, "u{") {
				b.WriteByte('\\')
			}
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case !safe(r):
			b.WriteString(`\u{` + strconv.FormatInt(int64(r), 16) + "}")
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// npl is a word as NPL spells it, in quotes where it had them or needs them.
func npl(w rules.Word) string {
	if w.Quoted || !bareNPL(w.Text) {
		return quoteNPL(w.Text)
	}
	return w.Text
}

// text is npl of a text that is no keyword where it stands.
func text(s string) string {
	if bareNPL(s) {
		return s
	}
	return quoteNPL(s)
}

// str is a word where NPL's grammar has a string.
func str(w rules.Word) string { return quoteNPL(w.Text) }

// split is the words of an item, of which each may be a short string.
func split(args []rules.Word) []rules.Word {
	if !slices.ContainsFunc(args, func(w rules.Word) bool { return !w.Quoted && strings.ContainsAny(w.Text, " \t\r\n,()=\"") }) {
		return args
	}
	var list []rules.Word
	for _, w := range args {
		list = append(list, w.Split()...)
	}
	return list
}

// threshold is `120ms / 90ms` as two words; ok is false for anything else.
func threshold(args []rules.Word) (enter, exit string, ok bool) {
	var b strings.Builder
	for _, w := range split(args) {
		b.WriteString(w.Text)
		b.WriteByte(' ')
	}
	enter, exit, ok = strings.Cut(b.String(), "/")
	enter, exit = strings.TrimSpace(enter), strings.TrimSpace(exit)
	return enter, exit, ok && enter != "" && exit != "" && !strings.ContainsAny(enter+exit, " /")
}

func find(items []rules.Item, key string) *rules.Item {
	for i := range items {
		if plain(items[i].Key.Text) == key {
			return &items[i]
		}
	}
	return nil
}

// plain is a key with `-` taken for `_`.
func plain(key string) string {
	if strings.IndexByte(key, '-') < 0 {
		return key
	}
	return strings.ReplaceAll(key, "-", "_")
}

// strategies are how groups choose: the key that holds the members.
var strategies = []string{"fallback", "lowest_latency", "weighted", "hash", "sla"}

// strategyOf returns the item of a group that holds its members. `sla` is a
// strategy and, behind one, an option. Of an unknown strategy the list is the sign.
func strategyOf(items []rules.Item) *rules.Item {
	for i := range items {
		if key := plain(items[i].Key.Text); slices.Contains(strategies, key) && (key != "sla" || items[i].List || i == 0) {
			return &items[i]
		}
	}
	for i := range items {
		if items[i].List {
			return &items[i]
		}
	}
	return nil
}
