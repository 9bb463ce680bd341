package lists_test

import (
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// ruleSet is the JSON of some rules, the first of which stands in line 2.
func ruleSet(list ...string) string {
	return "{\"version\":3,\"rules\":[\n" + strings.Join(list, ",\n") + "]}"
}

func TestSingBox(t *testing.T) {
	check(t, lists.SRS, []listCase{
		{name: "no rules", in: `{"version":1}`},
		{name: "empty rules", in: " \n{\"rules\":[],\"version\":5}\n"},
		{
			name: "every kind of name", in: "\ufeff" + ruleSet(`{"domain":["A.example"],"domain_suffix":["b.example",".c.example"],
				"domain_keyword":"Track","domain_regex":["^ads?\\."],"ip_cidr":[],"invert":false,"type":"default","port":[],"wifi_ssid":[],"network_type":null}`),
			want: `a.example .b.example *.c.example keyword:track regexp:^ads?\.`,
		},
		{name: "suffix with and without a dot", in: ruleSet(`{"domain_suffix":[".a.example"]}`, `{"domain":"a.example"}`), want: ".a.example"},
		{
			name: "names or addresses", in: ruleSet(`{"domain":"a.example","ip_cidr":["192.0.2.0/24"]}`), want: "a.example",
			problems: []string{"line 2: addresses are not for a domain set"},
		},
		{
			name: "addresses or names", set: rules.CIDRSet, in: ruleSet(`{"domain":"a.example","ip_cidr":["192.0.2.0/24","2001:db8::1"]}`),
			want: "192.0.2.0/24 2001:db8::1/128",
		},
		{
			name: "conditions that join", want: "z.example", in: ruleSet(
				`{"domain":"z.example"}`,
				`{"domain":"a.example","port":443}`,
				`{"domain":"a..b","port_range":"1:2"}`,
				`{"domain":"a.example","process_name":"curl"}`,
				`{"domain":"a.example","network":"tcp"}`,
				`{"domain":"a.example","source_ip_cidr":["192.0.2.0/24"]}`,
				`{"domain":"a.example","network_is_expensive":true}`,
				`{"domain":"a.example","Invert":true}`,
				`{"domain":"a.example","\u001b[31m":1}`,
				`{"domain":"a.example","invert":true}`,
				`{}`,
				`{"port":443}`,
			),
			problems: []string{
				"line 3: 3 times: a rule that joins several kinds of condition",
				"line 4: not a name: `a..b`",
				"line 6: a rule with `network`",
				"line 7: a rule with `source_ip_cidr`",
				"line 8: a rule with `network_is_expensive`",
				"line 9: a rule with `Invert`",
				"line 10: a rule with `\ufffd[31m`",
				"line 11: an inverted rule",
				"line 12: a rule without conditions",
				"line 13: a rule that is not for a domain set",
			},
		},
		{
			name: "ports", set: rules.PortSet,
			in:   ruleSet(`{"port":[80,443],"port_range":["1000:2000",":20","65000:","9:8",":","x:","5"]}`, `{"domain":"x.example"}`),
			want: "0-20 80-80 443-443 1000-2000 65000-65535",
			problems: []string{
				"line 2: not a port or range of ports: `9:8`", "line 2: not a range of ports: `:`", "line 2: not a port or range of ports: `x:65535`",
				"line 2: not a range of ports: `5`", "line 3: a rule that is not for a port set",
			},
		},
		{
			name: "processes", set: rules.ProcessSet, want: "/usr/bin/wget curl", in: ruleSet(
				`{"process_name":"curl"}`, `{"process_path":["/usr/bin/wget"]}`, `{"process_name":"a","process_path":"/b"}`, `{"process_name":"a*"}`,
				`{"process_path_regex":"x"}`, `{"port":1}`,
			),
			problems: []string{
				"line 4: a rule that joins several kinds of condition", "line 5: a `*` that stands for itself, which no set can hold: `a*`",
				"line 6: a rule with `process_path_regex`", "line 7: a rule that is not for a process set",
			},
		},
	})
}

func TestSingBoxLogical(t *testing.T) {
	check(t, lists.SRS, []listCase{
		{
			name: "logical rules", want: "a.example b.example c.example d.example", in: ruleSet(
				`{"type":"logical","mode":"or","rules":[{"domain":"a.example"},{"type":"logical","mode":"and","rules":[{"domain":"b.example"}]}]}`,
				`{"type":"logical","mode":"and","rules":[{"domain":"c.example"}],"invert":false}`,
				`{"domain":"d.example"}`,
				`{"type":"logical","mode":"and","rules":[{"domain":"x.example"},{"port":1}]}`,
				`{"type":"logical","mode":"or","rules":[{"domain":"x.example"}],"invert":true}`,
				`{"type":"logical","mode":"or","rules":[{"domain":"x.example","invert":true}]}`,
				`{"type":"logical","mode":"or","rules":[{"domain":"x.example"}],"Invert":true}`,
				`{"type":"logical","mode":"xor","rules":[{"domain":"x.example"}]}`,
				`{"type":"logical","rules":[{"domain":"x.example"}]}`,
				`{"type":"logical","mode":"or","rules":{}}`,
			),
			problems: []string{
				"line 5: a rule that joins others with `and`", "line 6: 2 times: an inverted rule", "line 8: a logical rule with `Invert`",
				"line 9: not a mode of a logical rule: `xor`", "line 10: not a mode of a logical rule: nothing", "line 11: a logical rule that can't be read",
			},
		},
	})
}

func TestSingBoxBad(t *testing.T) {
	check(t, lists.SRS, []listCase{
		{
			name: "bad rules", want: "z.example", in: ruleSet(
				`{"domain":"z.example"}`, `{"domain":[1]}`, `{"domain":{"a":1}}`, `{"domain":"a.example","port":[65536]}`, `{"domain":"a.example","invert":"yes"}`,
				`[]`, `7`, `{"type":"other","domain":"a.example"}`, `{"type":1}`, `{"domain":["a..b","192.0.2.1"],"domain_suffix":["."],"domain_regex":"("}`,
			),
			problems: []string{
				"line 3: a value that can't be read: `[1]`", "line 4: a value that can't be read: `{\"a\":1}`", "line 5: a value that can't be read: `[65536]`",
				"line 6: a value that can't be read: `\"yes\"`", "line 7: a rule that is not an object", "line 8: a rule that is not an object",
				"line 9: not a type of rule: `other`", "line 10: the `type` of a rule is not text", "line 11: not a name: `a..b`", "line 11: not a name: `192.0.2.1`",
				"line 11: not an RE2 expression: `(`: missing closing )", "line 11: not a name: nothing",
			},
		},
		{
			name: "nothing but what no set holds", in: ruleSet(`{"invert":true,"domain":"a.example"}`),
			problems: []string{"line 2: an inverted rule"},
			err:      "nothing in it can be read",
		},
		{name: "no version", in: `{"rules":[]}`, err: "there is no `version` in it"},
		{name: "version 0", in: `{"version":0,"rules":[]}`, err: "its version is not one of 1 to 5"},
		{name: "version 6", in: `{"version":6,"rules":[]}`, err: "its version is not one of 1 to 5"},
		{name: "rules of another form", in: `{"version":1,"rules":{}}`, err: "read the JSON: `rules` is not a list"},
		{name: "cut off", in: `{"version":1,"rules":[{"domain":"a.example"}`, err: "read the JSON: EOF"},
		{name: "cut off at the start", in: `{`, err: "read the JSON: EOF"},
		{name: "cut off in a key", in: `{"ver`, err: "read the JSON: unexpected EOF"},
		{name: "cut off before the end", in: `{"version":1`, err: "read the JSON: EOF"},
		{name: "keys that are not known", in: `{"$schema":{"a":[1,{}]},"version":1,"rules":[{"domain":"a.example"}]}`, want: "a.example"},
		{name: "addresses for ports", set: rules.PortSet, in: ruleSet(`{"ip_cidr":"192.0.2.1"}`, `{"port":1}`), want: "1-1", problems: []string{
			"line 2: a rule that is not for a port set",
		}},
		{name: "two objects", in: `{"version":1,"rules":[]}{}`, err: "something stands behind the JSON object"},
		{name: "other text", in: "a.example\n", err: "neither an .srs file nor a JSON rule-set"},
		{name: "no bytes", in: "", err: "neither an .srs file nor a JSON rule-set"},
	})
}

func TestSingBoxNesting(t *testing.T) {
	deep := func(n int) string {
		return strings.Repeat(`{"type":"logical","mode":"or","rules":[`, n) + `{"domain":"a.example"}` + strings.Repeat("]}", n)
	}
	check(t, lists.SRS, []listCase{
		{name: "as deep as may be", in: ruleSet(deep(16)), want: "a.example"},
		{
			name: "too deep", in: ruleSet(deep(17), `{"domain":"b.example"}`), want: "b.example",
			problems: []string{"line 2: a rule that is nested too deep"},
		},
		{
			name: "too large",
			in:   ruleSet(`{"type":"logical","mode":"or","rules":[`+strings.Repeat(" ", 4<<20)+`{"domain":"a.example"}]}`, `{"domain":"b.example"}`),
			want: "b.example", problems: []string{"line 2: a logical rule that is too large"},
		},
	})
	hostile := `{"version":1,"rules":[` + strings.Repeat("[", 1_000_000)
	if _, _, err := lists.Parse(lists.Source{Format: lists.SRS, Data: []byte(hostile)}, rules.DomainSet); err == nil {
		t.Error("a million brackets are read")
	}
}
