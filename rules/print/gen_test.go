package print_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// gen writes a random policy in NPL: every declaration, clause and field, strange
// words, any layout, and comments wherever one can stand.
type gen struct {
	*rand.Rand
	b        strings.Builder
	comments int // how many are left to write
	serial   int
	unnamed  int // blocks of health
}

// policyText returns a random policy in NPL.
func policyText(r *rand.Rand) string {
	g := &gen{Rand: r}
	if r.IntN(4) > 0 {
		g.comments = r.IntN(30)
	}
	g.lines()
	g.word("policy 1")
	g.end()
	kinds := []func(){
		g.imported, g.set, g.uplink, g.route, g.group, g.throttle, g.quota, g.schedule, g.condition, g.health, g.rule, g.rule, g.rule, g.assert,
		g.invariant,
	}
	for range r.IntN(14) {
		kinds[r.IntN(len(kinds))]()
		g.end()
	}
	if r.IntN(3) == 0 {
		g.word("default ")
		g.actions()
		g.end()
	}
	if r.IntN(3) == 0 {
		g.daemon()
		g.end()
	}
	return g.b.String()
}

func (g *gen) word(s string)              { g.b.WriteString(s) }
func (g *gen) chance(n int) bool          { return g.IntN(n) == 0 }
func (g *gen) pick(list ...string) string { return list[g.IntN(len(list))] }
func (g *gen) oneOf(list ...func())       { list[g.IntN(len(list))]() }
func (g *gen) number() string             { return fmt.Sprint(g.IntN(2000)) }
func (g *gen) name() string {
	return g.pick("a", "b", "wan1", "x-2", "_", "y", "on", "rules", "null", "zoom") + g.suffix()
}
func (g *gen) state() string               { return g.pick("NORMAL", "DEGRADED", "failover", "Recovery") }
func (g *gen) duration() string            { return g.pick("30s", "1m", "500ms", "2h") }
func (g *gen) list(f func() string) string { return g.joined(f, 1+g.IntN(3)) }

func (g *gen) suffix() string {
	if g.chance(2) {
		return ""
	}
	return fmt.Sprint("_", g.IntN(50))
}

func (g *gen) unique() string {
	g.serial++
	return fmt.Sprint(g.name(), "_", g.serial)
}

// comment is the text of one; each is another.
func (g *gen) comment() string {
	g.serial++
	return fmt.Sprintf("#%s %d%s", g.pick("", " note", "#", " it's: {x} \"q\"", " ä\\ , rule a {"), g.serial, g.pick("", "", " rules:", " }"))
}

// lines writes comments and blank lines at the start of a line.
func (g *gen) lines() {
	for g.chance(3) {
		switch {
		case g.comments > 0:
			g.comments--
			g.word(strings.Repeat(" ", g.IntN(6)) + g.comment() + "\n")
		default:
			g.word("\n")
		}
	}
	if g.chance(5) {
		g.word("\n")
	}
}

// newline ends a line.
func (g *gen) newline() {
	if g.comments > 0 && g.chance(3) {
		g.comments--
		g.word(" " + g.comment())
	}
	g.word("\n")
	g.lines()
	g.word(strings.Repeat(" ", g.IntN(5)))
}

// free writes a blank where a line may end.
func (g *gen) free() {
	if g.chance(6) {
		g.newline()
	} else {
		g.word(g.pick(" ", "  ", " ", "\t"))
	}
}

// end ends a declaration.
func (g *gen) end() {
	if g.chance(12) {
		g.word("; ")
		return
	}
	g.newline()
}

// next ends a statement of a block.
func (g *gen) next() {
	if g.chance(2) {
		g.word("; ")
	} else {
		g.newline()
	}
}

func (g *gen) comma() {
	g.word(g.pick(",", ", ", " ,"))
	if g.chance(6) {
		g.newline()
	}
}

func (g *gen) joined(f func() string, n int) string {
	was := g.b
	g.b = strings.Builder{}
	for i := range n {
		if i > 0 {
			g.comma()
		}
		g.word(f())
	}
	s := g.b.String()
	g.b = was
	return s
}

