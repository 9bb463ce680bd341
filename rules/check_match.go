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

// pred types one predicate; "!=" and `not in` become a negation.
func (c *checker) pred(n *ExprNode) Expr {
	p := Pred{Field: n.Pred.Field, Text: n.Pred.Text}
	negated := false
	available := c.available(&n.Pred)
	switch p.Field {
	case FieldRTT, FieldLatency, FieldErrorRate, FieldConnBytes, FieldConnAge:
		negated = c.comparison(&n.Pred, &p)
	case FieldUplink, FieldRoute:
		negated = c.metric(&n.Pred, &p)
	case FieldState:
		for _, w := range n.Pred.Values {
			p.States |= c.state(w)
		}
		negated = c.equality(&n.Pred)
	case FieldSchedule:
		p.Ref = c.resolve(n.Pred.Subject, c.schedules, c.usedSchedules, "schedule")
	case FieldQuota:
		p.Ref = c.resolve(n.Pred.Subject, c.quotas, c.usedQuotas, "quota")
	case FieldCondition:
		p.Ref = c.resolve(n.Pred.Subject, c.conditions, c.usedConditions, "condition")
	default:
		negated = c.membership(&n.Pred, &p)
	}
	c.lasting(&n.Pred, &p, available)
	p.Unequal = p.For > 0 && n.Pred.Cmp.Text == "!="
	e := Expr{Op: OpPred, Span: n.Span, Pred: p}
	if p.For > 0 && c.place != inCondition {
		e = c.implied(n, e, negated)
		negated = false
	}
	if negated {
		return Expr{Op: OpNot, Span: n.Span, Kids: []Expr{e}}
	}
	return e
}

// membership reads a list of values; only == and != make sense with it.
func (c *checker) membership(n *PredNode, p *Pred) (negated bool) {
	negated = c.equality(n)
	if n.Set.Given() {
		c.inSet(n, p)
		return negated
	}
	if len(n.Values) == 0 {
		c.report("NP107", n.Key.Span, "%s needs a value", n.Key.Text)
	}
	if c.bareSet(n) {
		return negated
	}
	switch p.Field {
	case FieldSNI, FieldDomain, FieldHTTPHost:
		p.Names = c.nameList(n.Values)
	case FieldDstIP, FieldSrcIP:
		c.prefixes(n, p)
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
	case FieldSrcMAC:
		p.MACs = c.macs(n)
	case FieldASN:
		p.Numbers = c.asns(n)
	case FieldCountry:
		p.Globs = c.countries(n)
	case FieldApp:
		p.Globs = c.apps(n)
	default:
		p.Globs = c.globs(n, p.Field)
	}
	return negated
}

// equality reads the comparator of a field that has no order.
func (c *checker) equality(n *PredNode) (negated bool) {
	switch n.Cmp.Text {
	case "", "==":
		return n.Negated
	case "!=":
		return !n.Negated
	default:
		c.report("NP203", n.Cmp.Span, "%s can't be compared by %s", n.Key.Text, n.Cmp.Text)
		return false
	}
}

// inSet reads `in NAME`.
func (c *checker) inSet(n *PredNode, p *Pred) {
	want, can := setTypeOf(p.Field)
	if !can {
		c.report("NP207", n.Set.Span, "there are no sets for %s", n.Key.Text).Help = "list the values"
		return
	}
	i := c.resolve(n.Set, c.sets, c.usedSets, "set")
	if i < 0 || c.badSets[i] {
		return
	}
	s := c.p.Sets[i]
	if s.Type != want {
		d := c.report("NP201", n.Set.Span, "%s takes a set of type %s, and %s is one of type %s", n.Key.Text, want, diag.Quote(s.Name), s.Type)
		d.Note(s.Span, "declared here")
		if fields := fieldsOfSet[s.Type]; fields != "" {
			d.Help = "a set of type " + s.Type.String() + " goes with " + fields
		}
		return
	}
	if s.size() == 0 && !(c.lists == nil && s.List != ListRef{}) {
		c.report("NP206", n.Set.Span, "the set %s is empty: the condition is never true", diag.Quote(s.Name)).Note(s.Span, "declared here")
	}
	p.Set = s
	p.Names, p.Prefixes, p.Ports, p.MACs, p.Globs, p.Numbers = s.Names, s.Prefixes, s.Ports, s.MACs, s.Globs, s.Numbers
}

// fieldsOfSet are the fields that go with each type, for help.
var fieldsOfSet = map[SetType]string{
	DomainSet: "sni, domain and http.host", CIDRSet: "dst.ip and src.ip", PortSet: "port and src.port", MACSet: "src.mac",
	ProcessSet: "process and process.path", UserSet: "user and group", ASNSet: "asn", CountrySet: "country",
}

