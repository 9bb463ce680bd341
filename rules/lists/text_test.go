package lists_test

import (
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

func TestList(t *testing.T) {
	check(t, lists.List, []listCase{
		{name: "nothing", in: ""},
		{name: "only comments", in: "# a\n\n  # b\r\n\t\n"},
		{
			name: "every spelling",
			in: "zoom.us\n.example.com\n*.example.org\nzoom-*.us\nfull:a.example\nDOMAIN:b.example\n" +
				"keyword:Track\nregexp:^ads?[0-9]+\\.\nregex:^x\n",
			want: `a.example zoom.us .b.example .example.com *.example.org zoom-*.us keyword:track regexp:^ads?[0-9]+\. regexp:^x`,
		},
		{
			name: "mark, CRLF, blanks, comments", in: "\ufeff a.example \r\n\r\n\tb.example\t# why\r\nc.example#d", want: "a.example b.example",
			problems: []string{"line 4: not a name or pattern: `c.example#d`"},
		},
		{name: "canonical", in: "Bücher.Example.\nEXAMPLE.com", want: "example.com xn--bcher-kva.example"},
		{
			name: "bad lines",
			in:   "good.example\na..b\n192.0.2.1\n2001:db8::/32\n||ads.example^\nkeyword:ü\nregexp:(\nregexp:\nfull:*.x\n*a*b*c*d.x\n*",
			want: "good.example",
			problems: []string{
				"line 2: not a name or pattern: `a..b`",
				"line 3: 2 times: an address is not for a domain set",
				"line 5: not a name or pattern: `||ads.example^`",
				"line 6: no name can contain this keyword: `ü`",
				"line 7: not an RE2 expression: `(`: missing closing )",
				"line 8: an empty expression",
				"line 9: not a name: `*.x`",
				"line 10: not a name or pattern: `*a*b*c*d.x`",
				"line 11: not a name or pattern: `*`",
			},
		},
		{name: "no line is good", in: "a..b\n", problems: []string{"line 1: not a name or pattern: `a..b`"}, err: "nothing in it can be read"},
		{
			name: "terminal escapes", in: "a.example\n\x1b[31mred\x00",
			want:     "a.example",
			problems: []string{"line 2: not a name or pattern: `\ufffd[31mred\ufffd`"},
		},
		{
			name: "a long line", in: "a.example\n" + strings.Repeat("x", 4097) + "\nb.example", want: "a.example b.example",
			problems: []string{"line 2: a line longer than 4 KiB: `" + strings.Repeat("x", 60) + "...`"},
		},
		{
			name: "covered names", want: ".example.com .example.org *.example.net",
			in: "a.example.com\n.example.com\nexample.com\n*.b.example.com\nexample.org\n*.example.org\n*.example.net\nx.example.net\n",
		},
	})
}

func TestListOthers(t *testing.T) {
	check(t, lists.List, []listCase{
		{
			name: "prefixes", set: rules.CIDRSet,
			in:   "10.0.0.0/8\n192.0.2.1\n2001:db8::/32 # comment\n2001:db8::1\n::ffff:198.51.100.0/120\n::ffff:203.0.113.9\n0.0.0.0/32\n",
			want: "0.0.0.0/32 10.0.0.0/8 192.0.2.1/32 198.51.100.0/24 203.0.113.9/32 2001:db8::/32",
		},
		{
			name: "bad prefixes", set: rules.CIDRSet, want: "192.0.2.0/24",
			in: "192.0.2.77/24\n192.0.2.0/33\n192.0.2\n192.000.2.1\nfe80::1%eth0\nfe80::%eth0/64\nexample.com\n192.0.2.1-192.0.2.9",
			problems: []string{
				"line 1: host bits are set, read as 192.0.2.0/24: `192.0.2.77/24`",
				"line 2: not a prefix: `192.0.2.0/33`",
				"line 3: not an address or prefix: `192.0.2`",
				"line 4: not an address or prefix: `192.000.2.1`",
				"line 5: not an address or prefix: `fe80::1%eth0`",
				"line 6: not a prefix: `fe80::%eth0/64`",
				"line 7: not an address or prefix: `example.com`",
				"line 8: not an address or prefix: `192.0.2.1-192.0.2.9`",
			},
		},
		{
			name: "ports", set: rules.PortSet, in: "443\n80-88\n 89 - 90 \n85\n65535\n0\n00053\n", want: "0-0 53-53 80-90 443-443 65535-65535",
		},
		{
			name: "bad ports", set: rules.PortSet, in: "1\n65536\n90-80\n-1\nhttp\n1-\n+2\n000053", want: "1-1",
			problems: []string{
				"line 2: not a port or range of ports: `65536`", "line 3: not a port or range of ports: `90-80`",
				"line 4: not a port or range of ports: `-1`", "line 5: not a port or range of ports: `http`",
				"line 6: not a port or range of ports: `1-`", "line 7: not a port or range of ports: `+2`",
				"line 8: not a port or range of ports: `000053`",
			},
		},
		{
			name: "MACs", set: rules.MACSet,
			in:   "02:00:00:00:00:0F\n02-00-00-00-00-0f\n00:00:5e:00:53:01\n02:00:00:00:00\n02:00-00:00:00:00\n+2:00:00:00:00:00\n0200.0000.000f",
			want: "00:00:5e:00:53:01 02:00:00:00:00:0f",
			problems: []string{
				"line 4: not a MAC address: `02:00:00:00:00`", "line 5: not a MAC address: `02:00-00:00:00:00`",
				"line 6: not a MAC address: `+2:00:00:00:00:00`", "line 7: not a MAC address: `0200.0000.000f`",
			},
		},
		{
			name: "processes", set: rules.ProcessSet, in: "curl\ntransmission-*\n/usr/bin/*\ncurl\na**b\n*a*b*c*\n" + strings.Repeat("x", 4096),
			want: "/usr/bin/* curl transmission-* " + strings.Repeat("x", 4096),
			problems: []string{
				"line 5: not a name or pattern with up to 3 `*`: `a**b`", "line 6: not a name or pattern with up to 3 `*`: `*a*b*c*`",
			},
		},
		{name: "users", set: rules.UserSet, in: "root\nwww-data\n", want: "root www-data"},
	})
}

func TestHosts(t *testing.T) {
	check(t, lists.Hosts, []listCase{
		{name: "nothing", in: "\n# empty\n"},
		{
			name: "usual", want: "a.example ads.example b.example c.example tracker.example",
			in: "\ufeff# head\r\n127.0.0.1 localhost localhost.localdomain\r\n::1 ip6-localhost ip6-loopback\r\nfe80::1%lo0 localhost\n" +
				"255.255.255.255 broadcasthost\n0.0.0.0 0.0.0.0\n\n0.0.0.0 ads.example # why\n0.0.0.0\ttracker.example#why\n" +
				"192.0.2.1 a.example  B.Example. c.example a.example\n",
		},
		{name: "only of the machine itself", in: "127.0.0.1 LOCALHOST\n"},
		{
			name: "a name is only itself", in: "0.0.0.0 example.com\n0.0.0.0 www.example.com", want: "example.com www.example.com",
		},
		{
			name: "bad lines",
			in:   "0.0.0.0 good.example b..d 192.0.2.7\nads.example\n0.0.0.0\n0.0.0.0/8 net.example\nads.example 0.0.0.0\n0.0.0.0 *.example",
			want: "good.example",
			problems: []string{
				"line 1: not a name: `b..d`",
				"line 1: not a name: `192.0.2.7`",
				"line 2: not an address with names: `ads.example`",
				"line 3: not an address with names: `0.0.0.0`",
				"line 4: not an address with names: `0.0.0.0/8 net.example`",
				"line 5: not an address with names: `ads.example 0.0.0.0`",
				"line 6: not a name: `*.example`",
			},
		},
		{
			name: "white space of other kinds", in: "0.0.0.0 a.example\n\v\n",
			want:     "a.example",
			problems: []string{"line 2: not an address with names: `\ufffd`"},
		},
		{name: "no hosts file", in: "a.example\nb.example", problems: []string{
			"line 1: not an address with names: `a.example`", "line 2: not an address with names: `b.example`",
		}, err: "nothing in it can be read"},
	})
}
