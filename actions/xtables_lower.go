package actions

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// walk is one of the chains that look for the first rule that holds. Packets of
// protocols whose ports ipset can't read have one of their own, and so have the
// host's own packets where a rule asks for users: only there iptables lets it.
type walk struct {
	family Family
	local  bool
	rare   bool
}

// rareProtos have ports that the table reads and ipset's bitmap:port does not:
// DCCP, SCTP, UDP-Lite.
var rareProtos = []uint8{33, 132, 136}

// maxPorts is how many ports the multiport match takes; a range counts as two.
const maxPorts = 15

// maxMerged bounds the ports that rules are put together to: for the rare
// protocols they are cut again into lists of maxPorts.
const maxMerged = 500

// xitem is one alternative of a rule and what becomes of a flow for which it
// holds; or all of a rule after whose chain the walk goes on.
type xitem struct {
	rule   *rules.Rule
	terms  []term
	target string // "-g np_d_2", "-j DROP"
	goesOn string // the chain
}

// merge returns one term that holds exactly where a or b does, if there is one:
// they differ in one list of addresses, ports or names.
func merge(a, b *term) (term, bool) {
	if len(a.matches) != len(b.matches) || len(a.names) != len(b.names) || len(a.world) != len(b.world) {
		return term{}, false
	}
	for i := range a.world {
		if a.world[i].String() != b.world[i].String() {
			return term{}, false
		}
	}
	at, differ := 0, 0
	for i := range a.matches {
		if !sameMatch(&a.matches[i], &b.matches[i]) {
			at = i
			differ++
		}
	}
	sameNames := slices.EqualFunc(a.names, b.names, func(x, y []rules.NamePattern) bool { return slices.Equal(x, y) })
	switch {
	case differ == 0 && sameNames:
		return *a, true
	case differ == 0 && len(a.names) == 1:
		t := *a
		t.names = [][]rules.NamePattern{slices.Concat(a.names[0], b.names[0])}
		return t, true
	case differ != 1 || !sameNames:
		return term{}, false
	}
	x, y := a.matches[at], b.matches[at]
	if x.Key != y.Key || x.V6 != y.V6 || x.Op != Is || y.Op != Is || x.Set != "" || y.Set != "" {
		return term{}, false
	}
	switch x.Key {
	case KeySrc, KeyDst:
		x.Prefixes = slices.Concat(x.Prefixes, y.Prefixes) // made disjoint when it becomes a set
	case KeySrcPort, KeyDstPort:
		if len(x.Nums)+len(y.Nums) > maxMerged {
			return term{}, false
		}
		x.Nums = slices.Concat(x.Nums, y.Nums)
	default:
		return term{}, false
	}
	t := *a
	t.matches = slices.Clone(a.matches)
	t.matches[at] = x
	return t, true
}

func sameMatch(a, b *Match) bool {
	return a.Key == b.Key && a.V6 == b.V6 && a.Mask == b.Mask && a.Op == b.Op && a.Set == b.Set &&
		slices.Equal(a.Nums, b.Nums) && slices.Equal(a.Prefixes, b.Prefixes) && slices.Equal(a.Texts, b.Texts)
}

// in reports whether the term can hold in the family.
func (t *term) in(f Family) bool {
	for i := range t.matches {
		switch m := &t.matches[i]; m.Key {
		case KeySrc, KeyDst, KeyDSCP:
			if m.V6 != (f == IPv6) {
				return false
			}
		case KeyNFProto:
			n := uint32(nfIPv4)
			if f == IPv6 {
				n = nfIPv6
			}
			if m.Set == "" && !slices.Contains(m.Nums, Range{n, n}) {
				return false
			}
		}
	}
	return true
}

// protoSet is a set of protocol numbers.
type protoSet [256]bool

