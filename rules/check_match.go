package rules

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// expr types a condition over the flow.
func (c *checker) expr(n *ExprNode) Expr {
	e := Expr{Op: n.Op, Span: n.Span}
	switch n.Op {
	case OpAny: // what stands beside it is ignored, and checked all the same
		for i := range n.Kids {
			c.expr(&n.Kids[i])
		}
	case OpPred:
		return c.pred(n)
	default:
		e.Kids = make([]Expr, len(n.Kids))
		for i := range n.Kids {
			e.Kids[i] = c.expr(&n.Kids[i])
		}
	}
	return e
}

// pred types one predicate; "!=" becomes a negation.
func (c *checker) pred(n *ExprNode) Expr {
	p := Pred{Field: n.Pred.Field, Text: n.Pred.Text}
	negated := false
	switch p.Field {
	case FieldRTT, FieldLatency, FieldErrorRate:
		negated = c.comparison(&n.Pred, &p)
	case FieldState:
		c.report("NP207", n.Pred.Key.Span, "state can't be used in match").Help = "write `when: {state: ...}`"
	default:
		negated = c.membership(&n.Pred, &p)
	}
	e := Expr{Op: OpPred, Span: n.Span, Pred: p}
	if negated {
		return Expr{Op: OpNot, Span: n.Span, Kids: []Expr{e}}
	}
	return e
}

// membership reads a list of values; only == and != make sense with it.
func (c *checker) membership(n *PredNode, p *Pred) (negated bool) {
	if n.Cmp.Given() && n.Cmp.Text != "==" && n.Cmp.Text != "!=" {
		c.report("NP203", n.Cmp.Span, "%s can't be compared by %s", n.Key.Text, n.Cmp.Text)
		return false
	}
	if len(n.Values) == 0 {
		c.report("NP107", n.Key.Span, "%s needs a value", n.Key.Text)
	}
	switch p.Field {
	case FieldSNI, FieldDomain, FieldHTTPHost:
		c.names(n, p)
	case FieldDstIP, FieldSrcIP:
		for _, w := range n.Values {
			for _, part := range w.commaList() {
				if prefix, ok := c.prefix(part, n.Key.Text); ok {
					p.Prefixes = append(p.Prefixes, prefix)
				}
			}
		}
	case FieldPort, FieldSrcPort:
		p.Ports = c.ports(n.Values)
		if len(p.Ports) == 1 && p.Ports[0] == (PortRange{0, math.MaxUint16}) {
			c.report("NP209", n.Values[0].Span, "every port is in the range: %s does nothing but ask for one", n.Key.Text)
		}
	case FieldProto:
		p.Numbers = c.protos(n)
	case FieldDSCP:
		p.Numbers = c.numbers(n, 63)
	case FieldMark:
		p.Numbers = c.numbers(n, math.MaxUint32)
	default:
		p.Globs = c.globs(n, p.Field)
	}
	return n.Cmp.Text == "!="
}

func (c *checker) names(n *PredNode, p *Pred) {
	p.Names = make([]NamePattern, 0, len(n.Values))
	var open []Word // the *.x among them
	for _, w := range n.Values {
		for _, part := range w.commaList() {
			pattern, problem := parseNamePattern(part.Text)
			if problem != patternOK {
				c.badPattern(part, problem)
				continue
			}
			p.Names = append(p.Names, pattern)
			if pattern.Kind == Subdomain {
				open = append(open, part)
			}
		}
	}
	if len(open) > 0 {
		c.bareNames(p.Names, open)
	}
}

// bareNames hints that *.x leaves out x, unless x stands in the same list.
func (c *checker) bareNames(list []NamePattern, open []Word) {
	covered := make(map[string]bool)
	for _, p := range list {
		if p.Kind == Exact || p.Kind == Suffix {
			covered[p.Name] = true
		}
	}
	for _, w := range open {
		if p, _ := ParseNamePattern(w.Text); !covered[p.Name] {
			bare := strings.TrimPrefix(w.Text, "*.") // as the user spells it
			c.report("NP401", w.Span, "%s does not match %s", diag.Quote(w.Text), diag.Quote(bare)).
				Help = "write `." + bare + "` to match both"
		}
	}
}

func (c *checker) badPattern(w Word, problem patternProblem) {
	switch problem {
	case patternAddress:
		c.report("NP201", w.Span, "%s is an IP address, not a name", diag.Quote(w.Text)).Help = "addresses are matched by dst_ip"
	case patternStars:
		c.report("NP904", w.Span, "a pattern has at most %d `*`", maxStars)
	case patternForm:
		d := c.report("NP212", w.Span, "%s is not a form of wildcard", diag.Quote(w.Text))
		switch {
		case strings.Contains(w.Text, "**"):
			d.Help = "`*.zoom.us` matches any number of labels already"
		case w.Text == "*":
			d.Help = "`any: true` matches every flow"
		default:
			d.Help = "write zoom.us, .zoom.us, *.zoom.us, or * inside an ASCII label: zoom-*.us"
		}
	default:
		d := c.report("NP210", w.Span, "%s is not a legal domain name", diag.Quote(w.Text))
		switch {
		case w.Text == "":
			d.Message = "a domain name is empty"
		case strings.Contains(w.Text, "://"):
			d.Help = "write the name alone, without scheme and path"
		case strings.Contains(w.Text, " "):
			d.Help = "separate names by commas, or write a list"
		}
	}
}

