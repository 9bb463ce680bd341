package engine

import (
	"math/bits"
	"net/netip"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// class is a kind of index: fields whose values are looked up together.
type class uint8

const (
	classNames class = iota // sni, domain, http.host
	classDst
	classSrc
	classPort
	classSrcPort
	classProto
	classProcess
	classPath
	classUser
	classCgroup
	classMAC
	classIface
	classDSCP
	classMark
	classApp
	classALPN
	classGroup
	classIfaceOut
	classCountry
	classASN
	classes
)

type classSet uint32

func (s classSet) has(c class) bool          { return s>>c&1 == 1 }
func (s classSet) with(c class) classSet     { return s | 1<<c }
func (s classSet) union(o classSet) classSet { return s | o }

// classOf returns false for fields without an index.
func classOf(f rules.Field) (class, bool) {
	switch f {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		return classNames, true
	case rules.FieldDstIP:
		return classDst, true
	case rules.FieldSrcIP:
		return classSrc, true
	case rules.FieldPort:
		return classPort, true
	case rules.FieldSrcPort:
		return classSrcPort, true
	case rules.FieldProto:
		return classProto, true
	case rules.FieldProcess:
		return classProcess, true
	case rules.FieldProcessPath:
		return classPath, true
	case rules.FieldUser:
		return classUser, true
	case rules.FieldCgroup:
		return classCgroup, true
	case rules.FieldSrcMAC:
		return classMAC, true
	case rules.FieldIfaceIn:
		return classIface, true
	case rules.FieldDSCP:
		return classDSCP, true
	case rules.FieldMark:
		return classMark, true
	case rules.FieldApp:
		return classApp, true
	case rules.FieldALPN:
		return classALPN, true
	case rules.FieldGroup:
		return classGroup, true
	case rules.FieldIfaceOut:
		return classIfaceOut, true
	case rules.FieldCountry:
		return classCountry, true
	case rules.FieldASN:
		return classASN, true
	default:
		return 0, false
	}
}

// classFields are the fields whose facts a lookup in a class reads.
var classFields = [classes]FieldSet{
	classNames:    1<<rules.FieldSNI | 1<<rules.FieldDomain | 1<<rules.FieldHTTPHost,
	classDst:      1 << rules.FieldDstIP,
	classSrc:      1 << rules.FieldSrcIP,
	classPort:     1 << rules.FieldPort,
	classSrcPort:  1 << rules.FieldSrcPort,
	classProto:    1 << rules.FieldProto,
	classProcess:  1 << rules.FieldProcess,
	classPath:     1 << rules.FieldProcessPath,
	classUser:     1 << rules.FieldUser,
	classCgroup:   1 << rules.FieldCgroup,
	classMAC:      1 << rules.FieldSrcMAC,
	classIface:    1 << rules.FieldIfaceIn,
	classDSCP:     1 << rules.FieldDSCP,
	classMark:     1 << rules.FieldMark,
	classApp:      1 << rules.FieldApp,
	classALPN:     1 << rules.FieldALPN,
	classGroup:    1 << rules.FieldGroup,
	classIfaceOut: 1 << rules.FieldIfaceOut,
	classCountry:  1 << rules.FieldCountry,
	classASN:      1 << rules.FieldASN,
}

// literalClasses are those in which a `*` is a letter as any other.
const literalClasses = classSet(1<<classIface | 1<<classIfaceOut | 1<<classApp | 1<<classALPN | 1<<classCountry)

// pivot is a set of predicates of which one must be true for a rule to be true:
// the rule is filed under their elements.
type pivot struct {
	pred    *rules.Pred   // one; or
	preds   []*rules.Pred // several, of an `or`
	classes classSet
	score   int // how few flows will find the rule there; 0: no pivot
	elems   int
}

// Scores of the kinds of element, from most to least selective. Prefixes and
// ports add their own length to theirs.
const (
	scoreExact   = 1000
	scoreMAC     = 950
	scoreSuffix  = 900
	scoreProcess = 700
	scorePrefix  = 500 // up to 628
	scoreKeyword = 480
	scorePattern = 400 // globs and regexes, by a literal in them
	scoreASN     = 450
	scoreUser    = 350
	scoreApp     = 320
	scoreMark    = 300
	scoreCountry = 120
	scorePort    = 100 // up to 116
	scoreALPN    = 70
	scoreDSCP    = 60
	scoreIface   = 50
	scoreProto   = 10
	scoreWide    = 5 // a prefix of length 0
)

// option is a predicate that may be the pivot of its rule, a conjunction.
type option struct {
	pred  *rules.Pred
	score int32
	elems int32
	class class
}

// optionsOf lists the options of a conjunction; false if e is something else.
func (b *builder) optionsOf(e *rules.Expr) bool {
	switch e.Op {
	case rules.OpAny:
		return true
	case rules.OpPred:
		if p := predPivot(&e.Pred, 0); p.score > 0 {
			c, _ := classOf(e.Pred.Field)
			b.pivots = append(b.pivots, option{&e.Pred, int32(p.score), int32(p.elems), c})
		}
		return true
	case rules.OpNot:
		return e.Kids[0].Op == rules.OpPred // negated, it is none
	case rules.OpAnd:
		for i := range e.Kids {
			if !b.optionsOf(&e.Kids[i]) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

// choose finds the best pivot, as pivotOf does, among the options of a rule
// where these are known: the first is not above the second.
func (b *builder) choose(options [2]uint32, e *rules.Expr, exclude classSet) pivot {
	if options[0] > options[1] {
		return pivotOf(e, false, exclude)
	}
	var best pivot
	for _, c := range b.pivots[options[0]:options[1]] {
		if score, elems := int(c.score), int(c.elems); !exclude.has(c.class) &&
			(score > best.score || score == best.score && elems < best.elems) {
			best = pivot{pred: c.pred, classes: classSet(0).with(c.class), score: score, elems: elems}
		}
	}
	return best
}

// pivotOf finds the best pivot of a condition among the classes not excluded.
func pivotOf(e *rules.Expr, negated bool, exclude classSet) pivot {
	switch e.Op {
	case rules.OpPred:
		if !negated {
			return predPivot(&e.Pred, exclude)
		}
	case rules.OpNot:
		return pivotOf(&e.Kids[0], !negated, exclude)
	case rules.OpAnd, rules.OpOr:
		if (e.Op == rules.OpAnd) != negated {
			return bestPivot(e.Kids, negated, exclude)
		}
		return unionPivot(e.Kids, negated, exclude)
	}
	return pivot{}
}

// bestPivot is for an `and`: one kid will do.
func bestPivot(kids []rules.Expr, negated bool, exclude classSet) pivot {
	var best pivot
	for i := range kids {
		p := pivotOf(&kids[i], negated, exclude)
		if p.score > best.score || p.score == best.score && p.elems < best.elems {
			best = p
		}
	}
	return best
}

// unionPivot is for an `or`: all kids are needed.
func unionPivot(kids []rules.Expr, negated bool, exclude classSet) pivot {
	var all pivot
	for i := range kids {
		p := pivotOf(&kids[i], negated, exclude)
		if p.score == 0 {
			return pivot{}
		}
		if p.pred != nil {
			p.preds = []*rules.Pred{p.pred}
		}
		if i == 0 {
			all = p
			all.pred = nil
			continue
		}
		all.preds = append(all.preds[:len(all.preds):len(all.preds)], p.preds...)
		all.classes = all.classes.union(p.classes)
		all.score = min(all.score, p.score)
		all.elems += p.elems
	}
	return all
}

func predPivot(p *rules.Pred, exclude classSet) pivot {
	c, ok := classOf(p.Field)
	if !ok || exclude.has(c) {
		return pivot{}
	}
	score := scoreExact
	n := 0
	lower := func(s int) { score, n = min(score, s), n+1 }
	switch c {
	case classNames:
		for i := range p.Names {
			lower(nameScore(&p.Names[i]))
			if score == 0 {
				break
			}
		}
	case classDst, classSrc:
		for _, x := range p.Prefixes {
			lower(prefixScore(x))
		}
	case classPort, classSrcPort:
		for _, r := range p.Ports {
			lower(scorePort + 17 - bits.Len(uint(r.Hi)-uint(r.Lo)+1))
		}
	case classProto:
		n, score = len(p.Numbers), scoreProto
	case classDSCP:
		n, score = len(p.Numbers), scoreDSCP
	case classMark:
		n, score = len(p.Numbers), scoreMark
	case classMAC:
		n, score = len(p.MACs), scoreMAC
	case classIface, classIfaceOut:
		n, score = len(p.Globs), scoreIface
	case classApp:
		n, score = len(p.Globs), scoreApp
	case classALPN:
		n, score = len(p.Globs), scoreALPN
	case classCountry:
		n, score = len(p.Globs), scoreCountry
	case classASN:
		n, score = len(p.Numbers), scoreASN
	default:
		for _, g := range p.Globs {
			s := scoreProcess
			switch {
			case literalOf(string(g)) == "" && g != "":
				s = 0
			case strings.Contains(string(g), "*"):
				s = scorePattern
			case c == classUser || c == classGroup || c == classCgroup:
				s = scoreUser
			}
			lower(s)
		}
	}
	if n == 0 || score == 0 { // never true, or found nowhere
		return pivot{}
	}
	return pivot{pred: p, classes: classSet(0).with(c), score: score, elems: n}
}

func nameScore(n *rules.NamePattern) int {
	switch n.Kind {
	case rules.Exact:
		return scoreExact
	case rules.Suffix, rules.Subdomain:
		return scoreSuffix
	case rules.Keyword:
		return scoreKeyword
	default:
		if patternLiteral(n) == "" {
			return 0
		}
		return scorePattern
	}
}

func prefixScore(p netip.Prefix) int {
	switch {
	case p.Bits() == 0:
		return scoreWide
	case p.Addr().Is4():
		return scorePrefix + 96 + p.Bits()
	default:
		return scorePrefix + p.Bits()
	}
}
