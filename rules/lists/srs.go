package lists

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// srsMagic begins every .srs file; a version byte and a zlib stream follow
// (sing-box, common/srs/binary.go).
const srsMagic = "SRS"

// The items of a rule in an .srs file.
const (
	srsQueryType     = 0
	srsNetwork       = 1
	srsDomain        = 2
	srsKeyword       = 3
	srsRegex         = 4
	srsSourceIP      = 5
	srsIP            = 6
	srsSourcePort    = 7
	srsSourceRange   = 8
	srsPort          = 9
	srsPortRange     = 10
	srsProcess       = 11
	srsProcessPath   = 12
	srsPackage       = 13
	srsSSID          = 14
	srsBSSID         = 15
	srsAdGuard       = 16
	srsPathRegex     = 17
	srsNetworkType   = 18
	srsExpensive     = 19
	srsConstrained   = 20
	srsInterfaceAddr = 21
	srsDefaultAddr   = 22
	srsPackageRegex  = 23
	srsFinal         = 0xFF
)

var (
	errSRS     = errors.New("a damaged .srs file")
	errNesting = fmt.Errorf("its rules nest deeper than %d", maxNesting)
)

// A file may inflate to smallSRS bytes and maxRatio times its size: real ones
// have a ratio of 2 to 10, and zlib's greatest is a thousand, which would let a
// small file ask for much memory.
const (
	smallSRS = 1 << 20
	maxRatio = 100
)

// parseBinary reads an .srs file.
func parseBinary(c *collector, data []byte) error {
	if len(data) < len(srsMagic)+1 {
		return errSRS
	}
	if version := data[len(srsMagic)]; version < 1 || version > newestSingBox {
		return fmt.Errorf("an .srs file of version %d, only 1 to %d are known", version, newestSingBox)
	}
	z, err := zlib.NewReader(bytes.NewReader(data[len(srsMagic)+1:]))
	if err != nil {
		return errSRS
	}
	limit := min(MaxSize, smallSRS+maxRatio*min(len(data), MaxSize/maxRatio)) // within 32 bits
	plain, err := io.ReadAll(io.LimitReader(z, int64(limit)+1))
	if err != nil {
		return fmt.Errorf("%w: %w", errSRS, err)
	}
	if len(plain) > limit {
		return fmt.Errorf("inflates to more than %d KiB", limit>>10)
	}
	r := &srsReader{b: plain, budget: MaxElements}
	for range r.count(1) {
		if c.srsRule(r, 0); r.err != nil {
			break
		}
	}
	return r.err
}

// srsReader takes values off the inflated bytes. After the first error every
// read returns nothing. Counts are checked against what is left, so that no
// allocation is larger than the input justifies.
type srsReader struct {
	b      []byte
	err    error
	skip   bool // pass over values, return none
	budget int  // how many values may still be returned
}

func (r *srsReader) fail() {
	r.b, r.err = nil, cmp.Or(r.err, errSRS)
}

// spend takes from the budget; false if it is used up.
func (r *srsReader) spend(n int) bool {
	if r.budget -= n; r.budget < 0 {
		r.b, r.err = nil, errElements
	}
	return r.err == nil
}

