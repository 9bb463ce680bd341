package print

import (
	"strconv"
	"strings"
)

// scalarYAML is a value or key as YAML spells it: plain, or in quotes where YAML
// 1.1, YAML 1.2 or our reader would take it for something else than this text. In
// brackets and braces more needs quotes.
func scalarYAML(s string, flow bool) string {
	if plainYAML(s, flow) {
		return s
	}
	return quoteYAML(s)
}

// quoteYAML puts a text in quotes: single ones where that saves escapes.
func quoteYAML(s string) string {
	escapes := strings.ContainsFunc(s, func(r rune) bool { return !safe(r) })
	if !escapes && strings.ContainsAny(s, `"\`) && !strings.Contains(s, "'") {
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case safe(r):
			b.WriteRune(r)
		case r <= 0xff:
			b.WriteString(`\x` + pad(r, 2))
		case r <= 0xffff:
			b.WriteString(`\u` + pad(r, 4))
		default:
			b.WriteString(`\U` + pad(r, 8))
		}
	}
	b.WriteByte('"')
	return b.String()
}

func pad(r rune, n int) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", max(0, n-len(s))) + s
}

// plainYAML reports whether a text can stand without quotes.
func plainYAML(s string, flow bool) bool {
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' || s[len(s)-1] == ':' {
		return false
	}
	switch s[0] { // YAML 1.2.2, section 5.3: indicators
	case '-', '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`', '<', '=', '~':
		return false
	case '.':
		if len(s) == 1 || specialFloat(s[1:]) {
			return false
		}
	}
	for i, r := range s {
		switch {
		case !safe(r):
			return false
		case r == ',':
			return false
		case r == ':' && (flow || i+1 < len(s) && s[i+1] == ' '):
			return false
		case r == '#' && s[i-1] == ' ':
			return false
		case flow && strings.ContainsRune("[]{}", r):
			return false
		}
	}
	return !reservedYAML(s)
}

// reservedYAML reports texts that YAML 1.1 or 1.2 gives a type which changes them:
// nulls, the booleans that are not ours, octal and sexagesimal numbers, numbers
// with underscores, dates.
func reservedYAML(s string) bool {
	switch strings.ToLower(s) {
	case "null", "yes", "no", "on", "off", "y", "n":
		return true
	case "true", "false":
		return s != strings.ToLower(s)
	}
	if s[0] > '9' || s[0] < '0' && s[0] != '+' && s[0] != '-' {
		return false
	}
	digits := strings.TrimLeft(s, "+-")
	switch {
	case len(digits) > 1 && digits[0] == '0' && strings.Trim(digits[1:], "0123456789_o") == "":
		return true
	case strings.Contains(digits, "_") && strings.Trim(digits, "0123456789abcdefABCDEFx_.") == "":
		return true
	case strings.Contains(digits, ":") && strings.Trim(digits, "0123456789:._") == "":
		return true
	}
	const day = len("2026-01-01")
	return len(s) >= len("2026-1-1") && len(s) <= day && strings.Count(s, "-") == 2 && strings.Trim(s, "0123456789-") == ""
}

func specialFloat(s string) bool {
	s = strings.ToLower(s)
	return s == "inf" || s == "nan"
}
