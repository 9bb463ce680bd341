package rules

import (
	"net/netip"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/state"
)

// Policy is a checked policy. It is immutable: every consumer shares it.
// References between its parts are indices into its slices, -1 for none.
type Policy struct {
	File string
	// Files are all that it was read from, File first; nil: File alone.
	Files []string
	// Hash is the SHA-256 of the meaning of the policy: it ignores comments,
	// spelling, and the daemon section.
	Hash [32]byte

	Uplinks   []Uplink
	Routes    []Route // declared ones first, then those that uplinks, groups and bare names imply
	Groups    []Group
	Throttles []Throttle
	Sets      []*Set
	Quotas    []Quota
	Schedules []Schedule
	// Conditions are in the order of their declaration; one may read another.
	Conditions []Condition
	Rules      []Rule   // in source order
	Default    *Outcome // nil: the flow is left to the kernel untouched
	Asserts    []Assert
	Invariants []Invariant
	Primary    int // index into Uplinks, -1 without uplinks
	Daemon     Daemon
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
	RouteOther // xray, socks: carried out by the relay alone
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

// Xray returns the name of the proxy that a route via xray leads through.
func (r *Route) Xray() (name string, ok bool) {
	if r.Kind != RouteOther {
		return "", false
	}
	return strings.CutPrefix(r.Other, "xray ")
}

// Strategy is how a group chooses.
type Strategy uint8

// The strategies.
const (
	Fallback Strategy = iota
	LowestLatency
	Weighted // by the weights of the members' uplinks, by the flow hash
	HashOf   // by the flow hash, each member alike
	SLA      // the first member whose uplink meets the group's condition
)

// Group chooses one of its members for each flow.
type Group struct {
	Name               string
	Span               diag.Span
	Strategy           Strategy
	Members            []int // route indices
	Tolerance, MinHold time.Duration
	Sticky             time.Duration
	SLA                int  // index into Conditions, -1 for none
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
	// When is what `when` asks for beside states, over facts of the world; nil for
	// nothing. It does not count for specificity.
	When *Expr
	Do   Outcome
	// OnUnknown is what to do while a fact of this rule is missing.
	OnUnknown OnUnknown
	// Hold is how long Wait holds a flow up; 0: 300 ms.
	Hold time.Duration
	// Allow are the codes of warnings and hints that are wanted here.
	Allow []diag.Code
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
	FieldApp
	FieldALPN
	FieldProcess
	FieldProcessPath
	FieldUser
	FieldGroup
	FieldCgroup
	FieldSrcMAC
	FieldIfaceIn
	FieldIfaceOut
	FieldDSCP
	FieldMark
	FieldCountry
	FieldASN
	FieldConnBytes
	FieldConnAge
	FieldRTT
	// From here on the fields are facts of the world, which `when` can read.
	FieldLatency
	FieldErrorRate
	FieldState
	FieldUplink // a metric of an uplink: Pred.Ref is its index
	FieldRoute  // a metric of what a route leads over: Pred.Ref is the uplink's index
	FieldSchedule
	FieldQuota
	FieldCondition
)

// OfWorld reports whether the field is a fact of the world and not of the flow.
func (f Field) OfWorld() bool { return f >= FieldLatency }

// fieldNames is in the order of the constants. Where the name is not all of how
// the field is written (uplink.NAME.metric) it is the beginning.
var fieldNames = [...]string{
	"sni", "domain", "http.host", "dst.ip", "src.ip", "port", "src.port", "proto", "app", "alpn", "process",
	"process.path", "user", "group", "cgroup", "src.mac", "iface.in", "iface.out", "dscp", "mark", "country", "asn",
	"conn.bytes", "conn.age", "rtt", "latency", "error_rate", "state", "uplink", "route", "schedule", "quota", "condition",
}

// Metric is what is measured of an uplink.
type Metric uint8

// The metrics and their units.
const (
	MetricRTT       Metric = iota // microseconds
	MetricP90                     // microseconds
	MetricJitter                  // microseconds
	MetricLoss                    // parts per million
	MetricErrorRate               // parts per million
	MetricUp                      // 0 or 1
	MetricState                   // a state.State
	MetricUsage                   // bytes
)

// Metrics are the metrics' names, in the order of the constants.
func Metrics() []string {
	return []string{"rtt", "rtt_p90", "jitter", "loss", "error_rate", "up", "state", "usage"}
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
	Globs    []Glob         // process, process.path, user, group, cgroup; literal: iface.in, iface.out, app, alpn, country
	MACs     []flow.MAC     // src.mac; sorted, unique
	States   state.Set      // state; the metric state
	// Ref is the index of an uplink (FieldUplink, FieldRoute; -1: the route leads over
	// none, the fact is absent), schedule, quota or condition.
	Ref    int
	Metric Metric
	Cmp    Cmp // rtt, latency, conn.age (microseconds), error_rate (parts per million), conn.bytes, metrics
	Bound  int64
	// For is how long a comparison has to hold before it counts; conditions only.
	// Unequal is set where `!=` was written and For is given: under the `not` that it
	// became, it is the inequality that has to last.
	For     time.Duration
	Unequal bool
	// Set is the set that the predicate names; nil if its values were written in
	// place. The list above then is the set's own, shared and never modified.
	Set *Set
}

// Quota is an amount of traffic that may be used in a period.
type Quota struct {
	Name  string
	Span  diag.Span
	Match Expr
	Limit int64  // bytes, both directions
	Per   Period // from reset to reset
	Reset int    // minutes after midnight, in the host's time zone
}

// Period is the length of a quota's period.
type Period uint8

// The periods. An hour begins at the reset's minute, a week on Monday, a month on its first day.
const (
	PerHour Period = iota
	PerDay
	PerWeek
	PerMonth
)

// Schedule is when something holds: all that is given must. The zero parts mean always.
type Schedule struct {
	Name string
	Span diag.Span
	Days uint8 // bit n for time.Weekday n; 0: every day
	// From and To are minutes after midnight; equal: the whole day. A window with
	// To before From ends on the next day and belongs to the day on which it starts.
	From, To    int
	First, Last Date           // both inclusive; zero: no limit
	Zone        *time.Location // nil: the host's
}

// Date is a day of the calendar.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// Condition is a named condition over the world.
type Condition struct {
	Name string
	Span diag.Span
	Expr Expr
}

// Assert is what the policy says of itself about one flow or kind of flows.
type Assert struct {
	Span   diag.Span
	Text   string     // as written
	Flow   *flow.Flow // the connection; nil: Match describes it
	Match  Expr
	States state.Set
	Expect Expect
}

// Expect is an expected outcome: the action's kind and target, a rule, or the default.
type Expect struct {
	Span    diag.Span
	Do      *Outcome // only the primary action and its target count
	Rule    int      // index into Rules, -1
	Default bool
	Via     int // a route, -1: what the decision must resolve to, or must not
}

// InvariantKind is what an invariant says.
type InvariantKind uint8

// The kinds of invariant.
const (
	Never InvariantKind = iota
	Always
	Unreachable // Warn, or an error
)

// Invariant is what has to hold of all flows.
type Invariant struct {
	Span   diag.Span
	Text   string
	Kind   InvariantKind
	Match  Expr
	States state.Set
	Expect Expect
	Warn   bool
}

// PortRange is an inclusive range of ports.
type PortRange struct{ Lo, Hi uint16 }

// Daemon is what netpolicyd alone reads. The zero value of a field means its default.
type Daemon struct {
	OnCrash      OnCrash
	Backend      Backend
	MarkMask     uint32 // packet marks; default 0x70000000
	CTMask       uint32 // conntrack marks; default 0x7f000000
	TableBase    uint32 // first routing table; default 20000
	RulePriority int    // first ip rule priority; default 20000
	StateDir     string // default /var/lib/netpolicy
	StateDirAt   diag.Span
	API          string // unix socket; default /run/netpolicy/netpolicyd.sock
	Masquerade   []int  // uplinks
	Enforce      Enforce
	Hello        Hello
	Relay        Relay
	DNS          DNS
	Xray         Xray
	Web          Web
	Records      Records
	Alerts       []string // webhooks, and with the prefix "ntfy+" ntfy topics
}

// Xray is how routes via xray are carried out. The zero value leaves it to defaults.
type Xray struct {
	Binary string // absolute path; "" is looked for in PATH
	// Links are the files with the proxies, by path; relative ones from the policy's folder.
	Links []string
	User  string // whom it runs as; "" is the daemon's own
	// Probe is what is fetched through each proxy to see whether it lives; "" is
	// DefaultXrayProbe, and "off" measures nothing.
	Probe      string
	ProbeEvery time.Duration // 0 is 10 s
}

// DefaultXrayProbe answers with nothing, to anybody, and is there for this.
const DefaultXrayProbe = "http://www.gstatic.com/generate_204"

// Relay is what goes through the daemon's own sockets, where a name that only the
// connection itself tells can choose the route. The zero value is nothing.
type Relay struct {
	// Listen are addresses where SOCKS5 and HTTP proxy clients are served.
	Listen []netip.AddrPort
	// TCP and UDP are destination ports of forwarded flows that are taken on their
	// way (TPROXY), merged; Port is where, on loopback: default 1041.
	TCP, UDP []PortRange
	Port     uint16
}

// Takes reports whether forwarded flows go through the relay.
func (r *Relay) Takes() bool { return len(r.TCP)+len(r.UDP) > 0 }

// Used reports whether there is a relay at all.
func (r *Relay) Used() bool { return r.Takes() || len(r.Listen) > 0 }

// Backend is what of the kernel holds the policy.
type Backend uint8

// AutoBackend, the zero value, is nftables where the kernel has it, else iptables.
const (
	AutoBackend Backend = iota
	NFTables
	IPTables
)

func (b Backend) String() string { return [...]string{"auto", "nftables", "iptables"}[b] }

// Enforce is who decides a flow's first packet.
type Enforce uint8

// Static, the zero value: the kernel's table, made from the rules. Consult: the
// daemon, which the kernel asks.
const (
	Static Enforce = iota
	Consult
)

// Hello is what becomes of the packets of a forwarded flow that tell its name.
type Hello uint8

// Watch, the zero value: they pass, and the daemon reads along. Hold: they wait
// until the daemon has decided.
const (
	Watch Hello = iota
	Hold
)

// OnCrash is what happens to new flows when the daemon dies.
type OnCrash uint8

// Last, the zero value, keeps the last rules; Open lets everything pass
// undecided; Closed drops new flows.
const (
	Last OnCrash = iota
	Open
	Closed
)
