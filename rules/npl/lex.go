package npl

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kind is the kind of a token.
type Kind uint8

// The kinds of tokens.
const (
	EOF          Kind = iota // only inside the parser: Lex leaves it out
	Newline                  // "\n" or "\r\n"
	Space                    // blanks and tabs, and a byte order mark at the start
	Comment                  // from # to the end of the line
	Word                     // name, keyword, number, address: told apart by position
	String                   // "..."
	Open                     // {
	Close                    // }
	ParenOpen                // (
	ParenClose               // )
	Comma                    // ,
	Semicolon                // ;
	Assign                   // =
	Arrow                    // ->
	Compare                  // < <= > >= == !=
	Foreign                  // an operator of other languages: ! => =<
	SingleQuoted             // '...': not NPL
	Unterminated             // a string without its closing quote, to the end of the line
	Bad                      // a character that stands for nothing
)

// Token is one piece of the text, text[Start:End].
type Token struct {
	Kind       Kind
	Start, End int
}

// Lex cuts src into tokens without gaps: together they are the whole of it,
// white space and comments included. It accepts every input. Characters that no
// policy may have are tokens of kind Bad, except inside comments and strings.
func Lex(src []byte) []Token {
	text := string(src)
	list := make([]Token, 0, len(text)/4)
	pos := 0
	if strings.HasPrefix(text, bom) {
		pos = len(bom)
		list = append(list, Token{Space, 0, pos})
	}
	for pos < len(text) {
		t := scan(text, pos)
		list = append(list, t)
		pos = t.End
	}
	return list
}

const bom = "\xef\xbb\xbf"

// class is what a byte can begin.
type class uint8

const (
	inWord class = iota // the zero class: letters, digits, and most signs
	dash                // may begin ->
	high                // begins a rune of several bytes
	blank
	newline
	sign // a token of its own, or of two characters
	quote
	hash
	control
)

var classes = func() (c [256]class) {
	for b := range c {
		switch {
		case b < ' ' || b == 0x7f:
			c[b] = control
		case b >= utf8.RuneSelf:
			c[b] = high
		}
	}
	for _, b := range []byte("{}(),;=<>!") {
		c[b] = sign
	}
	c[' '], c['\t'], c['\n'], c['\r'], c['"'], c['#'], c['-'] = blank, blank, newline, newline, quote, hash, dash
	return c
}()

// scan returns the token that begins at pos. Its end is beyond pos unless the text ends there.
func scan(text string, pos int) Token {
	if pos >= len(text) {
		return Token{EOF, pos, pos}
	}
	switch classes[text[pos]] {
	case blank:
		end := pos + 1
		for end < len(text) && classes[text[end]] == blank {
			end++
		}
		return Token{Space, pos, end}
	case newline:
		if strings.HasPrefix(text[pos:], "\r\n") {
			return Token{Newline, pos, pos + 2}
		}
		return Token{Newline, pos, pos + 1}
	case sign:
		return scanSign(text, pos)
	case quote:
		return scanString(text, pos)
	case hash:
		return Token{Comment, pos, lineEnd(text, pos)}
	case dash:
		if strings.HasPrefix(text[pos:], "->") {
			return Token{Arrow, pos, pos + 2}
		}
	case high:
		if r, size := utf8.DecodeRuneInString(text[pos:]); strange(r, size) {
			return Token{Bad, pos, pos + size}
		}
	case control:
		return Token{Bad, pos, pos + 1}
	}
	if text[pos] == '\'' {
		rest := text[pos+1:]
		if i := strings.IndexAny(rest, "'\"#\r\n"); i >= 0 && rest[i] == '\'' {
			return Token{SingleQuoted, pos, pos + i + 2}
		}
	}
	return Token{Word, pos, wordEnd(text, pos)}
}

// wordEnd returns the offset behind the word that begins at pos.
func wordEnd(text string, pos int) int {
	for pos < len(text) {
		switch classes[text[pos]] {
		case inWord:
			pos++
		case dash:
			if pos+1 < len(text) && text[pos+1] == '>' {
				return pos
			}
			pos++
		case high:
			r, size := utf8.DecodeRuneInString(text[pos:])
			if strange(r, size) {
				return pos
			}
			pos += size
		default:
			return pos
		}
	}
	return pos
}

