package daemon

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/apps"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/internal/tunnels"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// maxMarks bounds the conntrack marks that wait to be set: beyond it the newest
// are dropped and counted. They are few, one for each flow that a late name blocks.
const maxMarks = 1024

const (
	// earlyLife is how long a name waits for its flow: sockdiag polls each second.
	earlyLife = 5 * time.Second
	// maxEarly bounds the names that wait; beyond it they are dropped and counted.
	maxEarly = 1024
	// looseLife is how long a flow is followed of which only a name was seen: no
	// source will tell of its end.
	looseLife = time.Minute
)

// earlyName is what is known of a flow that nobody has seen open.
type earlyName struct {
	flow  flow.Flow
	at    time.Duration
	local bool // of a flow of this host, and of no other's
}

// localNames is the source whose names with an address of this host are of its own
// sockets: it does not see the packets of others on their way out.
const localNames = "ebpf"

// captured is the source that reads packets as they pass: it never tells of an end.
const captured = "afpacket"

// socketsName is the source that lists the sockets of this host.
const socketsName = "sockdiag"

// core is what the one event loop owns. It touches nothing outside: each method
// takes an input with its time and adds to out what must be done, so that the
// same inputs give the same outputs. It is for one goroutine.
type core struct {
	live    live
	machine state.Machine
	names   *inspector.NameTable
	flows   map[flowKey]*tracked
	// roster are the same flows in no order, for lists that are made in portions.
	roster []*tracked
	// own are the addresses of this host, to tell its own probes from others' flows.
	own    map[netip.Addr]bool
	probes targets
	// todo are the flows that are to be decided again for the reason why, and all
	// of them, when every is set; see work.
	todo  []flowKey
	every bool
	why   string
	// deadLinks are the uplinks that are dead, by index: their flows were looked at.
	deadLinks map[int]bool
	timed     timed
	tunnelled tunnels.Health    // of the routes via xray
	picked    map[string]string // the route that each group of tunnels has chosen, by name
	nextID    uint64
	observe   bool

	boot      string // this boot's id
	journaled int    // bytes in the present journal
	tape      *tape  // what --record keeps; nil: nothing
	turns     uint64 // how often states and conditions changed
	near      budget // of looks for the rules that came nearest

	dirty map[netip.Addr]bool // addresses whose elements the kernel must be told
	// early are names that came before their flow was seen, by another source.
	early map[flowKey]earlyName
	// dropped are flows that the kernel dropped and that were recorded, with
	// when: a client tries again and again.
	dropped map[dropKey]time.Duration
	// loose are flows that began with a name or a question of the kernel's, with
	// when: unless another source tells of them too they end without a word.
	loose map[flowKey]time.Duration
	// killed are flows that were ended by hand and have no end of their own, with when.
	killed map[flowKey]time.Duration
	self   string // the name of the daemon's program
	out    outputs
}

// marks says what conntrack marks mean. A plan knows.
type marks interface {
	// RouteOf returns the concrete route whose id a conntrack mark holds, -1
	// where it holds none.
	RouteOf(mark uint32) (route int)
	// MarkOf returns the conntrack mark, under its mask, of flows with this decision.
	MarkOf(d *engine.Decision) (value, mask uint32)
	// AnswerCode returns the answer of this decision when the kernel asks.
	AnswerCode(d *engine.Decision) (code uint32, drop bool)
	// HelloCode returns the answer of this decision for a packet that is held.
	HelloCode(d *engine.Decision) uint32
	// IsBlocked reports whether the mark stands for a blocked flow.
	IsBlocked(mark uint32) bool
}

// outputs are what one input brought about, in order of time within each list.
type outputs struct {
	records     []telemetry.Record
	counts      []count
	transitions []state.Transition
	setMarks    []setMark
	flush       []flowKey
	ended       []ended
	journal     []journalPart
	taped       []journalPart
	died        []int        // uplinks
	named       []netip.Addr // addresses whose names changed
	drops       map[string]int
}

// ended is a flow that is not followed any more.
type ended struct {
	n        uint64
	up, down uint64
	began    time.Time // zero: before the daemon
	rtt      flow.Value[int64]
	reason   string
}

// journalPart is some whole lines of the journal; fresh ones begin a new journal.
type journalPart struct {
	lines []byte
	fresh bool
}

