package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/state"
)

func TestParseScript(t *testing.T) {
	const src = `# how it goes
main wan2
policy other.yaml
say Zoom first   # and the rest
connect us01.zoom.us:443 tls v6 sni api.zoom.us x20 expect rule zoom route tunnel_fast uplink wan1 logged share wan1 5%..40%
connect example.com:7
connect example.com:23 expect rejected
fault wan1 delay 200ms loss 2.5%
fault wan2 down
heal wan1
await state degraded on wan1 within 20s
expect state FAILOVER
transfer start big bulk.example.net:5001
transfer check big alive uplink wan1
transfer stop big
reload next.yaml
reload broken.yaml expect rejected NP102
daemon kill
daemon start
sleep 1500ms
`
	s, err := ParseScript("lab.txt", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	if s.Main != Wan2 || s.Policy != "other.yaml" {
		t.Errorf("main %q, policy %q", s.Main, s.Policy)
	}
	want := []any{
		Say{"Zoom first"},
		Connect{
			Host: "us01.zoom.us", Port: "443", Kind: "tls", SNI: "api.zoom.us", V6: true, Times: 20,
			Expect: Expect{Rule: "zoom", Route: "tunnel_fast", Uplink: Wan1, Logged: true, Share: Wan1, Lo: 5, Hi: 40},
		},
		Connect{Host: "example.com", Port: "7", Kind: "tcp", Times: 1},
		Connect{Host: "example.com", Port: "23", Kind: "tcp", Times: 1, Expect: Expect{Outcome: Rejected}},
		SetFault{Wan1, Fault{Delay: 200 * time.Millisecond, Loss: 25_000}},
		SetFault{Wan2, Fault{Down: true}},
		SetFault{Uplink: Wan1},
		Await{state.Degraded, Wan1, 20 * time.Second},
		Await{State: state.Failover},
		TransferStart{"big", "bulk.example.net", "5001"},
		TransferCheck{"big", Wan1},
		TransferStop{"big"},
		Reload{File: "next.yaml", Result: "applied"},
		Reload{"broken.yaml", "rejected", "NP102"},
		Daemon{Kill: true},
		Daemon{},
		Sleep{1500 * time.Millisecond},
	}
	var got []any
	for _, step := range s.Steps {
		got = append(got, step.Do)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if where := s.Steps[1].Where(); where != "lab.txt:5" {
		t.Errorf("the second step is at %s", where)
	}
}

func TestScriptErrors(t *testing.T) {
	for src, want := range map[string]string{
		"":                                      "f:1: the script does nothing",
		"\nconect a:1":                          `f:2: unknown command "conect"`,
		"say x\nmain wan1":                      "f:2: main must come before",
		"main wan3":                             `f:1: uplink "wan3": want wan1, wan2`,
		"connect zoom.us":                       `f:1: "zoom.us": want host:port`,
		"connect zoom.us:0":                     `want host:port`,
		"connect a:1 tsl":                       `unknown option "tsl"`,
		"connect a:1 x0":                        `"x0": want x1`,
		"connect a:1 expect":                    "what to expect is missing",
		"connect a:1 expect dropped":            `unknown expectation "dropped"`,
		"connect a:1 expect share wan1 40%..5%": `share "40%..5%"`,
		"fault wan1":                            "fault is missing",
		"fault wan1 loss 120%":                  `loss "120%"`,
		"fault wan1 loss NaN%":                  `loss "NaN%"`,
		"fault wan1 delay -1s":                  `delay "-1s"`,
		"await state GOOD within 1s":            `state "GOOD"`,
		"await state NORMAL":                    "limit is missing",
		"heal wan1 now":                         `unexpected "now"`,
		"transfer check x":                      "what is missing",
		"daemon stop":                           `daemon command "stop"`,
		"sleep":                                 "how long is missing",
		"bad\nworse":                            "f:2: unknown command",
	} {
		_, err := ParseScript("f", []byte(src))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", src, err, want)
		}
	}
}
