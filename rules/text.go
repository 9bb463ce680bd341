package rules

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// QuoteEnd returns the offset of the quote that closes the string which begins at
// s[start], or len(s).
func QuoteEnd(s string, start int) int {
	for i := start + 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return i
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
		}
	}
	return len(s)
}

// Unescape replaces the escapes of what stands between the quotes of a string:
// \" \\ \n \r \t \u{HEX}. A backslash before anything else stands for itself.
func Unescape(s string) string {
	i := strings.IndexByte(s, '\\')
	if i < 0 {
		return s
	}
	var b strings.Builder
	done := 0
	for i < len(s) {
		r, size := escape(s[i:])
		if size > 0 {
			b.WriteString(s[done:i])
			b.WriteRune(r)
			done = i + size
		} else {
			size = 1
		}
		next := strings.IndexByte(s[i+size:], '\\')
		if next < 0 {
			break
		}
		i += size + next
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

// escape reads the escape at the start of s; size 0: it is none.
func escape(s string) (r rune, size int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '"', '\\':
		return rune(s[1]), 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		hex, found := strings.CutPrefix(s[2:], "{")
		end := strings.IndexByte(hex, '}')
		if !found || end < 1 || end > 6 {
			return 0, 0
		}
		n, err := strconv.ParseUint(hex[:end], 16, 32)
		if err != nil || !utf8.ValidRune(rune(n)) {
			return 0, 0
		}
		return rune(n), 2 + 1 + end + 1
	}
	return 0, 0
}
