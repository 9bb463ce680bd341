package actions

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Defaults of the daemon section, and the limits of what is planned.
const (
	DefaultMarkMask     = 0x70000000 // free of tailscale's 0xff0000, mwan3's 0x3f00, dae's 0x8000000
	DefaultCTMask       = 0x7f000000
	DefaultTableBase    = 20000
	DefaultRulePriority = 20000 // before the kernel's main (32766), after its local (0)

	// TableName is the one nftables table, of family inet.
	TableName = "netpolicy"

	// AliveTTL is how long the kernel believes that the daemon lives; the
	// daemon says so each second (Applier.Update of KeepAlive).
	AliveTTL = 5 * 1e9

	// LogGroup is the nfnetlink_log group of `log`; LogRate a second and
	// LogBurst bound each rule's messages, so that a flood can't fill the reader.
	LogGroup = 5
	LogRate  = 50
	LogBurst = 100

	// UnreachableMetric is the worst metric (the kernel's own choice for its
	// last-resort unreachable routes is -1): any real default route is better.
	UnreachableMetric = 4278198272

	// RouteProto marks our routes in `ip route` (an unassigned rtm_protocol).
	RouteProto = 117
)

// Family is an address family of routing.
type Family uint8

// The families, as bits per address.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string {
	if f == IPv6 {
		return "-6"
	}
	return "-4"
}

// Host is what a plan needs to know of the host, read by package host.
type Host struct {
	Links []Link
	// Defaults are the main table's default routes, best metric first. A zero
	// Gateway is a default by device alone.
	Defaults []DefaultRoute
	// Connected are the main table's routes with scope link, both families.
	Connected []Connected
	// NoShaping says why the kernel can't hold packets back (no HTB, no IFB); "" when it can.
	NoShaping string
	// NoOwnShaping says the same of what this host itself receives (no BPF).
	NoOwnShaping string
	// Users maps the names of users to their numbers.
	Users map[string]uint32
	// NoNFTables says that nftables is missing; XTables that iptables-restore,
	// ip6tables-restore and ipset are there.
	NoNFTables, XTables bool
	// Queue is how packets can be handed to the daemon, and CPUs how many cores
	// there are to answer; both matter for `enforce: consult` and `hello: hold` alone.
	Queue Via
	CPUs  int
}

// Link is one network device.
type Link struct {
	Name  string
	Index int
	Up    bool // administratively, and with carrier where the device tells
	Addrs []netip.Prefix
	// Ingress is true when the device has an `ingress` qdisc: it holds the place of
	// clsact, and is never ours.
	Ingress bool
}

// DefaultRoute is a default route of the main table.
type DefaultRoute struct {
	Dev     string
	Family  Family
	Gateway netip.Addr
}

// Connected is a directly reachable prefix.
type Connected struct {
	Prefix netip.Prefix
	Dev    string
}

func (h *Host) up(dev string) bool {
	return slices.ContainsFunc(h.Links, func(l Link) bool { return l.Name == dev && l.Up })
}

// gateway returns the main table's gateway on dev, and whether it has a default there.
func (h *Host) gateway(dev string, f Family) (netip.Addr, bool) {
	for _, d := range h.Defaults {
		if d.Dev == dev && d.Family == f {
			return d.Gateway, true
		}
	}
	return netip.Addr{}, false
}

// IPRule is `ip rule add priority P fwmark V/MASK lookup TABLE`. Comparable.
type IPRule struct {
	Family   Family
	Priority int
	Mark     uint32
	Mask     uint32
	Table    uint32
}

func (r IPRule) String() string {
	return fmt.Sprintf("ip %s rule add priority %d fwmark %#x/%#x lookup %d", r.Family, r.Priority, r.Mark, r.Mask, r.Table)
}

// IPRoute is one route of one of our tables. Comparable.
type IPRoute struct {
	Family      Family
	Table       uint32
	Dst         netip.Prefix // masked; 0.0.0.0/0 or ::/0 is the default
	Dev         string       // "" for unreachable
	Gateway     netip.Addr   // zero: reachable on Dev itself
	OnLink      bool         // the gateway is on Dev, whatever its prefixes say
	Local       bool         `json:",omitempty"` // to this host, whatever the address
	Unreachable bool
	Metric      uint32
}

func (r IPRoute) String() string {
	var b strings.Builder
	kind := ""
	switch {
	case r.Unreachable:
		kind = "unreachable "
	case r.Local:
		kind = "local "
	}
	dst := r.Dst.String()
	if r.Dst.Bits() == 0 {
		dst = "default"
	}
	fmt.Fprintf(&b, "ip %s route add %s%s", r.Family, kind, dst)
	if r.Gateway.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Gateway)
	}
	if r.Dev != "" {
		fmt.Fprintf(&b, " dev %s", r.Dev)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	fmt.Fprintf(&b, " table %d proto %d", r.Table, RouteProto)
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	return b.String()
}

// IDs are the numbers that live kernel state holds: they stay the same over
// reloads, and go through the ledger over restarts. Unmasked, unshifted.
type IDs struct {
	Routes    map[string]uint32 // route name -> route id (conntrack marks)
	Marks     map[string]uint32 // way out ("dev wan1") -> fwmark number
	Throttles map[string]uint32 `json:",omitempty"` // throttle -> number (connection labels, classes)
	// Actions are those of the table: what rules ask for -> the candidate's low bits.
	Actions map[string]uint32 `json:",omitempty"`
}

