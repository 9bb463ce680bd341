package diag

// example is what the catalogue says about a code that is in use.
type example struct{ detail, yaml string }

// someRoute and someRule complete examples that are about something else.
const (
	someRoute = "routes: {direct: {via: main}}\n"
	someRule  = "rules:\n  - {name: web, priority: 0, match: {port: 443}, action: {route: direct}}\n"
)

// examples are checked by tests: each policy gets its code. They are never changed.
var examples = map[Code]example{
	"NP001": {
		"A character that can't stand here: a control character, or one with which YAML lets no value begin (`@`, a back quote, `%`). Put the value in quotes.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {user: @alice}, action: {route: direct}}\n",
	},
	"NP002": {
		"A string is opened and not closed before the end of the file.",
		someRoute + "rules:\n  - name: a\n    match: {user: \"alice}\n    action: {route: direct}\n",
	},
	"NP003": {
		"Between the values in brackets a comma, or the closing bracket, is missing.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {user: \"alice\" port: 443}, action: {route: direct}}\n",
	},
	"NP004": {
		"Something else is expected here: a value instead of a block, `true` or `false`, one of a few words, a name. Policies are plain YAML: aliases, anchors, merge keys, tags and second documents are refused with this code, too.",
		"uplinks: {wan1: {dev: eth1, metered: yes}}\ndefault: {route: wan1}\n",
	},
	"NP005": {
		"There is more than the statement can have.",
		"routes: {direct: {via: main please}}\n" + someRule,
	},
	"NP006": {
		"A bracket is opened and not closed. The caret stands at the opening one; the note shows where the text stopped making sense.",
		someRoute + "rules:\n  - name: a\n    match: {port: 443\n    action: {route: direct}\n",
	},
	"NP007": {
		"A line is indented with a tab. YAML knows blanks only.",
		"routes:\n\tdirect: {via: main}\n" + someRule,
	},
	"NP008": {
		"The file is not UTF-8. A byte order mark at its start is accepted.",
		"",
	},
	"NP009": {
		"A value begins with `*`, `>` or `!=` and has no quotes: YAML reads it as an alias, a text block or a tag. Put it in quotes.",
		someRoute + "rules:\n  - name: a\n    match:\n      sni: *.zoom.us\n    action: {route: direct}\n",
	},
	"NP010": {
		"A key stands outside the block that it belongs to, such as `port` beside `match` instead of under it.",
		someRoute + "rules:\n  - {name: a, priority: 0, port: 443, action: {route: direct}}\n",
	},
	"NP101": {
		"A section at the top of the file that does not exist.",
		"route: {direct: {via: main}}\n" + someRule,
	},
	"NP102": {
		"A key that does not exist here.",
		someRoute + "rules:\n  - {name: a, prioritty: 5, match: {port: 443}, action: {route: direct}}\n",
	},
	"NP103": {
		"A number is expected, or one within a range. Numbers are decimal or 0x; leading zeros are refused, because readers disagree on them.",
		someRoute + "rules:\n  - {name: a, priority: high, match: {port: 443}, action: {route: direct}}\n",
	},
	"NP104": {
		"A line in a rule of NPL that begins with none of its clauses: match, when, disable, on_unknown, do, description, allow. (In YAML it is NP102.)",
		"",
	},
	"NP105": {
		"A key is given twice. YAML readers keep one of the two without a word; here it is an error.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {port: 80, port: 443}, action: {route: direct}}\n",
	},
	"NP106": {
		"Two rules, or two declarations of one kind, have the same name. Uplinks and groups are routes of their names as well. Or the name has a meaning of its own: a rule can't be called `default`, `_default` or `_other`, which is how records and metrics call decisions of no rule and of others; a condition not like a word of the language.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {port: 80}, action: {route: direct}}\n  - {name: a, priority: 0, match: {port: 443}, action: {route: direct}}\n",
	},
	"NP107": {
		"Something required is missing: a rule's name or match, an uplink's device, a route's `via`, or a value. A rule that matches everything says so: `match: {any: true}`.",
		someRoute + "rules:\n  - {name: a, priority: 0, action: {route: direct}}\n",
	},
	"NP108": {
		"The version of the schema is not known. There is one: `version: 1`, which may be left out.",
		"version: 2\n" + someRoute + someRule,
	},
	"NP110": {
		"A name that nothing declares. Suggestions are at most two edits away.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {port: 443}, action: {route: dirct}}\n",
	},
	"NP111": {
		"A file that the policy needs can't be read: an import, or the list of a set with `on_error: fail`.",
		"",
	},
	"NP112": {
		"A file imports itself, directly or through others. The message names the way.",
		"",
	},
	"NP113": {
		"A file that the policy needs has another SHA-256 than the one written behind it: it has changed since, or it is another file.",
		"",
	},
	"NP114": {
		"A group contains itself, directly or through others. The notes show the way.",
		"groups: {a: {fallback: [b]}, b: {fallback: [a]}}\ndefault: {route: a}\n",
	},
	"NP115": {
		"A declaration that nothing uses. It is not reported while the file has errors: the use may be the misspelt one.",
		"routes: {direct: {via: main}, spare: {via: main}}\n" + someRule,
	},
	"NP120": {
		"An action that does not exist.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {port: 443}, action: {rout: direct}}\n",
	},
	"NP121": {
		"A rule has at most one of `route`, `switch_route`, `fallback`, `failover` and `block`, and `continue` stands beside none of them.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {port: 443}, action: {route: direct, block: true}}\n",
	},
	"NP122": {
		"A rule without action, or whose action does nothing.",
		someRoute + "default: {route: direct}\nrules:\n  - {name: a, priority: 0, match: {port: 443}}\n",
	},
	"NP201": {
		"A value of another kind than the field takes: an address where a name is looked for, or a name where an address is.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {dst_ip: zoom.us}, action: {route: direct}}\n",
	},
	"NP202": {
		"Not a port or range of ports. Ports are numbers from 0 to 65535, ranges go upwards.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {port: 2000-1000}, action: {route: direct}}\n",
	},
	"NP203": {
		"A comparison without its sign, or a quantity without its unit or with an unknown one.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {latency_ms: 120}, action: {route: direct}}\n",
	},
	"NP204": {
		"A state that does not exist. The states are NORMAL, DEGRADED, FAILOVER and RECOVERY, in any case.",
		someRoute + "rules:\n  - {name: a, priority: 0, when: {state: NORMLA}, match: {port: 443}, action: {route: direct}}\n",
	},
	"NP205": {
		"Beside `any: true` other keys have no effect.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {any: true, port: 443}, action: {route: direct}}\n",
	},
	"NP206": {
		"A rule asks for a set that has no elements. The condition is never true, or always where it is negated.",
		"sets: {none: {type: domain, values: []}}\n" + someRoute + "rules:\n  - {name: a, priority: 0, match: {sni: {in: none}}, action: {route: direct}}\n",
	},
	"NP207": {
		"The field or option exists, but not here or not in this version.",
		"uplinks: {wan1: {dev: eth1}}\ngroups: {g: {fallback: [wan1], tolerance: 30ms}}\ndefault: {route: g}\n",
	},
	"NP208": {
		"A threshold is left below its exit value, which must be below the enter value: the gap keeps the state from flapping.",
		"uplinks: {wan1: {dev: eth1, threshold: {rtt: 90ms / 120ms}}}\ndefault: {route: wan1}\n",
	},
	"NP209": {
		"A comparison whose answer is the same for every value.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {latency_ms: \">=0\"}, action: {route: direct}}\n",
	},
	"NP210": {
		"Not a legal domain name: an empty label, one of more than 63 bytes, or characters that IDNA (UTS-46) refuses.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {sni: zoom..us}, action: {route: direct}}\n",
	},
	"NP211": {
		"A prefix with bits set behind its length: it is either a typing error or meant as one address.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {dst_ip: 10.0.0.1/8}, action: {route: direct}}\n",
	},
	"NP212": {
		"Not a form of wildcard. There are `zoom.us`, `.zoom.us`, `*.zoom.us`, and `*` within ASCII labels; `**` and a lone `*` are not among them.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {sni: \"**.zoom.us\"}, action: {route: direct}}\n",
	},
	"NP213": {
		"A schedule that always or never holds, or a day, window, date or time zone that does not exist.",
		"schedules: {night: {time: 20:30-25:00}}\n" + someRoute + "rules:\n  - {name: a, priority: 0, when: {schedule: night}, match: {port: 443}, action: {route: direct}}\n",
	},
	"NP214": {
		"`for` asks that a comparison has held for so long. It goes with what is measured all the time: latency, error_rate, uplink.NAME.* and route.NAME.*.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {rtt_ms: \">120 for 30s\"}, action: {route: direct}}\n",
	},
	"NP302": {
		"A rule that goes first decides every connection that this rule matches, in every state in which it is looked at, whatever is known of the connection yet. The note says whether it does the same: then this rule can go, else its priority is too low. A rule with modifiers only is reported where they never count.",
		someRoute + "rules:\n  - {name: all_web, priority: 2, match: {port: \"80,443\"}, action: {route: direct}}\n  - {name: no_web, priority: 1, match: {port: 80, protocol: tcp}, action: {block: true}}\n",
	},
	"NP304": {
		"The same as NP302, but it takes several rules together. None of those that are named can be left out.",
		someRoute + "rules:\n  - {name: low, priority: 2, match: {port: 0-1023}, action: {route: direct}}\n  - {name: high, priority: 2, match: {port: 1024-65535}, action: {block: true}}\n  - {name: some, priority: 1, match: {port: 1000-2000, protocol: tcp}, action: {route: direct}}\n",
	},
	"NP306": {
		"The conditions of a rule contradict one another.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {protocol: icmp, port: 53}, action: {route: direct}}\n",
	},
	"NP307": {
		"`when` and `disable` together leave no state in which the rule is looked at.",
		someRoute + "rules:\n  - {name: a, priority: 0, when: {state: NORMAL}, disable: NORMAL, match: {port: 443}, action: {route: direct}}\n",
	},
	"NP308": {
		"Rules decide every connection, in every state: the default is never asked. It does no harm, but it may be thought to.",
		someRoute + "default: {block: true}\nrules:\n  - {name: rest, priority: 0, match: {any: true}, action: {route: direct}}\n",
	},
	"NP320": {
		"An assertion does not hold: `netpolicy test` and `lint` try it in each of its states, once with every fact that it does not name unknown and once with all of them absent, and tell the first that gives something else.",
		"",
	},
	"NP322": {
		"The analysis does not cover everything that is asked: what it did not look at is not proven. Of a rule it says that it could not be found out whether it ever decides: because its conditions have too many parts, because too many rules overlap, or because it hangs on what is not compared value by value (regular expressions, keywords, wildcards within labels, lists from the web).",
		someRoute + someRule + "assertions:\n  - {flow: www.example.org tcp/443, expect: route direct}\n",
	},
	"NP401": {
		"`*.zoom.us` matches what is under zoom.us, not the name itself. Where both are meant, write `.zoom.us`; where not, `allow: [NP401]` on the rule says so.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {sni: \"*.zoom.us\"}, action: {route: direct}}\n",
	},
	"NP402": {
		"In a file without `routes`, `uplinks` and `groups` every route is taken as `via main`. Declare it.",
		"rules:\n  - {name: a, priority: 0, match: {port: 443}, action: {route: direct}}\n",
	},
	"NP403": {
		"A key is spelled with hyphens or dots, as in NPL. It is read all the same.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {dst.ip: 10.0.0.0/8}, action: {route: direct}}\n",
	},
	"NP501": {
		"The daemon was told to load a policy with errors and kept the one it has. The errors are in its log and status.",
		"",
	},
	"NP502": {
		"What the policy asks for is checked and explained, but this program, or the backend in use, can't carry it out yet.",
		"uplinks: {wan1: {dev: eth1, probe: {kind: http, targets: [\"http://a.example/\"], every: 5s}}}\ndefault: {route: wan1}\n",
	},
	"NP503": {
		"A list could not be read or fetched, or has lines that were left out. The last good copy stays in use, if there is one.",
		"",
	},
	"NP504": {
		"The name after `via xray` is of no proxy in the files of `daemon.xray_links` or in a subscription, or none of that name can be run. At a start the daemon goes on, and blocks the route.",
		"",
	},
	"NP505": {
		"`daemon.state_dir` can't change while the daemon runs: the ledger there lists what is in the kernel, and a start with another folder would not know it for its own. Stop the daemon, move the folder, change the policy, start. With `--state-dir` what a policy says has no effect: this is a hint then.",
		"",
	},
	"NP901": {"A file has at most 16 MiB.", ""},
	"NP902": {"Blocks are nested at most 200 deep.", ""},
	"NP903": {"A policy has at most 1,000,000 rules.", ""},
	"NP904": {
		"A pattern has at most three `*`.",
		someRoute + "rules:\n  - {name: a, priority: 0, match: {sni: \"a*b*c*d*.example\"}, action: {route: direct}}\n",
	},
	"NP905": {
		"A name, text or list is longer than it can be: 64 characters for a name, 64 routes in a group, 64 targets of a probe, 200 bytes of log text.",
		someRoute + "rules:\n  - {name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, priority: 0, match: {port: 443}, action: {route: direct}}\n",
	},
}
