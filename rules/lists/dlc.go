package lists

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// maxInclude bounds how deep include: nests, as imports of policies do.
const maxInclude = 16

// maxFolder bounds the text read for one list with all that it includes and the
// files that are searched for affiliations, in bytes.
const maxFolder = 4 * MaxSize

var (
	errIncludes = fmt.Errorf("include: nests deeper than %d files", maxInclude)
	errFolder   = fmt.Errorf("the files that it includes are larger than %d MiB", maxFolder>>20)
	errSelect   = errors.New("select takes attributes: \"@ads\", \"@cn@-ads\"")
)

// tagged is an entry of a dlc list. Its attributes are sorted and stand in one
// string: "@ads@cn@", or "" for none.
type tagged struct {
	p     rules.NamePattern
	attrs string
}

// key identifies an entry; it is comparable, unlike expressions.
type taggedKey struct {
	kind        rules.PatternKind
	name, attrs string
}

func (e tagged) has(attr string) bool { return strings.Contains(e.attrs, "@"+attr+"@") }

// filter is what include:name @a @-b and select ask of an entry: all of must,
// and none of ban.
type filter struct{ must, ban []string }

func (f filter) takes(e tagged) bool {
	for _, a := range f.must {
		if !e.has(a) {
			return false
		}
	}
	for _, a := range f.ban {
		if e.has(a) {
			return false
		}
	}
	return true
}

// attrFilter reads "@a@-b"; blanks may stand between them.
func attrFilter(s string) (f filter, ok bool) {
	for _, field := range strings.Fields(strings.ReplaceAll(s, "@", " @")) {
		attr, isAttr := strings.CutPrefix(strings.ToLower(field), "@")
		attr, banned := strings.CutPrefix(attr, "-")
		switch {
		case !isAttr || !isAttribute(attr):
			return filter{}, false
		case banned:
			f.ban = append(f.ban, attr)
		default:
			f.must = append(f.must, attr)
		}
	}
	return f, true
}

func isAttribute(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789!") == ""
}

func isListName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789!-") == ""
}

// dlcFolder resolves the lists of a folder, each once.
type dlcFolder struct {
	c        *collector
	files    Files
	size     int                 // bytes read
	copied   int                 // entries taken by include: or given to other lists
	resolved map[string][]tagged // nil: being resolved
	affil    map[string][]tagged // entries that other files give to a list; nil: not searched yet
	root     string
}

// parseDLC reads a list of v2fly's domain-list-community in its text form:
// what it includes, and what other files of the folder affiliate to it.
func parseDLC(c *collector, src Source) error {
	want, ok := attrFilter(src.Select)
	if !ok {
		return errSelect
	}
	d := &dlcFolder{c: c, files: src.Files, resolved: make(map[string][]tagged), root: strings.ToLower(src.Name)}
	list, err := d.resolve(d.root, src.Data, 0)
	if err != nil {
		return err
	}
	for _, e := range list {
		if want.takes(e) {
			c.add(e.p)
		}
	}
	return c.chosen(want)
}

// chosen makes attributes that no entry has an error: they are a slip.
func (c *collector) chosen(want filter) error {
	if c.n == 0 && len(c.problems) == 0 && len(want.must)+len(want.ban) > 0 {
		return errors.New("no entry has the attributes that select asks for")
	}
	return nil
}

// resolve returns the entries of a file, of what it includes, and of its
// affiliates, without duplicates.
func (d *dlcFolder) resolve(name string, data []byte, depth int) ([]tagged, error) {
	if d.size += len(data); d.size > maxFolder {
		return nil, errFolder
	}
	d.resolved[name] = nil
	var out []tagged
	file := d.c.file
	for n, line := range d.c.lines(data, hashAnywhere) {
		if len(out) > MaxElements {
			return nil, errElements
		}
		body, isInclude := cutInclude(line)
		if !isInclude {
			if e, _, ok := d.c.dlcEntry(n, line); ok {
				out = append(out, e)
			}
			continue
		}
		more, err := d.include(n, body, depth)
		if err != nil {
			return nil, err
		}
		d.c.file = file
		out = append(out, more...)
	}
	affiliates, err := d.affiliates(name)
	if err != nil {
		return nil, err
	}
	out = uniqueTagged(append(out, affiliates...))
	if out == nil {
		out = []tagged{}
	}
	d.resolved[name] = out
	return out, nil
}

func cutInclude(line string) (string, bool) {
	const prefix = "include:"
	if len(line) < len(prefix) || !strings.EqualFold(line[:len(prefix)], prefix) {
		return "", false
	}
	return line[len(prefix):], true
}