// strange is a string that needs care in one syntax or the other.
func (g *gen) strange() string {
	return g.pick(
		`""`, `" "`, `"a b"`, `"#x"`, `"a #b"`, `"yes"`, `"true"`, `"null"`, `"~"`, `"*"`, `"*x"`, `">5"`, `"!=x"`, `"=="`, `"<"`, `"a,b"`, `"a, b"`, `"22,80"`,
		`"a: b"`, `"a:"`, `":a"`, `"010"`, `"1_000"`, `"0o7"`, `"12:30"`, `"2026-01-01"`, `"- a"`, `"-"`, `"?"`, `"{a}"`, `"[a]"`, `"'"`, `"it's"`, `"\""`, `"\\"`, `"\\n"`,
		`"a\nb"`, `"\t"`, `"\r"`, `"\u{7}"`, `"\u{2028}"`, `"\u{feff}x"`, `"\u{1f600}"`, `"ä"`, `"\d+"`, `"\\u{41}"`, `"%x"`, `"@x"`, "\"`\"", `"&a"`, `"|"`, `".inf"`, `"in"`,
		`"not"`, `"and"`, `"rule"`, `"->"`, `"a->b"`, `"a=b"`, `"(a)"`, `"keyword x"`, `"regex \"x\""`, `"\"q\" 'q'"`, `"for 5s"`, `"x for 5s"`, `"="`, `"<<"`, `"0x10"`, `"1e3"`,
		`"geosite:x"`, `"..."`, `"---"`, `"a  b"`, `" a"`, `"a "`, `"1.5"`, `"+1"`, `"NULL"`, `"n"`, `"`+strings.Repeat("long", g.IntN(40))+`"`,
	)
}

func (g *gen) domainValue() string {
	return g.pick("zoom.us", ".zoom.us", "*.zoom.us", "x-*.us", "bücher.example", `"*.corp.example"`, g.strange())
}

func (g *gen) address() string {
	return g.pick("10.0.0.0/8", "192.0.2.1", "fc00::/7", "2001:db8::1", "::", "::ffff:1.2.3.4", `"10.0.0.1"`)
}

func (g *gen) port() string { return g.pick("443", "80", "1000-2000", "0x50", "22", "00") }

func (g *gen) imported() {
	g.word("import " + g.pick(`"base.yaml"`, `"a b.npl"`, g.strange()))
	if g.chance(2) {
		g.word(" sha256 " + g.pick(`"00ff"`, `"123"`))
	}
}

func (g *gen) set() {
	kinds := []string{"domain", "cidr", "port", "mac", "process", "user", "asn", "country"}
	kind := g.pick(kinds...)
	g.word("set " + g.unique() + g.pick(": ", ":", " : ") + kind + " = ")
	if g.chance(4) {
		g.word(g.pick("file ", "url ") + g.strange())
		if g.chance(2) {
			g.word(" select " + g.strange())
		}
		g.word(" format " + g.pick("list", "dlc", "srs"))
		if g.chance(2) {
			g.word(` sha256 "12" refresh ` + g.duration() + " on_error " + g.pick("keep", "fail"))
		}
		return
	}
	g.word("{")
	g.free()
	n := g.IntN(12)
	for i := range n {
		switch kind {
		case "domain":
			v := g.domainValue()
			for strings.ContainsAny(v, ",:") || strings.HasPrefix(v, `"keyword`) || strings.HasPrefix(v, `"regex`) {
				v = g.domainValue() // YAML can't say these; no name has a comma or blank
			}
			g.word(g.pick(v, `keyword "ads"`, `regex "^ads\.[a-z]+\\.net$"`, `regex  "a,b \"c\""`, v))
		case "cidr":
			g.word(g.address())
		case "port":
			g.word(g.port())
		case "mac":
			g.word(g.pick("02:42:ac:11:00:02", "10:00:00:00:00:03"))
		case "asn":
			g.word(g.pick("AS3320", "13335"))
		case "country":
			g.word(g.pick("DE", "NO", "us"))
		default:
			v := g.strange()
			for strings.HasPrefix(v, `"geosite`) {
				v = g.strange() // the reader of YAML refuses what other tools would mean
			}
			g.word(g.pick("alice", "rule", `"a b"`, `"a,b"`, "transmission-*", v))
		}
		if i+1 < n || g.chance(2) {
			g.word(g.pick(",", " ,"))
		}
		g.free()
	}
	g.word("}")
}

// block writes statements in braces.
func (g *gen) block(statements []func()) {
	g.word(" {")
	if g.chance(2) {
		g.newline()
	} else {
		g.word(" ")
	}
	for i, s := range statements {
		s()
		if i+1 < len(statements) || g.chance(2) {
			g.next()
		}
	}
	g.word(g.pick(" }", "}"))
}