// setMark asks for the conntrack mark of a flow to be changed.
type setMark struct {
	key         flowKey
	value, mask uint32
	done        chan<- error // told what came of it, with room for that; nil: nobody is
}

func newCore(l live, m state.Machine, observe bool, boot string) *core {
	c := &core{
		live: l, machine: m, observe: observe, boot: boot,
		names: inspector.NewNameTable(0), flows: map[flowKey]*tracked{},
		deadLinks: map[int]bool{}, dirty: map[netip.Addr]bool{}, dropped: map[dropKey]time.Duration{}, early: map[flowKey]earlyName{},
		loose: map[flowKey]time.Duration{}, killed: map[flowKey]time.Duration{},
		timed: newTimed(&l), picked: map[string]string{}, probes: targets{},
	}
	c.probes.follow(l.policy, 0)
	c.beginJournal()
	return c
}

// take returns what must be done and forgets it.
func (c *core) take() outputs {
	o := c.out
	c.out = outputs{}
	return o
}

func (c *core) drop(queue string) {
	if c.out.drops == nil {
		c.out.drops = map[string]int{}
	}
	c.out.drops[queue]++
}

// event takes one observation. now is the loop's time, wall its wall clock.
func (c *core) event(e *inspector.Event, now time.Duration, wall time.Time) {
	if c.transparent(e) {
		return
	}
	switch e.Kind {
	case inspector.Answered:
		c.answer(e, wall)
	case inspector.Close:
		if k, ok := keyOf(&e.Flow); ok {
			if t := c.flows[k]; t != nil {
				c.carried(t, e, wall)
			}
			if c.closes(e) {
				c.forget(k, api.EndClosed)
			}
		}
	case inspector.Logged:
		c.logged(e, now, wall)
	default:
		c.seen(e, now, wall)
	}
}

// closes reports whether a Close is the end of the flow: a socket that is gone
// leaves a conntrack entry that lives on and says so itself.
func (c *core) closes(e *inspector.Event) bool {
	k, _ := keyOf(&e.Flow)
	t := c.flows[k]
	return t != nil && (t.source == e.Source || e.Source == "conntrack")
}

// answer takes a DNS answer. Addresses that no name of others can have are left
// out: whoever owns a name that the policy blocks could name this host's own
// address, and lock its administrator out.
func (c *core) answer(e *inspector.Event, wall time.Time) {
	answer := e.Answer
	answer.Addrs = slices.DeleteFunc(slices.Clone(answer.Addrs), func(a netip.Addr) bool {
		a = a.Unmap().WithZone("")
		return c.own[a] || beyondPolicy(a)
	})
	if len(answer.Addrs) == 0 {
		return
	}
	// A longer life is a change for the kernel, whose elements run out.
	c.names.Add(answer, wall)
	for _, a := range answer.Addrs {
		a = a.Unmap().WithZone("")
		c.dirty[a] = true
		c.out.named = append(c.out.named, a)
	}
}

// seen takes Open, Name and Update: what is new about a flow is learned, and the
// flow is decided again when something is.
func (c *core) seen(e *inspector.Event, now time.Duration, wall time.Time) {
	k, ok := keyOf(&e.Flow)
	if !ok || c.ignored(k) {
		return
	}
	t := c.flows[k]
	if local := e.Kind == inspector.Name && e.Source == localNames; t == nil && local && c.own[k.src.Addr()] {
		t = c.elsewhere(k)
	}
	if t == nil {
		switch {
		case e.Kind == inspector.Update: // of a flow beyond the bound
		case e.Kind == inspector.Name && c.own[k.src.Addr()]:
			// A flow of this host is another source's to open. Or it is a
			// forwarded one behind NAT, which has its name under its own address.
			most := maxEarly
			if e.Flow.App == flow.Some(apps.DNS) {
				most /= 2 // a resolver's questions are many, and hold no name
			}
			if len(c.early) >= most {
				c.drop("names")
				return
			}
			c.early[k] = earlyName{e.Flow, now, e.Source == localNames}
		default:
			c.open(k, e, now, wall)
		}
		return
	}
	if !unsure(e) {
		t.loose = false
	}
	before, ours := t.flow, c.ours(t)
	seen := e.Flow
	seen.Src = before.Src // which is the same, or as in elsewhere
	learn(&t.flow, &seen)
	c.carried(t, e, wall)
	if e.Mark != 0 && e.Mark != t.mark {
		c.marked(t, e.Mark)
		c.enforce(t) // what is blocked may have waited for it, see proxied
	}
	if ours && !c.ours(t) { // it is another program's: now it is seen
		c.decide(t, wall)
		c.enforce(t)
		c.record(t, "open", now, wall)
		c.failover(t, now, wall)
		return
	}
	if t.flow == before {
		return
	}
	event := "facts"
	if t.flow.SNI != before.SNI || t.flow.HTTPHost != before.HTTPHost {
		event = "name"
	}
	c.again(t, event, now, wall)
}