func uniqueTagged(list []tagged) []tagged {
	seen := make(map[taggedKey]struct{}, len(list))
	return slices.DeleteFunc(list, func(e tagged) bool {
		k := taggedKey{e.p.Kind, e.p.Name, e.attrs}
		_, dup := seen[k]
		seen[k] = struct{}{}
		return dup
	})
}

// include reads "name @attr @-attr". What can't be included is a problem, and
// the rest of the file is kept; only the bounds are errors.
func (d *dlcFolder) include(n int, body string, depth int) ([]tagged, error) {
	name, attrs, _ := strings.Cut(strings.ReplaceAll(strings.Trim(body, blanks), "\t", " "), " ")
	name = strings.ToLower(name)
	want, ok := attrFilter(attrs)
	switch {
	case !isListName(name) || !ok:
		d.c.bad(n, "not a list to include", body)
		return nil, nil
	case depth+1 >= maxInclude:
		return nil, errIncludes
	case d.files == nil:
		d.c.bad(n, "a list can only be included from a folder", name)
		return nil, nil
	}
	list, known := d.resolved[name]
	if known && list == nil {
		d.c.bad(n, "a list that includes itself", name)
		return nil, nil
	}
	if !known {
		data, err := d.files.Open(name)
		if err != nil {
			affiliates, aerr := d.affiliates(name)
			if aerr != nil {
				return nil, aerr
			}
			if len(affiliates) == 0 {
				d.c.problem(n, "can't include "+diag.Quote(name)+": "+err.Error())
				return nil, nil
			}
		}
		outer := d.c.file
		d.c.file = name
		list, err = d.resolve(name, data, depth+1)
		d.c.file = outer
		if err != nil {
			return nil, err
		}
	}
	if d.copied += len(list); d.copied > MaxElements {
		return nil, errElements
	}
	var taken []tagged
	for _, e := range list {
		if want.takes(e) {
			taken = append(taken, e)
		}
	}
	return taken, nil
}

// affiliates returns what the other files of the folder give to a list with
// &name. The folder is searched once; problems of those files are not reported,
// since they are not what was asked for.
func (d *dlcFolder) affiliates(name string) ([]tagged, error) {
	if d.files == nil {
		return nil, nil
	}
	if d.affil != nil {
		return d.affil[name], nil
	}
	d.affil = make(map[string][]tagged)
	names, err := d.files.Names()
	if err != nil {
		return nil, nil // a single file, or a folder that can't be listed
	}
	slices.Sort(names)
	quiet := &collector{t: d.c.t}
	for _, other := range names {
		if !isListName(other) {
			continue
		}
		data, err := d.files.Open(other)
		if err != nil {
			continue
		}
		if d.size += len(data); d.size > maxFolder {
			return nil, errFolder
		}
		if bytes.IndexByte(data, '&') < 0 {
			continue
		}
		for n, line := range quiet.lines(data, hashAnywhere) {
			if !strings.Contains(line, "&") {
				continue
			}
			e, to, ok := quiet.dlcEntry(n, line)
			for _, list := range to {
				if ok {
					d.affil[list] = append(d.affil[list], e)
					d.copied++
				}
			}
			switch {
			case d.copied > MaxElements:
				return nil, errElements
			case quiet.program > maxProgram:
				return nil, errProgram
			}
		}
	}
	return d.affil[name], nil
}

// dlcEntry reads "[type:]value @attr... &list...".
func (c *collector) dlcEntry(n int, line string) (e tagged, affiliates []string, ok bool) {
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return e, nil, false
	}
	kind, body, typed := strings.Cut(fields[0], ":")
	if !typed {
		kind, body = "domain", fields[0]
	} else if body == "" && len(fields) > 1 { // "full: zoom.us"
		body, fields = fields[1], fields[1:]
	}
	p, ok, known := c.prefixed(n, strings.ToLower(kind), body)
	if !known {
		c.bad(n, "not domain:, full:, keyword:, regexp: or include:", fields[0])
		return e, nil, false
	}
	var attrs []string
	for _, f := range fields[1:] {
		word := strings.ToLower(f[1:])
		switch {
		case f[0] == '@' && isAttribute(word):
			attrs = append(attrs, word)
		case f[0] == '&' && isListName(word):
			affiliates = append(affiliates, word)
		default:
			if ok {
				c.bad(n, "neither an @attribute nor an &affiliation", f)
			}
			return e, nil, false
		}
	}
	if len(attrs) > 0 {
		slices.Sort(attrs)
		e.attrs = "@" + strings.Join(slices.Compact(attrs), "@") + "@"
	}
	e.p = p
	return e, affiliates, ok
}