// some draws statements without repetition.
func (g *gen) some(list []func()) []func() {
	g.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:g.IntN(len(list)+1)]
}

func (g *gen) say(parts ...string) func() {
	return func() { g.word(strings.Join(parts, " ")) }
}

func (g *gen) healthItems() []func() {
	return []func(){
		g.say("degrade_after", g.number()), g.say("failover_after", "3"), g.say("dead_after", "4"), g.say("clear_after", "5"),
		g.say("revive_after", "6"), g.say("stable_after", "7"), g.say("relapse_after", "8"), g.say("hold_degraded", g.duration()),
		g.say("hold_failover", g.duration()), g.say("threshold rtt", g.pick("120ms / 90ms", "120ms/90ms", "1s /2ms")),
		g.say("threshold loss 5% / 2%"), g.say("threshold errors 5%/ 1%"),
	}
}

func (g *gen) probe() {
	g.word("probe " + g.pick("icmp", "tcp", "dns") + " ")
	g.word(g.list(func() string { return g.pick("1.1.1.1", "1.1.1.1:443", "[2606::1]:443", "9.9.9.9") }))
	if g.chance(2) {
		g.word(" every " + g.duration())
	}
}

func (g *gen) uplink() {
	g.word("uplink " + g.unique())
	g.block(g.some(append(
		g.healthItems(),
		g.say("dev", g.pick("eth1", "wwan0", "0")), func() { g.word("gateway " + g.list(g.address)) }, g.probe,
		g.say("metered", g.pick("true", "false")), g.say("weight", "3"), g.say("required", "true"),
	)))
}

func (g *gen) route() {
	g.word("route " + g.unique() + " via " + g.pick(
		"main", "blackhole", "uplink wan1", "dev wg0", "dev wg0 gateway 10.0.0.1", "dev wg0 gateway 10.0.0.1, fc00::1", "table 100", "mark 0x10",
		`xray "proxy fast"`, `xray "p" on wan1`, `xray `+g.strange(), `socks "10.0.0.1:1080" on wan2`, "group ha",
	))
}

func (g *gen) group() {
	g.word("group " + g.unique() + " = " + g.pick("fallback", "lowest_latency", "lowest-latency", "weighted", "hash", "sla") + "(")
	for i := range 1 + g.IntN(4) {
		if i > 0 {
			g.word(",")
		}
		if g.chance(5) {
			g.newline()
		}
		g.word(g.name())
	}
	g.word(")")
	for _, s := range g.some([]func(){
		g.say(" tolerance", g.duration()), g.say(" min_hold", g.duration()), g.say(" sticky", g.duration()), g.say(" sla", g.name()),
		g.say(" when_none", g.pick("best", "block")), g.say(" interrupt true"),
	}) {
		s()
	}
}

func (g *gen) throttle() {
	g.word("throttle " + g.unique())
	g.block(g.some([]func(){g.say("down 2mbit"), g.say("up 512kbit"), g.say("burst 64KiB"), g.say("per", g.pick("host", "all"))}))
}

func (g *gen) quota() {
	g.word("quota " + g.unique())
	g.block(g.some([]func(){
		func() { g.word("match "); g.expr(3, false) }, g.say("limit 3GiB per", g.pick("day", "week")), g.say("reset", g.pick("04:00", "23:59")),
	}))
}

func (g *gen) schedule() {
	g.word("schedule " + g.unique() + " =")
	list := []string{
		" weekday " + g.list(func() string { return g.pick("mon-thu", "sun", "fri-mon") }), " time " + g.pick("20:30-06:30", "00:00-24:00"),
		" date " + g.pick("2026-01-01", "2026-01-01-2026-02-01"), ` tz ` + g.pick(`"Europe/Berlin"`, `"UTC"`, g.strange()),
	}
	written := false
	for _, s := range list {
		if g.chance(2) {
			g.word(s)
			written = true
		}
	}
	if !written {
		g.word(list[1])
	}
}

func (g *gen) condition() {
	g.word("condition " + g.unique() + " = ")
	g.expr(3, true)
}

func (g *gen) health() {
	g.word("health")
	items := g.healthItems()
	switch g.unnamed += g.IntN(2); {
	case g.unnamed == 1: // the blocks without a name are one
		g.unnamed++
		g.block(append(g.some(items[:6]), g.say("primary", g.name())))
	case g.unnamed == 3:
		g.unnamed++
		g.block(g.some(items[6:]))
	default:
		g.word(" " + g.unique())
		g.block(items[:1+g.IntN(len(items))])
	}
}

