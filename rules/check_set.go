package rules

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
)

// MaxElements bounds all sets of a policy together.
const MaxElements = 4_000_000

// setTypes are the names of the types, in the order of SetType.
var setTypes = []string{"domain", "cidr", "port", "mac", "process", "user", "asn", "country"}

// String returns the type's name as policies spell it.
func (t SetType) String() string { return setTypes[t] }

var (
	setKeys    = []string{"type", "values", "file", "url", "select", "format", "sha256", "refresh", "on_error"}
	listFormat = []string{"list", "hosts", "dlc", "geosite", "geoip", "mmdb", "clash", "srs"}
)

// setTypeOf is the type of set that a field can name.
func setTypeOf(f Field) (SetType, bool) {
	switch f {
	case FieldSNI, FieldDomain, FieldHTTPHost:
		return DomainSet, true
	case FieldDstIP, FieldSrcIP:
		return CIDRSet, true
	case FieldPort, FieldSrcPort:
		return PortSet, true
	case FieldSrcMAC:
		return MACSet, true
	case FieldProcess, FieldProcessPath:
		return ProcessSet, true
	case FieldUser, FieldGroup:
		return UserSet, true
	case FieldASN:
		return ASNSet, true
	case FieldCountry:
		return CountrySet, true
	default:
		return 0, false
	}
}

func (c *checker) readSets() {
	total := 0
	for i, d := range c.ast.Sets {
		before := c.diags.Len()
		s := &Set{Name: d.Name.Text, Span: d.Name.Span}
		c.p.Sets[i] = s
		c.items(d.Items, "a set", setKeys)
		item := find(d.Items, "type")
		if item == nil {
			if !d.Bad {
				c.report("NP107", d.Name.Span, "the set %s has no type", diag.Quote(d.Name.Text)).Help = "it is one of " + orList(setTypes)
			}
			c.badSets[i] = true
			continue
		}
		w, ok := c.single(item)
		if ok {
			s.Type, ok = c.setType(w)
		}
		if !ok {
			c.badSets[i] = true
			continue
		}
		c.setSource(s, &d)
		if values := find(d.Items, "values"); values != nil && !values.Bad {
			s.Elements = c.elements(values.Args, s.Type)
		}
		c.badSets[i] = c.diags.Len() > before && s.size() == 0 // why it is empty has been said
		if total += s.size(); total > MaxElements {
			c.report("NP905", d.Name.Span, "the sets of a policy have more than %d elements", MaxElements)
			return
		}
	}
}

func (c *checker) setType(w Word) (SetType, bool) {
	if i := slices.Index(setTypes, w.Text); i >= 0 {
		return SetType(i), true
	}
	d := c.report("NP004", w.Span, "expected the type of a set, found %s", diag.Quote(w.Text))
	other := map[string]string{
		"ip": "cidr", "ips": "cidr", "ipcidr": "cidr", "subnet": "cidr", "prefix": "cidr", "ipv4": "cidr", "ipv6": "cidr", "address": "cidr",
		"domains": "domain", "sni": "domain", "host": "domain", "hosts": "domain", "ports": "port", "proc": "process", "uid": "user",
	}
	if is := other[strings.ToLower(w.Text)]; is != "" {
		d.Help = "write `" + is + "`"
	} else if d.Help = diag.DidYouMean(w.Text, setTypes); d.Help == "" {
		d.Help = "the types are " + orList(setTypes)
	}
	return 0, false
}

// setSource reads where a set's elements stand, and gets them.
func (c *checker) setSource(s *Set, d *Decl) {
	values, file, url := find(d.Items, "values"), find(d.Items, "file"), find(d.Items, "url")
	given := 0
	for _, i := range []*Item{values, file, url} {
		if i != nil {
			given++
		}
	}
	switch {
	case given == 0 && !d.Bad:
		c.report("NP107", d.Name.Span, "the set %s has no elements", diag.Quote(d.Name.Text)).Help = "add `values`, `file` or `url`"
		return
	case given > 1:
		c.report("NP004", d.Name.Span, "the elements of a set stand in one place: values, file or url")
		return
	}
	source := file
	if url != nil {
		source = url
	}
	for _, key := range []string{"select", "format", "sha256", "refresh", "on_error"} {
		if i := find(d.Items, key); i != nil && source == nil {
			c.report("NP207", i.Key.Span, "%s is for sets from a file or URL", key)
		}
	}
	if source == nil {
		return
	}
	w, ok := c.single(source)
	if !ok {
		return
	}
	if w.Text == "" {
		c.report("NP107", w.Span, "%s needs a value", source.Key.Text)
		return
	}
	if source == url {
		if s.List.URL = w.Text; !strings.HasPrefix(w.Text, "https://") && !strings.HasPrefix(w.Text, "http://") {
			c.report("NP004", w.Span, "expected an http or https URL, found %s", diag.Quote(w.Text))
			return
		}
	} else {
		s.List.File = w.Text
	}
	before := c.diags.Len()
	c.listOptions(s, d)
	if c.diags.Len() == before && c.lists != nil {
		c.loadList(s, w)
	}
}

