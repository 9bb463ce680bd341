package lists_test

import (
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

func TestClashNames(t *testing.T) {
	check(t, lists.Clash, []listCase{
		{name: "nothing", in: ""},
		{name: "an empty payload", in: "payload: []\n"},
		{name: "a payload without value", in: "payload:\n"},
		{
			name: "domain behavior", in: "payload:\n  - '+.a.example'\n  - .b.example\n  - \"c.example\"\n  - D.Example # why\n",
			want: "c.example d.example .a.example *.b.example",
		},
		{
			name: "mark, CRLF, comments",
			in:   "\ufeff# head\r\n---\r\npayload: # list\r\n\r\n  # - 'no.example'\r\n  // nor this\r\n- 'a.example'\t# why\r\n",
			want: "a.example",
		},
		{
			name: "classical", in: "DOMAIN,a.example\ndomain-suffix,b.example\nDOMAIN-SUFFIX,.c.example,Proxy\nDOMAIN-KEYWORD, Track ,no-resolve\n" +
				"DOMAIN-REGEX,^ad[0-9]{1,3}\\.\nDOMAIN-WILDCARD,*.Ads-?.example\n",
			want: `a.example .b.example .c.example keyword:track regexp:(?i)^ad[0-9]{1,3}\. regexp:^.*\.ads-.\.example$`,
		},
		{
			name: "what is left out", want: "a.example",
			in: "DOMAIN,a.example\nIP-CIDR,192.0.2.0/24,no-resolve\nIP-CIDR,192.0.2.0/24\nGEOIP,CN\nAND,((DOMAIN,a.example),(NETWORK,UDP))\n" +
				"192.0.2.1\nDST-PORT,443\n\x1b[31m,x\n,x\n",
			problems: []string{
				"line 2: 2 times: `IP-CIDR` is not for a domain set", "line 4: `GEOIP` is not for a domain set", "line 5: `AND` is not for a domain set",
				"line 6: an address is not for a domain set", "line 7: `DST-PORT` is not for a domain set",
				"line 8: `\ufffd[31M` is not for a domain set", "line 9: nothing is not for a domain set",
			},
		},
		{
			name: "bad lines", in: "good.example\na..b\n+.\n@.x\nDOMAIN,a b\nDOMAIN-KEYWORD,\nDOMAIN-REGEX,(?=x)\na*.example\n*..b",
			want: "good.example",
			problems: []string{
				"line 2: not a name: `a..b`", "line 3: not a name: nothing", "line 4: not a name: `@.x`", "line 5: not a name: `a b`",
				"line 6: no name can contain this keyword: nothing",
				"line 7: not an RE2 expression: `(?i)(?=x)`: invalid or unsupported Perl syntax",
				"line 8: not a name or pattern: `a*.example`", "line 9: not a name or pattern: `*..b`",
			},
		},
	})
}

func TestClashYAML(t *testing.T) {
	long := strings.Repeat("# "+strings.Repeat("x", 1000)+"\n", 2200) // over 2 MiB
	check(t, lists.Clash, []listCase{
		{name: "flow", in: "payload: [a.example, '+.b.example', \"c.example\"]", want: "a.example c.example .b.example"},
		{name: "escapes", in: "payload:\n- \"\\x61.example\"\n- 'b.example'\n", want: "a.example b.example"},
		{name: "a quote in quotes", in: "payload:\n- 'DOMAIN-REGEX,it''s'\n", want: "regexp:(?i)it's"},
		{name: "folded", in: "payload:\n- >-\n  a.example\n- b.example\n", want: "a.example b.example"},
		{
			name: "other keys", in: "name: x\npayload:\n- a.example\nmore: 1\n", want: "a.example",
			problems: []string{"line 1: 2 times: a key beside `payload:`"},
		},
		{
			name: "an item that is a list", in: "payload:\n- a.example\n- - b.example\n- {c: d}\n- ''\n", want: "a.example",
			problems: []string{"line 3: an item that is not text", "line 4: an item that is not text", "line 5: an empty item"},
		},
		{name: "no list", in: "payload: text\n", err: "`payload:` is not a list"},
		{name: "no mapping", in: "- payload:\n- x\n", err: "nothing in it can be read", problems: []string{
			"line 1: not a name: `- payload:`", "line 2: not a name: `- x`",
		}},
		{
			name: "stars without quotes, which is no YAML", in: "payload:\n- *.a.example\n- b.example\n- '*.c.example'\n",
			want: `b.example regexp:^[^.]+\.c\.example$`, problems: []string{"line 2: not an item of YAML: `- *.a.example`"},
		},
		{
			name: "large with an odd line", in: long + "payload:\n- a.example\n- \"\\x62.example\"\n", want: "a.example",
			problems: []string{"line 2203: not an item of YAML: `- \"\\x62.example\"`"},
		},
		{
			name: "large flow", in: long + "payload: [a.example]\n",
			problems: []string{"line 2201: not an item of YAML: `payload: [a.example]`"}, err: "nothing in it can be read",
		},
		{name: "an alias bomb", in: "a: &a [x,x]\nb: &b [*a,*a]\npayload: [*b, c.example]\n", want: "c.example", problems: []string{
			"line 1: 2 times: a key beside `payload:`", "line 3: an item that is not text",
		}},
	})
}

func TestClashOthers(t *testing.T) {
	check(t, lists.Clash, []listCase{
		{
			name: "addresses", set: rules.CIDRSet,
			in:   "payload:\n- 192.0.2.0/25\n- 192.0.2.128/25\n- IP-CIDR6,2001:db8::/32,no-resolve\n- IP-CIDR,198.51.100.7\n- a.example\n",
			want: "192.0.2.0/24 198.51.100.7/32 2001:db8::/32", problems: []string{"line 6: a name is not for a cidr set"},
		},
		{
			name: "about the source", set: rules.CIDRSet,
			in:   "IP-CIDR,192.0.2.0/24\nIP-CIDR,198.51.100.0/24,no-resolve, src\nSRC-IP-CIDR,203.0.113.0/24\n",
			want: "192.0.2.0/24", problems: []string{"line 2: a rule about the source", "line 3: `SRC-IP-CIDR` is not for a cidr set"},
		},
		{
			name: "ports", set: rules.PortSet,
			in:   "DST-PORT,443\nDST-PORT,80/8000-8080/x\nSRC-PORT,7777\nDOMAIN,a.example\n",
			want: "80-80 443-443 8000-8080",
			problems: []string{
				"line 2: not a port or range of ports: `x`", "line 3: `SRC-PORT` is not for a port set", "line 4: `DOMAIN` is not for a port set",
			},
		},
		{
			name: "processes", set: rules.ProcessSet,
			in:       "PROCESS-NAME,curl\nPROCESS-PATH,/usr/bin/wget\nPROCESS-NAME,a*\n",
			want:     "/usr/bin/wget curl",
			problems: []string{"line 3: a `*` that stands for itself, which no set can hold: `a*`"},
		},
	})
}

// TestClashStars matches as mihomo does: + is a name and all below it, a leading
// dot all below it, and * one label; in DOMAIN-WILDCARD any run of characters.
func TestClashStars(t *testing.T) {
	for _, c := range []struct{ rule, yes, no string }{
		{"+.a.example", "a.example b.a.example c.b.a.example", "ba.example example"},
		{".a.example", "b.a.example c.b.a.example", "a.example"},
		{"*.example", "a.example", "example b.a.example"},
		{"a.*.example", "a.b.example", "a.example a.b.c.example b.a.example"},
		{"+.*.b.example", "a.b.example x.a.b.example", "b.example"},
		{".*.b.example", "x.a.b.example y.x.a.b.example", "a.b.example b.example"},
		{"*", "localhost", "a.example"},
		{"*.*", "a.example", "example b.a.example"},
		{"DOMAIN-WILDCARD,*.Ads-?.example", "x.ads-1.example y.x.ads-a.example", "ads-1.example x.ads-.example x.ads-12.example"},
		{"DOMAIN-WILDCARD,a.example", "a.example", "b.a.example aXexample"},
		{"DOMAIN-REGEX,^AD[0-9]{1,2}\\.", "ad1.example ad22.example", "bad1.example ad.example"},
	} {
		e, problems, err := lists.Parse(lists.Source{Format: lists.Clash, Data: []byte(c.rule)}, rules.DomainSet)
		if err != nil || len(problems) > 0 || len(e.Names) != 1 {
			t.Errorf("%s: %v, %v, %v", c.rule, spell(e), problems, err)
			continue
		}
		for _, name := range strings.Fields(c.yes) {
			if !e.Names[0].Match(name) {
				t.Errorf("%s does not match %s", c.rule, name)
			}
		}
		for _, name := range strings.Fields(c.no) {
			if e.Names[0].Match(name) {
				t.Errorf("%s matches %s", c.rule, name)
			}
		}
	}
}