func (g *gen) daemon() {
	g.word("daemon")
	g.block(g.some([]func(){
		g.say("on_crash", g.pick("last", "open")), g.say("backend", g.pick("auto", "iptables")), g.say("enforce", g.pick("static", "consult")), g.say("hello", g.pick("watch", "hold")), g.say("mark_mask 0x70000000"), g.say("table_base 20000"), g.say("state_dir", g.pick(`"/var/lib/x"`, "/x")),
		func() { g.word("masquerade " + g.list(g.name)) },
		func() { g.word("relay " + g.pick("127.0.0.1:1080", `"[::1]:1080", 127.0.0.1:1080`)) },
		func() { g.word("tproxy " + g.pick("tcp/443", "tcp/80, udp/443", "tcp/8000-8100")) },
		g.say("dns_blocked", g.pick("nxdomain", "zero")), g.say("dns_listen", g.pick("10.0.0.1:53", "10.0.0.1:53, [2001:db8::1]:53")),
		func() { g.word("decision_mask " + g.pick("name", "name, src")) },
		func() {
			g.word("alerts " + g.pick(`"https://a.example/x"`, `"https://a.example/x", "ntfy+http://b.example:80/t"`))
		},
		g.say("api_listen", g.pick("127.0.0.1:8443", `"[::1]:8443"`)), g.say("decision_log", g.pick("true", "false")),
		func() { g.word(`api_tls "/a.pem", "/b.pem"`) },
		g.say("dns_upstreams", g.pick(`"main udp://192.0.2.53"`, `"corp tls://dns.example at 192.0.2.53, 192.0.2.54 for .corp.example", "main tcp://192.0.2.53"`)),
	}))
}

func (g *gen) actions() {
	for i := range 1 + g.IntN(3) {
		if i > 0 {
			g.comma()
		}
		g.oneOf(
			g.say("route", g.name()), g.say("switch_route", g.name()), g.say("failover", g.name()), g.say("block"), g.say("block reject"),
			g.say("block drop"), g.say("throttle", g.name()), g.say("log"), g.say("log", g.strange()), g.say("mark 0x10"), g.say("dscp 46"), g.say("continue"),
			func() {
				g.word("fallback(")
				g.free()
				for i := range 1 + g.IntN(3) {
					if i > 0 {
						g.word(",")
						g.free()
					}
					g.word(g.name())
				}
				g.word(")")
			},
		)
	}
}

func (g *gen) rule() {
	g.word("rule " + g.unique())
	if g.chance(5) {
		g.word(" disabled")
	}
	if !g.chance(4) {
		g.word(" priority " + g.pick("100", "0", "-5", "0x10", "90"))
	}
	clauses := g.some([]func(){
		func() { g.word("when "); g.expr(2, true) },
		func() { g.word("disable state " + g.list(g.state)) },
		g.say("on_unknown", g.pick("wait", "wait 300ms", "provisional", "skip")),
		func() { g.word("description " + g.strange()) },
		func() { g.word("allow " + g.list(func() string { return g.pick("NP401", "NP301") })) },
	})
	clauses = append(clauses, func() { g.word("match "); g.expr(3, false) }, func() { g.word("do "); g.actions() })
	g.Shuffle(len(clauses), func(i, j int) { clauses[i], clauses[j] = clauses[j], clauses[i] })
	g.block(clauses)
}

func (g *gen) expect() {
	if g.chance(3) {
		g.word(" when " + g.list(g.state))
	}
	g.word(" -> " + g.pick("route a", "switch_route b", "block", "block reject", "rule r", "default", "via tunnel", "fallback(a, b)", "failover x"))
}

func (g *gen) assert() {
	g.word("assert ")
	switch g.IntN(3) {
	case 0:
		g.expr(2, false)
	case 1:
		g.word(g.pick(`"api.zoom.us"`, `"10.0.0.1"`, `"2001:db8::1"`))
	default:
		g.word(g.pick(`"api.zoom.us"`, `"::1"`) + " " + g.pick("tcp/443", "udp/53", "icmp", "6/80"))
	}
	g.expect()
}

func (g *gen) invariant() {
	if g.chance(4) {
		g.word("unreachable " + g.pick("none", "warn"))
		return
	}
	g.word(g.pick("never ", "always "))
	g.expr(2, false)
	g.expect()
}

