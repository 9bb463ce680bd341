package rules

import (
	"net/netip"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/state"
)

// Policy is a checked policy. It is immutable: every consumer shares it.
// References between its parts are indices into its slices, -1 for none.
type Policy struct {
	File string
	// Hash is the SHA-256 of the meaning of the policy: it ignores comments,
	// spelling, and the daemon section.
	Hash [32]byte

	Uplinks   []Uplink
	Routes    []Route // declared ones first, then those that uplinks, groups and bare names imply
	Groups    []Group
	Throttles []Throttle
	Sets      []*Set
	Rules     []Rule   // in source order
	Default   *Outcome // nil: the flow is left to the kernel untouched
	Primary   int      // index into Uplinks, -1 without uplinks
	Daemon    Daemon
}

// Uplink is a line to the outside.
type Uplink struct {
	Name    string
	Span    diag.Span
	Dev     string
	Gateway [2]netip.Addr // IPv4, IPv6; zero: the main table's default on Dev
	Probe   Probe
	Metered bool
	Weight  int
	Health  state.UplinkConfig
}

// ProbeKind is how an uplink is measured.
type ProbeKind uint8

// The kinds of probe; ProbeNone (the zero value) leaves health unknown.
const (
	ProbeNone ProbeKind = iota
	ProbeICMP
	ProbeTCP
)

// Probe is an uplink's active measurement.
type Probe struct {
	Kind    ProbeKind
	Targets []netip.AddrPort // port 0 for ICMP
	Every   time.Duration
}

// RouteKind is where a route leads.
type RouteKind uint8

// The kinds of route.
const (
	RouteMain      RouteKind = iota // the kernel's own routing
	RouteBlackhole                  // dropped by routing
	RouteUplink
	RouteDev
	RouteTable
	RouteMark
	RouteGroup
	RouteOther // xray, socks: parsed, not enforced yet (NP502)
)

// Route is one way out. An uplink or group is a route of its own name unless a
// declared route has taken the name.
type Route struct {
	Name    string
	Span    diag.Span
	Kind    RouteKind
	Implied bool // not declared as a route

	Uplink  int           // RouteUplink; for RouteOther its `on` uplink or -1
	Dev     string        // RouteDev
	Gateway [2]netip.Addr // RouteDev: IPv4, IPv6
	Table   uint32        // RouteTable
	Mark    uint32        // RouteMark
	Group   int           // RouteGroup
	Other   string        // RouteOther: as written, "xray proxy-fast"
}

// Strategy is how a group chooses.
type Strategy uint8

// The strategies.
const (
	Fallback Strategy = iota
	LowestLatency
)

// Group chooses one of its members for each flow.
type Group struct {
	Name               string
	Span               diag.Span
	Strategy           Strategy
	Members            []int // route indices
	Tolerance, MinHold time.Duration
	BlockWhenNone      bool // when_none block; false: best of bad
	Interrupt          bool
}

// Throttle is a rate profile. Rates are bits per second, Burst bytes; 0 is unset.
type Throttle struct {
	Name     string
	Span     diag.Span
	Down, Up int64
	Burst    int64
	Per      string // "host", "conn" or "all"
}

// Rule is one rule.
type Rule struct {
	Name     string
	Priority int
	Span     diag.Span // the whole rule
	NameSpan diag.Span
	// Active is the set of states in which the rule is looked at: `when` without `disable`.
	Active state.Set
	Match  Expr
	Do     Outcome
	// OnUnknown is what to do while a fact of this rule is missing.
	OnUnknown OnUnknown
}

// OnUnknown is a rule's answer to missing facts.
type OnUnknown uint8

// The answers; Auto, the zero value, waits on names where possible and else provisional.
const (
	Auto OnUnknown = iota
	Wait
	Provisional
	Skip
)

// ActionKind is a primary action.
type ActionKind uint8

// The primary actions. ActNone is a rule with modifiers only, or no decision.
const (
	ActNone ActionKind = iota
	ActRoute
	ActSwitchRoute
	ActFallback
	ActFailover
	ActBlock
)

