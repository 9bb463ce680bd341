package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// Flags of tables (include/uapi/linux/netfilter/nf_tables.h): no other process
// may change a table that has an owner (Linux 5.12); it outlives its owner when
// it is to persist (Linux 6.9).
const (
	tableOwner   = 2
	tablePersist = 4
)

// newTable writes "add table", with the flags if there are any.
func (e *encoder) newTable(flags uint32) {
	e.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, origin{kind: ofTable})
	e.text(unix.NFTA_TABLE_NAME, e.table)
	if flags != 0 {
		e.u32(unix.NFTA_TABLE_FLAGS, flags)
	}
}

func (e *encoder) delTable() {
	e.message(unix.NFT_MSG_DELTABLE, 0, origin{kind: ofTable})
	e.text(unix.NFTA_TABLE_NAME, e.table)
}

// replace writes a whole table in place of the one of its name: chains first,
// because the maps' verdicts name them, then the sets, then the rules, which
// name both.
func (e *encoder) replace(t *actions.Table, flags uint32) error {
	e.newTable(0) // so that the removal can't fail
	e.delTable()
	e.newTable(flags)
	e.sets = make(map[string]setType, len(t.Sets))
	for i := range t.Chains {
		if err := e.chain(&t.Chains[i], i); err != nil {
			return err
		}
	}
	for i := range t.Sets {
		if err := e.declare(&t.Sets[i], i); err != nil {
			return err
		}
	}
	return e.rules(t.Chains)
}

func (e *encoder) rules(chains []actions.Chain) error {
	for i := range chains {
		for j := range chains[i].Rules {
			if err := e.rule(chains[i].Name, &chains[i].Rules[j], origin{ofRule, int32(i), int32(j)}); err != nil {
				return fmt.Errorf("chain %s: rule %q: %w", chains[i].Name, chains[i].Rules[j].String(), err)
			}
		}
	}
	return nil
}

func (e *encoder) chain(c *actions.Chain, i int) error {
	e.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, origin{ofChain, int32(i), 0})
	e.text(unix.NFTA_CHAIN_TABLE, e.table)
	e.text(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Hook == "" {
		return nil
	}
	h, err := parseHook(c.Hook)
	if err != nil {
		return fmt.Errorf("chain %s: %w", c.Name, err)
	}
	at := e.nest(unix.NFTA_CHAIN_HOOK)
	e.u32(unix.NFTA_HOOK_HOOKNUM, h.num)
	e.u32(unix.NFTA_HOOK_PRIORITY, uint32(h.priority))
	e.done(at)
	e.u32(unix.NFTA_CHAIN_POLICY, h.policy)
	e.text(unix.NFTA_CHAIN_TYPE, h.kind)
	return nil
}

// declare writes a set with its elements.
func (e *encoder) declare(s *actions.Set, i int) error {
	t, err := typeOf(s)
	if err != nil {
		return err
	}
	e.sets[s.Name] = t
	e.newSet(s.Name, &t, 0, 0, origin{ofSet, int32(i), 0})
	list := make([]element, len(s.Elems))
	for k := range s.Elems {
		if list[k], err = t.element(&s.Elems[k]); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	e.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, setRef{name: s.Name}, &t, list, true, origin{ofElems, int32(i), 0})
	return nil
}

// newSet declares a set; size is a nameless set's.
func (e *encoder) newSet(name string, t *setType, flags, size uint32, from origin) {
	e.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, from)
	e.text(unix.NFTA_SET_TABLE, e.table)
	e.text(unix.NFTA_SET_NAME, name)
	if t.ranges {
		flags |= unix.NFT_SET_INTERVAL
	}
	if t.isMap {
		flags |= unix.NFT_SET_MAP
	}
	if t.timeout || t.size > 0 {
		flags |= unix.NFT_SET_TIMEOUT
	}
	if t.size > 0 {
		flags |= unix.NFT_SET_EVAL
		size = t.size
		e.u64(unix.NFTA_SET_TIMEOUT, uint64(t.ttl.Milliseconds()))
	}
	e.u32(unix.NFTA_SET_FLAGS, flags)
	e.u32(unix.NFTA_SET_KEY_TYPE, t.key.id)
	e.u32(unix.NFTA_SET_KEY_LEN, uint32(t.key.size))
	switch {
	case t.ranks:
		e.u32(unix.NFTA_SET_DATA_TYPE, classidType.id)
		e.u32(unix.NFTA_SET_DATA_LEN, uint32(classidType.size))
	case t.isMap:
		e.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
	}
	// The kernel wants a number that is new within the batch; names say which is meant.
	e.u32(unix.NFTA_SET_ID, uint32(len(e.origins)))
	if size > 0 {
		at := e.nest(unix.NFTA_SET_DESC)
		e.u32(unix.NFTA_SET_DESC_SIZE, size)
		e.done(at)
	}
	e.bytes(unix.NFTA_SET_USERDATA, t.userdata()...)
}

