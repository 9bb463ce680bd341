package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/actions"
)

// Facts are what was found on a machine. What could not be looked at is in
// NotKnown, and its fields are zero.
type Facts struct {
	Kernel string // release
	User   User

	Features []Feature
	Host     actions.Host
	// Learned are the devices with a default route of IPv6 from router advertisements.
	Learned map[string]bool
	Rules   []Rule
	Tables  []RouteTable
	Nft     []NftTable
	Chains  []Chain
	Marks   []MarkUse
	Qdiscs  []Qdisc
	// Sysctls by their path below /proc/sys ("net/ipv4/ip_forward"); those that do
	// not exist are missing.
	Sysctls map[string]string
	// Processes are the names (comm) of programs of Watched that run in this network
	// namespace, sorted.
	Processes []string
	UFW       bool // enabled at boot by /etc/ufw/ufw.conf
	// ForeignRules says whether systemd-networkd removes ip rules that it did not
	// make, and ForeignRoutes the same of routes: "yes" is its own default.
	ForeignRules, ForeignRoutes string

	Own      Own
	NotKnown []NotKnown
}

// NotKnown is something that could not be looked at.
type NotKnown struct {
	What string
	Why  string
}

// User is who runs this process.
type User struct {
	UID  uint32
	Caps uint64 // effective; bit n is capability n
}

// Capabilities of include/uapi/linux/capability.h.
const (
	capNetAdmin = 12
	capNetRaw   = 13
	capSysAdmin = 21
	capPerfmon  = 38
	capBPF      = 39
)

func (u User) has(capability int) bool { return u.Caps>>capability&1 != 0 }

// Answer says whether the kernel has a feature.
type Answer uint8

// The answers; Unknown is the zero value.
const (
	Unknown Answer = iota
	No
	Yes
)

// Feature is one ability of the kernel. ID is that of its finding.
type Feature struct {
	ID     string
	Answer Answer
	How    string // "tried", "configuration", "module"
	Why    string // what the kernel said, or why nobody knows
}

// Rule is an ip rule.
type Rule struct {
	Family     actions.Family
	Priority   int
	Mark, Mask uint32
	Marked     bool // it asks for a mark
	Not        bool // it is for packets that are not what it asks for
	Broad      bool // it takes everything, or all but packets with a mark
	Table      uint32
	Protocol   uint8
	Text       string // as `ip rule` shows it, without the priority
}

// String returns the rule as `ip rule` shows it.
func (r *Rule) String() string { return fmt.Sprintf("ip %s rule %d: %s", r.Family, r.Priority, r.Text) }

// RouteTable is one routing table of one family.
type RouteTable struct {
	Family  actions.Family
	Table   uint32
	Routes  int
	Default bool     // it has a default route, or both halves of one
	Foreign []string // routes that do not carry our protocol number, the first few
	Others  int      // how many those are
}

// NftTable is an nftables table. Owned: a process keeps all others from changing it.
type NftTable struct {
	Family, Name string
	Owned        bool
}

// Chain is a chain of nftables or iptables (Legacy). Base chains have a Hook.
type Chain struct {
	Legacy              bool
	Family, Table, Name string
	Hook                string
	Type                string
	Priority            int
}

func (c *Chain) where() string {
	lead := "nft"
	if c.Legacy {
		lead = "iptables-legacy"
	}
	return fmt.Sprintf("%s %s %s %s", lead, c.Family, c.Table, c.Name)
}

// MarkKind is what a rule marks.
type MarkKind uint8

// The kinds of marks.
const (
	PacketMark MarkKind = iota
	ConnMark
	ConnLabel
)

// MarkUse is a rule of a packet filter that sets or asks for a mark.
type MarkUse struct {
	Kind  MarkKind
	Set   bool   // it changes the bits of Mask; else it compares them
	Mask  uint32 // labels: 0
	Value uint32 // under Mask; labels: the number of the label
	// Any: the value is not known from the rule (a map, another mark).
	Any bool
	// Copy: the value is the connection's mark for packets, the packet's for connections.
	Copy  bool
	Chain Chain
}

// String says what the rule does and where.
func (m *MarkUse) String() string {
	var what string
	switch {
	case m.Kind == ConnLabel:
		what = fmt.Sprintf("connection label %d", m.Value)
	case m.Any:
		what = fmt.Sprintf("%s under %#x", m.noun(), m.Mask)
	default:
		what = fmt.Sprintf("%s %#x/%#x", m.noun(), m.Value, m.Mask)
	}
	verb := "asks for"
	if m.Set {
		verb = "sets"
	}
	if m.Copy && m.Set {
		other := MarkUse{Kind: ConnMark - m.Kind}
		what += " from the " + other.noun()
	}
	return fmt.Sprintf("%s: %s %s", m.Chain.where(), verb, what)
}

func (m *MarkUse) noun() string {
	if m.Kind == ConnMark {
		return "connection mark"
	}
	return "packet mark"
}

// Qdisc is the queueing discipline at the root, or at the entry, of a device.
type Qdisc struct {
	Dev, Kind string
	Ingress   bool
}

// Own is what the ledger of the state folder lists as netpolicy's.
type Own struct {
	Known  bool     // the ledger was read, or there is none
	Folder string   // the state folder
	Table  string   // nft table, "" for none
	Chains []string // chains of iptables: "-4 mangle NAME"
	Rules  []actions.IPRule
	Routes []actions.IPRoute
}

// lists reports whether the ledger has the rule.
func (o *Own) lists(r *Rule) bool {
	for _, own := range o.Rules {
		if own.Family == r.Family && own.Priority == r.Priority && own.Mark == r.Mark && own.Mask == r.Mask && own.Table == r.Table {
			return true
		}
	}
	return false
}

// ours reports whether a chain is one that the ledger lists, or in its table.
func (o *Own) ours(c *Chain) bool {
	switch c.Family {
	case "inet":
		return c.Table == actions.TableName && o.Table == actions.TableName
	case "ip":
		return slices.Contains(o.Chains, actions.IPv4.String()+" "+c.Table+" "+c.Name)
	case "ip6":
		return slices.Contains(o.Chains, actions.IPv6.String()+" "+c.Table+" "+c.Name)
	default:
		return false
	}
}

// sysctl returns a value as a number, and whether there is one.
func (f *Facts) sysctl(path string) (int, bool) {
	text, ok := f.Sysctls[path]
	if !ok {
		return 0, false
	}
	var n int
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil {
		return 0, false
	}
	return n, true
}

// link returns the device, nil if it is not there.
func (f *Facts) link(dev string) *actions.Link {
	for i := range f.Host.Links {
		if f.Host.Links[i].Name == dev {
			return &f.Host.Links[i]
		}
	}
	return nil
}

// runs reports whether one of the programs runs.
func (f *Facts) runs(names ...string) bool {
	for _, p := range f.Processes {
		for _, n := range names {
			if p == n {
				return true
			}
		}
	}
	return false
}

// chained returns a chain whose table or name begins with one of the prefixes, or "".
func (f *Facts) chained(prefixes ...string) string {
	for i := range f.Chains {
		for _, p := range prefixes {
			if strings.HasPrefix(f.Chains[i].Name, p) || strings.HasPrefix(f.Chains[i].Table, p) {
				return f.Chains[i].where()
			}
		}
	}
	return ""
}

// table returns a routing table, nil if it is empty.
func (f *Facts) table(family actions.Family, number uint32) *RouteTable {
	for i := range f.Tables {
		if t := &f.Tables[i]; t.Family == family && t.Table == number {
			return t
		}
	}
	return nil
}

func compareChains(a, b *Chain) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.where(), b.where()))
}
