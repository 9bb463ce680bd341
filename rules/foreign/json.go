package foreign

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// value is a value of JSON with its line. Of objects the keys stand in vals, in order.
type value struct {
	kind byte // { [ " and 0 for numbers, true, false and null
	text string
	keys []string
	at   []int // the lines of the keys
	vals []*value
	line int
}

// get returns the value of a key, nil if there is none or v is no object.
func (v *value) get(key string) *value {
	if v == nil || v.kind != '{' {
		return nil
	}
	for i, k := range v.keys {
		if k == key {
			return v.vals[i]
		}
	}
	return nil
}

// str returns a text, number or truth value under a key; "" for none.
func (v *value) str(key string) string {
	if s := v.get(key); s != nil && (s.kind == '"' || s.kind == 0 && s.text != "null") {
		return s.text
	}
	return ""
}

// list returns a list's elements; one value counts as a list of it.
func (v *value) list() []*value {
	switch {
	case v == nil || v.kind == 0 && v.text == "null":
		return nil
	case v.kind == '[':
		return v.vals
	default:
		return []*value{v}
	}
}

// strs returns the texts and numbers of a list.
func (v *value) strs() []string {
	var all []string
	for _, e := range v.list() {
		if e.kind == '"' || e.kind == 0 {
			all = append(all, e.text)
		}
	}
	return all
}

// jsonReader reads JSON with comments (//, # and /* */) and trailing commas.
type jsonReader struct {
	b    *builder
	src  string
	i    int
	line int
	left int // values that may still come
}

// readJSON reads one value and nothing behind it.
func readJSON(b *builder, src []byte) (*value, error) {
	r := &jsonReader{b: b, src: string(src), line: 1, left: maxItems}
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if err := r.space(); err != nil {
		return nil, err
	}
	if r.i < len(r.src) {
		return nil, r.odd("the end of the file")
	}
	return v, nil
}

// odd is the error of finding something else than what was expected.
func (r *jsonReader) odd(want string) error {
	if r.i >= len(r.src) {
		return r.b.fail(r.line, "expected %s, found the end of the file", want)
	}
	c, _ := utf8.DecodeRuneInString(r.src[r.i:])
	return r.b.fail(r.line, "expected %s, found %s", want, strconv.QuoteRune(c))
}

// space skips white space and comments.
func (r *jsonReader) space() error {
	for r.i < len(r.src) {
		rest := r.src[r.i:]
		switch {
		case rest[0] == '\n':
			r.line++
			r.i++
		case rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\r':
			r.i++
		case rest[0] == '#' || strings.HasPrefix(rest, "//"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			r.i += end
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				return r.b.fail(r.line, "the comment is not closed")
			}
			r.line += strings.Count(rest[:end+4], "\n")
			r.i += end + 4
		default:
			return nil
		}
	}
	return nil
}

func (r *jsonReader) value(depth int) (*value, error) {
	if err := r.space(); err != nil {
		return nil, err
	}
	if r.left--; r.left < 0 {
		return nil, r.b.fail(r.line, "more than %d values", maxItems)
	}
	if depth > maxDepth {
		return nil, r.b.fail(r.line, "nested more than %d deep", maxDepth)
	}
	v := &value{line: r.line}
	if r.i >= len(r.src) {
		return nil, r.odd("a value")
	}
	switch c := r.src[r.i]; c {
	case '{', '[':
		v.kind = c
		r.i++
		return v, r.members(v, depth)
	case '"':
		v.kind = c
		var err error
		v.text, err = r.str()
		return v, err
	}
	end := r.i
	for end < len(r.src) && strings.IndexByte("abcdefghijklmnopqrstuvwxyz0123456789+-.E", r.src[end]) >= 0 {
		end++
	}
	v.text = r.src[r.i:end]
	if _, err := strconv.ParseFloat(v.text, 64); v.text != "true" && v.text != "false" && v.text != "null" && (err != nil || v.text[0] > '9') {
		return nil, r.odd("a value")
	}
	r.i = end
	return v, nil
}

// members reads what stands in an object or list, and the closing bracket.
func (r *jsonReader) members(v *value, depth int) error {
	seen := map[string]bool{}
	closing := map[byte]byte{'{': '}', '[': ']'}[v.kind]
	for {
		if err := r.space(); err != nil {
			return err
		}
		if r.i >= len(r.src) {
			return r.b.fail(r.line, "expected %q for the bracket of line %d, found the end of the file", closing, v.line)
		}
		if r.src[r.i] == closing {
			r.i++
			return nil
		}
		if v.kind == '{' {
			if err := r.key(v, seen); err != nil {
				return err
			}
		}
		kid, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		v.vals = append(v.vals, kid)
		if err := r.space(); err != nil {
			return err
		}
		switch {
		case r.i < len(r.src) && r.src[r.i] == ',':
			r.i++
		case r.i >= len(r.src) || r.src[r.i] != closing:
			return r.odd("a comma or " + strconv.QuoteRune(rune(closing)))
		}
	}
}

func (r *jsonReader) key(v *value, seen map[string]bool) error {
	if r.src[r.i] != '"' {
		return r.odd("a key in quotes")
	}
	line := r.line
	key, err := r.str()
	if err != nil {
		return err
	}
	if seen[key] {
		return r.b.fail(line, "the key %s is there twice", strconv.Quote(clean(key)))
	}
	seen[key] = true
	v.keys, v.at = append(v.keys, key), append(v.at, line)
	if err := r.space(); err != nil {
		return err
	}
	if r.i >= len(r.src) || r.src[r.i] != ':' {
		return r.odd("a colon")
	}
	r.i++
	return nil
}

// str reads a string at its opening quote.
func (r *jsonReader) str() (string, error) {
	var b strings.Builder
	for r.i++; r.i < len(r.src); {
		switch c := r.src[r.i]; {
		case c == '"':
			r.i++
			return b.String(), nil
		case c == '\n':
			return "", r.b.fail(r.line, "the string is not closed")
		case c != '\\':
			b.WriteByte(c)
			r.i++
		case r.i+1 >= len(r.src):
			r.i++
		default:
			if err := r.escape(&b); err != nil {
				return "", err
			}
		}
	}
	return "", r.b.fail(r.line, "the string is not closed")
}

func (r *jsonReader) escape(b *strings.Builder) error {
	c := r.src[r.i+1]
	if at := strings.IndexByte(`"\/bfnrt`, c); at >= 0 {
		b.WriteByte("\"\\/\b\f\n\r\t"[at])
		r.i += 2
		return nil
	}
	first, ok := r.hex(r.i)
	if !ok {
		return r.b.fail(r.line, "the escape in the string is not known")
	}
	r.i += 6
	if utf16.IsSurrogate(first) {
		second, ok := r.hex(r.i)
		if pair := utf16.DecodeRune(first, second); ok && pair != utf8.RuneError {
			r.i += 6
			b.WriteRune(pair)
			return nil
		}
		first = utf8.RuneError
	}
	b.WriteRune(first)
	return nil
}

// hex reads the escape of a UTF-16 unit at i: \u and four hexadecimal digits.
func (r *jsonReader) hex(i int) (rune, bool) {
	if i+6 > len(r.src) || r.src[i:i+2] != `\u` {
		return 0, false
	}
	n, err := strconv.ParseUint(r.src[i+2:i+6], 16, 16)
	return rune(n), err == nil
}