// listOptions reads what describes a set's file.
func (c *checker) listOptions(s *Set, d *Decl) {
	word := func(key string, read func(Word)) {
		if i := find(d.Items, key); i != nil {
			if w, ok := c.single(i); ok {
				read(w)
			}
		}
	}
	if find(d.Items, "format") == nil {
		c.report("NP107", d.Name.Span, "the set %s does not say what format its file has", diag.Quote(d.Name.Text)).
			Help = "add `format`: " + orList(listFormat)
	}
	word("format", func(w Word) {
		if s.List.Format = c.oneOf(w, "format", listFormat...); s.List.Format == "mmdb" {
			c.report("NP502", w.Span, "mmdb files can't be read yet").Help = "use geoip"
		}
	})
	word("select", func(w Word) { s.List.Select = w.Text })
	word("sha256", func(w Word) {
		if s.List.SHA256 = strings.ToLower(w.Text); len(w.Text) != 64 || strings.Trim(s.List.SHA256, "0123456789abcdef") != "" {
			c.report("NP004", w.Span, "expected the 64 hexadecimal digits of a SHA-256, found %s", diag.Quote(w.Text))
		}
	})
	word("refresh", func(w Word) { s.List.Refresh = c.duration(w, "refresh", time.Minute, 365*24*time.Hour) })
	word("on_error", func(w Word) {
		switch c.oneOf(w, "on_error", "keep", "fail", "empty") {
		case "fail":
			s.List.OnError = ListFail
		case "empty":
			s.List.OnError = ListEmpty
		}
	})
}

// loadList gets the elements of a set that stands in a file.
func (c *checker) loadList(s *Set, at Word) {
	e, problems, err := c.lists.Load(s.List, s.Type)
	const most = 3
	for i, p := range problems {
		if i == most {
			c.report("NP503", at.Span, "%d more problems with the list of %s", len(problems)-most, s.Name)
			break
		}
		c.report("NP503", at.Span, "%s: %s", s.Name, p)
	}
	switch {
	case err == nil:
		s.Elements = e
	case s.List.OnError == ListFail:
		c.report("NP111", at.Span, "the list of %s can't be had: %s", s.Name, err).Help = "`on_error keep` goes on with the last good copy, or without elements"
	default:
		c.report("NP503", at.Span, "the list of %s can't be had and is empty: %s", s.Name, err)
	}
}

func (s *Set) size() int {
	return len(s.Names) + len(s.Prefixes) + len(s.Ports) + len(s.MACs) + len(s.Globs) + len(s.Numbers)
}

// elements reads values as those of a set of type t.
func (c *checker) elements(words []Word, t SetType) Elements {
	var e Elements
	n := &PredNode{Values: words, Key: Word{Text: "a set of type " + t.String()}}
	switch t {
	case DomainSet:
		e.Names = c.nameList(words)
	case CIDRSet:
		p := Pred{}
		c.prefixes(n, &p)
		e.Prefixes = p.Prefixes
	case PortSet:
		e.Ports = c.ports(words)
	case MACSet:
		e.MACs = c.macs(n)
	case ProcessSet, UserSet:
		e.Globs = c.globs(n, FieldProcess)
	case ASNSet:
		e.Numbers = c.asns(n)
	case CountrySet:
		e.Globs = c.countries(n)
	}
	return e
}

// setElement splits `keyword "x"` and `regex "x"`, of which w is the text; ok is
// false for all other words.
func setElement(w Word) (kind, value string, ok bool) {
	if w.Quoted {
		return "", "", false
	}
	for _, kind := range []string{"keyword", "regex"} {
		rest, is := strings.CutPrefix(w.Text, kind)
		if !is || rest == "" || !isBlank(rest[0]) {
			continue
		}
		rest = strings.TrimLeft(rest, " \t")
		if len(rest) >= 2 && rest[0] == '"' && rest[len(rest)-1] == '"' {
			return kind, Unescape(rest[1 : len(rest)-1]), true
		}
		return kind, rest, true
	}
	return "", "", false
}

// macs reads MAC addresses.
func (c *checker) macs(n *PredNode) []flow.MAC {
	var list []flow.MAC
	for _, w := range n.Values {
		for _, part := range w.commaList() {
			m, ok := parseMAC(part.Text)
			if !ok {
				c.report("NP201", part.Span, "%s takes MAC addresses, found %s", n.Key.Text, diag.Quote(part.Text)).Help = "for example 02:42:ac:11:00:02"
				continue
			}
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b flow.MAC) int { return bytes.Compare(a[:], b[:]) })
	return slices.Clip(slices.Compact(list))
}

// parseMAC reads six pairs of hexadecimal digits, separated by colons or hyphens.
func parseMAC(s string) (m flow.MAC, ok bool) {
	const length = len("02:42:ac:11:00:02")
	if len(s) != length {
		return m, false
	}
	for i := range m {
		if at := 3 * i; i > 0 && (s[at-1] != s[2] || s[2] != ':' && s[2] != '-') {
			return m, false
		}
		n, err := strconv.ParseUint(s[3*i:3*i+2], 16, 8)
		if err != nil {
			return m, false
		}
		m[i] = byte(n)
	}
	return m, true
}

// asns reads numbers of autonomous systems, with or without "AS".
func (c *checker) asns(n *PredNode) []uint32 {
	var list []uint32
	for _, w := range n.Values {
		for _, part := range w.commaList() {
			digits := part
			if len(part.Text) > 2 && strings.EqualFold(part.Text[:2], "as") {
				digits = part.Part(2, len(part.Text))
			}
			if v, ok := c.integer(digits, "the number of an autonomous system", 0, math.MaxUint32); ok {
				list = append(list, uint32(v))
			}
		}
	}
	return sortedUnique(list)
}

// countries reads codes of two letters (ISO 3166-1 alpha-2).
func (c *checker) countries(n *PredNode) []Glob {
	var list []Glob
	for _, w := range n.Values {
		for _, part := range w.commaList() {
			code := strings.ToUpper(part.Text)
			if len(code) != 2 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
				c.report("NP004", part.Span, "expected a country's code of two letters, found %s", diag.Quote(part.Text)).Help = "ISO 3166-1: DE, US, JP"
				continue
			}
			list = append(list, Glob(code))
		}
	}
	return list
}
