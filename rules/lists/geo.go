package lists

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// The messages of geosite.dat and geoip.dat, field numbers of v2ray-core's
// app/router/routercommon/common.proto.
const (
	entryField = 1 // GeoSiteList, GeoIPList: a part

	codeField    = 1 // GeoSite, GeoIP: its name
	memberField  = 2 // GeoSite.domain, GeoIP.cidr
	inverseField = 3 // GeoIP.inverse_match
	newCodeField = 4 // GeoSite.code
	newCodeIP    = 5 // GeoIP.code

	domainType  = 1 // Domain.type
	domainValue = 2 // Domain.value
	domainAttr  = 3 // Domain.attribute
	attrKey     = 1 // Domain.Attribute.key

	cidrIP   = 1 // CIDR.ip
	cidrBits = 2 // CIDR.prefix
)

var (
	errDamaged = errors.New("damaged: not a list of protobuf messages")
	errInverse = errors.New("an entry can't be read, so that its inverse is not known")
	errNoPart  = errors.New("select is needed: which part of the file is meant, such as \"cn\"")
)

// wireField is one field of a protobuf message: its number with a varint or
// fixed value, or with bytes.
type wireField struct {
	number uint64
	value  uint64
	bytes  []byte
	isText bool
}

// nextField takes a field off a message. It allocates nothing.
func nextField(b []byte) (f wireField, rest []byte, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 {
		return f, nil, errDamaged
	}
	b = b[n:]
	f.number = tag >> 3
	switch tag & 7 {
	case 0: // varint
		f.value, n = binary.Uvarint(b)
		if n <= 0 {
			return f, nil, errDamaged
		}
		return f, b[n:], nil
	case 1: // 64 bits
		if len(b) < 8 {
			return f, nil, errDamaged
		}
		f.value = binary.LittleEndian.Uint64(b)
		return f, b[8:], nil
	case 2: // length and bytes
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return f, nil, errDamaged
		}
		end := n + int(size)
		f.bytes, f.isText = b[n:end], true
		return f, b[end:], nil
	case 5: // 32 bits
		if len(b) < 4 {
			return f, nil, errDamaged
		}
		f.value = uint64(binary.LittleEndian.Uint32(b))
		return f, b[4:], nil
	default: // groups, which nothing here uses
		return f, nil, errDamaged
	}
}

// eachField calls do with the fields of a message, in order.
func eachField(b []byte, do func(wireField) error) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		if err := do(f); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// part finds the part of a .dat file by its name, in any case; only the wanted
// one is read further.
func part(data []byte, name string, newCode uint64) ([]byte, error) {
	for len(data) > 0 {
		f, rest, err := nextField(data)
		if err != nil {
			return nil, err
		}
		data = rest
		if f.number != entryField || !f.isText {
			continue
		}
		code, err := partName(f.bytes, newCode)
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(code, name) {
			return f.bytes, nil
		}
	}
	return nil, fmt.Errorf("there is no part %s in it", diag.Quote(name))
}

// partName reads the name alone, which stands first.
func partName(entry []byte, newCode uint64) (string, error) {
	for len(entry) > 0 {
		f, rest, err := nextField(entry)
		if err != nil {
			return "", err
		}
		if f.isText && len(f.bytes) > 0 && (f.number == codeField || f.number == newCode) {
			return string(f.bytes), nil
		}
		entry = rest
	}
	return "", nil
}

// parseGeoSite reads the part "name" or "name@attr" of a geosite.dat.
func parseGeoSite(c *collector, src Source) error {
	name, attrs, _ := strings.Cut(src.Select, "@")
	if name == "" {
		return errNoPart
	}
	want := filter{}
	if attrs != "" || strings.Contains(src.Select, "@") {
		var ok bool
		if want, ok = attrFilter("@" + attrs); !ok {
			return errSelect
		}
	}
	entry, err := part(src.Data, name, newCodeField)
	if err != nil {
		return err
	}
	err = eachField(entry, func(f wireField) error {
		if f.number != memberField || !f.isText {
			return nil
		}
		return c.geoDomain(f.bytes, want)
	})
	if err == nil {
		err = c.chosen(want)
	}
	return err
}

// geoDomain reads one Domain message.
func (c *collector) geoDomain(b []byte, want filter) error {
	var kind uint64
	var value string
	var e tagged
	var attrs strings.Builder
	err := eachField(b, func(f wireField) error {
		switch {
		case f.number == domainType && !f.isText:
			kind = f.value
		case f.number == domainValue && f.isText:
			value = string(f.bytes)
		case f.number == domainAttr && f.isText:
			return eachField(f.bytes, func(a wireField) error {
				if a.number == attrKey && a.isText {
					attrs.WriteString("@" + strings.ToLower(string(a.bytes)) + "@")
				}
				return nil
			})
		}
		return nil
	})
	if e.attrs = attrs.String(); err != nil || !want.takes(e) {
		return err
	}
	var ok bool
	switch kind {
	case 0: // Plain
		e.p, ok = c.keyword(0, value)
	case 1: // Regex
		e.p, ok = c.regex(0, value)
	case 2: // RootDomain
		e.p, ok = c.canonical(0, rules.Suffix, value)
	case 3: // Full
		e.p, ok = c.canonical(0, rules.Exact, value)
	default:
		c.leaveOut(0, "an entry of a kind that is not known")
	}
	if ok {
		c.add(e.p)
	}
	return nil
}

// parseGeoIP reads the part "cn" of a geoip.dat; "!cn" is every other address.
func parseGeoIP(c *collector, src Source) error {
	name, inverse := strings.CutPrefix(src.Select, "!")
	if name == "" {
		return errNoPart
	}
	entry, err := part(src.Data, name, newCodeIP)
	if err != nil {
		return err
	}
	err = eachField(entry, func(f wireField) error {
		switch {
		case f.number == memberField && f.isText:
			return c.geoCIDR(f.bytes)
		case f.number == inverseField && !f.isText && f.value != 0:
			inverse = !inverse
		}
		return nil
	})
	if err != nil || !inverse {
		return err
	}
	switch {
	case c.n > MaxElements:
		return errElements
	case len(c.problems) > 0: // what was left out would be in the inverse
		return errInverse
	}
	c.e.Prefixes = complement(c.e.Prefixes)
	c.n = len(c.e.Prefixes)
	return nil
}

// geoCIDR reads one CIDR message.
func (c *collector) geoCIDR(b []byte) error {
	var ip []byte
	var length uint64
	err := eachField(b, func(f wireField) error {
		switch {
		case f.number == cidrIP && f.isText:
			ip = f.bytes
		case f.number == cidrBits && !f.isText:
			length = f.value
		}
		return nil
	})
	if err != nil {
		return err
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok || length > uint64(a.BitLen()) {
		c.leaveOut(0, "an entry that is not a prefix")
		return nil
	}
	c.addPrefix(netip.PrefixFrom(a, int(length)))
	return nil
}