// expr writes a condition; world says that it is over facts of the world.
func (g *gen) expr(depth int, world bool) {
	if depth == 0 || g.chance(3) {
		g.pred(world)
		return
	}
	op := g.pick(" and", " or")
	for i := range 1 + g.IntN(3) {
		if i > 0 {
			g.word(op)
			g.free()
		}
		g.unary(depth-1, world, op)
	}
}

func (g *gen) unary(depth int, world bool, op string) {
	switch {
	case g.chance(6):
		g.word("not")
		g.free()
		g.unary(depth, world, "not")
	case depth > 0 && g.chance(3):
		g.word("(")
		g.optional()
		g.expr(depth, world)
		g.optional()
		g.word(")")
	case depth > 0 && op == " or" && g.chance(3):
		g.pred(world)
		g.word(" and")
		g.free()
		g.pred(world)
	default:
		g.pred(world)
	}
}

func (g *gen) optional() {
	if g.chance(4) {
		g.newline()
	}
}

// braces writes values as a set in place.
func (g *gen) braces(f func() string) {
	g.word("{")
	g.free()
	for i := range 1 + g.IntN(4) {
		if i > 0 {
			g.word(",")
			g.free()
		}
		g.word(f())
	}
	g.free()
	g.word("}")
}

func (g *gen) pred(world bool) {
	if world {
		g.oneOf(
			func() { g.word("state " + g.list(g.state)) }, g.say("state !=", g.state()), g.say("schedule", g.name()), g.say("quota", g.name(), "exceeded"),
			g.say("fiber_slow"), g.say("any"), g.say("error_rate >= 5%"), g.say("latency", g.pick(">", "<=", "!="), "120ms for", g.duration()),
			g.say("uplink.wan1.rtt", g.pick(">", "=="), "120ms"), g.say("uplink.x-2.loss >= 5% for 10s"), g.say("route.a.up true"),
			g.say("uplink.wan1.state DEGRADED,NORMAL"), g.say("uplink.wan1.usage > 3GiB"), g.say(`latency > "1 s" for 5s`), g.say(`latency > "1 ms"`),
		)
		return
	}
	values := map[string]func() string{
		"sni": g.domainValue, "domain": g.domainValue, "http.host": g.domainValue, "dst.ip": g.address, "src.ip": g.address, "port": g.port, "src.port": g.port,
		"proto": func() string { return g.pick("tcp", "udp", "6") }, "app": func() string { return g.pick("bittorrent", "tls") },
		"alpn": func() string { return g.pick("h2", `"http/1.1"`, g.strange()) }, "process": func() string { return g.pick("qbittorrent", "and-x", g.strange()) },
		"process.path": func() string { return g.pick("/usr/bin/*", g.strange()) }, "user": func() string { return g.pick("alice", "1000", g.strange()) },
		"group": func() string { return g.pick("wheel", g.strange()) }, "cgroup": func() string { return g.pick("/system.slice/*", g.strange()) },
		"src.mac": func() string { return "02:42:ac:11:00:02" }, "iface.in": func() string { return g.pick("lan0", "wlan0") },
		"iface.out": func() string { return "wan0" }, "dscp": func() string { return g.pick("46", "0") }, "mark": func() string { return g.pick("0x10", "7") },
		"country": func() string { return g.pick("DE", "NO") }, "asn": func() string { return g.pick("AS13335", "3320") },
	}
	if g.chance(6) {
		g.oneOf(
			g.say("any"), g.say("rtt >", g.pick("120", "120ms")), g.say("latency != 5ms"), g.say("error_rate < 5%"), g.say("conn.bytes >= 10MiB"),
			g.say("conn.age < 30s"),
		)
		return
	}
	fields := []string{
		"sni", "domain", "http.host", "dst.ip", "src.ip", "port", "src.port", "proto", "app", "alpn", "process", "process.path", "user", "group", "cgroup",
		"src.mac", "iface.in", "iface.out", "dscp", "mark", "country", "asn",
	}
	field := g.pick(fields...)
	value := values[field]
	g.word(field + " ")
	switch g.IntN(9) {
	case 0:
		g.word("in " + g.name())
	case 1:
		g.word("not in " + g.name())
	case 2:
		g.word("in ")
		g.braces(value)
	case 3:
		g.word("not in ")
		g.braces(value)
	case 4:
		g.word(g.pick("!= ", "== ") + value())
	case 5:
		g.word("like " + value())
	default:
		g.word(g.joined(value, 1+g.IntN(5)))
	}
}