// only takes out of the set what the match refuses.
func (s *protoSet) only(m *Match) {
	for n := range s {
		in := false
		if m.Set == portSet {
			in = HasPorts(uint8(n))
		} else {
			in = slices.ContainsFunc(m.Nums, func(r Range) bool { return r.Lo <= uint32(n) && uint32(n) <= r.Hi })
		}
		s[n] = s[n] && in == (m.Op == Is)
	}
}

func (s *protoSet) list() []uint8 {
	var list []uint8
	for n, in := range s {
		if in {
			list = append(list, uint8(n))
		}
	}
	return list
}

// class is the set of the protocols whose packets come to the walk.
func (w walk) class() *protoSet {
	var s protoSet
	for n := range s {
		s[n] = slices.Contains(rareProtos, uint8(n)) == w.rare
	}
	return &s
}

// lines returns the matches of one iptables rule for each way in which the term
// can hold in the walk; none for never.
func (x *xtables) lines(t *term, w walk) ([]string, error) {
	protos := w.class()
	var both []string         // what every line has
	options := [][]string{{}} // one of each
	var ports []*Match
	oneOf := func(list []string) { options = append(options, list) }
	given := map[Key]bool{} // iptables takes -s, -d and -i once; what is more has to be a set
	for i := range t.matches {
		m := &t.matches[i]
		not := ""
		if m.Op == Not {
			not = "! "
		}
		switch m.Key {
		case KeyNFProto: // in has asked
		case KeyL4Proto:
			protos.only(m)
		case KeySrcPort, KeyDstPort:
			ports = append(ports, m)
		case KeySrc, KeyDst:
			both = append(both, x.address(m, w.family, !given[m.Key]))
			given[m.Key] = true
		case KeyIif:
			if w.local {
				return nil, nil
			}
		case KeyIifname:
			if len(m.Texts) == 1 && !strings.HasSuffix(m.Texts[0], "+") && !given[m.Key] {
				both = append(both, not+"-i "+xquote(m.Texts[0]))
				given[m.Key] = true
			} else {
				both = append(both, "-m set "+not+"--match-set "+x.ifaces(m.Texts, w.family)+" src,src")
			}
		case KeyUID:
			if !w.local {
				return nil, nil
			}
			list := owners(m)
			if m.Op == Not {
				// A packet without a socket has no user, and is none of these either.
				both = append(both, "-m owner --uid-owner "+allUsers)
				both = append(both, list...)
			} else {
				oneOf(list)
			}
		case KeyDSCP, KeyMark:
			var list []string
			for _, r := range m.Nums {
				if m.Key == KeyDSCP {
					list = append(list, fmt.Sprintf("-m dscp %s--dscp %d", not, r.Lo))
				} else {
					list = append(list, fmt.Sprintf("-m mark %s--mark %#x/%#x", not, r.Lo, m.Mask))
				}
			}
			if m.Op == Not {
				both = append(both, list...)
			} else {
				oneOf(list)
			}
		default:
			return nil, fmt.Errorf("%w: %s", errXKey, m.Key.text(m.V6))
		}
	}
	var err error
	if options[0], err = x.transport(protos, w, ports); err != nil {
		return nil, err
	}
	for _, names := range t.names {
		both = append(both, "-m set --match-set "+x.names.set(names, w.family)+" dst")
	}
	if len(t.world) > 0 {
		both = append(both, "-m set --match-set "+xname(x.b.plan.guard(t.world))+" dst")
	}
	return product(options, both)
}

// product combines one of each of options with all of both.
func product(options [][]string, both []string) ([]string, error) {
	lines := []string{""}
	for _, list := range options {
		if len(lines)*len(list) > maxTerms {
			return nil, errTerms
		}
		var next []string
		for _, l := range lines {
			for _, o := range list {
				next = append(next, strings.TrimSpace(l+" "+o))
			}
		}
		lines = next
	}
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i] + " " + strings.Join(both, " "))
	}
	return lines, nil
}

