package lsp

import "netpolicy.dev/netpolicy/diag"

// word is something that can be written at some place, and what it means.
type word struct {
	label string
	doc   string
}

// category is a set of words that can stand at the same places.
type category string

// The categories. Where the syntaxes differ, each has its own.
const (
	inTopNPL     category = "declaration"
	inTopYAML    category = "section"
	inRuleNPL    category = "clause"
	inRuleYAML   category = "key of a rule"
	inAction     category = "action"
	inFieldNPL   category = "field"
	inFieldYAML  category = "key of match"
	inWorldNPL   category = "fact of the world"
	inWhenYAML   category = "key of when"
	inPredicate  category = "condition"
	inCompare    category = "comparison"
	inConnective category = "connective"
	inFor        category = "duration of a condition"
	inNotIn      category = "membership"
	inInYAML     category = "key of a field"
	inState      category = "state"
	inProto      category = "protocol"
	inMetric     category = "metric"
	inUplink     category = "key of an uplink"
	inHealth     category = "key of health"
	inPrimary    category = "primary uplink"
	inThreshold  category = "threshold"
	inProbeYAML  category = "key of a probe"
	inProbe      category = "kind of probe"
	inVia        category = "way out"
	inRouteYAML  category = "key of a route"
	inRouteTail  category = "option of a route"
	inStrategy   category = "strategy"
	inGroup      category = "option of a group"
	inWhenNone   category = "answer without a usable member"
	inThrottle   category = "key of a throttle"
	inPer        category = "scope of a throttle"
	inQuota      category = "key of a quota"
	inQuotaMatch category = "match of a quota"
	inPeriod     category = "period"
	inSchedule   category = "part of a schedule"
	inWeekday    category = "day"
	inSetType    category = "type of a set"
	inSetYAML    category = "key of a set"
	inSetSource  category = "source of a set"
	inSetOption  category = "option of a set"
	inFormat     category = "format of a list"
	inOnError    category = "answer to a failed refresh"
	inElement    category = "element of a domain set"
	inDaemon     category = "key of the daemon"
	inOnCrash    category = "answer to a crash"
	inBackend    category = "backend"
	inEnforce    category = "way to enforce"
	inHello      category = "treatment of first bytes"
	inOnUnknown  category = "answer to missing facts"
	inBlock      category = "way to block"
	inBool       category = "boolean"
	inImportNPL  category = "option of an import"
	inImportYAML category = "key of an import"
	inAssertYAML category = "key of an assertion"
	inInvariant  category = "key of an invariant"
	inTail       category = "end of an assertion"
	inOutcome    category = "outcome"
	inViaOutcome category = "route of an invariant"
	inLevel      category = "level"
	inHead       category = "head of a rule"
	inCode       category = "code of a warning or hint"
)

var (
	textRule  = "A rule: what it matches, when it is looked at, and what it does. Rules are tried by priority, then specificity, then source order; the first that matches decides."
	textMatch = "Which flows the rule is about. `any` is every flow."
	textWhen  = "When the rule is looked at: a condition over facts of the world, such as `state`, schedules, quotas and named conditions. It does not count for specificity."
)

