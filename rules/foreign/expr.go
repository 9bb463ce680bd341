package foreign

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// op is the kind of a condition.
type op uint8

const (
	opPred op = iota
	opAny
	opAnd
	opOr
	opNot
)

// cond is a condition over a flow. Values and sets are in NPL's spelling.
type cond struct {
	op    op
	kids  []cond   // opAnd, opOr; opNot has one
	field string   // opPred: as NPL spells it
	vals  []string // any of these; or
	set   string   // the name of a set
}

var anything = cond{op: opAny}

func pred(field string, vals ...string) cond { return cond{field: field, vals: vals} }

func inSet(field, set string) cond { return cond{field: field, set: set} }

// and joins conditions; without any it is always true.
func and(kids ...cond) cond {
	var list []cond
	for _, k := range kids {
		switch k.op {
		case opAny:
		case opAnd:
			list = append(list, k.kids...)
		default:
			list = append(list, k)
		}
	}
	switch len(list) {
	case 0:
		return anything
	case 1:
		return list[0]
	}
	return cond{op: opAnd, kids: list}
}

// or joins one or more alternatives; values of one field become one predicate.
func or(kids ...cond) cond {
	var list []cond
	at := map[string]int{} // field, for predicates with values
	var flat func(k cond)
	flat = func(k cond) {
		if k.op == opOr {
			for _, kid := range k.kids {
				flat(kid)
			}
			return
		}
		if k.op != opPred || k.set != "" {
			if k.op != opPred || !slices.ContainsFunc(list, func(l cond) bool { return l.op == opPred && l.field == k.field && l.set == k.set }) {
				list = append(list, k)
			}
			return
		}
		if i, ok := at[k.field]; ok {
			list[i].vals = append(list[i].vals, k.vals...)
			return
		}
		at[k.field] = len(list)
		list = append(list, cond{field: k.field, vals: slices.Clone(k.vals)})
	}
	for _, k := range kids {
		if k.op == opAny {
			return anything
		}
		flat(k)
	}
	for _, i := range at {
		list[i].vals = unique(list[i].vals)
	}
	if len(list) == 1 {
		return list[0]
	}
	return cond{op: opOr, kids: list}
}

// not negates; of `any` there is no negation: false.
func not(k cond) (cond, bool) {
	switch k.op {
	case opAny:
		return cond{}, false
	case opNot:
		return k.kids[0], true
	}
	return cond{op: opNot, kids: []cond{k}}, true
}

// unique drops repeated values and keeps the order of the rest.
func unique(vals []string) []string {
	seen := make(map[string]bool, len(vals))
	return slices.DeleteFunc(vals, func(v string) bool {
		was := seen[v]
		seen[v] = true
		return was
	})
}

// The forms of names in foreign configurations.
type nameForm uint8

const (
	exactName  nameForm = iota
	suffixName          // the name and all under it
	underName           // all under it
)

// name is a predicate on the flow's name.
func nameCond(form nameForm, s string) (cond, string) {
	p, ok := rules.ParseNamePattern(strings.TrimSpace(s))
	if !ok || p.Kind != rules.Exact {
		return cond{}, "not a legal domain name"
	}
	p.Kind = [...]rules.PatternKind{rules.Exact, rules.Suffix, rules.Subdomain}[form]
	return pred("domain", word(p.String())), ""
}

func keywordCond(s string) (cond, string) {
	p, ok := rules.NewKeyword(strings.TrimSpace(s))
	if !ok {
		return cond{}, "no domain name can contain this"
	}
	return pred("domain", "keyword "+quote(p.Name)), ""
}

func regexCond(s string) (cond, string) {
	if _, err := rules.NewRegex(s); err != nil {
		return cond{}, "not an expression of RE2 of at most 1 KiB: look-around and back-references are not known"
	}
	return pred("domain", "regex "+quote(s)), ""
}

// wildcardCond reads * (any run, dots too) and ? (any one character).
func wildcardCond(s string) (cond, string) {
	s = strings.ToLower(strings.TrimSpace(s))
	if rest, ok := strings.CutPrefix(s, "*."); ok && !strings.ContainsAny(rest, "*?") {
		return nameCond(underName, rest)
	}
	if !strings.ContainsAny(s, "*?") {
		return nameCond(exactName, s)
	}
	return regexCond("^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(s)) + "$")
}

// labelCond reads a pattern of Clash's behavior domain: +.x is x and all under
// it, .x all under it, * one whole label.
func labelCond(s string) (cond, string) {
	s = strings.ToLower(strings.TrimSpace(s))
	body, form, head := s, exactName, ""
	if rest, ok := strings.CutPrefix(s, "+."); ok {
		body, form, head = rest, suffixName, `(.+\.)?`
	} else if rest, ok := strings.CutPrefix(s, "."); ok {
		body, form, head = rest, underName, `.+\.`
	}
	if !strings.Contains(body, "*") {
		return nameCond(form, body)
	}
	return regexCond("^" + head + strings.ReplaceAll(regexp.QuoteMeta(body), `\*`, `[^.]+`) + "$")
}

// prefixCond reads an address or a prefix; bits behind its length are cut.
func prefixCond(field, s string) (c cond, note, problem string) {
	s = strings.TrimSpace(s)
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return cond{}, "", "not an address or prefix"
		}
		a = a.Unmap()
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return cond{}, "", "a prefix of IPv4 in IPv6 form that is not IPv4"
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		note = "the bits behind the prefix length are cut"
	}
	return pred(field, prefixText(p.Masked())), note, ""
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// portsCond reads ports and ranges; sep stands between the ends of a range,
// either of which may be missing.
func portsCond(field string, parts []string, sep string) (cond, string) {
	var vals []string
	for _, part := range parts {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(part), sep)
		if !isRange {
			hi = lo
		}
		if isRange && sep == ":" { // sing-box: ":3000" and "4000:"
			if lo == "" && hi != "" {
				lo = "0"
			} else if hi == "" && lo != "" {
				hi = "65535"
			}
		}
		from, err := strconv.ParseUint(strings.TrimSpace(lo), 10, 16)
		to, err2 := strconv.ParseUint(strings.TrimSpace(hi), 10, 16)
		switch {
		case err != nil || err2 != nil:
			return cond{}, "not a port or range of ports"
		case from > to:
			return cond{}, "the range of ports is empty"
		case from == to:
			vals = append(vals, strconv.Itoa(int(from)))
		case from == 0 && to == 65535:
			return anything, ""
		default:
			vals = append(vals, strconv.Itoa(int(from))+"-"+strconv.Itoa(int(to)))
		}
	}
	if len(vals) == 0 {
		return cond{}, "no port is given"
	}
	return pred(field, vals...), ""
}

// globCond is a predicate on a program or user, taken literally.
func globCond(field, s string) (cond, string) {
	if s == "" || len(s) > 4096 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '*' }) {
		return cond{}, "not a name that can be written"
	}
	return pred(field, quote(s)), ""
}

// private are the prefixes that Clash's GEOIP,LAN and sing-box's ip_is_private
// mean: RFC 1918, RFC 4193, loopback, link-local, multicast and unspecified.
var private = []string{
	"0.0.0.0", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4",
	"::", "::1", "fc00::/7", "fe80::/10", "ff00::/8",
}

// protoCond reads tcp, udp and icmp.
func protoCond(vals ...string) (cond, string) {
	for i, v := range vals {
		vals[i] = strings.ToLower(strings.TrimSpace(v))
		if vals[i] != "tcp" && vals[i] != "udp" && vals[i] != "icmp" {
			return cond{}, "not a protocol that is known here"
		}
	}
	return pred("proto", unique(vals)...), ""
}