func (c *core) open(k flowKey, e *inspector.Event, now time.Duration, wall time.Time) {
	t := &tracked{key: k, flow: e.Flow, source: e.Source, route: -1, asked: e.Earlier}
	c.nextID++
	t.n = c.nextID
	t.flow.ID = strconv.FormatUint(t.n, 10)
	if at, ok := c.earlyOf(k); ok {
		n := c.early[at]
		named := n.flow
		named.Src = t.flow.Src
		learn(&t.flow, &named)
		delete(c.early, at)
	}
	if e.Earlier { // what it carried before was counted then, or is nobody's
		t.carried = e.Stats.BytesUp + e.Stats.BytesDown
	} else {
		t.began = wall
	}
	c.carried(t, e, wall)
	c.marked(t, e.Mark)
	if len(c.flows) < maxFlows {
		c.follow(t)
		if t.loose = unsure(e); t.loose {
			c.loose[k] = now
		}
	} else {
		c.drop("flows")
	}
	c.decide(t, wall)
	if c.ours(t) {
		return
	}
	c.enforce(t)
	c.record(t, "open", now, wall)
	c.failover(t, now, wall)
}

// elsewhere returns the one flow of this host that is like k but for its own address,
// nil when there is none or several. A flow of this host that is given to another line
// than its address belongs to is masqueraded: its packets, from which names are read,
// have that line's address, and the same port.
func (c *core) elsewhere(k flowKey) (found *tracked) {
	for a := range c.own {
		k.src = netip.AddrPortFrom(a, k.src.Port())
		if t := c.flows[k]; t != nil {
			if found != nil {
				return nil
			}
			found = t
		}
	}
	return found
}

// earlyOf returns where the name of a flow is that came before it: under its own
// addresses, or, of this host's flows, under another one as in elsewhere.
func (c *core) earlyOf(k flowKey) (at flowKey, ok bool) {
	if _, ok := c.early[k]; ok || !c.own[k.src.Addr()] {
		return k, ok
	}
	for a := range c.own {
		k.src = netip.AddrPortFrom(a, k.src.Port())
		if n, known := c.early[k]; known && n.local {
			if ok {
				return k, false
			}
			at, ok = k, true
		}
	}
	return at, ok
}

// unsure reports whether no source will tell of the flow's end, as far as the
// event goes: a name, a round trip that was seen to pass, or a first packet that may
// have got nowhere.
func unsure(e *inspector.Event) bool {
	return e.Kind == inspector.Name || e.Source == captured || e.Source == consultName
}

// again decides a known flow once more, and carries out what is safe on an
// established one: block, and a log. A new route is only recorded, unless a group
// with interrupt gives it: then the flow is forgotten, and its next packet takes
// the new way as a new flow, with the source address that belongs there.
func (c *core) again(t *tracked, event string, now time.Duration, wall time.Time) {
	old := t.outcome
	c.decide(t, wall)
	if event != "name" && old == t.outcome || c.ours(t) {
		return
	}
	c.enforce(t)
	if c.interrupted(t) {
		c.out.flush = append(c.out.flush, t.key)
		c.forget(t.key, api.EndMoved)
		t.route = t.decision.Route
	}
	c.record(t, event, now, wall)
	if event == "name" || event == "facts" {
		c.failover(t, now, wall)
	}
}

// interrupted reports whether the flow is on another route than a group with
// interrupt gives it now.
func (c *core) interrupted(t *tracked) bool {
	p, d := c.live.policy, &t.decision
	if c.observe || t.route < 0 || d.Route < 0 || t.route == d.Route || d.Asked < 0 {
		return false
	}
	asked := &p.Routes[d.Asked]
	return asked.Kind == rules.RouteGroup && p.Groups[asked.Group].Interrupt
}

