package engine

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// layer is a classifier over some of a policy's rules. Its ids number them in
// their order.
type layer struct {
	records  []record // by id
	root     *node
	pool     pool
	ports    []uint32 // port lists: a count, then packed ranges
	tuples   []tuple
	outcomes []rules.Outcome
	// positions are the ids' places in the order of the whole program; nil: the same.
	positions []uint32
	reads     []FieldSet
	fields    FieldSet // that any rule reads
	seeds     seeds
	crowded   bool // rules may have to wait: see search.postpone
}

// builder makes a layer.
type builder struct {
	policy    *rules.Policy
	pool      pool
	ports     []uint32
	portSets  map[*rules.Set]uint32 // where a set stands in ports
	tuples    []tuple
	fieldSets []FieldSet
	outcomes  []rules.Outcome
	numbers   map[outcomeKey]uint32 // of outcomes
	single    map[[2]uint32]tagged
	spreads   map[string]ref // see spread
	words     []uint32
	seeds     seeds
	fields    FieldSet
	heads     []head      // by node
	rules     []uint32    // by id: the rule in source order
	records   []record    // by id
	options   [][2]uint32 // by id: from and to in pivots; the first above the second: see choose
	pivots    []option
	crowded   bool
	open      bool // what is being made is for a search for open rules alone
}

// outcomeKey is an outcome as a comparable value.
type outcomeKey struct {
	kind   rules.ActionKind
	route  int
	reject bool
	routes string
	mods   rules.Modifiers
}

// outcome numbers the outcomes: equal ones do the same.
func (b *builder) outcome(o *rules.Outcome) uint32 {
	k := outcomeKey{kind: o.Kind, reject: o.Reject, mods: o.Mods, route: -1}
	switch o.Kind {
	case rules.ActRoute, rules.ActSwitchRoute, rules.ActFailover:
		k.route = o.Route
	case rules.ActFallback:
		k.routes = fmt.Sprint(o.Routes)
	}
	n, ok := b.numbers[k]
	if !ok {
		n = uint32(len(b.outcomes))
		b.numbers[k] = n
		b.outcomes = append(b.outcomes, *o)
	}
	return n
}

// newLayer compiles the rules of the list, which is in source order. It returns
// the list in the total order, which numbers the layer's rules, too.
//
// Rules are large and lie in memory in source order, so they are read in that
// order, and few times.
func newLayer(p *rules.Policy, list []uint32, s seeds) (*layer, []uint32) {
	n := len(list)
	b := &builder{
		policy: p, numbers: map[outcomeKey]uint32{}, single: map[[2]uint32]tagged{}, spreads: map[string]ref{}, seeds: s,
		rules: make([]uint32, n), records: make([]record, n), options: make([][2]uint32, n),
	}
	b.pool.words = []uint32{0} // the empty list
	b.pivots = make([]option, 0, 2*n)
	order := make([]rank, n)
	records := make([]record, n)
	options := make([][2]uint32, n)
	for i, rule := range list {
		r := &p.Rules[rule]
		order[i] = rankOf(r, int(rule))
		order[i].at = uint32(i)
		from := len(b.pivots)
		simple := b.optionsOf(&r.Match)
		if !simple {
			b.pivots = b.pivots[:from]
			options[i] = [2]uint32{1, 0}
		} else {
			options[i] = [2]uint32{uint32(from), uint32(len(b.pivots))}
		}
		pivot := b.choose(options[i], &r.Match, 0)
		records[i] = b.record(r, int(rule), &pivot)
	}
	slices.SortFunc(order, rank.before)
	walk := make([]id, n) // ids in source order
	for i := range order {
		at := order[i].at
		walk[at] = id(i)
		b.rules[i], b.records[i], b.options[i] = list[at], records[at], options[at]
	}
	l := &layer{seeds: s, records: b.records}
	l.root = b.node(walk, 0, false)
	l.pool = pool{slices.Clone(b.pool.words), slices.Clone(b.pool.nodes)}
	l.ports, l.reads, l.outcomes = slices.Clone(b.ports), b.fieldSets, slices.Clone(b.outcomes)
	l.tuples, l.fields, l.crowded = slices.Clone(b.tuples), b.fields, b.crowded
	return l, b.rules
}

// node is an index over rules. Each rule is filed under the elements of its
// pivot, or, without one, in rest.
type node struct {
	least id
	// extra is set if one of the fields behind rest is: these are seldom, and stand
	// in another cache line.
	extra bool
	// indexes are in the order of their classes.
	indexes []index
	// rest are the rules without a pivot, in order; runs are the same for a
	// search for open rules.
	rest []id
	runs []runGroup
	// first are the first of many rules, in order. Where rules ask for little
	// else, one of them is the answer, and the indexes are not needed.
	first []early
	// far is the index of IPv4 destinations if it is too large for a cache.
	far *prefixIndex
}

