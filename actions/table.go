package actions

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/flow"
)

// Key is what a match or a lookup loads from a packet.
type Key uint8

// The keys. Rank is the packet priority (meta priority), used as a scratch
// register while a new flow is being decided.
const (
	KeyNFProto Key = iota // 2 (ipv4) or 10 (ipv6), the kernel's NFPROTO_*
	KeyL4Proto
	KeySrc
	KeyDst
	KeySrcPort
	KeyDstPort
	KeyIifname
	KeyOifname
	KeyIif     // interface index, 0 for packets of this host
	KeyOif     // interface index; only `lo` is asked for, by name
	KeyDstType // fib daddr type
	KeyDSCP
	KeyMark
	KeyCTMark
	KeyCTState
	KeyCTDir
	KeyCTLabel
	KeyRank
	KeyUID
	KeyHash  // jhash of addresses and ports modulo 100, seed flow.HashSeed
	KeyHash0 // the same with both ports 0, for protocols without ports
	KeyCTSrc // the address that opened the connection, before any translation
	KeyCTID
)

// NFPROTO_* of the kernel (include/uapi/linux/netfilter.h).
const (
	nfIPv4 = 2
	nfIPv6 = 10
)

// CTNew is the only connection state that the table asks for.
const CTNew = 8 // NF_CT_STATE_BIT(IP_CT_NEW)

// Directions of a packet within its connection (enum ip_conntrack_dir).
const (
	CTOriginal = 0
	CTReply    = 1
)

// Op is how a match compares.
type Op uint8

// The comparisons; Is, the zero value, means "one of".
const (
	Is Op = iota
	Not
	Above // strictly greater, one number
	Below // strictly less, one number
)

// Range is an inclusive range of numbers.
type Range struct{ Lo, Hi uint32 }

// Match is one condition of a table rule. Exactly one of Nums, Prefixes, Texts
// and Set is used; or Set is the table's set of the others' elements.
type Match struct {
	Key      Key
	V6       bool   // the family, for KeySrc, KeyDst, KeyDSCP and the hashes
	Mask     uint32 // applied before comparing; 0 means none
	Op       Op
	Nums     []Range
	Prefixes []netip.Prefix
	Texts    []string // interface names, address types
	Set      string   // a set of the table
}

// StmtKind is what a statement does.
type StmtKind uint8

// The statements.
const (
	SetRank   StmtKind = iota
	SetMark            // mark = mark &^ Mask | Value
	SetCTMark          // likewise, of the connection
	SetLabel           // connection label bit Value
	SetDSCP4
	SetDSCP6
	Goto
	Jump
	Return
	Drop
	RejectTCP // with a reset
	RejectAny // ICMP administratively prohibited
	Log       // to group Value, prefix Target; limited to LogRate
	Lookup    // Key & Mask in the verdict map Target
	Masquerade
	MapRank  // rank = the value map Target at Key; where that has none the rule ends and the rank stays
	OrRank   // rank |= Value
	NextRank // rank = Value + a counter modulo Mask: another at each packet
	HashRank // rank = Value + a hash of the connection's id modulo Mask
	AddRank  // Target at Key = rank, unless it has one; where it is full the rule ends
	Police   // goes on when Key's limit in the set Target, or the rule's, of Value bytes/s (burst Mask) is exceeded
	TProxy   // to the socket that listens at Target, of the family V6; where none does the rule ends
	Queue    // to the daemon, by the statement Target; its answer counts from the next hook on
)

// Stmt is one statement of a table rule.
type Stmt struct {
	Kind        StmtKind
	Key         Key
	V6          bool
	Mask, Value uint32
	Target      string // chain, map, or log prefix
}

// Rule is one rule of a chain: all matches must hold, then the statements run.
type Rule struct {
	If []Match
	Do []Stmt
}

// Chain is a list of rules. Hook is "" or the base chain declaration.
type Chain struct {
	Name  string
	Hook  string
	Rules []Rule
}

// Set is a named set, or a map when Map is true: of verdicts, or of ranks.
type Set struct {
	Name    string
	Type    string // as nft declares it: "type ipv4_addr", "typeof meta priority"
	Map     bool
	Ranks   bool // the map's values are ranks (meta priority), written as %#x
	Timeout bool // its elements may have time limits
	Ranges  bool // its elements may be ranges or prefixes
	// Size, if not 0, says that packets fill the set: so many elements, each for TTL.
	Size  uint32
	TTL   time.Duration
	Elems []Elem
	last  span // of an interval map under construction: the last element's
}

// Elem is one element. Value is a map's: the verdict ("goto x", "jump x", "drop"), or the rank.
type Elem struct {
	Key     string // as nft reads it
	Value   string
	Timeout time.Duration // 0: for ever
}