// texts are the short texts of hovers and completions, in the order in which they are offered.
var texts = map[category][]word{
	inTopNPL: {
		{"policy", "The first statement of a file: the version of the schema, `policy 1`."},
		{"import", "Reads another policy file as if its text stood here; `sha256` pins its content."},
		{"set", "A named set of domains, prefixes, ports, MAC addresses, processes, users, AS numbers or countries; listed here, or from a file or URL."},
		{"uplink", "A line to the outside: its device, its gateway and how its health is measured. It is also a route of its name."},
		{"route", "A named way out: over an uplink, a device, a table, a mark, a proxy or a group."},
		{"group", "Chooses one of several routes for each flow. It is also a route of its name."},
		{"throttle", "A named speed limit, for the action `throttle`."},
		{"quota", "An amount of traffic that may be used in a period; `quota NAME exceeded` is true beyond it."},
		{"schedule", "A named time: days of the week, a time of day, dates."},
		{"condition", "A named condition over facts of the world; it can be used wherever a condition stands."},
		{"health", "How an uplink becomes DEGRADED, FAILOVER, RECOVERY and NORMAL again; without a name the defaults of all."},
		{"daemon", "Settings that netpolicyd alone reads; they are not part of the policy's hash."},
		{"default", "What happens to a flow that no rule decides. Without it the kernel's routing is left alone."},
		{"rule", textRule},
		{"assert", "A claim about one flow that `lint` checks: `assert \"api.zoom.us\" tcp/443 -> route fast`. Without `when` it has to hold in all four states."},
		{"never", "A claim about all flows that match: the outcome never happens."},
		{"always", "A claim about all flows that match: the outcome always happens."},
		{"unreachable", "Whether rules that can never decide are errors (`none`) or warnings (`warn`)."},
	},
	inTopYAML: {
		{"version", "The version of the schema: 1."},
		{"imports", "Other policy files, read as if their text stood here; `sha256` pins their content."},
		{"sets", "Named sets of domains, prefixes, ports, MAC addresses, processes, users, AS numbers or countries."},
		{"uplinks", "Lines to the outside: device, gateway, and how their health is measured. Each is also a route of its name."},
		{"routes", "Named ways out: over an uplink, a device, a table, a mark, a proxy or a group."},
		{"groups", "Each chooses one of several routes for each flow, and is also a route of its name."},
		{"throttles", "Named speed limits, for the action `throttle`."},
		{"quotas", "Amounts of traffic that may be used in a period."},
		{"schedules", "Named times: days of the week, a time of day, dates."},
		{"conditions", "Named conditions over facts of the world."},
		{"health", "How uplinks become DEGRADED, FAILOVER, RECOVERY and NORMAL again; a key that is an uplink's name holds what differs there."},
		{"daemon", "Settings that netpolicyd alone reads; they are not part of the policy's hash."},
		{"default", "What happens to a flow that no rule decides. Without it the kernel's routing is left alone."},
		{"rules", "The rules. They are tried by priority, then specificity, then source order; the first that matches decides."},
		{"assertions", "Claims about single flows that `lint` checks."},
		{"invariants", "Claims about all flows that `lint` checks."},
	},
	inRuleNPL: {
		{"match", textMatch},
		{"when", textWhen},
		{"do", "What the rule does: at most one primary action (route, switch_route, fallback, failover, block), and modifiers."},
		{"disable", "States in which the rule is skipped: `disable state FAILOVER`."},
		{"on_unknown", "What to do while a fact that the rule needs is not known: `wait`, `provisional` or `skip`."},
		{"description", "A text for people."},
		{"allow", "Codes of warnings and hints that are wanted in this rule."},
	},
	inRuleYAML: {
		{"name", "The rule's name: required, unique."},
		{"priority", "A whole number, required; rules with a higher one are looked at first."},
		{"match", textMatch},
		{"when", textWhen},
		{"action", "What the rule does: at most one primary action (route, switch_route, fallback, failover, block), and modifiers."},
		{"disable", "States in which the rule is skipped: `disable: [FAILOVER]`."},
		{"disabled", "`true`: the rule is checked and never looked at."},
		{"on_unknown", "What to do while a fact that the rule needs is not known: `wait`, `provisional` or `skip`."},
		{"description", "A text for people."},
		{"allow", "Codes of warnings and hints that are wanted in this rule."},
	},
	inHead: {
		{"priority", "A whole number, 0 if not given; rules with a higher one are looked at first."},
		{"disabled", "The rule is checked and never looked at."},
	},
	inAction: {
		{"route", "Primary action: new flows take this route."},
		{"switch_route", "Primary action: as `route`, and matching established flows move too where that can't break them."},
		{"fallback", "Primary action: the first usable route of a list, decided for each flow."},
		{"failover", "Primary action: takes the route, and sends the primary uplink to FAILOVER."},
		{"block", "Primary action: the flow is dropped; `reject` answers with a TCP RST or ICMP unreachable."},
		{"log", "Modifier: the decision is recorded, with a text if one is given."},
		{"throttle", "Modifier: the flow is slowed down to a throttle's limits."},
		{"mark", "Modifier: the packets get this firewall mark."},
		{"dscp", "Modifier: the packets get this DSCP value, 0 to 63."},
		{"continue", "No primary action: the rule sets its modifiers, and the next rules decide."},
	},
	inFieldNPL: {
		{"sni", "The server name of the TLS ClientHello. `zoom.us` is exact, `.zoom.us` the name and all below it, `*.zoom.us` all below it."},
		{"domain", "The flow's name: the SNI, else the HTTP host, else the DNS names of the destination."},
		{"http.host", "The Host header of plain HTTP."},
		{"dst.ip", "The destination address: addresses and prefixes."},
		{"src.ip", "The source address: addresses and prefixes."},
		{"port", "The destination port: numbers and ranges such as `1000-2000`."},
		{"src.port", "The source port: numbers and ranges."},
		{"proto", "The protocol: tcp, udp, icmp or a number."},
		{"app", "The application protocol that was recognised, such as bittorrent."},
		{"alpn", "A protocol offered in the TLS ClientHello, such as h2."},
		{"process", "The name of the local process; `*` is any run of characters other than `/`."},
		{"process.path", "The path of the local process's program; `*` is any run of characters other than `/`."},
		{"user", "The local user who owns the connection."},
		{"group", "The local group that owns the connection."},
		{"cgroup", "The control group of the local process."},
		{"src.mac", "The hardware address that the packet came from."},
		{"iface.in", "The device that the packet came in by."},
		{"iface.out", "The device that the kernel would send the packet out by."},
		{"dscp", "The DSCP value of the packet, 0 to 63."},
		{"mark", "The firewall mark of the packet."},
		{"country", "The country of the destination, as a two-letter code."},
		{"asn", "The autonomous system number of the destination."},
		{"rtt", "The connection's own round-trip time; a bare number is ms."},
		{"latency", "The latency of the primary uplink; a bare number is ms."},
		{"conn.bytes", "How many bytes the connection has carried, both directions."},
		{"conn.age", "How long the connection exists."},
	},
	inFieldYAML: {
		{"any", "`any: true` matches every flow."},
		{"sni", "The server name of the TLS ClientHello. `zoom.us` is exact, `.zoom.us` the name and all below it, `*.zoom.us` all below it (in quotes)."},
		{"domain", "The flow's name: the SNI, else the HTTP host, else the DNS names of the destination."},
		{"http_host", "The Host header of plain HTTP."},
		{"dst_ip", "The destination address: addresses and prefixes."},
		{"src_ip", "The source address: addresses and prefixes."},
		{"port", "The destination port: numbers and ranges such as `1000-2000`."},
		{"src_port", "The source port: numbers and ranges."},
		{"protocol", "The protocol: tcp, udp, icmp or a number."},
		{"proto", "The protocol: tcp, udp, icmp or a number."},
		{"app", "The application protocol that was recognised, such as bittorrent."},
		{"alpn", "A protocol offered in the TLS ClientHello, such as h2."},
		{"process", "The name of the local process; `*` is any run of characters other than `/`."},
		{"process_path", "The path of the local process's program; `*` is any run of characters other than `/`."},
		{"user", "The local user who owns the connection."},
		{"group", "The local group that owns the connection."},
		{"cgroup", "The control group of the local process."},
		{"src_mac", "The hardware address that the packet came from."},
		{"iface_in", "The device that the packet came in by."},
		{"iface_out", "The device that the kernel would send the packet out by."},
		{"dscp", "The DSCP value of the packet, 0 to 63."},
		{"mark", "The firewall mark of the packet."},
		{"country", "The country of the destination, as a two-letter code."},
		{"asn", "The autonomous system number of the destination."},
		{"rtt_ms", "The connection's own round-trip time, compared: `\">120\"`."},
		{"latency_ms", "The latency of the primary uplink, compared: `\">120\"`."},
		{"error_rate", "The error rate of the primary uplink, compared: `\">5%\"`."},
		{"conn_bytes", "How many bytes the connection has carried, both directions, compared."},
		{"conn_age", "How long the connection exists, compared."},
		{"schedule", "True while the named schedule holds."},
		{"quota", "True once the named quota is used up."},
		{"condition", "True while the named condition holds."},
		{"all", "A list of conditions, all of which must hold."},
		{"any_of", "A list of conditions, one of which must hold."},
		{"not", "Conditions that must not hold together."},
	},
	inInYAML: {
		{"in", "A set's name, or a list: one of its elements matches."},
		{"not_in", "A set's name, or a list: none of its elements matches."},
	},
	inWorldNPL: {
		{"state", "The global state: NORMAL, DEGRADED, FAILOVER or RECOVERY."},
		{"latency", "The latency of the primary uplink; a bare number is ms."},
		{"error_rate", "The error rate of the primary uplink, in percent."},
	},
	inWhenYAML: {
		{"state", "The global state: one or several of NORMAL, DEGRADED, FAILOVER and RECOVERY."},
		{"schedule", "True while the named schedule holds."},
		{"quota", "True once the named quota is used up."},
		{"condition", "True while the named condition holds."},
		{"latency_ms", "The latency of the primary uplink, compared: `\">120\"`."},
		{"error_rate", "The error rate of the primary uplink, compared: `\">5%\"`."},
		{"all", "A list of conditions, all of which must hold."},
		{"any_of", "A list of conditions, one of which must hold."},
		{"not", "Conditions that must not hold together."},
	},
	inPredicate: {
		{"any", "Matches every flow."},
		{"not", "Turns the condition behind it round; what is unknown stays unknown."},
		{"schedule", "`schedule NAME`: true while the schedule holds."},
		{"quota", "`quota NAME exceeded`: true once the quota is used up."},
	},
	inConnective: {
		{"and", "Both sides must hold. It binds stronger than `or`."},
		{"or", "One of the sides must hold."},
	},
	inFor: {{"for", "How long the comparison has to hold before it counts: `for 30s`. Metrics of conditions only."}},
	inCompare: {
		{"in", "Membership in a set, or in a list in braces."},
		{"not", "`not in`: no element matches. A flow without the fact matches."},
		{"like", "One pattern: `sni like \"*.corp.example\"`."},
		{"==", "Equal."},
		{"!=", "Not equal. A flow without the fact matches."},
		{"<", "Less."},
		{"<=", "Less or equal."},
		{">", "Greater."},
		{">=", "Greater or equal."},
	},
	inNotIn: {{"in", "Membership in a set, or in a list in braces."}},
	inState: {
		{"NORMAL", "All is well."},
		{"DEGRADED", "The line works, but a threshold of latency, loss or errors is exceeded."},
		{"FAILOVER", "The line is down, or so bad that traffic belongs elsewhere."},
		{"RECOVERY", "The line is good again and has to stay so before it is trusted."},
	},
	inProto: {{"tcp", "TCP."}, {"udp", "UDP, and with it QUIC."}, {"icmp", "ICMP, for IPv4 and IPv6."}},
	inMetric: {
		{"rtt", "The round-trip time of the probes, smoothed."},
		{"rtt_p90", "The round-trip time that nine of ten probes stay below."},
		{"jitter", "How much the round-trip time varies."},
		{"loss", "The share of probes without an answer, in percent."},
		{"error_rate", "The share of connections that failed, in percent."},
		{"up", "1 while the device is up, else 0."},
		{"state", "The state of the uplink."},
		{"usage", "Bytes that the uplink has carried in this period."},
	},
	inUplink: {
		{"dev", "The network device."},
		{"gateway", "One IPv4 and one IPv6 address; without it the main table's default on the device."},
		{"probe", "How health is measured: a kind, targets, and how often."},
		{"metered", "Whether traffic costs money."},
		{"weight", "The share of this uplink in weighted groups."},
		{"required", "Whether the uplink takes part in the global state."},
	},
	inHealth: {
		{"degrade_after", "Bad rounds until DEGRADED."},
		{"failover_after", "Bad rounds until FAILOVER."},
		{"dead_after", "Rounds without any answer until FAILOVER."},
		{"clear_after", "Good rounds until DEGRADED is left."},
		{"revive_after", "Good rounds until FAILOVER is left for RECOVERY."},
		{"stable_after", "Good rounds until RECOVERY is left for NORMAL."},
		{"relapse_after", "Bad rounds until RECOVERY falls back to FAILOVER."},
		{"hold_degraded", "How long DEGRADED is kept at least."},
		{"hold_failover", "How long FAILOVER is kept at least."},
		{"threshold", "When a round is bad: enter and exit values of rtt, loss and errors. The gap keeps the state from flapping."},
	},
	inPrimary:   {{"primary", "The uplink whose state, latency and error rate are the global ones."}},
	inThreshold: {{"rtt", "Latency, such as `120ms / 90ms`."}, {"loss", "Lost probes, such as `5% / 2%`."}, {"errors", "Failed connections, such as `5% / 2%`."}},
	inProbeYAML: {{"kind", "icmp, tcp, http or dns."}, {"targets", "What is asked: addresses, with a port for tcp."}, {"every", "How often."}},
	inProbe: {
		{"icmp", "Echo requests."},
		{"tcp", "Connections to an address and port."},
		{"http", "Requests of a web page."},
		{"dns", "Questions to a name server."},
	},
	inVia: {
		{"main", "The kernel's own routing."},
		{"blackhole", "Dropped by routing."},
		{"uplink", "Over a declared uplink."},
		{"dev", "Over a network device."},
		{"table", "By a routing table, by its number."},
		{"mark", "By a firewall mark that other software routes."},
		{"xray", "Through an outbound of Xray."},
		{"socks", "Through a SOCKS proxy."},
		{"group", "By a group's choice."},
	},
	inRouteYAML: {{"via", "Where the route leads: `main`, `blackhole`, `uplink NAME`, `dev NAME`, `table N`, `mark N`, `xray NAME`, `socks ADDRESS` or `group NAME`."}},
	inRouteTail: {{"gateway", "The next hop on the device."}, {"on", "The uplink that the proxy is reached over."}},
	inStrategy: {
		{"lowest_latency", "The member with the lowest latency; `tolerance` and `min_hold` damp changes."},
		{"fallback", "The first usable member."},
		{"weighted", "By the weights of the members' uplinks, by the flow's hash."},
		{"hash", "By the flow's hash, each member alike."},
		{"sla", "The first member whose uplink meets the condition of `sla`."},
	},
	inGroup: {
		{"tolerance", "How much better another member must be before it is taken."},
		{"min_hold", "How long a choice is kept at least."},
		{"sticky", "How long flows of one source keep their member."},
		{"sla", "The condition that a member's uplink has to meet."},
		{"when_none", "Without a usable member: `best` takes the least bad one, `block` drops."},
		{"interrupt", "`true`: established flows move as well."},
	},
	inWhenNone: {{"best", "The least bad member."}, {"block", "The flow is dropped."}},
	inThrottle: {
		{"down", "The rate towards the client, such as `2mbit`."},
		{"up", "The rate away from the client, such as `512kbit`."},
		{"burst", "How much may pass at once, such as `64KiB`."},
		{"per", "What shares the rate: each `host`, each `conn`, or `all` together."},
	},
	inPer:        {{"host", "Each host has the rate for itself."}, {"conn", "Each connection has the rate for itself."}, {"all", "All flows share the rate."}},
	inQuotaMatch: {{"match", "Which flows are counted."}},
	inQuota: {
		{"limit", "How much may be used, such as `3GiB`; both directions."},
		{"per", "The period: hour, day, week or month."},
		{"reset", "The time of day at which a period begins, in the host's time zone."},
	},
	inPeriod: {{"hour", "From the reset's minute."}, {"day", "From reset to reset."}, {"week", "From Monday."}, {"month", "From its first day."}},
	inSchedule: {
		{"weekday", "Days and ranges of days: `mon-thu,sun`."},
		{"time", "A time of day: `20:30-06:30`. A window that ends before it starts belongs to the day on which it starts."},
		{"date", "A date, or two with a hyphen; both are included."},
		{"tz", "The time zone, such as `Europe/Berlin`; without it the host's."},
	},
	inWeekday: {{"mon", "Monday."}, {"tue", "Tuesday."}, {"wed", "Wednesday."}, {"thu", "Thursday."}, {"fri", "Friday."}, {"sat", "Saturday."}, {"sun", "Sunday."}},
	inSetType: {
		{"domain", "Names and patterns, `keyword \"x\"` and `regex \"x\"`; for sni, domain and http.host."},
		{"cidr", "Addresses and prefixes; for dst.ip and src.ip."},
		{"port", "Ports and ranges; for port and src.port."},
		{"mac", "Hardware addresses; for src.mac."},
		{"process", "Processes; for process and process.path."},
		{"user", "Users; for user."},
		{"asn", "Autonomous system numbers; for asn."},
		{"country", "Two-letter codes; for country."},
	},
	inSetYAML:   {{"type", "The kind of its elements."}, {"values", "The elements."}},
	inSetSource: {{"file", "A file with the elements."}, {"url", "A URL with the elements; the last good copy is kept."}},
	inSetOption: {
		{"select", "Which part of the list is meant, where it has several."},
		{"format", "How the list is written."},
		{"sha256", "The checksum that the content must have."},
		{"refresh", "How often the list is read again."},
		{"on_error", "What to do when the list can't be read again: keep, fail or empty."},
	},
	inFormat: {
		{"list", "One element a line."},
		{"hosts", "A hosts file."},
		{"dlc", "The domain list community's text files."},
		{"geosite", "V2Ray's geosite.dat."},
		{"geoip", "V2Ray's geoip.dat."},
		{"mmdb", "A MaxMind database."},
		{"clash", "A rule provider of Clash."},
		{"srs", "A rule set of sing-box."},
	},
	inOnError: {{"keep", "The last good content stays."}, {"fail", "The policy is refused."}, {"empty", "The set is empty."}},
	inElement: {{"keyword", "Names that contain a text: `keyword \"zoom\"`."}, {"regex", "Names that match an RE2 expression: `regex \"^ads\\.\"`."}},
	inDaemon: {
		{"on_crash", "New flows when the daemon dies: `last` keeps the rules, `open` lets them pass, `closed` drops them."},
		{"backend", "What of the kernel holds the policy: `auto`, `nftables`, `iptables`."},
		{"enforce", "Who decides first packets: `static`, the kernel's table, or `consult`, the daemon itself."},
		{"hello", "The packets of forwarded flows that tell a name: `watch` reads along, `hold` lets them wait for the decision."},
		{"mark_mask", "The bits of packet marks that the daemon may use."},
		{"ct_mask", "The bits of conntrack marks that the daemon may use."},
		{"table_base", "The number of the first routing table."},
		{"rule_priority", "The priority of the first ip rule."},
		{"state_dir", "Where state is kept."},
		{"api", "The path of the unix socket."},
		{"dns_listen", "Addresses with port on which names are resolved: `10.0.0.1:53`."},
		{"dns_upstreams", "Resolvers that are asked: `\"main tls://dns.example at 192.0.2.53\"`, with `for .corp.example` for some names alone."},
		{"dns_blocked", "The answer for blocked names: `nxdomain`, or `zero` for 0.0.0.0 and ::."},
		{"dns_stale", "How long old answers are given while no upstream replies."},
		{"dns_strip_ech", "Takes ECH out of answers, so that names stay visible on the wire."},
		{"api_listen", "An address with port where the API and the web interface are served: `127.0.0.1:8443`."},
		{"api_tls", "The certificate and the key for `api_listen`: two files."},
		{"api_hosts", "Names under which browsers may ask for `api_listen`."},
		{"insecure_lan", "Whether `api_listen` may be reached by others without TLS."},
		{"decision_log", "Whether decision records are kept on the disk."},
		{"decision_log_sample", "One of so many decisions of each rule is kept on the disk."},
		{"decision_mask", "What is replaced by hashes in decision records: `name`, `src`, `dst`, `process`, `user`."},
		{"alerts", "Webhooks that are told of changes of state: `\"https://hooks.example/x\"`, `\"ntfy+https://ntfy.sh/topic\"`."},
		{"masquerade", "Uplinks whose outgoing flows get the device's address."},
	},
	inBackend:    {{"auto", "nftables where the kernel has it, else iptables."}, {"nftables", "One table of nftables."}, {"iptables", "Chains of iptables and ip6tables, and ipsets."}},
	inOnCrash:    {{"last", "The last rules stay."}, {"open", "Everything passes undecided."}, {"closed", "New flows are dropped."}},
	inEnforce:    {{"static", "The kernel's table decides first packets."}, {"consult", "The daemon decides each first packet."}},
	inHello:      {{"watch", "They pass while the daemon reads along."}, {"hold", "They wait until the daemon has decided."}},
	inOnUnknown:  {{"wait", "Holds the flow until the fact is known, 300 ms at most."}, {"provisional", "Decides without the rule, and again when the fact arrives."}, {"skip", "Takes the rule as false."}},
	inBlock:      {{"drop", "In silence."}, {"reject", "With a TCP RST or ICMP unreachable."}},
	inBool:       {{"true", "Yes."}, {"false", "No."}},
	inImportNPL:  {{"sha256", "The checksum that the file must have."}},
	inImportYAML: {{"path", "The file, from this file's folder."}, {"sha256", "The checksum that the file must have."}},
	inAssertYAML: {
		{"flow", "A name or address, with protocol and port: `api.zoom.us tcp/443`."},
		{"match", "A condition that describes the flow."},
		{"when", "States; without them all four."},
		{"expect", "The outcome: an action, `rule NAME` or `default`."},
	},
	inInvariant: {
		{"never", "The outcome never happens to flows of this kind."},
		{"always", "The outcome always happens to flows of this kind."},
		{"unreachable", "Whether rules that can never decide are errors (`none`) or warnings (`warn`)."},
		{"when", "States; without them all four."},
		{"expect", "The outcome: an action, `rule NAME`, `default`, or `via NAME`."},
	},
	inTail:       {{"when", "States; without them all four."}, {"->", "What is expected."}},
	inOutcome:    {{"rule", "The rule that decides."}, {"default", "No rule decides."}},
	inViaOutcome: {{"via", "The route that the decision leads to."}},
	inLevel:      {{"none", "A rule that can never decide is an error."}, {"warn", "A rule that can never decide is a warning."}},
	inCode:       wanted(),
}

// wanted are the codes that `allow` can name.
func wanted() []word {
	var list []word
	for _, e := range diag.Catalogue() {
		if e.Severity != diag.Error {
			list = append(list, word{string(e.Code), e.Title})
		}
	}
	return list
}

// itemKinds are the protocol's icons of the categories; others are keywords.
var itemKinds = map[category]int{
	inTopYAML: itemModule, inAction: itemFunction, inFieldNPL: itemField, inFieldYAML: itemField, inWorldNPL: itemField,
	inState: itemEnumMember, inProto: itemEnumMember, inMetric: itemProperty, inUplink: itemProperty, inHealth: itemProperty,
	inRuleYAML: itemProperty, inDaemon: itemProperty, inCode: itemConstant, inWeekday: itemEnumMember, inFormat: itemEnumMember,
	inSetType: itemEnumMember, inStrategy: itemFunction,
}
