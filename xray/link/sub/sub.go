// Package sub reads and writes subscriptions: files with many profiles.
//
//	s, err := sub.Parse(data)
//	for _, e := range s.Entries {
//		if link.Refused(e.Findings) { … } // this one can't be used, the others can
//	}
//	out, losses := sub.Write(sub.Clash, profiles)
//
// Parse tells the format by itself: a list of links, base64 of one, SIP008, Clash's
// YAML, sing-box's and Xray's JSON, and a file of wg-quick. An entry that is wrong
// never costs another. Write says of each profile which keys the format can't say.
// The package is pure, and its errors repeat nothing out of the file.
package sub

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

const (
	// MaxBytes bounds a file; the largest public lists have 4 MiB.
	MaxBytes = 16 << 20
	// maxEntries bounds the profiles of a file, those that are wrong included.
	maxEntries = 20_000
)

// Format is a kind of file.
type Format uint8

// The formats.
const (
	Links    Format = iota // one link a line
	Base64                 // base64 of any of the others
	SIP008                 // JSON for shadowsocks
	Clash                  // YAML with proxies, as Clash and mihomo have it
	SingBox                // JSON with outbounds that have a type
	XrayJSON               // JSON with outbounds that have a protocol, or a list of such
	WGQuick                // a configuration of wg-quick
)

// String returns the format's name.
func (f Format) String() string {
	return [...]string{"link", "base64", "sip008", "clash", "singbox", "xray", "wg-quick"}[f]
}

// ParseFormat returns the format that Write knows by the name.
func ParseFormat(name string) (Format, bool) {
	for _, f := range []Format{Links, Base64, SIP008, Clash, SingBox} {
		if f.String() == name {
			return f, true
		}
	}
	return 0, false
}

// Entry is one profile of a file, or what is wrong with it.
type Entry struct {
	// Line is where it begins, from 1 on; of base64 in what was decoded.
	Line int
	// Profile is zero if Findings hold an error.
	Profile  link.Profile
	Findings []link.Finding
}

// Subscription is a file that was read.
type Subscription struct {
	Format  Format
	Entries []Entry
	// Beside names what the file has besides profiles, each once and in order: sections
	// by their keys, outbounds that are no proxies by their kinds, and comments.
	// Nothing that is written of the profiles has it.
	Beside []string
}

// beside adds what was found, once.
func (s *Subscription) beside(names ...string) {
	for _, name := range names {
		if !slices.Contains(s.Beside, name) {
			s.Beside = append(s.Beside, name)
		}
	}
}

// besideKeys adds the keys of an object but those given.
func (s *Subscription) besideKeys(n *node, but ...string) {
	for _, key := range n.keys {
		if !slices.Contains(but, key) {
			s.beside(key)
		}
	}
}

// besideOwn adds the kinds of the outbounds that are no proxies.
func (s *Subscription) besideOwn(outbounds []*node, key string, own []string) {
	for _, o := range outbounds {
		if kind := o.str(key); slices.Contains(own, kind) {
			s.beside("outbound " + kind)
		}
	}
}

// besideComments adds comments if a line is one.
func (s *Subscription) besideComments(data []byte, marks ...string) {
	for line := range bytes.Lines(data) {
		trimmed := strings.TrimSpace(string(line))
		if slices.ContainsFunc(marks, func(mark string) bool { return strings.HasPrefix(trimmed, mark) }) {
			s.beside("comments")
			return
		}
	}
}

// Profiles returns the entries that can be used.
func (s Subscription) Profiles() (list []link.Profile) {
	for _, e := range s.Entries {
		if !link.Refused(e.Findings) {
			list = append(list, e.Profile)
		}
	}
	return list
}

var (
	errSize    = errors.New("the file is larger than 16 MiB")
	errEntries = errors.New("the file has more than 20,000 entries")
	errUnknown = errors.New("this is none of a list of links, base64 of one, SIP008, Clash YAML, sing-box JSON, Xray JSON and wg-quick")
)

// Parse reads a file. It is an error if nothing of it can be told, or if it is
// over a bound.
func Parse(data []byte) (Subscription, error) {
	if len(data) > MaxBytes {
		return Subscription{}, errSize
	}
	s, err := parse(data, true)
	if err == nil && len(s.Entries) > maxEntries {
		return Subscription{}, errEntries
	}
	return s, err
}

func parse(data []byte, mayDecode bool) (Subscription, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	trimmed := bytes.TrimSpace(data)
	switch {
	case len(trimmed) == 0:
		return Subscription{}, errUnknown
	case trimmed[0] == '{' || trimmed[0] == '[' && !bytes.HasPrefix(trimmed, []byte("[Interface]")):
		return parseJSON(data)
	case hasLink(data):
		s := Subscription{Format: Links, Entries: parseLinks(data)}
		s.besideComments(data, linkComments...)
		return s, nil
	case bytes.Contains(data, []byte("[Interface]")):
		s := Subscription{Format: WGQuick, Entries: parseWGQuick(string(data))}
		s.besideComments(data, "#", ";")
		return s, nil
	}
	if plain, ok := link.DecodeBase64(string(trimmed)); ok && mayDecode {
		s, err := parse([]byte(plain), false)
		s.Format = Base64
		return s, err
	}
	if bytes.Contains(data, []byte("proxies")) {
		root, err := readYAML(data)
		if err != nil {
			return Subscription{}, err
		}
		if proxies := root.get("proxies"); proxies != nil {
			s := Subscription{Format: Clash, Entries: entries(proxies.items(), clashEntry)}
			s.besideKeys(root, "proxies")
			s.besideComments(data, "#")
			return s, nil
		}
	}
	return Subscription{}, errUnknown
}