func scanSign(text string, pos int) Token {
	second := byte(0)
	if pos+1 < len(text) {
		second = text[pos+1]
	}
	switch text[pos] {
	case '{':
		return Token{Open, pos, pos + 1}
	case '}':
		return Token{Close, pos, pos + 1}
	case '(':
		return Token{ParenOpen, pos, pos + 1}
	case ')':
		return Token{ParenClose, pos, pos + 1}
	case ',':
		return Token{Comma, pos, pos + 1}
	case ';':
		return Token{Semicolon, pos, pos + 1}
	case '=':
		switch second {
		case '=':
			return Token{Compare, pos, pos + 2}
		case '>', '<':
			return Token{Foreign, pos, pos + 2}
		}
		return Token{Assign, pos, pos + 1}
	case '!':
		if second == '=' {
			return Token{Compare, pos, pos + 2}
		}
		return Token{Foreign, pos, pos + 1}
	default: // < >
		if second == '=' {
			return Token{Compare, pos, pos + 2}
		}
		return Token{Compare, pos, pos + 1}
	}
}

func scanString(text string, pos int) Token {
	for i := pos + 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			return Token{String, pos, i + 1}
		case '\\':
			if i+1 < len(text) && (text[i+1] == '"' || text[i+1] == '\\') {
				i++
			}
		case '\n', '\r':
			return Token{Unterminated, pos, i}
		}
	}
	return Token{Unterminated, pos, len(text)}
}

// lineEnd returns the offset of the line ending behind pos.
func lineEnd(text string, pos int) int {
	if i := strings.IndexByte(text[pos:], '\n'); i >= 0 {
		pos += i
		if i > 0 && text[pos-1] == '\r' {
			pos--
		}
		return pos
	}
	return len(text)
}

// strange reports characters outside ASCII that no word may have: blanks and
// formatting that cannot be seen, and quotes that look like ours.
func strange(r rune, size int) bool {
	return r == utf8.RuneError && size == 1 || r < 0xa0 || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) ||
		r == '“' || r == '”' || r == '„' || r == '\ufffe' || r == '\uffff'
}

// illegal reports characters that may not even stand in comments and strings.
func illegal(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' ||
		r == '\ufeff' || r == '\ufffe' || r == '\uffff'
}

// maxBadBytes is after how many bad characters the rest is not looked at: such a
// file is not text.
const maxBadBytes = 20

// characters checks the encoding and the characters of a file, and reports
// whether it is worth going on. It returns the text with bad ones replaced by
// as many bytes, so that offsets stay.
func (p *parser) characters(src []byte) (text string, ok bool) {
	if bytes.HasPrefix(src, []byte("\xff\xfe")) || bytes.HasPrefix(src, []byte("\xfe\xff")) {
		p.report("NP008", p.span(0, 2), "the file is UTF-16").Help = "save it as UTF-8"
		return "", false
	}
	i := 0
	if bytes.HasPrefix(src, []byte(bom)) {
		i = len(bom)
	}
	var patched []byte
	bad := 0
	for i < len(src) && bad < maxBadBytes {
		b := src[i]
		if b >= ' ' && b < 0x7f || b == '\n' || b == '\t' {
			i++
			continue
		}
		r, size := utf8.DecodeRune(src[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			p.report("NP008", p.span(i, i+1), "the byte %#02x is not UTF-8", b).Help = "save the file as UTF-8"
		case r == '\r' && i+1 < len(src) && src[i+1] == '\n' || !illegal(r):
			i += size
			continue
		default:
			p.report("NP001", p.span(i, i+size), "the character U+%04X can't be used in a policy", r)
		}
		bad++
		p.ast.Lost = true // a name may be damaged
		if patched == nil {
			patched = bytes.Clone(src)
		}
		with := byte(' ')
		switch {
		case r == '\r':
			with = '\n'
		case i > 0 && i+size < len(src) && classes[patched[i-1]] <= high && classes[src[i+size]] <= high:
			with = '_' // inside a word: it stays one
		}
		for j := i; j < i+size; j++ {
			patched[j] = with
		}
		i += size
	}
	if patched != nil {
		src = patched
	}
	return string(src), bad < maxBadBytes
}