// allUsers are all there are: the highest number is no user.
const allUsers = "0-4294967294"

func owners(m *Match) []string {
	var list []string
	for _, r := range m.Nums {
		s := strconv.FormatUint(uint64(r.Lo), 10)
		if r.Hi != r.Lo {
			s += "-" + strconv.FormatUint(uint64(min(r.Hi, 1<<32-2)), 10)
		}
		if r.Lo == 1<<32-1 {
			continue
		}
		if m.Op == Not {
			s = "! --uid-owner " + s
		} else {
			s = "--uid-owner " + s
		}
		list = append(list, "-m owner "+s)
	}
	return list
}

// transport returns the ways to ask for protocols and ports; none for never. A
// rule has one -p, so of several protocols each is a line of its own, or those
// that are not meant are excluded one after the other.
func (x *xtables) transport(protos *protoSet, w walk, ports []*Match) ([]string, error) {
	if len(ports) > 0 {
		protos.only(&Match{Set: portSet})
	}
	list := protos.list()
	class := w.class().list()
	switch {
	case len(list) == 0:
		return nil, nil
	case len(ports) > 0 && w.rare:
		return rarePorts(list, ports)
	case len(ports) > 0:
		return []string{x.commonPorts(list, ports)}, nil
	case len(list) == len(class):
		return []string{""}, nil
	case slices.Equal(list, []uint8{6, 17}):
		return []string{"-m set --match-set " + x.ported() + " dst"}, nil
	case len(list) <= len(class)/2:
		var out []string
		for _, n := range list {
			if n != 0 { // for iptables 0 is every protocol; no packet that comes this far has it
				out = append(out, "-p "+protoName(n))
			}
		}
		return out, nil
	}
	var not []uint8
	for _, n := range class {
		if !protos[n] && n != 0 {
			not = append(not, n)
		}
	}
	switch {
	case len(not) == 0:
		return []string{""}, nil
	case len(not) == 1:
		return []string{"! -p " + protoName(not[0])}, nil
	case slices.Equal(not, []uint8{6, 17}):
		return []string{"-m set ! --match-set " + x.ported() + " dst"}, nil
	}
	var all []string
	for _, n := range not {
		all = append(all, fmt.Sprintf("-m conntrack ! --ctproto %d", n))
	}
	return []string{strings.Join(all, " ")}, nil
}

func protoName(n uint8) string {
	switch n {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	default:
		return strconv.Itoa(int(n))
	}
}

// commonPorts asks for ports of TCP, UDP, or both: a set of ports is of both.
func (x *xtables) commonPorts(protos []uint8, ports []*Match) string {
	var parts []string
	single := len(protos) == 1
	if single {
		parts = append(parts, "-p "+protoName(protos[0]))
	} else if !slices.ContainsFunc(ports, func(m *Match) bool { return m.Op == Is }) {
		parts = append(parts, "-m set --match-set "+x.ported()+" dst")
	}
	for _, m := range ports {
		option, side := "--dport", "dst"
		if m.Key == KeySrcPort {
			option, side = "--sport", "src"
		}
		not := ""
		if m.Op == Not {
			not = "! "
		}
		if single && len(m.Nums) == 1 {
			parts = append(parts, fmt.Sprintf("-m %s %s%s %s", protoName(protos[0]), not, option, xports(m.Nums, ":")))
		} else {
			parts = append(parts, fmt.Sprintf("-m set %s--match-set %s %s", not, x.portSet(m.Nums), side))
		}
	}
	return strings.Join(parts, " ")
}