// Kinds of user data: notes of nft for itself, by which it prints a set as it
// was declared (libnftnl, include/libnftnl/udata.h, and nft's include/expression.h).
const (
	noteKeyOrder   = 0
	noteDataOrder  = 1
	noteTypeof     = 3
	noteDataTypeof = 4
	noteDataRange  = 6

	orderHost, orderBig = 1, 2

	noteExpr, noteExprData = 0, 1 // within noteTypeof
	exprVerdict            = 1
	exprMeta, exprCT       = 9, 12
	noteMetaKey            = 0
	noteCTKey, noteCTDir   = 0, 1

	noteElemFlags = 1 // of an element
	elemOpen      = 1 // it has no end marker, because it ends with the last value
)

func note(b []byte, kind byte, n uint32) []byte {
	return binary.NativeEndian.AppendUint32(append(b, kind, 4), n)
}

// userdata are the notes that make nft print the set as it is declared.
func (t *setType) userdata() []byte {
	order := uint32(orderBig)
	if t.key.host {
		order = orderHost
	}
	b := note(nil, noteKeyOrder, order)
	if t.isMap {
		data := uint32(0)
		if t.ranks {
			data = orderHost
		}
		b = note(b, noteDataOrder, data)
	}
	if t.typeof != nil {
		b = typeofNote(b, noteTypeof, t.typeof.kind, t.typeof.notes)
	}
	if t.typeof != nil && t.isMap {
		b = typeofNote(b, noteDataTypeof, exprVerdict, nil)
	}
	if t.isMap {
		b = note(b, noteDataRange, 0)
	}
	return b
}

func typeofNote(b []byte, kind byte, expr uint32, about []byte) []byte {
	body := append(note(nil, noteExpr, expr), noteExprData, byte(len(about)))
	body = append(body, about...)
	return append(append(b, kind, byte(len(body))), body...)
}

// element is an entry with what a map gives for it, and its life.
type element struct {
	entry
	timeout time.Duration
	code    int32 // of the verdict
	chain   string
	rank    uint32
	data    bool
}

func (t *setType) element(s *actions.Elem) (element, error) {
	n := element{timeout: s.Timeout}
	var err error
	if n.entry, err = t.entry(s.Key); err != nil || !t.isMap || s.Value == "" {
		return n, err
	}
	n.data = true
	if t.ranks {
		rank, err := strconv.ParseUint(s.Value, 0, 32)
		if err != nil {
			return n, fmt.Errorf("element %q: rank %q: %w", s.Key, s.Value, err)
		}
		n.rank = uint32(rank)
		return n, nil
	}
	verb, chain, _ := strings.Cut(s.Value, " ")
	n.chain = chain
	switch verb {
	case "goto":
		n.code = verdictGoto
	case "jump":
		n.code = verdictJump
	case "return":
		n.code = verdictReturn
	case "drop":
		n.code = verdictDrop
	default:
		return n, fmt.Errorf("element %q: verdict %q is not known", s.Key, s.Value)
	}
	return n, nil
}

// elements writes messages that add or remove elements, as many as it takes.
// Intervals go in order, each with the value after its end as an end marker.
// whole is whether these are all that the set has.
func (e *encoder) elements(kind, flags uint16, set setRef, t *setType, list []element, whole bool, from origin) {
	if len(list) == 0 {
		return
	}
	part := elemPart{e: e, kind: kind, flags: flags, set: set, from: from}
	if !t.ranges {
		for i := range list {
			part.room()
			e.element(t, &list[i])
		}
		part.close()
		return
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b element) int { return bytes.Compare(a.lo[:], b.lo[:]) })
	if whole && list[0].lo != (operand{}) {
		part.room()
		e.endMarker(t, operand{})
	}
	for i := range list {
		part.room()
		e.element(t, &list[i])
		if end, more := t.key.next(list[i].hi); more {
			e.endMarker(t, end)
		}
	}
	part.close()
}