// protocols are the names that stand for IP protocol numbers; icmp is both versions.
func protocol(name string) []uint32 {
	switch name {
	case "tcp":
		return []uint32{6}
	case "udp":
		return []uint32{17}
	case "icmp":
		return []uint32{1, 58}
	case "icmpv6":
		return []uint32{58}
	default:
		return nil
	}
}

func (c *checker) protos(n *PredNode) []uint32 {
	var list []uint32
	for _, w := range n.Values {
		for _, part := range w.commaList() {
			if numbers := protocol(strings.ToLower(part.Text)); numbers != nil {
				list = append(list, numbers...)
				continue
			}
			if v, err := strconv.ParseUint(part.Text, 10, 8); err == nil && (len(part.Text) == 1 || part.Text[0] != '0') {
				list = append(list, uint32(v))
				continue
			}
			c.report("NP004", part.Span, "expected tcp, udp, icmp, icmpv6 or a number from 0 to 255, found %s", diag.Quote(part.Text)).
				Help = diag.DidYouMean(part.Text, []string{"tcp", "udp", "icmp", "icmpv6"})
		}
	}
	return sortedUnique(list)
}

func (c *checker) numbers(n *PredNode, most int64) []uint32 {
	var list []uint32
	for _, w := range n.Values {
		for _, part := range w.commaList() {
			if v, ok := c.integer(part, n.Key.Text, 0, most); ok {
				list = append(list, uint32(v))
			}
		}
	}
	return sortedUnique(list)
}

func sortedUnique(list []uint32) []uint32 {
	slices.Sort(list)
	return slices.Clip(slices.Compact(list))
}

// maxGlob bounds the text of a pattern over processes, users and cgroups: a
// path of Linux (PATH_MAX).
const maxGlob = 4096

func (c *checker) globs(n *PredNode, field Field) []Glob {
	var list []Glob
	for _, w := range n.Values {
		switch {
		case w.Text == "":
			c.report("NP107", w.Span, "%s needs a value", n.Key.Text)
		case len(w.Text) > maxGlob:
			c.report("NP905", w.Span, "%s is longer than %d bytes", n.Key.Text, maxGlob)
		case field == FieldIfaceIn:
			list = append(list, Glob(c.device(w)))
		case strings.Contains(w.Text, "**"):
			c.report("NP212", w.Span, "`**` is not a form of wildcard").Help = "`*` matches any run of characters without `/`"
		case strings.Count(w.Text, "*") > maxStars:
			c.report("NP904", w.Span, "a pattern has at most %d `*`", maxStars)
		default:
			list = append(list, Glob(w.Text))
		}
	}
	return list
}

// comparison reads a comparator and a bound.
func (c *checker) comparison(n *PredNode, p *Pred) (negated bool) {
	if len(n.Values) != 1 {
		c.report("NP004", n.Key.Span, "expected one comparison for %s", n.Key.Text).Help = "for example \">120\""
		return false
	}
	w := n.Values[0]
	if !n.Cmp.Given() {
		c.report("NP203", w.Span, "%s needs a comparison: >, >=, <, <=, == or !=", n.Key.Text).
			Help = "write \">" + w.Text + "\""
		return false
	}
	switch n.Cmp.Text {
	case "<":
		p.Cmp = Lt
	case "<=":
		p.Cmp = Le
	case ">":
		p.Cmp = Gt
	case ">=":
		p.Cmp = Ge
	case "==", "!=":
		p.Cmp = Eq
	default:
		c.report("NP203", n.Cmp.Span, "%s is not a comparison", diag.Quote(n.Cmp.Text)).Help = "use >, >=, <, <=, == or !="
		return false
	}
	negated = n.Cmp.Text == "!="
	var ok bool
	most := int64(math.MaxInt64)
	if p.Field == FieldErrorRate {
		p.Bound, ok = c.ppm(w, n.Key.Text)
		most = million
	} else {
		p.Bound, ok = c.micros(w, n.Key.Text)
	}
	if !ok {
		return negated
	}
	if truth, constant := constantTruth(p.Cmp, p.Bound, most); constant {
		span := n.Cmp.Span
		span.End = max(span.End, w.Span.End)
		c.report("NP209", span, "the comparison is always %v", truth != negated)
	}
	return negated
}

// constantTruth finds comparisons whose answer is the same for all values from 0 to most.
func constantTruth(cmp Cmp, bound, most int64) (truth, constant bool) {
	switch cmp {
	case Lt:
		return bound > most, bound <= 0 || bound > most
	case Le:
		return bound >= most, bound >= most
	case Gt:
		return false, bound >= most
	case Ge:
		return bound <= 0, bound <= 0 || bound > most
	default:
		return false, bound > most
	}
}