// enforce marks a flow as blocked that the kernel let pass (it began before the
// policy, or a fact came late), or lets one go again.
func (c *core) enforce(t *tracked) {
	blocked := t.decision.Blocked()
	if blocked == t.blocked || t.killed || c.observe || c.proxied(t) {
		return
	}
	if len(c.out.setMarks) >= maxMarks {
		c.drop("marks")
		return
	}
	value, mask := c.live.marks.MarkOf(&t.decision)
	c.out.setMarks = append(c.out.setMarks, setMark{t.key, value, mask, nil})
	c.marked(t, t.mark&^mask|value)
	t.blocked = blocked
}

func (c *core) decide(t *tracked, wall time.Time) {
	c.hint(t, wall)
	c.live.prog.DecideInto(&t.decision, &t.flow, c.live.world)
	c.live.tally.Add(&t.decision)
	c.live.lasts[t.decision.Rule+1].Store(wall.UnixMilli())
	t.outcome = outcomeOf(c.live.policy, &t.decision)
}

// hint gives the flow the names that its destination has now.
func (c *core) hint(t *tracked, wall time.Time) {
	t.flow.DNS = c.names.Names(t.key.dst.Addr(), wall)
}

// marked notes the conntrack mark that the kernel gave the flow.
func (c *core) marked(t *tracked, mark uint32) {
	t.mark = mark
	t.route = c.live.marks.RouteOf(mark)
	t.blocked = c.live.marks.IsBlocked(mark)
}

// failover carries out a decision that asks for FAILOVER, once for each flow. A
// flow from before the daemon's start has had its turn: a restart asks nothing.
func (c *core) failover(t *tracked, now time.Duration, wall time.Time) {
	if t.decision.Kind != rules.ActFailover || t.asked || c.observe {
		return
	}
	t.asked = true
	c.apply(state.Event{Kind: state.EventFailover, At: now, Uplink: -1}, wall)
}

// expire forgets what is old; it is called with each tick.
func (c *core) expire(now time.Duration) {
	c.expireKilled(now)
	c.expireDropped(now)
	c.probes.expire(now)
	for k, at := range c.loose {
		if now-at < looseLife {
			continue
		}
		delete(c.loose, k)
		if t := c.flows[k]; t != nil && t.loose {
			c.forget(k, api.EndForgotten)
		}
	}
	for k, n := range c.early {
		if now-n.at >= earlyLife {
			delete(c.early, k)
		}
	}
}

// holds lists the addresses with live names, in order.
func (c *core) holds(wall time.Time) []nameHold {
	var list []nameHold
	for _, a := range c.names.Addrs(wall, func(string) bool { return true }) {
		list = append(list, nameHold{a.Addr, c.names.Names(a.Addr, wall), a.Until})
	}
	return list
}

// apply gives the machine one input, and takes over what follows from it.
func (c *core) apply(e state.Event, wall time.Time) {
	m, moved := c.machine.Apply(c.live.health, e)
	w, before := m.World(c.live.health), c.live.world
	c.timed.complete(&w, wall)
	c.complete(&w)
	c.machine, c.live.world = m, &w
	c.out.transitions = append(c.out.transitions, moved...)
	c.journal(func(b []byte) []byte { return state.AppendEvent(b, c.live.health, e, moved) })
	switch died := c.lookForDead(); {
	case died || len(moved) > 0:
		c.allAgain("state")
	case !sameTimed(before, &w):
		c.allAgain("condition")
	}
}

// allAgain has every flow decided anew, in an order that does not depend on
// chance, in portions: the kernel hears of a failover before even the first of
// many flows is looked at.
func (c *core) allAgain(why string) {
	c.every, c.why = true, why
	c.turns++
}

// waits reports whether flows wait to be decided again.
func (c *core) waits() bool { return c.every || len(c.todo) > 0 }

