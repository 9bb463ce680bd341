package rules

import (
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
)

// integer reads a decimal or 0x number within [lo, hi]; anything else is NP103.
func (c *checker) integer(w Word, what string, lo, hi int64) (int64, bool) {
	text, base := w.Text, 10
	negative := strings.HasPrefix(text, "-")
	digits := strings.TrimPrefix(text, "-")
	if h, ok := strings.CutPrefix(digits, "0x"); ok {
		digits, base = h, 16
	}
	if base == 10 && len(digits) > 1 && digits[0] == '0' && strings.Trim(digits, "0123456789") == "" {
		c.report("NP103", w.Span, "%s %s has a leading zero", what, diag.Quote(text)).
			Help = "numbers are decimal or 0x: write " + cleanZeros(negative, digits)
		return 0, false
	}
	n, err := strconv.ParseUint(digits, base, 63)
	v := int64(n)
	if negative {
		v = -v
	}
	if digits == "" || err != nil || v < lo || v > hi {
		c.report("NP103", w.Span, "%s must be a whole number from %d to %d, found %s", what, lo, hi, diag.Quote(text))
		return 0, false
	}
	return v, true
}

func cleanZeros(negative bool, digits string) string {
	digits = strings.TrimLeft(digits, "0")
	if digits == "" {
		digits = "0"
	}
	if negative {
		return "-" + digits
	}
	return digits
}

// boolean reads true or false.
func (c *checker) boolean(w Word, what string) bool {
	switch w.Text {
	case "true":
		return true
	case "false":
		return false
	}
	d := c.report("NP004", w.Span, "expected true or false for %s, found %s", what, diag.Quote(w.Text))
	switch strings.ToLower(w.Text) {
	case "true", "yes", "on", "y":
		d.Help = "write true"
	case "false", "no", "off", "n":
		d.Help = "write false"
	}
	return false
}

// word reads one of a few words.
func (c *checker) oneOf(w Word, what string, words ...string) string {
	if slices.Contains(words, w.Text) {
		return w.Text
	}
	c.report("NP004", w.Span, "expected %s for %s, found %s", orList(words), what, diag.Quote(w.Text)).
		Help = diag.DidYouMean(w.Text, words)
	return ""
}

// orList joins words for a sentence: "a, b or c".
func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// unit is a suffix and what it multiplies by.
type unit struct {
	suffix string
	factor int64
}

// The units of each kind of value.
var (
	durationUnits = []unit{{"us", 1}, {"ms", 1e3}, {"s", 1e6}, {"m", 60e6}, {"h", 3600e6}, {"d", 86400e6}} // microseconds
	rateUnits     = []unit{{"bit", 1}, {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}}                        // bits a second
	sizeUnits     = []unit{
		{"B", 1}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	}
	percentUnits = []unit{{"%", 1e4}} // parts per million
)

// quantity reads a decimal number with a unit as a whole number of the smallest
// unit. bare is the factor of a number without a unit, 0 where one is required.
// A missing or unknown unit, or a fraction of the smallest unit, is NP203.
func (c *checker) quantity(w Word, what, example string, units []unit, bare int64) (int64, bool) {
	end := strings.LastIndexAny(w.Text, "0123456789.") + 1
	number, suffix := w.Text[:end], strings.TrimSpace(w.Text[end:])
	factor := int64(0)
	if suffix == "" {
		factor = bare
	}
	known := make([]string, len(units))
	for i, u := range units {
		known[i] = u.suffix
		if u.suffix == suffix {
			factor = u.factor
		}
	}
	if !isDecimal(number) {
		c.report("NP203", w.Span, "expected %s such as %s, found %s", what, example, diag.Quote(w.Text))
		return 0, false
	}
	if factor == 0 {
		msg, at := "%s needs a unit: %s, found %s", w
		if suffix != "" {
			msg, at = "%s has the units %s, not %s", w.Part(strings.LastIndex(w.Text, suffix), len(w.Text))
		}
		d := c.report("NP203", at.Span, msg, what, orList(known), diag.Quote(at.Text))
		if d.Help = diag.DidYouMean(suffix, known); suffix == "" {
			d.Help = "for example " + example
		}
		return 0, false
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		c.report("NP203", w.Span, "expected %s such as %s, found %s", what, example, diag.Quote(w.Text))
		return 0, false
	}
	r.Mul(r, new(big.Rat).SetInt64(factor))
	if !r.IsInt() {
		c.report("NP203", w.Span, "%s %s is finer than can be told apart", what, diag.Quote(w.Text))
		return 0, false
	}
	if !r.Num().IsInt64() || r.Num().Int64() > maxQuantity {
		c.report("NP103", w.Span, "%s %s is too large", what, diag.Quote(w.Text))
		return 0, false
	}
	return r.Num().Int64(), true
}

// maxQuantity keeps sums and conversions to nanoseconds within 63 bits.
const maxQuantity = math.MaxInt64 / 1000 / 4