// rarePorts asks for ports of protocols that ipset does not know, with lists of
// at most maxPorts.
func rarePorts(protos []uint8, ports []*Match) ([]string, error) {
	options := [][]string{nil}
	for _, n := range protos {
		options[0] = append(options[0], "-p "+protoName(n))
	}
	var both []string
	for _, m := range ports {
		option := "--dports "
		if m.Key == KeySrcPort {
			option = "--sports "
		}
		var list []string
		for rest := m.Nums; len(rest) > 0; {
			n, room := 0, maxPorts
			for n < len(rest) {
				if room--; rest[n].Lo != rest[n].Hi {
					room--
				}
				if room < 0 {
					break
				}
				n++
			}
			if m.Op == Not {
				both = append(both, "-m multiport ! "+option+xports(rest[:n], ":"))
			} else {
				list = append(list, "-m multiport "+option+xports(rest[:n], ":"))
			}
			rest = rest[n:]
		}
		if m.Op == Is {
			options = append(options, list)
		}
	}
	return product(options, both)
}

func xports(list []Range, dash string) string {
	var out []string
	for _, r := range list {
		s := strconv.FormatUint(uint64(r.Lo), 10)
		if r.Hi != r.Lo {
			s += dash + strconv.FormatUint(uint64(r.Hi), 10)
		}
		out = append(out, s)
	}
	return strings.Join(out, ",")
}

// address asks for a prefix, if one may be written out, or for a set of them.
func (x *xtables) address(m *Match, f Family, plain bool) string {
	option, side := "-d", "dst"
	if m.Key == KeySrc {
		option, side = "-s", "src"
	}
	not := ""
	if m.Op == Not {
		not = "! "
	}
	list := disjoint(m.Prefixes)
	if len(list) == 1 && plain {
		return not + option + " " + list[0].String()
	}
	var elems []string
	for _, p := range list {
		elems = append(elems, prefixText(p))
	}
	return fmt.Sprintf("-m set %s--match-set %s %s", not, x.fixed("hash:net family "+inet(f)+sized(len(elems)), elems), side)
}

// sized are the options of a hash of n elements that never change. The kernel's
// own start of 1024 buckets would waste memory on thousands of small sets.
func sized(n int) string {
	size := 64
	for size < n {
		size *= 2
	}
	return fmt.Sprintf(" hashsize %d maxelem %d", size, max(n, 64))
}

func inet(f Family) string {
	if f == IPv6 {
		return "inet6"
	}
	return "inet"
}

func (x *xtables) portSet(nums []Range) string {
	nums = slices.Clone(nums)
	slices.SortFunc(nums, func(a, b Range) int { return int(a.Lo) - int(b.Lo) }) // of 16 bits
	lo, hi := nums[0].Lo, uint32(0)
	var elems []string
	for _, r := range nums {
		hi = max(hi, r.Hi)
		elems = append(elems, xports([]Range{r}, "-"))
	}
	return x.fixed(fmt.Sprintf("bitmap:port range %d-%d", lo, hi), slices.Compact(elems))
}

// ported is the set of all ports: it holds for TCP and UDP, whatever the port.
func (x *xtables) ported() string { return x.portSet([]Range{{0, 65535}}) }

func (x *xtables) ifaces(list []string, f Family) string {
	any := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if f == IPv6 {
		any = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	var elems []string
	for _, name := range list {
		elems = append(elems, any.String()+","+name)
	}
	return x.fixed("hash:net,iface family "+inet(f)+sized(len(elems)), elems)
}

// fixed returns the set of the elements, whose name says what it holds.
func (x *xtables) fixed(typ string, elems []string) string {
	h := sha256.New()
	fmt.Fprintln(h, typ, elems)
	name := XPrefix + "l" + hex.EncodeToString(h.Sum(nil)[:6])
	x.declare(XSet{Name: name, Type: typ, Elems: elems})
	return name
}

func (x *xtables) declare(s XSet) {
	if !x.have[s.Name] {
		x.have[s.Name] = true
		x.t.XT.Sets = append(x.t.XT.Sets, s)
	}
}

// xname is the name of a set of the plan's own.
func xname(s string) string { return XPrefix + xplace + "_" + s }

// xquote quotes a word for iptables-restore where it needs it.
func xquote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-:@", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
