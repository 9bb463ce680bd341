package doctor

import (
	"cmp"
	"math/bits"
	"net/netip"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/rules"
)

// Want is what a policy needs of the machine.
type Want struct {
	File         string // "" for none: then only the numbers below are set
	Why          string // why there is none
	MarkMask     uint32
	CTMask       uint32
	TableBase    uint32
	RulePriority int
	Block        int // how many tables and priorities are netpolicy's, from the first on

	Uplinks    []Uplink
	Devices    []RouteTo // routes via dev
	TableOf    []RouteTo // routes via table
	Others     []RouteTo // routes via xray, socks, where no relay carries them out
	Forwards   bool      // rules ask for where a forwarded packet comes from
	Bytes      bool      // quotas or conn.bytes
	Labels     bool      // dscp or mark
	Throttles  bool
	Masquerade bool

	// NotInUse are what a running daemon says it does without, and why, each by its name.
	NotInUse []NotInUse
}

// NotInUse is a source or a service that a running daemon does without.
type NotInUse struct{ Name, Why string }

// Uplink is a line of the policy.
type Uplink struct {
	Name    string
	Dev     string
	Gateway [2]netip.Addr // IPv4, IPv6, as declared
	Targets []netip.Addr  // of its probe
}

// RouteTo is a declared route that leads elsewhere.
type RouteTo struct {
	Name, Dev, Other string
	Table            uint32
}

// leastBlock is how many tables the default mask has room for.
const leastBlock = 6

// WantOf returns what the policy needs; nil is the daemon's defaults.
func WantOf(p *rules.Policy) Want {
	var d rules.Daemon
	if p != nil {
		d = p.Daemon
	}
	w := Want{
		MarkMask: cmp.Or(d.MarkMask, actions.DefaultMarkMask), CTMask: cmp.Or(d.CTMask, actions.DefaultCTMask),
		TableBase: cmp.Or(d.TableBase, actions.DefaultTableBase), RulePriority: cmp.Or(d.RulePriority, actions.DefaultRulePriority),
		Masquerade: len(d.Masquerade) > 0,
	}
	// A wide mask has room for far more than will ever be used.
	room := int(w.MarkMask>>bits.TrailingZeros32(w.MarkMask)) - 1
	w.Block = min(room, leastBlock)
	if p == nil {
		return w
	}
	w.File = p.File
	for i := range p.Uplinks {
		u := &p.Uplinks[i]
		up := Uplink{Name: u.Name, Dev: u.Dev, Gateway: u.Gateway}
		for _, t := range u.Probe.Targets {
			up.Targets = append(up.Targets, t.Addr().Unmap())
		}
		w.Uplinks = append(w.Uplinks, up)
	}
	ways := len(p.Uplinks)
	for i := range p.Routes {
		r := &p.Routes[i]
		switch r.Kind {
		case rules.RouteDev:
			w.Devices = append(w.Devices, RouteTo{Name: r.Name, Dev: r.Dev})
			ways++
		case rules.RouteTable:
			w.TableOf = append(w.TableOf, RouteTo{Name: r.Name, Table: r.Table})
			ways++
		case rules.RouteOther:
			if d.Relay.Used() {
				break
			}
			w.Others = append(w.Others, RouteTo{Name: r.Name, Other: r.Other})
		}
	}
	w.Block = min(room, max(leastBlock, ways))
	w.Bytes = len(p.Quotas) > 0
	for i := range p.Rules {
		r := &p.Rules[i]
		w.expr(&r.Match)
		w.mods(&r.Do.Mods)
	}
	if p.Default != nil {
		w.mods(&p.Default.Mods)
	}
	return w
}

func (w *Want) mods(m *rules.Modifiers) {
	w.Throttles = w.Throttles || !m.Throttle.Unknown()
	w.Labels = w.Labels || !m.Mark.Unknown() || !m.DSCP.Unknown()
}

// expr looks at what a condition asks for.
func (w *Want) expr(e *rules.Expr) {
	for i := range e.Kids {
		w.expr(&e.Kids[i])
	}
	if e.Op != rules.OpPred {
		return
	}
	switch e.Pred.Field {
	case rules.FieldSrcIP, rules.FieldSrcMAC, rules.FieldIfaceIn:
		w.Forwards = true
	case rules.FieldConnBytes:
		w.Bytes = true
	}
}

// block returns the last table and priority that are netpolicy's.
func (w *Want) lastTable() uint32 { return w.TableBase + uint32(max(w.Block, 1)) - 1 }
func (w *Want) lastPriority() int { return w.RulePriority + max(w.Block, 1) - 1 }
