package foreign

import "strings"

// section is one section of a UCI file: `config TYPE 'NAME'` and what follows.
type section struct {
	pkg, kind, name string
	line            int
	options         []uciOption
}

// uciOption is an option, or the elements of a list together.
type uciOption struct {
	key   string
	vals  []string
	lines []int
	list  bool
}

// get returns the value of an option, or the elements of a list joined by
// blanks; "" for none. Of an option that is given twice UCI takes the last.
func (s *section) get(key string) string {
	for _, o := range s.options {
		if o.key == key {
			return strings.Join(o.vals, " ")
		}
	}
	return ""
}

// all returns the elements of a list; an option may hold several words.
func (s *section) all(key string) []string { return strings.Fields(s.get(key)) }

// readUCI reads a file of /etc/config, or the output of `uci export`.
func readUCI(b *builder, src []byte) ([]*section, error) {
	var all []*section
	pkg := ""
	n := 0
	for line := range strings.SplitSeq(string(src), "\n") {
		n++
		words, problem := uciWords(strings.TrimSuffix(line, "\r"))
		if problem != "" {
			return nil, b.fail(n, "%s", problem)
		}
		if len(words) == 0 {
			continue
		}
		if err := b.count(n, 1); err != nil {
			return nil, err
		}
		switch word := words[0]; {
		case word == "package" && len(words) == 2:
			pkg = words[1]
		case word == "config" && (len(words) == 2 || len(words) == 3):
			s := &section{pkg: pkg, kind: words[1], line: n}
			if len(words) == 3 {
				s.name = words[2]
			}
			all = append(all, s)
		case word == "option" || word == "list":
			if len(all) == 0 {
				return nil, b.fail(n, "%s stands before the first `config`", word)
			}
			if len(words) != 3 {
				return nil, b.fail(n, "expected `%s NAME 'VALUE'`: a value with blanks needs quotes", word)
			}
			all[len(all)-1].add(words[1], words[2], n, word == "list")
		case word == "package" || word == "config":
			return nil, b.fail(n, "expected `config TYPE 'NAME'`")
		default:
			return nil, b.fail(n, "expected config, option or list, found %q", clean(word))
		}
	}
	return all, nil
}

func (s *section) add(key, val string, line int, list bool) {
	for i := range s.options {
		o := &s.options[i]
		if o.key != key {
			continue
		}
		if list && o.list {
			o.vals, o.lines = append(o.vals, val), append(o.lines, line)
		} else {
			*o = uciOption{key: key, vals: []string{val}, lines: []int{line}, list: list}
		}
		return
	}
	s.options = append(s.options, uciOption{key: key, vals: []string{val}, lines: []int{line}, list: list})
}

// uciWords cuts a line into words. Quoted parts and plain ones that touch are
// one word; a backslash outside of single quotes takes the next character as it
// is; # begins a comment where a word could begin.
func uciWords(line string) (words []string, problem string) {
	for i := 0; i < len(line); {
		switch line[i] {
		case ' ', '\t':
			i++
			continue
		case '#':
			return words, ""
		}
		var w strings.Builder
	word:
		for i < len(line) {
			switch c := line[i]; c {
			case ' ', '\t':
				break word
			case '\'', '"':
				end := i + 1
				for ; end < len(line) && line[end] != c; end++ {
					if line[end] == '\\' && c == '"' && end+1 < len(line) {
						end++
					}
					w.WriteByte(line[end])
				}
				if end >= len(line) {
					return nil, "the quote is not closed"
				}
				i = end + 1
			case '\\':
				if i++; i < len(line) {
					w.WriteByte(line[i])
					i++
				}
			default:
				w.WriteByte(c)
				i++
			}
		}
		words = append(words, w.String())
	}
	return words, ""
}
