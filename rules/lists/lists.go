// Package lists reads rule-set files of the field into the elements of a set:
// plain lists, hosts files, v2fly domain-list-community text, geosite.dat and
// geoip.dat, Clash rule providers, and sing-box rule-sets as .json and .srs.
//
//	e, problems, err := lists.Parse(lists.Source{Format: lists.Hosts, Data: data}, rules.DomainSet)
//
// It is pure: bytes come in, values go out. Every name goes through
// flow.CanonicalName. A line that can't be read, or that a set of this type
// can't hold, is a Problem; the other lines are kept. The result depends on the
// bytes alone and has one form for one meaning: sorted, without duplicates,
// without names and prefixes that another element covers. So the same list
// gives the same elements whatever format it comes in.
package lists

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// MaxSize bounds a file, in bytes, and what an .srs file inflates to: several
// times the largest lists in use (20 MiB), and what a small router can hold.
const MaxSize = 64 << 20

// MaxElements bounds the elements of one list (language.md, section 2).
const MaxElements = 4_000_000

// maxLine bounds a line of text, in bytes: the longest expression (1 KiB) with
// room for attributes and a comment.
const maxLine = 4 << 10

// maxProblems bounds the problems that one file reports; the rest are counted.
const maxProblems = 100

// Format is a file format. The zero Format is none.
type Format uint8

// The formats.
const (
	List    Format = iota + 1 // one element a line
	Hosts                     // hosts(5): an address, then names
	DLC                       // v2fly domain-list-community text
	GeoSite                   // geosite.dat
	GeoIP                     // geoip.dat
	Clash                     // Clash rule provider, YAML or text
	SRS                       // sing-box rule-set, .srs or .json
)

// formats are the names as policies write them, in the order of the constants.
var formats = [...]string{"list", "hosts", "dlc", "geosite", "geoip", "clash", "srs"}

// ParseFormat returns the format of that name; false if there is none.
func ParseFormat(name string) (Format, bool) {
	i := slices.Index(formats[:], name)
	return Format(i + 1), i >= 0
}

// String returns the name that ParseFormat takes.
func (f Format) String() string {
	if f == 0 || int(f) > len(formats) {
		return "Format(" + strconv.Itoa(int(f)) + ")"
	}
	return formats[f-1]
}

// holds are the set types that each format can fill.
var holds = [...][]rules.SetType{
	List:    {rules.DomainSet, rules.CIDRSet, rules.PortSet, rules.MACSet, rules.ProcessSet, rules.UserSet},
	Hosts:   {rules.DomainSet},
	DLC:     {rules.DomainSet},
	GeoSite: {rules.DomainSet},
	GeoIP:   {rules.CIDRSet},
	Clash:   {rules.DomainSet, rules.CIDRSet, rules.PortSet, rules.ProcessSet},
	SRS:     {rules.DomainSet, rules.CIDRSet, rules.PortSet, rules.ProcessSet},
}

// Holds reports whether a file of this format can fill a set of type t.
func (f Format) Holds(t rules.SetType) bool {
	return int(f) < len(holds) && slices.Contains(holds[f], t)
}

// Files opens the files that stand beside a dlc list, by name.
type Files interface {
	// Open returns the content of the file of that name, which has only
	// letters, digits, "-" and "!" and is lower-case.
	Open(name string) ([]byte, error)
	// Names lists the files, in any order, so that affiliations are found.
	Names() ([]string, error)
}

// Source is a file and what is wanted of it.
type Source struct {
	Format Format
	// Select is a part of the file: "cn" of a geoip.dat, "google@ads" of a
	// geosite.dat, "@ads" of a dlc file. The other formats have no parts.
	Select string
	Data   []byte // not kept or changed
	Name   string // the file's name without its folder; dlc: what affiliations point at
	Files  Files  // dlc: its folder; nil: include: is a problem
}

// Problem is something in a file that was left out or changed.
type Problem struct {
	File  string // the included file; "" is the source itself
	Line  int    // 1-based, the first if there are several; 0 in binary files
	Count int    // how many lines or entries have it
	Text  string
}

// String returns the problem on one line: "line 7: not a name: ...".
func (p Problem) String() string {
	s := p.Text
	if p.Count > 1 {
		s = strconv.Itoa(p.Count) + " times: " + s
	}
	if p.Line > 0 {
		s = "line " + strconv.Itoa(p.Line) + ": " + s
	}
	if p.File != "" {
		s = p.File + ": " + s
	}
	return s
}

var (
	errSize     = fmt.Errorf("larger than %d MiB", MaxSize>>20)
	errElements = fmt.Errorf("more than %d elements", MaxElements)
	errProgram  = errors.New("its expressions are too large together")
	errHTML     = errors.New("a web page, not a list")
	errNothing  = errors.New("nothing in it can be read")
)

// Parse reads a source into the elements of a set of type t. An error means that
// there are no elements: the file is damaged, too large, of another format, or
// has no line that can be used. A file without any entry is an empty list.
func Parse(src Source, t rules.SetType) (rules.Elements, []Problem, error) {
	if src.Format == 0 || int(src.Format) > len(formats) {
		return rules.Elements{}, nil, errors.New("the format of the list is not known")
	}
	if !src.Format.Holds(t) {
		return rules.Elements{}, nil, fmt.Errorf("a %s file can't fill a %s set", src.Format, typeName(t))
	}
	if len(src.Data) > MaxSize {
		return rules.Elements{}, nil, errSize
	}
	if src.Select != "" && src.Format != DLC && src.Format != GeoSite && src.Format != GeoIP {
		return rules.Elements{}, nil, fmt.Errorf("a %s file has no parts to select", src.Format)
	}
	if src.Format != GeoSite && src.Format != GeoIP && looksLikeHTML(src.Data) {
		return rules.Elements{}, nil, errHTML
	}
	c := &collector{t: t}
	if err := parsers[src.Format](c, src); err != nil {
		return rules.Elements{}, c.problems, err
	}
	e, err := c.elements()
	return e, c.problems, err
}

// parsers read one format each into a collector.
var parsers = [...]func(*collector, Source) error{
	List:    parseList,
	Hosts:   parseHosts,
	DLC:     parseDLC,
	GeoSite: parseGeoSite,
	GeoIP:   parseGeoIP,
	Clash:   parseClash,
	SRS:     parseSRS,
}

// looksLikeHTML recognises the page of a captive portal or an error, which
// would else be read as a list of odd lines.
func looksLikeHTML(data []byte) bool {
	data = bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\ufeff")), " \t\r\n")
	return len(data) > 0 && data[0] == '<'
}

func typeName(t rules.SetType) string {
	names := [...]string{"domain", "cidr", "port", "mac", "process", "user"}
	if int(t) < len(names) {
		return names[t]
	}
	return strings.ToLower(strconv.Itoa(int(t)))
}