func (r *srsReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// take returns the next n bytes, nil if there are fewer.
func (r *srsReader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// count reads how many things of at least size bytes follow.
func (r *srsReader) count(size int) int {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return r.fits(v, size)
}

func (r *srsReader) fits(v uint64, size int) int {
	if v > uint64(len(r.b)/size) {
		r.fail()
		return 0
	}
	return int(v)
}

func (r *srsReader) texts() []string {
	var list []string
	for range r.count(1) {
		b := r.take(r.count(1))
		if r.err != nil {
			return nil
		}
		if !r.skip && r.spend(1) {
			list = append(list, string(b))
		}
	}
	return list
}

func (c *collector) srsRule(r *srsReader, depth int) {
	switch r.byte() {
	case 0:
		h := &headless{}
		for r.err == nil && c.srsItem(r, h) {
		}
		h.invert = r.byte() != 0
		if !r.skip && r.err == nil {
			c.take(h)
		}
	case 1:
		c.srsLogical(r, depth)
	default:
		r.fail()
	}
}

// srsLogical reads a logical rule. Whether it is inverted stands behind its
// rules, so that they are passed over first.
func (c *collector) srsLogical(r *srsReader, depth int) {
	mode := r.byte()
	n := r.count(1)
	switch {
	case mode > 1:
		r.fail()
	case depth >= maxNesting:
		r.b, r.err = nil, errNesting
	}
	start, skip := r.b, r.skip
	r.skip = true
	for range n {
		if c.srsRule(r, depth+1); r.err != nil {
			return
		}
	}
	r.skip = skip
	invert := r.byte() != 0
	if skip || r.err != nil || !c.logical(0, mode == 0, invert, n, depth) {
		return
	}
	end := r.b
	r.b = start
	for range n {
		if c.srsRule(r, depth+1); r.err != nil {
			return
		}
	}
	r.b = end
}

// srsItem reads one item of a rule into h; false at the last one.
func (c *collector) srsItem(r *srsReader, h *headless) bool {
	item := r.byte()
	switch item {
	case srsFinal:
		return false
	case srsDomain:
		h.destination = true
		c.srsNames(r, h)
	case srsKeyword, srsRegex:
		field := "domain_keyword"
		if item == srsRegex {
			field = "domain_regex"
		}
		for _, s := range r.texts() {
			h.addName(c, field, s)
		}
	case srsIP:
		h.ranges = append(h.ranges, r.ipSet()...)
		h.destination = true
	case srsPort:
		b := r.take(2 * r.count(2))
		for i := 0; !r.skip && i < len(b) && r.spend(1); i += 2 {
			p := binary.BigEndian.Uint16(b[i:])
			h.ports = append(h.ports, rules.PortRange{Lo: p, Hi: p})
		}
	case srsPortRange:
		h.portTexts = append(h.portTexts, r.texts()...)
	case srsProcess:
		h.process = append(h.process, r.texts()...)
	case srsProcessPath:
		h.paths = append(h.paths, r.texts()...)
	default:
		r.skipOther(item, h)
	}
	return r.err == nil
}

// skipOther passes over a condition that no set can hold.
func (r *srsReader) skipOther(item byte, h *headless) {
	names := [...]string{
		srsQueryType: "`query_type`", srsNetwork: "`network`", srsSourceIP: "`source_ip_cidr`",
		srsSourcePort: "`source_port`", srsSourceRange: "`source_port_range`", srsPackage: "`package_name`",
		srsSSID: "`wifi_ssid`", srsBSSID: "`wifi_bssid`", srsAdGuard: "AdGuard rules", srsPathRegex: "`process_path_regex`",
		srsNetworkType: "`network_type`", srsExpensive: "`network_is_expensive`", srsConstrained: "`network_is_constrained`",
		srsInterfaceAddr: "`network_interface_address`", srsDefaultAddr: "`default_interface_address`",
		srsPackageRegex: "`package_name_regex`",
	}
	if int(item) >= len(names) {
		r.fail()
		return
	}
	h.other = names[item]
	switch item {
	case srsQueryType, srsSourcePort:
		r.take(2 * r.count(2))
	case srsSourceIP:
		r.ipSet()
	case srsNetworkType:
		r.take(r.count(1))
	case srsAdGuard:
		r.byte()
		r.take(8 * r.count(8))
		r.take(8 * r.count(8))
		r.take(r.count(1))
	case srsExpensive, srsConstrained:
	case srsInterfaceAddr:
		for range r.count(2) {
			r.byte()
			r.skipPrefixes()
		}
	case srsDefaultAddr:
		r.skipPrefixes()
	default:
		r.texts()
	}
}

func (r *srsReader) skipPrefixes() {
	for range r.count(2) {
		r.take(r.count(1))
		r.byte()
		if r.err != nil {
			return
		}
	}
}

// ipSet reads ranges of addresses.
func (r *srsReader) ipSet() []addrRange {
	if r.byte() != 1 {
		r.fail()
		return nil
	}
	b := r.take(8)
	if b == nil {
		return nil
	}
	var list []addrRange
	for range r.fits(binary.BigEndian.Uint64(b), 10) { // two IPv4 addresses with their lengths
		lo, ok := netip.AddrFromSlice(r.take(r.count(1)))
		hi, ok2 := netip.AddrFromSlice(r.take(r.count(1)))
		if !ok || !ok2 || lo.BitLen() != hi.BitLen() || hi.Less(lo) {
			r.fail()
			return nil
		}
		if r.skip || !r.spend(1) {
			continue
		}
		list = append(list, addrRange{toWide(lo), toWide(hi), lo.BitLen()})
	}
	return list
}

// The marks that a stored name begins with, besides none for an exact name.
const (
	srsPrefix = '\r' // any name that ends like this: what is behind the mark begins with "."
	srsRoot   = '\n' // the name and everything under it (version 2 and later)
)

// srsNames reads the names and suffixes of a rule.
func (c *collector) srsNames(r *srsReader, h *headless) {
	r.byte() // a version that nobody reads
	t := srsTrie{leaves: r.take(8 * r.count(8)), bitmap: r.take(8 * r.count(8)), labels: r.take(r.count(1))}
	switch {
	case r.err != nil || r.skip || c.t != rules.DomainSet:
		return
	case !t.index():
		r.fail()
		return
	}
	size := 0
	long := t.keys(func(key []byte) bool {
		if size += len(key); size > MaxSize {
			r.b, r.err = nil, errSize
		}
		if r.err != nil || !r.spend(1) {
			return false
		}
		c.srsName(h, key)
		return true
	})
	if long {
		c.problem(0, "names that are longer than any")
	}
}

// srsName adds one stored name, whose characters stand in reverse.
func (c *collector) srsName(h *headless, key []byte) {
	runes := []rune(string(key))
	slices.Reverse(runes)
	switch name := string(runes); name[0] {
	case srsPrefix:
		if !strings.HasPrefix(name[1:], ".") {
			c.bad(0, "a suffix that does not begin at a dot", name[1:])
			return
		}
		h.addName(c, "domain_suffix", name[1:])
	case srsRoot:
		h.addName(c, "domain_suffix", name[1:])
	default:
		h.addName(c, "domain", name)
	}
}
