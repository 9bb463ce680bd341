package flow

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseText reads a flow from one line:
//
//	proto src > dst key=value ...
//	tcp 10.0.0.5:5000 > 1.2.3.4:443 sni=us01.zoom.us rtt_ms=12.5 dns=a.example,b.example
//
// with the keys of flow records (language.md, section 8). "?" stands for a
// protocol or end that is not known, "-" for one known to be absent, and an end
// may lack its port or, as in ":443", its address. The bare value null is a fact
// known to be absent; values with spaces are quoted as in JSON, and so is a name that
// can be none, which traffic may have. Errors are *Error.
func ParseText(text string) (Flow, error) {
	if len(text) > MaxRecord {
		return Flow{}, &Error{ErrTooLong, MaxRecord, "flow longer than " + strconv.Itoa(MaxRecord) + " bytes"}
	}
	if !utf8.ValidString(text) {
		return Flow{}, &Error{ErrSyntax, 0, "flow is not UTF-8"}
	}
	s := scanner{src: text}
	var f Flow
	for _, key := range [...]int{keyProto, keySrc, -1, keyDst} {
		start, word := s.word()
		switch {
		case word == "":
			return Flow{}, &Error{ErrSyntax, start, "expected proto src > dst, as in: tcp 10.0.0.5:5000 > 1.2.3.4:443"}
		case key < 0:
			if word != ">" {
				return Flow{}, &Error{ErrSyntax, start, "expected > between the two ends, found " + quoted(word)}
			}
			continue
		case word == "?":
			continue
		}
		t := token{text: word}
		if word == "-" {
			t = token{kind: nullValue}
		}
		if msg := f.set(key, t); msg != "" {
			return Flow{}, &Error{ErrValue, start, keyNames[key] + ": " + msg}
		}
	}
	var seen uint32
	for {
		s.space()
		if s.pos == len(s.src) {
			break
		}
		if err := s.pair(&f, &seen); err != nil {
			return Flow{}, err
		}
	}
	if msg := f.finish(); msg != "" {
		return Flow{}, &Error{ErrValue, 0, msg}
	}
	return f, nil
}

// word reads up to the next space.
func (s *scanner) word() (start int, word string) {
	s.space()
	start = s.pos
	for s.pos < len(s.src) && !isSpace(s.src[s.pos]) {
		s.pos++
	}
	return start, s.src[start:s.pos]
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// pair reads one key=value.
func (s *scanner) pair(f *Flow, seen *uint32) error {
	start := s.pos
	for s.pos < len(s.src) && s.src[s.pos] != '=' && !isSpace(s.src[s.pos]) {
		s.pos++
	}
	name := s.src[start:s.pos]
	if s.pos == len(s.src) || s.src[s.pos] != '=' {
		return &Error{ErrSyntax, start, "expected key=value, found " + quoted(name)}
	}
	s.pos++
	key := keyIndex(name)
	switch {
	case key < 0:
		return &Error{ErrUnknown, start, "unknown key " + quoted(name)}
	case key == keyProto || key == keySrc || key == keyDst:
		return &Error{ErrDuplicate, start, name + " is given before the keys: proto src > dst"}
	case *seen>>key&1 == 1:
		return &Error{ErrDuplicate, start, "key " + quoted(name) + " given twice"}
	}
	*seen |= 1 << key
	valueAt := s.pos
	t, err := s.textValue(key)
	if err != nil {
		return err
	}
	if msg := f.set(key, t); msg != "" {
		return &Error{ErrValue, valueAt, name + ": " + msg}
	}
	return nil
}

func (s *scanner) textValue(key int) (token, error) {
	start := s.pos
	if start < len(s.src) && s.src[start] == '"' {
		text, err := s.str()
		if err == nil && s.pos < len(s.src) && !isSpace(s.src[s.pos]) {
			err = s.expected("a space after the value")
		}
		return token{kind: stringValue, text: text}, err
	}
	if start == len(s.src) || isSpace(s.src[start]) {
		return token{}, &Error{ErrSyntax, start, `expected a value; an empty one is written ""`}
	}
	_, word := s.word()
	switch {
	case word == "null":
		return token{kind: nullValue}, nil
	case key == keyDNS:
		return token{kind: listValue, list: strings.Split(word, ",")}, nil
	default:
		return token{kind: wordValue, text: word}, nil
	}
}

// String returns the flow as ParseText reads it. The same facts get lost as in
// AppendJSON.
func (f Flow) String() string {
	var ends [keyDst + 1]string
	var b strings.Builder
	for i := range ends {
		ends[i] = "?"
	}
	f.each(func(key int, t token) {
		value := t.text
		switch {
		case t.kind == nullValue:
			value = "null"
		case t.kind == listValue:
			value = strings.Join(t.list, ",")
		case t.kind == stringValue && mustQuote(value):
			value = string(AppendString(nil, value))
		}
		if key == keyProto || key == keySrc || key == keyDst {
			if t.kind == nullValue {
				value = "-"
			}
			ends[key] = value
			return
		}
		b.WriteString(" " + keyNames[key] + "=" + value)
	})
	return ends[keyProto] + " " + ends[keySrc] + " > " + ends[keyDst] + b.String()
}

func mustQuote(s string) bool {
	return s == "" || s == "null" || strings.ContainsFunc(s, func(r rune) bool {
		return r == '"' || r == '\\' || !unicode.IsPrint(r) || unicode.IsSpace(r)
	})
}