// index is a node's index of one class. Which parts are used follows from it.
type index struct {
	class    class
	names    *nameIndex
	text     *textIndex      // of names and of strings
	prefixes [2]*prefixIndex // IPv4 and IPv6
	ports    portIndex       // without a tree: none
	numbers  map[uint64]ref
	strings  map[string]ref
	// open has the rules that are filed here, filed anew without the class: they
	// are found there when its facts are not known.
	open *node
}

// draft gathers what goes into a node.
type draft struct {
	names    []nameFiling
	depths   depths
	texts    [classes][]textFiling
	prefixes [2][]prefixRef
	ports    [2][]portRef
	numbers  [classes]map[uint64]*filing
	strings  [classes]map[string]*filing
	open     [classes][]id
	lists    map[fieldList]*listFiling
	order    []*listFiling
}

type prefixRef struct {
	prefix netip.Prefix
	shared bool
	what   uint32
}

type portRef struct {
	rng    rules.PortRange
	shared bool
	what   uint32
}

// listFiling are the rules filed under all elements of one long list.
type listFiling struct {
	pred *rules.Pred
	filing
}

// farTop is how many entries are 256 KiB, a part of a common second-level cache.
const farTop = 1 << 16

// longList is how many elements make a list's rules a filing of their own,
// which all elements share.
const longList = 8

// openCrowd is the length up to which rules that may be open are not worth an index.
const openCrowd = 64

// maxDepth bounds how many classes are indexed one below the other: a rule can
// stand in a node's index and in its open part, so that the copies double with each.
const maxDepth = 5

// node makes a node of the ids, in any order. Inside are the rules that are looked
// at without the classes; open says that they are only looked at for whether
// they are open.
func (b *builder) node(ids []id, without classSet, open bool) *node {
	n := &node{least: none}
	if len(ids) > 0 {
		n.least = slices.Min(ids)
	}
	if !open && without != 0 && len(ids) > manyRules {
		n.first = b.firstOf(ids, without)
	}
	var d draft
	var rest []id
	if open && len(ids) <= openCrowd || bits.OnesCount32(uint32(without)) >= maxDepth {
		rest = ids
	} else {
		d.names = make([]nameFiling, 0, len(ids)/2)
		for _, i := range ids {
			p := b.choose(b.options[i], &b.policy.Rules[b.rules[i]].Match, without)
			if p.score == 0 {
				rest = append(rest, i)
				continue
			}
			if p.pred != nil {
				d.file(b, p.pred, i)
			}
			for _, pred := range p.preds {
				d.file(b, pred, i)
			}
			for c := range classes {
				if p.classes.has(c) {
					if d.open[c] == nil {
						d.open[c] = make([]id, 0, len(ids)/4)
					}
					d.open[c] = append(d.open[c], i)
				}
			}
		}
	}
	n.rest = slices.Clone(rest)
	slices.Sort(n.rest)
	if len(rest) > crowd {
		n.runs = b.runs(n.rest)
		if open {
			n.rest = nil
		}
	}
	b.finish(n, &d, without, open)
	return n
}

// finish makes a node's indexes.
func (b *builder) finish(n *node, d *draft, without classSet, open bool) {
	b.open = open
	for _, l := range d.order {
		c, _ := classOf(l.pred.Field)
		r := b.ref(l.filing, without.with(c))
		d.elements(b, l.pred, true, uint32(r))
	}
	for c := range classes {
		if len(d.open[c]) == 0 {
			continue
		}
		below := without.with(c)
		x := b.index(d, c, below, open)
		x.open = b.node(slices.Compact(d.open[c]), below, true) // what one rule files stands together
		n.indexes = append(n.indexes, *x)
	}
	n.indexes = slices.Clone(n.indexes)
	for i := range n.indexes {
		x := &n.indexes[i]
		if p := x.prefixes[0]; x.class == classDst && p != nil && len(p.v4.top) >= farTop {
			n.far = p
		}
	}
	n.extra = n.runs != nil || n.first != nil || n.far != nil
}

// index makes the index of one class.
func (b *builder) index(d *draft, c class, below classSet, open bool) *index {
	x := &index{class: c}
	was := b.open
	b.open = open
	switch c {
	case classNames:
		if len(d.names) > 0 {
			x.names = b.nameIndex(d.names, d.depths, below)
		}
	case classDst, classSrc:
		x.prefixes = b.prefixIndexes(d.prefixes[c-classDst], below)
	case classPort, classSrcPort:
		x.ports = b.portIndexOf(d.ports[c-classPort], below)
	}
	if len(d.texts[c]) > 0 {
		x.text = b.textIndex(d.texts[c], below)
	}
	if len(d.numbers[c]) > 0 {
		x.numbers = make(map[uint64]ref, len(d.numbers[c]))
		for _, k := range sortedKeys(d.numbers[c]) {
			x.numbers[k] = b.ref(*d.numbers[c][k], below)
		}
	}
	if len(d.strings[c]) > 0 {
		x.strings = make(map[string]ref, len(d.strings[c]))
		for _, k := range sortedKeys(d.strings[c]) {
			x.strings[k] = b.ref(*d.strings[c][k], below)
		}
	}
	b.open = was
	return x
}

