package lists_test

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// The writers of the binary formats. They share nothing with the parsers.

func uvarint(n uint64) string { return string(binary.AppendUvarint(nil, n)) }

// counted puts the length before the bytes.
func counted(s string) string { return uvarint(uint64(len(s))) + s }

// text and number are fields of a protobuf message.
func text(field uint64, s string) string { return uvarint(field<<3|2) + counted(s) }

func number(field, n uint64) string { return uvarint(field<<3) + uvarint(n) }

// datFile, datPart, site and cidr are the messages of geosite.dat and geoip.dat.
func datFile(parts ...string) string { return "" + joined(1, parts) }

func datPart(code string, members ...string) string { return text(1, code) + joined(2, members) }

func joined(field uint64, list []string) (s string) {
	for _, m := range list {
		s += text(field, m)
	}
	return s
}

func site(kind uint64, value string, attrs ...string) string {
	s := text(2, value)
	if kind > 0 {
		s = number(1, kind) + s
	}
	for _, a := range attrs {
		s += text(3, text(1, a)+number(2, 1))
	}
	return s
}

func cidr(s string) string {
	p := prefixOf(s)
	return text(1, string(p.Addr().AsSlice())) + number(2, uint64(p.Bits()))
}

func prefixOf(s string) netip.Prefix {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return netip.MustParsePrefix(s)
}

// srsFile compresses rules as sing-box does.
func srsFile(version byte, list ...string) string {
	return "SRS" + string(version) + deflated(uvarint(uint64(len(list)))+strings.Join(list, ""))
}

func deflated(s string) string {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	if _, err := z.Write([]byte(s)); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

func srsRule(invert bool, items ...string) string {
	return "\x00" + strings.Join(items, "") + "\xff" + flag(invert)
}

// srsLogical joins rules: mode 0 is and, 1 is or.
func srsLogical(mode byte, invert bool, list ...string) string {
	return "\x01" + string(mode) + uvarint(uint64(len(list))) + strings.Join(list, "") + flag(invert)
}

func flag(b bool) string {
	if b {
		return "\x01"
	}
	return "\x00"
}

func srsTexts(item byte, list ...string) string {
	s := string(item) + uvarint(uint64(len(list)))
	for _, t := range list {
		s += counted(t)
	}
	return s
}

func srsPorts(item byte, ports ...uint16) string {
	s := string(item) + uvarint(uint64(len(ports)))
	for _, p := range ports {
		s += string(binary.BigEndian.AppendUint16(nil, p))
	}
	return s
}

// srsPrefixes writes each prefix as a range of its own.
func srsPrefixes(item byte, list []string) string {
	s := string(item) + "\x01" + string(binary.BigEndian.AppendUint64(nil, uint64(len(list))))
	for _, t := range list {
		p := prefixOf(t).Masked()
		lo, hi := p.Addr().AsSlice(), p.Addr().AsSlice()
		for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
			hi[bit/8] |= 0x80 >> (bit % 8)
		}
		s += counted(string(lo)) + counted(string(hi))
	}
	return s
}

// srsNames writes the item of names and suffixes. A suffix that begins with "."
// does not have the name itself.
func srsNames(names, suffixes []string) string {
	keys := slices.Clone(names)
	for _, s := range suffixes {
		keys = append(keys, cmp.Or(map[bool]string{true: "\r"}[s[0] == '.'], "\n")+s)
	}
	return "\x02" + srsTrie(keys)
}

// trieNode is a node of the tree that srsTrie writes level by level.
type trieNode struct {
	children map[byte]*trieNode
	leaf     bool
}

func srsTrie(keys []string) string {
	root := &trieNode{children: map[byte]*trieNode{}}
	for _, key := range keys {
		runes := []rune(key)
		slices.Reverse(runes)
		at := root
		for _, b := range []byte(string(runes)) {
			if at.children[b] == nil {
				at.children[b] = &trieNode{children: map[byte]*trieNode{}}
			}
			at = at.children[b]
		}
		at.leaf = true
	}
	var leaves, bitmap []bool
	var labels string
	for queue := []*trieNode{root}; len(queue) > 0; queue = queue[1:] {
		leaves = append(leaves, queue[0].leaf)
		for _, b := range slices.Sorted(maps.Keys(queue[0].children)) {
			labels += string([]byte{b})
			bitmap = append(bitmap, false)
			queue = append(queue, queue[0].children[b])
		}
		bitmap = append(bitmap, true)
	}
	return "\x00" + words(leaves) + words(bitmap) + counted(labels)
}

// words packs bits into big-endian words, the lowest bit first.
func words(list []bool) string {
	out := make([]uint64, (len(list)+63)/64)
	for i, set := range list {
		if set {
			out[i/64] |= 1 << (i % 64)
		}
	}
	s := binary.AppendUvarint(nil, uint64(len(out)))
	for _, w := range out {
		s = binary.BigEndian.AppendUint64(s, w)
	}
	return string(s)
}