// bareSet reports a set's name that stands where values do: it would be read as one.
func (c *checker) bareSet(n *PredNode) bool {
	if _, can := setTypeOf(n.Field); !can || len(n.Values) != 1 || n.Values[0].Quoted {
		return false
	}
	w := n.Values[0]
	if i, ok := c.sets[w.Text]; ok {
		c.usedSets[i] = true
		c.report("NP201", w.Span, "%s is the name of a set, not a value", diag.Quote(w.Text)).
			Help = c.form("write `"+n.Key.Text+" in "+w.Text+"`", "write `"+n.Key.Text+": {in: "+w.Text+"}`")
		return true
	}
	return false
}

// prefixes reads addresses and prefixes.
func (c *checker) prefixes(n *PredNode, p *Pred) {
	for _, w := range n.Values {
		for _, part := range w.commaList() {
			if prefix, ok := c.prefix(part, n.Key.Text); ok {
				p.Prefixes = append(p.Prefixes, prefix)
			}
		}
	}
}

// nameList reads name patterns, keywords and regexes.
func (c *checker) nameList(words []Word) []NamePattern {
	list := make([]NamePattern, 0, len(words))
	var open []Word // the *.x among them
	for _, w := range words {
		if kind, value, ok := setElement(w); ok {
			if p, good := c.textPattern(w, kind, value); good {
				list = append(list, p)
			}
			continue
		}
		for _, part := range w.commaList() {
			pattern, problem := parseNamePattern(part.Text)
			if problem != patternOK {
				c.badPattern(part, problem)
				continue
			}
			list = append(list, pattern)
			if pattern.Kind == Subdomain {
				open = append(open, part)
			}
		}
	}
	if len(open) > 0 {
		c.bareNames(list, open)
	}
	return list
}

// textPattern reads `keyword "x"` or `regex "x"`.
func (c *checker) textPattern(w Word, kind, value string) (NamePattern, bool) {
	if kind == "keyword" {
		p, ok := NewKeyword(value)
		if !ok {
			c.report("NP212", w.Span, "no name can contain %s", diag.Quote(value)).Help = "a keyword is ASCII letters, digits, `-`, `_` and `.`"
		}
		return p, ok
	}
	p, err := NewRegex(value)
	if err != nil {
		code := diag.Code("NP212")
		if len(value) > maxRegex {
			code = "NP905"
		}
		c.report(code, w.Span, "the expression can't be used: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: ")).
			Help = "the syntax is that of RE2"
		return NamePattern{}, false
	}
	return p, true
}

// appNames are the protocols that the inspector recognises.
var appNames = []string{"bittorrent", "dns", "dtls", "http", "quic", "ssh", "stun", "tls", "wireguard"}

func (c *checker) apps(n *PredNode) []Glob {
	var list []Glob
	for _, w := range n.Values {
		for _, part := range w.commaList() {
			if name := c.oneOf(part, n.Key.Text, appNames...); name != "" {
				list = append(list, Glob(name))
			}
		}
	}
	return list
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
		c.report("NP201", w.Span, "%s is an IP address, not a name", diag.Quote(w.Text)).Help = c.form("addresses are matched by dst.ip", "addresses are matched by dst_ip")
	case patternStars:
		c.report("NP904", w.Span, "a pattern has at most %d `*`", maxStars)
	case patternForm:
		d := c.report("NP212", w.Span, "%s is not a form of wildcard", diag.Quote(w.Text))
		switch {
		case strings.Contains(w.Text, "**"):
			d.Help = "`*.zoom.us` matches any number of labels already"
		case w.Text == "*":
			d.Help = c.form("`any` matches every flow", "`any: true` matches every flow")
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
		case field == FieldALPN:
			list = append(list, Glob(w.Text))
		case field == FieldIfaceIn || field == FieldIfaceOut:
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
		c.report("NP004", n.Key.Span, "expected one comparison for %s", n.Key.Text).Help = c.form("for example `> 120ms`", "for example \">120\"")
		return false
	}
	w := n.Values[0]
	if !n.Cmp.Given() {
		c.report("NP203", w.Span, "%s needs a comparison: >, >=, <, <=, == or !=", n.Key.Text).
			Help = c.form("write `> "+w.Text+"`", "write \">"+w.Text+"\"")
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
	negated = negated != n.Negated
	var ok bool
	most := int64(math.MaxInt64)
	switch {
	case p.Field == FieldConnBytes, p.ofMetric(MetricUsage):
		p.Bound, ok = c.quantity(w, n.Key.Text, "10MiB", sizeUnits, 0)
	case p.Field == FieldConnAge:
		p.Bound, ok = c.quantity(w, n.Key.Text, "30s", durationUnits, 0)
	case p.Field == FieldErrorRate, p.ofMetric(MetricLoss), p.ofMetric(MetricErrorRate):
		p.Bound, ok = c.ppm(w, n.Key.Text)
		most = million
	default:
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