// schemes are those that make a line a link.
var schemes = link.Schemes()

// isLink reports whether a line begins with a scheme that is known.
func isLink(line string) bool {
	scheme, _, found := strings.Cut(strings.TrimLeft(line, "\ufeff\u200b \t"), "://")
	return found && slices.Contains(schemes, strings.ToLower(scheme))
}

func hasLink(data []byte) bool {
	for line := range bytes.Lines(data) {
		if isLink(string(line)) {
			return true
		}
	}
	return false
}

// linkComments are what makes a line of a list of links a comment.
var linkComments = []string{"#", "//", ";"}

// parseLinks reads one link a line. Empty lines and comments are skipped.
func parseLinks(data []byte) (list []Entry) {
	n := 0
	for raw := range bytes.Lines(data) {
		n++
		line := strings.TrimRight(string(raw), "\r\n")
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || slices.ContainsFunc(linkComments, func(mark string) bool { return strings.HasPrefix(trimmed, mark) }) {
			continue
		}
		if len(list) > maxEntries {
			return list
		}
		e := Entry{Line: n}
		if isLink(line) {
			e.Profile, e.Findings = link.Parse(line)
		} else {
			e.Findings = []link.Finding{{Severity: diag.Error, Link: "text", Message: "this line is no link"}}
		}
		for i := range e.Findings {
			e.Findings[i].Line = n
		}
		list = append(list, e)
	}
	return list
}

// parseJSON tells the kinds of JSON apart.
func parseJSON(data []byte) (Subscription, error) {
	root, err := readJSON(data)
	if err != nil {
		return Subscription{}, err
	}
	if root.kind == '[' {
		return parseArray(root)
	}
	if servers := root.get("servers"); servers != nil && root.get("outbounds") == nil {
		s := Subscription{Format: SIP008, Entries: entries(servers.items(), sip008Entry)}
		s.besideKeys(root, "servers", "version")
		return s, nil
	}
	for _, o := range root.get("outbounds").items() {
		if o.get("protocol") != nil {
			s := Subscription{Format: XrayJSON}
			s.xrayConfig(root)
			return s, nil
		}
	}
	if root.get("outbounds") != nil || root.get("endpoints") != nil {
		all := append(slices.Clone(root.get("outbounds").items()), root.get("endpoints").items()...)
		s := Subscription{Format: SingBox, Entries: entries(all, singboxEntry)}
		s.besideKeys(root, "outbounds", "endpoints")
		s.besideOwn(all, "type", singboxOwn)
		return s, nil
	}
	switch {
	case root.get("protocol") != nil:
		return Subscription{Format: XrayJSON, Entries: entries([]*node{root}, xrayEntry)}, nil
	case root.get("type") != nil:
		return Subscription{Format: SingBox, Entries: entries([]*node{root}, singboxEntry)}, nil
	case root.get("server_port") != nil:
		return Subscription{Format: SIP008, Entries: entries([]*node{root}, sip008Entry)}, nil
	case root.get("proxies") != nil:
		s := Subscription{Format: Clash, Entries: entries(root.get("proxies").items(), clashEntry)}
		s.besideKeys(root, "proxies")
		return s, nil
	}
	return Subscription{}, errUnknown
}

func parseArray(root *node) (Subscription, error) {
	for _, item := range root.vals {
		switch {
		case item.get("outbounds") != nil:
			s := Subscription{Format: XrayJSON}
			for _, config := range root.vals {
				s.xrayConfig(config)
			}
			return s, nil
		case item.get("protocol") != nil:
			s := Subscription{Format: XrayJSON, Entries: entries(root.vals, xrayEntry)}
			s.besideOwn(root.vals, "protocol", xrayOwn)
			return s, nil
		case item.get("type") != nil && item.get("server_port") != nil:
			s := Subscription{Format: SingBox, Entries: entries(root.vals, singboxEntry)}
			s.besideOwn(root.vals, "type", singboxOwn)
			return s, nil
		case item.get("server") != nil:
			return Subscription{Format: SIP008, Entries: entries(root.vals, sip008Entry)}, nil
		}
	}
	return Subscription{}, errUnknown
}

// entries reads each item. A reader returns no fields for what is no proxy.
func entries(items []*node, read func(*node) (link.Fields, link.Form, bool)) (list []Entry) {
	for _, item := range items {
		if len(list) > maxEntries {
			break
		}
		f, form, ok := read(item)
		if !ok {
			continue
		}
		list = append(list, build(f, form, item.line))
	}
	return list
}

// build makes an entry of fields whose offsets are lines.
func build(f link.Fields, form link.Form, line int) Entry {
	e := Entry{Line: line}
	if f.Scheme == "" || !slices.Contains(schemes, f.Scheme) {
		e.Findings = []link.Finding{{
			Severity: diag.Error, Link: form.String() + " entry", Key: "type", Line: line,
			Message: "Xray does not speak the protocol of this entry", Help: "another client, such as sing-box, may",
		}}
		return e
	}
	e.Profile, e.Findings = link.Build(f, form)
	for i := range e.Findings {
		e.Findings[i].Line = max(e.Findings[i].Offset, line)
		e.Findings[i].Offset = 0
	}
	return e
}
