package rules

import (
	"cmp"
	"slices"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/state"
)

const (
	// MaxRules bounds a policy: what the engine is built for.
	MaxRules = 1_000_000
	// maxName bounds names: they stand in kernel comments and log prefixes of 127 bytes.
	maxName = 64
	// maxMembers bounds the lists that are tried one after the other at run
	// time: members of a group or fallback, targets of a probe.
	maxMembers = 64
	// maxSuggestions bounds the work of did-you-mean on a broken file; more than
	// this are never shown.
	maxSuggestions = 100
)

// Check gives types to everything in the text: names, references, values. It
// returns every finding, in the order of diag.Sort, and the policy unless one
// of them is an error. It does not keep ast; keys in an old spelling are rewritten in it.
func Check(ast *AST) (*Policy, []diag.Diagnostic) { return CheckWith(ast, nil) }

// CheckWith is Check with the elements of sets that stand in files; where lists is
// nil these are empty, and nothing is said of that.
func CheckWith(ast *AST, lists Lists) (*Policy, []diag.Diagnostic) {
	if len(ast.Rules) > MaxRules {
		return nil, []diag.Diagnostic{diag.New("NP903", ast.Rules[MaxRules].Span, "a policy has at most %d rules", MaxRules)}
	}
	c := &checker{
		ast: ast, lists: lists, p: &Policy{File: ast.File, Primary: -1},
		uplinks: map[string]int{}, routes: map[string]int{}, groups: map[string]int{}, throttles: map[string]int{},
		sets: map[string]int{}, quotas: map[string]int{}, schedules: map[string]int{}, conditions: map[string]int{}, rules: map[string]int{},
		implicit: !ast.Lost && len(ast.Uplinks)+len(ast.Routes)+len(ast.Groups) == 0,
	}
	c.version()
	c.declare()
	c.readHealth()
	c.readUplinks()
	c.readThrottles()
	c.readRoutes()
	c.readGroups()
	c.readSets()
	c.readSchedules()
	c.readConditions()
	c.readQuotas()
	c.readRules()
	if ast.Default != nil {
		c.p.Default = c.defaultOutcome(ast.Default)
	}
	c.readAsserts()
	c.readInvariants()
	c.unproven()
	c.primary()
	c.readDaemon()
	c.carried()
	c.cycles()
	c.unused()
	list := diag.Sort(c.allowed())
	if diag.HasErrors(list) || c.undefined { // of a lost file nothing undefined is reported
		return nil, list
	}
	c.p.Hash = c.p.hash()
	return c.p, list
}

// checker carries what Check knows. The maps hold indices into the policy's slices.
type checker struct {
	ast   *AST
	p     *Policy
	lists Lists // nil: sets that stand in files are empty
	diags diag.Collector
	place place // where the condition that is read stands
	// impliedBy finds the condition that a comparison with `for` has become.
	impliedBy map[impliedKey]int

	uplinks, routes, groups, throttles         map[string]int
	sets, quotas, schedules, conditions, rules map[string]int
	others                                     []Word // the kinds of routes that the kernel does not know
	usedUplinks, usedRoutes, usedGroups        []bool
	usedThrottles, usedSets, usedQuotas        []bool
	usedSchedules, usedConditions              []bool
	badSets                                    []bool // empty, and it was reported why

	health    state.UplinkConfig // the defaults for every uplink
	primaryAt Word               // health { primary NAME }
	implicit  bool               // every named route is `via main`
	undefined bool               // a name is not declared: unused ones may be misspelt
	suggested int
}

// report adds a diagnostic and returns it for help and notes; the pointer is
// good until the next report.
func (c *checker) report(code diag.Code, span diag.Span, format string, args ...any) *diag.Diagnostic {
	return c.diags.Report(code, span, format, args...)
}

// form returns the help in the syntax that the policy is written in.
func (c *checker) form(npl, yaml string) string {
	if c.ast.NPL {
		return npl
	}
	return yaml
}

func (c *checker) version() {
	if w := c.ast.Version; w.Given() && w.Text != "1" {
		c.report("NP108", w.Span, "version %s is not known", diag.Quote(w.Text)).Help = "this program reads version 1"
	}
}

// name checks the form of a declared name.
func (c *checker) name(w Word, what string) bool {
	if w.Text == "" {
		c.report("NP107", w.Span, "%s has no name", what)
		return false
	}
	if len(w.Text) > maxName {
		c.report("NP905", w.Span, "the name of %s is longer than %d characters", what, maxName)
		return false
	}
	if !IsName(w.Text) {
		c.report("NP004", w.Span, "expected a name for %s, found %s", what, diag.Quote(w.Text)).
			Help = "a name is letters, digits, _ and -, and begins with a letter or _"
		return false
	}
	return true
}