// Outcome is what a rule or the default does: at most one primary action, and modifiers.
type Outcome struct {
	Kind   ActionKind
	Span   diag.Span
	Route  int   // route, switch_route, failover
	Routes []int // fallback
	Reject bool  // block: TCP RST or ICMP unreachable instead of silence
	Mods   Modifiers
}

// Modifiers are what goes with a primary action, or alone. Each is set by the
// first rule that sets it. They are comparable.
type Modifiers struct {
	Log      flow.Value[string] // unknown: no log; known: log, with this text or ""
	Throttle flow.Value[int]    // index into Throttles
	Mark     flow.Value[uint32]
	DSCP     flow.Value[uint8]
}

// Op is the kind of an expression node.
type Op uint8

// The operators. OpAny, the zero value, is always true.
const (
	OpAny Op = iota
	OpAnd
	OpOr
	OpNot
	OpPred
)

// Expr is a condition over a flow and the world, evaluated in Kleene's
// three-valued logic. The zero Expr is `any`.
type Expr struct {
	Op   Op
	Span diag.Span
	Kids []Expr // OpAnd, OpOr: any number; OpNot: one
	Pred Pred   // OpPred
}

// Field is what a predicate looks at.
type Field uint8

// The fields, in the order in which they are reported.
const (
	FieldSNI Field = iota
	FieldDomain
	FieldHTTPHost
	FieldDstIP
	FieldSrcIP
	FieldPort
	FieldSrcPort
	FieldProto
	FieldProcess
	FieldProcessPath
	FieldUser
	FieldCgroup
	FieldSrcMAC
	FieldIfaceIn
	FieldDSCP
	FieldMark
	FieldRTT
	FieldLatency
	FieldErrorRate
	FieldState
)

var fieldNames = [...]string{
	"sni", "domain", "http.host", "dst.ip", "src.ip", "port", "src.port", "proto", "process",
	"process.path", "user", "cgroup", "src.mac", "iface.in", "dscp", "mark", "rtt", "latency", "error_rate", "state",
}

// String returns the field's name as NPL spells it.
func (f Field) String() string { return fieldNames[f] }

// Cmp is a comparison. "!=" is OpNot over Eq.
type Cmp uint8

// The comparisons.
const (
	Eq Cmp = iota
	Lt
	Le
	Gt
	Ge
)

// Pred is one predicate: which of its parts is used follows from Field. A list
// is true when any element matches.
type Pred struct {
	Field    Field
	Text     string         // as the user wrote it, for explanations
	Names    []NamePattern  // sni, domain, http.host
	Prefixes []netip.Prefix // dst.ip, src.ip; masked, unmapped
	Ports    []PortRange    // port, src.port; sorted, disjoint
	Numbers  []uint32       // proto, dscp, mark; sorted, unique
	Globs    []Glob         // process, process.path, user, cgroup, iface.in (there literal)
	MACs     []flow.MAC     // src.mac; sorted, unique
	States   state.Set      // state
	Cmp      Cmp            // rtt, latency (microseconds), error_rate (parts per million)
	Bound    int64
	// Set is the set that the predicate names; nil if its values were written in
	// place. The list above then is the set's own, shared and never modified.
	Set *Set
}

// PortRange is an inclusive range of ports.
type PortRange struct{ Lo, Hi uint16 }

// Daemon is what netpolicyd alone reads. The zero value of a field means its default.
type Daemon struct {
	OnCrash      OnCrash
	MarkMask     uint32 // packet marks; default 0x70000000
	CTMask       uint32 // conntrack marks; default 0x7f000000
	TableBase    uint32 // first routing table; default 20000
	RulePriority int    // first ip rule priority; default 20000
	StateDir     string // default /var/lib/netpolicy
	API          string // unix socket; default /run/netpolicy/netpolicyd.sock
	Masquerade   []int  // uplinks
}

// OnCrash is what happens to new flows when the daemon dies.
type OnCrash uint8

// Last, the zero value, keeps the last rules; Open lets everything pass
// undecided; Closed drops new flows.
const (
	Last OnCrash = iota
	Open
	Closed
)