// Table is the nftables table as data.
type Table struct {
	Name string
	// Shape is a digest of the policy, the declarations and the lasting chains.
	// Tables of equal shape differ at most in elements, and in chains made when
	// they were first needed, whose names say what they hold.
	Shape  string
	Sets   []Set
	Chains []Chain
	lasts  int // how many chains the shape covers
	// XT is the table as iptables data, nil on nftables. There are no Chains then,
	// and Sets are only those that change.
	XT *Xtables
}

// fixed reports whether the set's elements never change while the policy is the same.
func (s *Set) fixed() bool {
	return s.Name == "win" || s.Name == portSet || s.Name == classMap || s.Map && s.Ranges || strings.HasPrefix(s.Name, listPrefix)
}

// lasting is a table's shape: what WorldUpdates and Answer never change.
func (t *Table) lasting(policyHash string) string {
	h := sha256.New()
	fmt.Fprintln(h, policyHash)
	for _, s := range t.Sets {
		if !s.fixed() {
			s.Elems = nil
		}
		var b strings.Builder
		s.text(&b)
		fmt.Fprintln(h, b.String())
	}
	for i := range t.Chains {
		var b strings.Builder
		t.Chains[i].text(&b)
		fmt.Fprintln(h, b.String())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Text returns the table as nft reads it: "table inet NAME { ... }"; or, for
// iptables, as ipset, iptables-restore and ip6tables-restore do.
func (t *Table) Text() string {
	if t.XT != nil {
		return t.xtext()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", t.Name)
	for i := range t.Sets {
		t.Sets[i].text(&b)
	}
	for i := range t.Chains {
		t.Chains[i].text(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *Set) text(b *strings.Builder) {
	kind, typ := "set", s.Type
	if s.Map {
		kind, typ = "map", s.Type+" : verdict"
		if s.Ranks {
			typ = s.Type + " : classid"
		}
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\t%s\n", kind, s.Name, typ)
	if s.Timeout {
		b.WriteString("\t\tflags timeout\n")
	}
	if s.Ranges {
		b.WriteString("\t\tflags interval\n")
	}
	if s.Size > 0 {
		fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic,timeout\n\t\ttimeout %ds\n", s.Size, int(s.TTL.Seconds()))
	}
	if len(s.Elems) > 0 {
		b.WriteString("\t\telements = { ")
		for i, e := range s.Elems {
			if i > 0 {
				b.WriteString(",\n\t\t\t")
			}
			b.WriteString(e.String())
		}
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
}

// String returns the element as nft reads it.
func (e Elem) String() string {
	s := e.Key
	if e.Timeout > 0 {
		// nft takes whole seconds and milliseconds; anything shorter has no use.
		s += fmt.Sprintf(" timeout %dms", max(1, e.Timeout.Milliseconds()))
	}
	if e.Value != "" {
		s += " : " + e.Value
	}
	return s
}

func (c *Chain) text(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Hook != "" {
		fmt.Fprintf(b, "\t\t%s\n", c.Hook)
	}
	for i := range c.Rules {
		b.WriteString("\t\t")
		c.Rules[i].text(b)
		b.WriteByte('\n')
	}
	b.WriteString("\t}\n")
}

// String returns the rule as nft reads it.
func (r *Rule) String() string {
	var b strings.Builder
	r.text(&b)
	return b.String()
}

func (r *Rule) text(b *strings.Builder) {
	for i := range r.If {
		if i > 0 {
			b.WriteByte(' ')
		}
		r.If[i].text(b)
	}
	for i, s := range r.Do {
		if i > 0 || len(r.If) > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s.String())
	}
}

var keyTexts = [...]string{
	KeyNFProto: "meta nfproto", KeyL4Proto: "meta l4proto", KeySrcPort: "th sport", KeyDstPort: "th dport",
	KeyIifname: "iifname", KeyOifname: "oifname", KeyIif: "meta iif", KeyOif: "oif", KeyDstType: "fib daddr type",
	KeyMark: "meta mark", KeyCTMark: "ct mark", KeyCTState: "ct state", KeyCTDir: "ct direction",
	KeyCTLabel: "ct label", KeyRank: "meta priority", KeyUID: "meta skuid", KeyCTID: "ct id",
}

// text returns the key as nft spells it, for one family where it differs.
func (k Key) text(v6 bool) string {
	ip := "ip"
	if v6 {
		ip = "ip6"
	}
	switch k {
	case KeySrc:
		return ip + " saddr"
	case KeyDst:
		return ip + " daddr"
	case KeyDSCP:
		return ip + " dscp"
	case KeyCTSrc:
		return "ct original " + ip + " saddr"
	case KeyHash:
		return fmt.Sprintf("jhash %s saddr . %s daddr . th sport . th dport mod 100 seed %#x", ip, ip, flow.HashSeed)
	case KeyHash0:
		// The rank is 0 here: it stands for the two missing ports.
		return fmt.Sprintf("jhash %s saddr . %s daddr . meta priority . meta priority mod 100 seed %#x", ip, ip, flow.HashSeed)
	default:
		return keyTexts[k]
	}
}

func (m *Match) text(b *strings.Builder) {
	b.WriteString(m.Key.text(m.V6))
	if m.Mask != 0 {
		fmt.Fprintf(b, " & %#x", m.Mask)
	}
	elems := m.elems()
	switch {
	case m.Op == Not:
		b.WriteString(" != ")
	case m.Op == Above:
		b.WriteString(" > ")
	case m.Op == Below:
		b.WriteString(" < ")
	case m.Mask != 0 && len(elems) == 1:
		b.WriteString(" == ")
	default:
		b.WriteByte(' ')
	}
	switch {
	case m.Set != "":
		b.WriteString("@" + m.Set)
	case len(elems) == 1:
		b.WriteString(elems[0])
	default:
		b.WriteString("{ " + strings.Join(elems, ", ") + " }")
	}
}

// elems spells what the match compares with.
func (m *Match) elems() []string {
	var list []string
	for _, r := range m.Nums {
		s := m.Key.number(r.Lo)
		if r.Hi != r.Lo {
			s += "-" + m.Key.number(r.Hi)
		}
		list = append(list, s)
	}
	for _, p := range m.Prefixes {
		list = append(list, prefixText(p))
	}
	for _, t := range m.Texts {
		if m.Key != KeyDstType {
			t = strconv.Quote(t)
		}
		list = append(list, t)
	}
	return list
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// number spells a number as the key's type wants it. Priorities are given as
// plain hexadecimal: nft reads it and prints it as a class id.
func (k Key) number(n uint32) string {
	switch k {
	case KeyRank, KeyMark, KeyCTMark:
		return fmt.Sprintf("%#x", n)
	case KeyNFProto:
		if n == nfIPv6 {
			return "ipv6"
		}
		return "ipv4"
	case KeyCTState:
		return "new"
	case KeyCTDir:
		if n == CTReply {
			return "reply"
		}
		return "original"
	default:
		return strconv.FormatUint(uint64(n), 10)
	}
}

// String returns the statement as nft reads it.
func (s Stmt) String() string {
	switch s.Kind {
	case SetRank:
		return fmt.Sprintf("meta priority set %#x", s.Value)
	case SetMark:
		return fmt.Sprintf("meta mark set meta mark & %#x | %#x", ^s.Mask, s.Value)
	case SetCTMark:
		return fmt.Sprintf("ct mark set ct mark & %#x | %#x", ^s.Mask, s.Value)
	case TProxy:
		return s.tproxyText()
	case SetLabel:
		return fmt.Sprintf("ct label set %d", s.Value)
	case SetDSCP4:
		return fmt.Sprintf("ip dscp set %d", s.Value)
	case SetDSCP6:
		return fmt.Sprintf("ip6 dscp set %d", s.Value)
	case Goto:
		return "goto " + s.Target
	case Jump:
		return "jump " + s.Target
	case Return:
		return "return"
	case Drop:
		return "drop"
	case RejectTCP:
		return "reject with tcp reset"
	case RejectAny:
		return "reject with icmpx admin-prohibited"
	case Log:
		return fmt.Sprintf("limit rate %d/second burst %d packets log prefix %q group %d",
			LogRate, LogBurst, s.Target, s.Value)
	case Lookup:
		t := s.Key.text(s.V6)
		if s.Mask != 0 {
			t += fmt.Sprintf(" & %#x", s.Mask)
		}
		return t + " vmap @" + s.Target
	case Queue:
		return s.Target
	case MapRank:
		t := "meta priority set " + s.Key.text(s.V6)
		if s.Mask != 0 {
			t += fmt.Sprintf(" & %#x", s.Mask)
		}
		return t + " map @" + s.Target
	case OrRank:
		return fmt.Sprintf("meta priority set meta priority | %#x", s.Value)
	case NextRank:
		return fmt.Sprintf("meta priority set numgen inc mod %d offset %#x", s.Mask, s.Value)
	case HashRank:
		return fmt.Sprintf("meta priority set jhash ct id mod %d seed %#x offset %#x", s.Mask, flow.HashSeed, s.Value)
	case AddRank:
		return fmt.Sprintf("add @%s { %s : meta priority }", s.Target, s.Key.text(s.V6))
	case Police:
		limit := fmt.Sprintf("limit rate over %d bytes/second", s.Value)
		if s.Mask > 0 {
			limit += fmt.Sprintf(" burst %d bytes", s.Mask)
		}
		if s.Target == "" {
			return limit
		}
		return fmt.Sprintf("update @%s { %s %s }", s.Target, s.Key.text(s.V6), limit)
	default:
		return "masquerade"
	}
}