// IsName reports whether s can name something: letters, digits, _ and -, beginning
// with a letter or _.
func IsName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}

// declare gives every name its index before anything refers to it.
func (c *checker) declare() {
	a := c.ast
	c.p.Uplinks = make([]Uplink, len(a.Uplinks))
	c.p.Routes = make([]Route, len(a.Routes), len(a.Routes)+len(a.Uplinks)+len(a.Groups))
	c.p.Groups = make([]Group, len(a.Groups))
	c.p.Throttles = make([]Throttle, len(a.Throttles))
	c.p.Sets = make([]*Set, len(a.Sets))
	c.p.Quotas = make([]Quota, len(a.Quotas))
	c.p.Schedules = make([]Schedule, len(a.Schedules))
	c.p.Conditions = make([]Condition, len(a.Conditions))
	for _, list := range [][]Decl{a.Quotas, a.Schedules, a.Conditions} {
		if len(list) > maxTimed {
			c.report("NP905", list[maxTimed].Name.Span, "a policy has at most %d quotas, schedules and conditions, each", maxTimed)
		}
	}
	c.register(a.Sets, c.sets, "a set")
	c.register(a.Quotas, c.quotas, "a quota")
	c.register(a.Schedules, c.schedules, "a schedule")
	c.register(a.Conditions, c.conditions, "a condition")
	c.register(a.Uplinks, c.uplinks, "an uplink")
	c.register(a.Routes, c.routes, "a route")
	c.register(a.Groups, c.groups, "a group")
	c.register(a.Throttles, c.throttles, "a throttle")
	for i, d := range a.Routes {
		c.p.Routes[i] = Route{Name: d.Name.Text, Span: d.Name.Span, Uplink: -1, Group: -1}
	}
	for i, d := range a.Uplinks {
		c.implyRoute(d.Name, Route{Kind: RouteUplink, Uplink: i, Group: -1})
	}
	for i, d := range a.Groups {
		if j, ok := c.uplinks[d.Name.Text]; ok && !c.declaredRoute(d.Name.Text) {
			c.report("NP106", d.Name.Span, "%s is both an uplink and a group: as a route the name is ambiguous", diag.Quote(d.Name.Text)).
				Note(a.Uplinks[j].Name.Span, "the uplink is declared here")
			continue
		}
		c.implyRoute(d.Name, Route{Kind: RouteGroup, Group: i, Uplink: -1})
	}
	c.usedUplinks = make([]bool, len(c.p.Uplinks))
	c.usedRoutes = make([]bool, len(c.p.Routes))
	c.usedGroups = make([]bool, len(c.p.Groups))
	c.usedThrottles = make([]bool, len(c.p.Throttles))
	c.usedSets, c.badSets = make([]bool, len(c.p.Sets)), make([]bool, len(c.p.Sets))
	c.usedQuotas = make([]bool, len(c.p.Quotas))
	c.usedSchedules = make([]bool, len(c.p.Schedules))
	c.usedConditions = make([]bool, len(c.p.Conditions))
}

func (c *checker) declaredRoute(name string) bool {
	i, ok := c.routes[name]
	return ok && !c.p.Routes[i].Implied
}

// implyRoute adds the route of an uplink's, a group's or a bare name, unless the name is taken.
func (c *checker) implyRoute(name Word, r Route) int {
	if i, ok := c.routes[name.Text]; ok {
		return i
	}
	r.Name, r.Span, r.Implied = name.Text, name.Span, true
	c.p.Routes = append(c.p.Routes, r)
	i := len(c.p.Routes) - 1
	c.routes[r.Name] = i
	return i
}

// register records names; the second of two equal ones is NP106.
func (c *checker) register(list []Decl, index map[string]int, what string) {
	for i, d := range list {
		c.name(d.Name, what)
		if first, ok := index[d.Name.Text]; ok {
			c.report("NP106", d.Name.Span, "%s called %s is declared already", what, diag.Quote(d.Name.Text)).
				Note(list[first].Name.Span, "first declared here")
			continue
		}
		index[d.Name.Text] = i
	}
}

// resolve finds a declared name, or reports NP110 with a suggestion.
func (c *checker) resolve(w Word, index map[string]int, used []bool, what string) int {
	if i, ok := index[w.Text]; ok {
		if i < len(used) {
			used[i] = true
		}
		return i
	}
	c.undefined = true
	if c.ast.Lost {
		return -1 // it may stand in the part that could not be read
	}
	d := c.report("NP110", w.Span, "no %s is called %s", what, diag.Quote(w.Text))
	if c.suggested++; c.suggested <= maxSuggestions {
		names := make([]string, 0, len(index))
		for n := range index {
			names = append(names, n)
		}
		d.Help = diag.DidYouMean(w.Text, names)
	}
	return -1
}