// elemPart splits elements over messages.
type elemPart struct {
	e           *encoder
	kind, flags uint16
	set         setRef
	from        origin
	list        int // where NFTA_SET_ELEM_LIST_ELEMENTS starts, 0 for no message
}

func (p *elemPart) room() {
	if p.list > 0 && len(p.e.b)-p.list < maxPart {
		return
	}
	p.close()
	p.e.message(p.kind, p.flags, p.from)
	p.e.text(unix.NFTA_SET_ELEM_LIST_TABLE, p.e.table)
	p.e.text(unix.NFTA_SET_ELEM_LIST_SET, p.set.name)
	if p.set.id != 0 {
		p.e.u32(unix.NFTA_SET_ELEM_LIST_SET_ID, p.set.id)
	}
	p.list = p.e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
}

func (p *elemPart) close() {
	if p.list > 0 {
		p.e.done(p.list)
		p.list = 0
	}
}

func (e *encoder) element(t *setType, n *element) {
	at := e.nest(unix.NFTA_LIST_ELEM)
	e.value(unix.NFTA_SET_ELEM_KEY, n.lo[:t.key.size]...)
	if n.timeout > 0 {
		// nft's text has milliseconds, too; anything shorter has no use.
		e.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(max(1, n.timeout.Milliseconds())))
	}
	switch {
	case !n.data:
	case t.ranks:
		e.value(unix.NFTA_SET_ELEM_DATA, native(n.rank)...)
	default:
		e.verdict(unix.NFTA_SET_ELEM_DATA, n.code, n.chain)
	}
	if t.ranges {
		if _, more := t.key.next(n.hi); !more {
			e.bytes(unix.NFTA_SET_ELEM_USERDATA, note(nil, noteElemFlags, elemOpen)...)
		}
	}
	e.done(at)
}

func (e *encoder) endMarker(t *setType, o operand) {
	at := e.nest(unix.NFTA_LIST_ELEM)
	e.value(unix.NFTA_SET_ELEM_KEY, o[:t.key.size]...)
	e.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	e.done(at)
}

// wantsRanges reports whether the match's nameless set must hold intervals.
func wantsRanges(m *actions.Match) bool {
	for _, r := range m.Nums {
		if r.Lo != r.Hi {
			return true
		}
	}
	for _, p := range m.Prefixes {
		if !p.IsSingleIP() {
			return true
		}
	}
	return false
}

// rule writes a rule, after the nameless sets that its matches need.
func (e *encoder) rule(chain string, r *actions.Rule, from origin) error {
	var anon []setRef // by match; nil as long as none is needed
	for i := range r.If {
		m := &r.If[i]
		if m.Set != "" || len(m.Nums)+len(m.Prefixes)+len(m.Texts) < 2 {
			continue
		}
		if anon == nil {
			anon = make([]setRef, len(r.If))
		}
		var err error
		if anon[i], err = e.nameless(m, from); err != nil {
			return err
		}
	}
	e.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, from)
	e.text(unix.NFTA_RULE_TABLE, e.table)
	e.text(unix.NFTA_RULE_CHAIN, chain)
	at := e.nest(unix.NFTA_RULE_EXPRESSIONS)
	e.family = 0
	joined := merged(r.If)
	for i := range r.If {
		if e.join(joined, i) {
			continue
		}
		var set setRef
		if anon != nil {
			set = anon[i]
		}
		if err := e.match(&r.If[i], set); err != nil {
			return err
		}
	}
	for i := range r.Do {
		if err := e.do(&r.Do[i]); err != nil {
			return err
		}
	}
	e.done(at)
	return nil
}

// nameless writes the set of a match on several values.
func (e *encoder) nameless(m *actions.Match, from origin) (setRef, error) {
	k, err := keyOf(m.Key, m.V6)
	if err != nil {
		return setRef{}, err
	}
	t := setType{key: k.datatype, ranges: wantsRanges(m)}
	entries, err := k.entries(m, t.ranges)
	if err != nil {
		return setRef{}, err
	}
	if t.ranges {
		entries = k.merged(entries)
	}
	list := make([]element, len(entries))
	for i := range entries {
		list[i].entry = entries[i]
	}
	set := setRef{name: "__set%d"} // the kernel finds a free number
	if !e.live {
		// In a new table all are free: the kernel would read all other sets for each.
		set.name = "__set" + strconv.Itoa(e.anon)
		e.anon++
	}
	e.newSet(set.name, &t, unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT, uint32(len(list)), from)
	set.id = uint32(len(e.origins))
	e.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, set, &t, list, true, from)
	return set, nil
}
