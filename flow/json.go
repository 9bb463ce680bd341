package flow

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// ParseJSON reads one flow record, an object on one line (language.md, section
// 8): a missing key is a fact not known yet, null a fact known to be absent.
// Errors are *Error; the flow returned with one has the record's ID where that
// could be read.
func ParseJSON(line []byte) (Flow, error) {
	if len(line) > MaxRecord {
		return Flow{}, &Error{ErrTooLong, MaxRecord, "record longer than " + strconv.Itoa(MaxRecord) + " bytes"}
	}
	s := scanner{src: string(line)}
	var f Flow
	err := s.object(&f)
	if err == nil {
		if msg := f.finish(); msg != "" {
			err = &Error{ErrValue, 0, msg}
		}
	}
	if err != nil {
		return Flow{ID: f.ID}, err
	}
	return f, nil
}

// AppendJSON appends the flow as one record, without a newline. ParseJSON reads
// it back as it was, but for facts that records can't tell: a port absent where
// the protocol has ports, and an invalid fact that is not a name.
func (f *Flow) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	first := true
	f.each(func(key int, t token) {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = AppendString(b, keyNames[key])
		b = append(b, ':')
		switch t.kind {
		case stringValue:
			b = AppendString(b, t.text)
		case nullValue:
			b = append(b, "null"...)
		case listValue:
			b = append(b, '[')
			for i, n := range t.list {
				if i > 0 {
					b = append(b, ',')
				}
				b = AppendString(b, n)
			}
			b = append(b, ']')
		default:
			b = append(b, t.text...)
		}
	})
	return append(b, '}')
}

// AppendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// scanner reads the JSON of one record: an object of strings, numbers, nulls
// and lists of strings. Nothing nests deeper, so it needs no stack.
type scanner struct {
	src string
	pos int
}

// object reads the whole line into f. After a wrong key or value it goes on, so
// that the ID is found; the first mistake is returned.
func (s *scanner) object(f *Flow) error {
	if !s.take('{') {
		return s.expected("{")
	}
	var first error
	note := func(code ErrorCode, pos int, msg string) {
		if first == nil {
			first = &Error{code, pos, msg}
		}
	}
	stop := func(err error) error {
		if first == nil {
			first = err
		}
		return first
	}
	var seen uint32 // bit i for keyNames[i]
	for n := 0; ; n++ {
		if s.take('}') {
			break
		}
		if n > 0 && !s.take(',') {
			return stop(s.expected(", or }"))
		}
		s.space()
		at := s.pos
		name, err := s.str()
		if err != nil {
			return stop(err)
		}
		if !s.take(':') {
			return stop(s.expected(":"))
		}
		s.space()
		valueAt := s.pos
		t, err := s.value()
		if err != nil {
			return stop(err)
		}
		key := keyIndex(name)
		switch {
		case key < 0:
			note(ErrUnknown, at, "unknown key "+quoted(name))
			continue
		case seen>>key&1 == 1:
			note(ErrDuplicate, at, "key "+quoted(name)+" given twice")
			continue
		}
		seen |= 1 << key
		if msg := f.set(key, t); msg != "" {
			note(ErrValue, valueAt, name+": "+msg)
		}
	}
	if s.space(); s.pos < len(s.src) {
		return stop(s.expected("the end of the line"))
	}
	return first
}

func (s *scanner) space() {
	for s.pos < len(s.src) {
		switch s.src[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// take skips space and then c, if it is there.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.pos < len(s.src) && s.src[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) expected(what string) error {
	got := "the end"
	if s.pos < len(s.src) {
		r, _ := utf8.DecodeRuneInString(s.src[s.pos:])
		got = strconv.QuoteRune(r)
	}
	return &Error{ErrSyntax, s.pos, "expected " + what + ", found " + got}
}

func (s *scanner) value() (token, error) {
	s.space()
	if s.pos == len(s.src) {
		return token{}, s.expected("a value")
	}
	start := s.pos
	switch c := s.src[s.pos]; {
	case c == '"':
		text, err := s.str()
		return token{kind: stringValue, text: text}, err
	case c == '[':
		return s.list()
	case c == '-' || '0' <= c && c <= '9':
		for s.pos < len(s.src) && isNumberByte(s.src[s.pos]) {
			s.pos++
		}
		text := s.src[start:s.pos]
		if !json.Valid([]byte(text)) {
			return token{}, &Error{ErrSyntax, start, quoted(text) + " is not a number"}
		}
		return token{kind: numberValue, text: text}, nil
	case len(s.src)-s.pos >= 4 && s.src[s.pos:s.pos+4] == "null":
		s.pos += 4
		return token{kind: nullValue}, nil
	default:
		return token{}, s.expected("a string, a number, a list of strings or null")
	}
}

func isNumberByte(c byte) bool {
	return '0' <= c && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'
}

func (s *scanner) list() (token, error) {
	s.take('[')
	t := token{kind: listValue}
	for n := 0; !s.take(']'); n++ {
		if n > 0 && !s.take(',') {
			return t, s.expected(", or ]")
		}
		s.space()
		text, err := s.str()
		if err != nil {
			return t, err
		}
		t.list = append(t.list, text)
	}
	return t, nil
}

// str reads a string at pos.
func (s *scanner) str() (string, error) {
	start := s.pos
	if s.pos == len(s.src) || s.src[s.pos] != '"' {
		return "", s.expected("a string")
	}
	escaped := false
	for i := s.pos + 1; i < len(s.src); i++ {
		switch c := s.src[i]; {
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return "", &Error{ErrSyntax, i, "control character in a string"}
		case c == '"':
			s.pos = i + 1
			raw := s.src[start+1 : i]
			if !utf8.ValidString(raw) {
				return "", &Error{ErrSyntax, start, "string is not UTF-8"}
			}
			if !escaped {
				return raw, nil
			}
			var text string
			if err := json.Unmarshal([]byte(s.src[start:i+1]), &text); err != nil {
				return "", &Error{ErrSyntax, start, "wrong escape in a string"}
			}
			return text, nil
		}
	}
	return "", &Error{ErrSyntax, start, "string without end"}
}