func (b *builder) portIndexOf(list []portRef, without classSet) portIndex {
	ranges := make([]rules.PortRange, len(list))
	for i := range list {
		ranges[i] = list[i].rng
	}
	f := newPortFiling(ranges)
	for _, p := range list {
		f.add(p.rng, func(to *filing) { to.add(p.shared, p.what) })
	}
	return b.portIndex(f, without)
}

func (f *filing) add(shared bool, what uint32) {
	if shared {
		f.refs = append(f.refs, ref(what))
	} else {
		f.ids = append(f.ids, what)
	}
}

// prefixIndexes makes the indexes of both families; list is sorted in place.
func (b *builder) prefixIndexes(list []prefixRef, without classSet) [2]*prefixIndex {
	slices.SortStableFunc(list, func(a, b prefixRef) int { return a.prefix.Compare(b.prefix) })
	var out [2]*prefixIndex
	var prefixes [2][]netip.Prefix
	var refs [2][]ref
	var f filing
	for from := 0; from < len(list); {
		to := from
		f.ids, f.refs = f.ids[:0], f.refs[:0]
		for ; to < len(list) && list[to].prefix == list[from].prefix; to++ {
			f.add(list[to].shared, list[to].what)
		}
		family := 1
		if list[from].prefix.Addr().Is4() {
			family = 0
		}
		prefixes[family] = append(prefixes[family], list[from].prefix)
		refs[family] = append(refs[family], b.ref(f, without))
		from = to
	}
	for i := range out {
		if len(prefixes[i]) > 0 {
			out[i] = newPrefixIndex(prefixes[i], refs[i], b)
			b.along(out[i], without)
		}
	}
	return out
}

// file files a rule under the elements of a predicate.
func (d *draft) file(b *builder, p *rules.Pred, i id) {
	if k := listKeyOf(p); k.size > longList {
		l := d.lists[fieldList{k, p.Field}]
		if l == nil {
			if d.lists == nil {
				d.lists = map[fieldList]*listFiling{}
			}
			l = &listFiling{pred: p}
			d.lists[fieldList{k, p.Field}] = l
			d.order = append(d.order, l)
		}
		l.ids = append(l.ids, i)
		return
	}
	d.elements(b, p, false, i)
}

// elements files an id, or with shared a ref, under every element of p.
func (d *draft) elements(b *builder, p *rules.Pred, shared bool, what uint32) {
	c, _ := classOf(p.Field)
	switch c {
	case classNames:
		for i := range p.Names {
			d.name(b, &p.Names[i], nameField(p.Field), shared, what)
		}
	case classDst, classSrc:
		list := &d.prefixes[c-classDst]
		for _, x := range p.Prefixes {
			*list = append(*list, prefixRef{x, shared, what})
		}
	case classPort, classSrcPort:
		for _, r := range p.Ports {
			d.ports[c-classPort] = append(d.ports[c-classPort], portRef{r, shared, what})
		}
	case classProto, classDSCP, classMark, classMAC, classASN:
		if d.numbers[c] == nil {
			d.numbers[c] = map[uint64]*filing{}
		}
		for _, n := range p.Numbers {
			under(d.numbers[c], uint64(n)).add(shared, what)
		}
		for _, m := range p.MACs {
			under(d.numbers[c], macNumber(m)).add(shared, what)
		}
	default:
		for _, g := range p.Globs {
			if !literalClasses.has(c) && slices.Contains([]byte(g), '*') {
				f := nameFiling{tag: newTag(kindVerify, 0), shared: shared, what: what}
				d.texts[c] = append(d.texts[c], textFiling{literalOf(string(g)), f})
				continue
			}
			if d.strings[c] == nil {
				d.strings[c] = map[string]*filing{}
			}
			under(d.strings[c], string(g)).add(shared, what)
		}
	}
}

func (d *draft) name(b *builder, n *rules.NamePattern, field int, shared bool, what uint32) {
	if kind, ok := nameKindOf(n); ok {
		d.depths = d.depths.with(labels(n.Name))
		key := b.seeds.ofName(n.Name)
		d.names = append(d.names, nameFiling{key.hash, key.check, newTag(kind, field), shared, what})
		return
	}
	kind := kindVerify
	if n.Kind == rules.Keyword {
		kind = kindText
	}
	f := nameFiling{tag: newTag(kind, field), shared: shared, what: what}
	d.texts[classNames] = append(d.texts[classNames], textFiling{patternLiteral(n), f})
}

func macNumber(m flow.MAC) uint64 {
	var n uint64
	for _, x := range m {
		n = n<<8 | uint64(x)
	}
	return n
}

// under returns the filing of a key, made where it is new.
func under[K comparable](m map[K]*filing, k K) *filing {
	f := m[k]
	if f == nil {
		f = &filing{}
		m[k] = f
	}
	return f
}