// routeRef finds a route by its name, and implies it where the file declares none at all.
func (c *checker) routeRef(w Word) int {
	if c.implicit {
		if _, ok := c.routes[w.Text]; !ok && c.name(w, "a route") {
			c.report("NP402", w.Span, "the route %s is not declared and taken as `via main`", diag.Quote(w.Text)).
				Help = c.form("declare it: `route "+w.Text+" via main`", "declare it: `routes: {"+w.Text+": {via: main}}`")
			c.usedRoutes = append(c.usedRoutes, true)
			return c.implyRoute(w, Route{Kind: RouteMain, Uplink: -1, Group: -1})
		}
	}
	i := c.resolve(w, c.routes, c.usedRoutes, "route, uplink or group")
	if i >= 0 && c.p.Routes[i].Implied {
		c.markTarget(&c.p.Routes[i])
	}
	return i
}

// markTarget marks what a route leads to as used.
func (c *checker) markTarget(r *Route) {
	if r.Uplink >= 0 {
		c.usedUplinks[r.Uplink] = true
	}
	if r.Group >= 0 {
		c.usedGroups[r.Group] = true
	}
}

// primary settles the primary uplink: `health primary`, else the uplink of the
// default route, else the first declared.
func (c *checker) primary() {
	if c.primaryAt.Given() {
		c.p.Primary = c.resolve(c.primaryAt, c.uplinks, c.usedUplinks, "uplink")
		return
	}
	if len(c.p.Uplinks) == 0 {
		return
	}
	c.p.Primary = 0
	if d := c.p.Default; d != nil {
		target := d.Route
		if d.Kind == ActFallback && len(d.Routes) > 0 {
			target = d.Routes[0]
		}
		if u := c.p.firstUplink(target); u >= 0 {
			c.p.Primary = u
		}
	}
	c.usedUplinks[c.p.Primary] = true
}

// firstUplink is the uplink that a route leads over, through a group by its
// first member; -1 for none.
func (p *Policy) firstUplink(route int) int {
	for range len(p.Groups) + 1 { // a chain longer than that is a cycle
		if route < 0 {
			return -1
		}
		r := &p.Routes[route]
		if r.Kind != RouteGroup {
			return r.Uplink
		}
		if r.Group < 0 || len(p.Groups[r.Group].Members) == 0 {
			return -1
		}
		route = p.Groups[r.Group].Members[0]
	}
	return -1
}

// unused reports declarations that nothing refers to. A misspelt reference
// would make its target look unused, so it says nothing beside NP110.
func (c *checker) unused() {
	if c.undefined || c.ast.Partial {
		return
	}
	say := func(list []Decl, used []bool, what string) {
		for i, d := range list {
			if !used[i] {
				c.report("NP115", d.Name.Span, "the %s %s is not used", what, diag.Quote(d.Name.Text))
			}
		}
	}
	for i := range c.p.Uplinks {
		if c.p.Uplinks[i].Health.Required {
			c.usedUplinks[i] = true // it takes part in the global state
		}
	}
	say(c.ast.Uplinks, c.usedUplinks, "uplink")
	say(c.ast.Routes, c.usedRoutes[:len(c.ast.Routes)], "route")
	say(c.ast.Groups, c.usedGroups, "group")
	say(c.ast.Throttles, c.usedThrottles, "throttle")
	say(c.ast.Sets, c.usedSets, "set")
	say(c.ast.Quotas, c.usedQuotas, "quota")
	say(c.ast.Schedules, c.usedSchedules, "schedule")
	say(c.ast.Conditions, c.usedConditions, "condition")
}

// allowed drops the warnings and hints that a rule's `allow` wants.
func (c *checker) allowed() []diag.Diagnostic {
	var allowing []*RuleNode // in source order
	for i := range c.ast.Rules {
		if r := &c.ast.Rules[i]; len(r.Allow) > 0 {
			allowing = append(allowing, r)
		}
	}
	if len(allowing) == 0 {
		return c.diags.List()
	}
	slices.SortFunc(allowing, func(a, b *RuleNode) int { return compareStart(a.Span, b.Span) })
	return slices.DeleteFunc(c.diags.List(), func(d diag.Diagnostic) bool {
		i, found := slices.BinarySearchFunc(allowing, d.Span, func(r *RuleNode, s diag.Span) int { return compareStart(r.Span, s) })
		if !found {
			i-- // the last rule that begins before it
		}
		if i < 0 || d.Severity == diag.Error || allowing[i].Span.File != d.Span.File || d.Span.End > allowing[i].Span.End {
			return false
		}
		return slices.ContainsFunc(allowing[i].Allow, func(w Word) bool { return w.Text == string(d.Code) })
	})
}

func compareStart(a, b diag.Span) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Start, b.Start))
}