// maxDigits bounds the length of a number: no quantity needs more.
const maxDigits = 24

// isDecimal reports digits with at most one point between them.
func isDecimal(s string) bool {
	whole, frac, point := strings.Cut(s, ".")
	digits := func(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
	return len(s) <= maxDigits && digits(whole) && (!point || digits(frac))
}

// duration reads a time within [lo, hi]; a unit is required.
func (c *checker) duration(w Word, what string, lo, hi time.Duration) time.Duration {
	us, ok := c.quantity(w, what, "30s", durationUnits, 0)
	d := time.Duration(us) * time.Microsecond
	if ok && (d < lo || d > hi) {
		c.report("NP103", w.Span, "%s must be from %v to %v, found %s", what, lo, hi, diag.Quote(w.Text))
	}
	return d
}

// micros reads a latency in microseconds; a bare number is milliseconds.
func (c *checker) micros(w Word, what string) (int64, bool) {
	return c.quantity(w, what, "120ms", durationUnits, 1e3)
}

// ppm reads a percentage as parts per million; the % is required.
func (c *checker) ppm(w Word, what string) (int64, bool) {
	return c.quantity(w, what, "5%", percentUnits, 0)
}

// ports reads "22", "1000-2000" and lists of them.
func (c *checker) ports(words []Word) []PortRange {
	var list []PortRange
	for _, w := range words {
		for _, part := range w.commaList() {
			if r, ok := c.portRange(part); ok {
				list = append(list, r)
			}
		}
	}
	return MergePorts(list)
}

// MergePorts sorts ranges and joins those that overlap or touch, in place.
func MergePorts(list []PortRange) []PortRange {
	slices.SortFunc(list, func(a, b PortRange) int { return int(a.Lo) - int(b.Lo) })
	merged := list[:0]
	for _, r := range list {
		if last := len(merged) - 1; last >= 0 && int(r.Lo) <= int(merged[last].Hi)+1 {
			merged[last].Hi = max(merged[last].Hi, r.Hi)
			continue
		}
		merged = append(merged, r)
	}
	return slices.Clip(merged)
}

func (c *checker) portRange(w Word) (PortRange, bool) {
	i := strings.IndexByte(w.Text, '-')
	if i < 0 {
		n, ok := c.port(w)
		return PortRange{n, n}, ok
	}
	lo, ok := c.port(trimmed(w, 0, i))
	hi, ok2 := c.port(trimmed(w, i+1, len(w.Text)))
	if !ok || !ok2 {
		return PortRange{}, false
	}
	if lo > hi {
		c.report("NP202", w.Span, "the range %s is empty", diag.Quote(w.Text)).
			Help = "write " + strconv.Itoa(int(hi)) + "-" + strconv.Itoa(int(lo))
		return PortRange{}, false
	}
	return PortRange{lo, hi}, true
}

// trimmed is w.Part(i, j) without the blanks around it.
func trimmed(w Word, i, j int) Word {
	for i < j && isBlank(w.Text[i]) {
		i++
	}
	for j > i && isBlank(w.Text[j-1]) {
		j--
	}
	return w.Part(i, j)
}

func (c *checker) port(w Word) (uint16, bool) {
	n, err := strconv.ParseUint(w.Text, 10, 16)
	if err != nil || len(w.Text) > 5 {
		c.report("NP202", w.Span, "a port is a number from 0 to 65535, found %s", diag.Quote(w.Text))
		return 0, false
	}
	return uint16(n), true
}

// addr reads one IP address, unmapped and without a zone.
func (c *checker) addr(w Word, what string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(w.Text)
	if err != nil || a.Zone() != "" {
		c.report("NP201", w.Span, "%s must be an IP address, found %s", what, diag.Quote(w.Text))
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// prefix reads an address or a prefix; host bits are NP211.
func (c *checker) prefix(w Word, field string) (netip.Prefix, bool) {
	if !strings.Contains(w.Text, "/") {
		a, err := netip.ParseAddr(w.Text)
		if err != nil || a.Zone() != "" {
			d := c.report("NP201", w.Span, "%s takes IP addresses and prefixes, found %s", field, diag.Quote(w.Text))
			if p, ok := ParseNamePattern(w.Text); ok && strings.Contains(p.Name, ".") && strings.Trim(p.Name, "0123456789.") != "" {
				d.Help = "names are matched by sni or domain"
			}
			return netip.Prefix{}, false
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(w.Text)
	if err != nil {
		c.report("NP201", w.Span, "%s takes IP addresses and prefixes, found %s", field, diag.Quote(w.Text))
		return netip.Prefix{}, false
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		c.report("NP211", w.Span, "the prefix %s has host bits set", diag.Quote(w.Text)).
			Help = "write " + p.Masked().String() + ", or " + p.Addr().String() + " for the one address"
		return netip.Prefix{}, false
	}
	return p, true
}