// work decides the next n of the flows that wait for it. A flow that hangs on a
// dead uplink and would now be given another one is forgotten: its next packet
// is a new flow's. One that leads there by the rule's own word stays, and so
// does every flow of a line that is merely slow.
func (c *core) work(n int, now time.Duration, wall time.Time) {
	if c.every {
		c.todo, c.every = slices.SortedFunc(maps.Keys(c.flows), compareKeys), false
	}
	n = min(n, len(c.todo))
	for _, k := range c.todo[:n] {
		t := c.flows[k]
		switch {
		case t == nil: // gone meanwhile
		case c.stranded(t, wall):
			c.out.flush = append(c.out.flush, k)
			c.forget(k, api.EndMoved)
		default:
			c.again(t, c.why, now, wall)
		}
	}
	if c.todo = c.todo[n:]; len(c.todo) == 0 {
		c.todo = nil
	}
}

// stranded reports whether the flow is on a dead uplink that it need not be on.
func (c *core) stranded(t *tracked, wall time.Time) bool {
	if t.route < 0 || c.observe || !c.deadLinks[uplinkOf(c.live.policy, t.route)] {
		return false
	}
	c.hint(t, wall)
	d := c.live.prog.Decide(&t.flow, c.live.world)
	return d.Route >= 0 && uplinkOf(c.live.policy, d.Route) != uplinkOf(c.live.policy, t.route)
}

// journal adds lines to the journal. When that would be too long, a new one
// begins, with the whole machine.
func (c *core) journal(add func([]byte) []byte) {
	c.toTape(add)
	if len(c.out.journal) == 0 {
		c.out.journal = append(c.out.journal, journalPart{})
	}
	part := &c.out.journal[len(c.out.journal)-1]
	before := len(part.lines)
	part.lines = add(part.lines)
	c.journaled += len(part.lines) - before
	if c.journaled >= maxJournal {
		c.beginJournal()
	}
}

// beginJournal starts a new journal: with the daemon, with another policy, and
// when the one so far is long enough.
func (c *core) beginJournal() {
	start := state.AppendStart(nil, c.live.health, c.machine, shortHash(c.live.policy.Hash), c.boot)
	c.out.journal = append(c.out.journal, journalPart{start, true})
	c.journaled = len(start)
	c.toTape(func(b []byte) []byte { return append(b, start...) })
}

// lookForDead finds the uplinks that have died, and reports whether one has
// since the last look.
func (c *core) lookForDead() (died bool) {
	for i, s := range c.machine.Status(c.live.health) {
		dead := !s.Up || s.Under == state.Failover && s.Dead >= c.live.health.Uplinks[i].DeadAfter
		switch {
		case !dead:
			delete(c.deadLinks, i)
		case s.State == state.Failover && !c.deadLinks[i]:
			c.deadLinks[i], died = true, true
			c.out.died = append(c.out.died, i)
		}
	}
	return died
}

func compareKeys(a, b flowKey) int {
	return cmp.Or(cmp.Compare(a.proto, b.proto), a.src.Compare(b.src), a.dst.Compare(b.dst))
}

// replace makes another policy live: every flow is decided again. The same
// policy with a new plan only brings the meaning of marks.
func (c *core) replace(l live, now time.Duration) {
	if l.policy == c.live.policy {
		c.live.marks = l.marks
		return
	}
	old := c.live.health
	c.machine = c.machine.Reconfigure(old, l.health)
	w := c.machine.World(l.health)
	c.timed = c.timed.over(&l)
	c.timed.complete(&w, l.since)
	l.world = &w
	c.live = l
	c.probes.follow(l.policy, now)
	c.complete(&w)
	clear(c.deadLinks)
	c.beginJournal()
	for _, t := range c.flows {
		c.marked(t, t.mark)
	}
	c.allAgain("policy")
}

// ignored reports flows that the kernel's table does not decide either (within
// this host, to many at once, address configuration), and the daemon's own probes.
func (c *core) ignored(k flowKey) bool {
	src, dst := k.src.Addr(), k.dst.Addr()
	dhcp := k.proto == flow.UDP && (between(k, 67, 68) || between(k, 546, 547))
	if beyondPolicy(dst) || src.IsUnspecified() || src.IsLinkLocalUnicast() || dhcp {
		return true
	}
	return c.own[src] && (c.own[dst] || c.probes.has(k))
}

// between reports whether both ports lie in [lo, hi].
func between(k flowKey, lo, hi uint16) bool {
	return k.src.Port() >= lo && k.src.Port() <= hi && k.dst.Port() >= lo && k.dst.Port() <= hi
}