// Plan is the desired state of the host for one policy, as data. Its exported
// parts are plain values; the unexported ones serve Answer and WorldUpdates and
// are owned by one goroutine. A plan read back from JSON (the ledger) can be
// diffed and be the previous plan, but gives no updates.
type Plan struct {
	PolicyHash string // hexadecimal
	MarkMask   uint32
	CTMask     uint32
	IDs        IDs
	IPRoutes   []IPRoute
	IPRules    []IPRule
	TC         []TCObject `json:",omitempty"` // in the order in which they are made
	Consult    Consult
	Hello      Hello `json:",omitzero"`
	// Relay is how flows come to the daemon's relay; the zero Relay: not at all.
	Relay Relay `json:",omitzero"`
	Table Table

	prog    *engine.Program
	guards  []guard
	actions []action
	byRoute map[int]uint32 // policy route index -> ct mark value, in place
	names   *nameIndex
	layout  *layout
	shares  map[uint32]string // numbers of share chains
	chains  map[string]bool   // chains the table has, with those added by updates
	guardOf map[string]string
	lists   []Set // the lists that rules ask for
	listOf  map[string]string
	labels  labelSet
	xnames  *xnames // on iptables

	throttles []*throttle
}

// String returns the plan as the commands that would bring it about, in the
// order in which they are carried out: routes, rules, tc, queues, table. It is what
// --dry-run prints.
func (p *Plan) String() string {
	var b strings.Builder
	for _, r := range p.IPRoutes {
		fmt.Fprintln(&b, r)
	}
	for _, r := range p.IPRules {
		fmt.Fprintln(&b, r)
	}
	for _, o := range p.TC {
		fmt.Fprintln(&b, o)
	}
	b.WriteString(p.Legacy().String())
	b.WriteString(p.Table.Text())
	return b.String()
}

// Bypass returns the packet mark of the daemon's own sockets (SO_MARK): they
// are never decided.
func (p *Plan) Bypass() uint32 { return p.MarkMask }

// UplinkMark returns the packet mark that selects an uplink's own table, and
// whether the plan has one (some route leads over the uplink). It is for the
// sockets that measure the uplink, which are not decided either.
func (p *Plan) UplinkMark(uplink string) (uint32, bool) {
	n, ok := p.IDs.Marks["uplink "+uplink]
	return place(n, p.MarkMask), ok
}

// CTMark returns the connection mark that pins a flow to the policy's concrete
// route, under CTMask, and whether the plan has it.
func (p *Plan) CTMark(route int) (uint32, bool) {
	v, ok := p.byRoute[route]
	return v, ok
}

// BlockMark returns the connection mark of a blocked flow, under CTMask.
func (p *Plan) BlockMark(reject bool) uint32 {
	if reject {
		return place(idReject, p.CTMask)
	}
	return place(p.top(), p.CTMask)
}

// RouteOf returns the name of the route that a connection mark holds, "" for
// none and for blocked flows.
func (p *Plan) RouteOf(ctMark uint32) string {
	for _, name := range sortedKeys(p.IDs.Routes) {
		if place(p.IDs.Routes[name], p.CTMask) == ctMark&p.CTMask {
			return name
		}
	}
	return ""
}

// UpdateKind is what an update changes.
type UpdateKind uint8

// The updates.
const (
	PutElem  UpdateKind = iota // add the element, or replace it whatever it was
	DelElem                    // remove it; it need not be there
	PutChain                   // create the chain with its rules, or leave it if there
)

// Update is one small change to the table in the kernel.
type Update struct {
	Kind  UpdateKind
	Set   string // the set or map of the element
	Map   bool
	Elem  Elem
	Chain Chain
}

// String returns the update as nft reads it.
func (u Update) String() string {
	x := u.Set == XNames || strings.HasPrefix(u.Set, XPrefix)
	switch {
	case x && u.Kind == PutElem:
		return fmt.Sprintf("ipset add %s %s", u.Set, u.Elem)
	case x && u.Kind == DelElem:
		return fmt.Sprintf("ipset del %s %s", u.Set, u.Elem.Key)
	}
	switch u.Kind {
	case PutElem:
		return fmt.Sprintf("put element inet %s %s { %s }", TableName, u.Set, u.Elem)
	case DelElem:
		return fmt.Sprintf("delete element inet %s %s { %s }", TableName, u.Set, u.Elem.Key)
	default:
		return fmt.Sprintf("put chain inet %s %s (%d rules)", TableName, u.Chain.Name, len(u.Chain.Rules))
	}
}

// KeepAlive returns the updates that keep new flows decided for another
// AliveTTL; the daemon sends them each second. Empty under on_crash last.
func (p *Plan) KeepAlive() []Update {
	if p.Table.XT != nil {
		return p.xalive()
	}
	if p.Table.set("alive") == nil {
		return nil
	}
	var list []Update
	for _, proto := range []string{"ipv4", "ipv6"} {
		list = append(list, Update{Kind: PutElem, Set: "alive", Elem: Elem{Key: proto, Timeout: AliveTTL}})
	}
	return list
}

func (t *Table) set(name string) *Set {
	for i := range t.Sets {
		if t.Sets[i].Name == name {
			return &t.Sets[i]
		}
	}
	return nil
}

func hashText(h [32]byte) string { return hex.EncodeToString(h[:]) }

// worldOf returns w, or a world without uplinks.
func worldOf(w *state.World) *state.World {
	if w == nil {
		return &state.World{Primary: -1}
	}
	return w
}

// settings fills in the daemon section's defaults.
func settings(d rules.Daemon) rules.Daemon {
	if d.MarkMask == 0 {
		d.MarkMask = DefaultMarkMask
	}
	if d.CTMask == 0 {
		d.CTMask = DefaultCTMask
	}
	if d.TableBase == 0 {
		d.TableBase = DefaultTableBase
	}
	if d.RulePriority == 0 {
		d.RulePriority = DefaultRulePriority
	}
	return d
}

// Program returns what the plan was made from; nil for one read from the ledger.
func (p *Plan) Program() *engine.Program { return p.prog }
