package top

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/golden"
)

var update = flag.Bool("update", false, "write the golden files")

// sample is a look at a router in the evening.
func sample() Look {
	flow := func(id, facts, name, from, decision string, up, down uint64, rtt float64) api.Flow {
		return api.Flow{
			Flow: json.RawMessage(`{"id":"` + id + `",` + facts + `}`), Name: name, NameFrom: from, Decision: json.RawMessage(decision),
			UpRate: up, DownRate: down, RTTms: rtt, Age: 5, Source: "conntrack",
		}
	}
	l := Look{
		Status: api.Status{
			Mode: "enforce", State: "DEGRADED", Policy: api.Policy{Hash: "8664947ab4b8"}, Now: time.Date(2026, 2, 3, 21, 0, 0, 0, time.UTC),
			Uplinks: []api.Uplink{
				{Name: "wan1", Dev: "eth1", State: "DEGRADED", Up: true, RTTms: 103.8, Loss: 0.1, Why: "rtt 104 ms, exit 90 ms"},
				{Name: "wan2", Dev: "wwan0", State: "NORMAL", Up: true, RTTms: 31.25},
				{Name: "wan3", Dev: "eth3", State: "FAILOVER", RTTms: -1},
			},
		},
		Flows: api.Flows{Total: 412, Matched: 412, Flows: []api.Flow{
			flow("1", `"proto":"tcp","src":"10.0.0.5:5000","dst":"203.0.113.1:443","process":null`, "us01.zoom.us", "sni", `{"rule":"zoom_fast","action":"route","route":"fast","why":"priority 100"}`, 1200, 2_500_000, 31.2),
			flow("2", `"proto":"tcp","src":"10.0.0.1:5001","dst":"203.0.113.2:443","process":"firefox"`, "a-very-long-name-of-a-host.cdn.example.com", "dns", `{"rule":null,"action":"route","route":"direct","default":true}`, 0, 900, 8.25),
			flow("3", `"proto":"udp","src":"10.0.0.5:5002","dst":"[2001:db8::1]:6881","process":"evil\u001b[31m"`, "", "", `{"rule":"no_torrents","action":"block","target":"reject","route":null}`, 0, 0, -1),
			flow("4", `"proto":"tcp","src":"10.0.0.5:5003","dst":"203.0.113.4:22","process":null`, "", "", `{"rule":"ssh","action":"route","route":"ha","default":false}`, 99_950, 12, 250),
		}},
	}
	l.Flows.Flows[1].Killed = true
	l.Flows.Flows[3].Pinned, l.Flows.Flows[3].PinnedRoute = true, "backup"
	return l
}

// TestViews draws screens after some keys. The first line of each input is the size,
// the second one has the keys.
func TestViews(t *testing.T) {
	golden.Files(t, "testdata/*.txtar", ".keys", *update, func(t testing.TB, _ string, src []byte) string {
		size, keys, _ := strings.Cut(strings.TrimSpace(string(src)), "\n")
		var width, height int
		if _, err := fmt.Sscanf(size, "%dx%d", &width, &height); err != nil {
			t.Fatal(err)
		}
		m := New(width, height, false).Looked(sample(), nil)
		for key := range strings.FieldsSeq(keys) {
			switch key {
			case "fail":
				m = m.Looked(Look{}, errors.New("no netpolicyd answers"))
				continue
			case "once":
				return m.Once()
			}
			var wish Wish
			m, wish = m.Key(key)
			facts, _ := m.Chosen()
			switch wish {
			case Refresh:
				m = m.Looked(sample(), nil)
			case Explain:
				m = m.Explained(facts, json.RawMessage(`{"rule":"zoom_fast","action":"route","route":"fast","why":"priority 100 before 10 (video), and it is the first of its priority","final":false,"pending":["sni"],"runner_up":"video","near":[{"rule":"telnet","failed":"port"}]}`), nil)
			}
		}
		lines := strings.Split(m.View(), "\n")
		if len(lines) != height {
			t.Errorf("%d lines on a screen of %d", len(lines), height)
		}
		for i, l := range lines {
			if w := ansi.StringWidth(l); w > width {
				t.Errorf("line %d is %d wide, the screen %d: %s", i, w, width, l)
			}
			lines[i] = strings.TrimRight(l, " ")
		}
		return strings.Join(lines, "\n") + "\n"
	})
}

func TestKeys(t *testing.T) {
	m := New(80, 24, false).Looked(sample(), nil)
	want := api.FlowsRequest{Sort: api.ByRate, Limit: maxRows}
	expect := func(keys string, wish Wish) {
		t.Helper()
		var got Wish
		for key := range strings.FieldsSeq(keys) {
			m, got = m.Key(key)
		}
		if got != wish {
			t.Errorf("%s: wish %d, want %d", keys, got, wish)
		}
		if diff := cmp.Diff(want, m.Request()); diff != "" {
			t.Errorf("%s: %s", keys, diff)
		}
	}
	want.Sort = api.ByRTT
	expect("s", Refresh)
	expect("/ x esc", Nothing)
	want.Match = "zo q"
	expect("/ z o o backspace space q enter", Refresh)
	want.Match = ""
	expect("esc", Refresh)
	expect("p", Nothing)
	if !m.Paused() {
		t.Error("not paused")
	}
	expect("p", Refresh)
	expect("enter", Explain)
	expect("q", Quit)
	expect("/ ctrl+c", Quit)
}

// TestChoiceStays: a flow that was chosen stays chosen when others come before it.
func TestChoiceStays(t *testing.T) {
	m := New(80, 24, false).Looked(sample(), nil)
	m, _ = m.Key("down")
	l := sample()
	l.Flows.Flows[0], l.Flows.Flows[1] = l.Flows.Flows[1], l.Flows.Flows[0]
	m = m.Looked(l, nil)
	if facts, _ := m.Chosen(); !strings.Contains(string(facts), `"id":"2"`) {
		t.Errorf("chosen: %s", facts)
	}
	if m = m.Looked(Look{}, nil); m.chosen != 0 {
		t.Error("an empty list has a chosen row")
	}
	if _, wish := m.Key("enter"); wish != Nothing {
		t.Error("nothing was to be explained")
	}
}

// TestColourIsOnlyColour: with and without colour the screen reads the same.
func TestColourIsOnlyColour(t *testing.T) {
	plain, colour := New(80, 24, false).Looked(sample(), nil).View(), New(80, 24, true).Looked(sample(), nil).View()
	if strings.Contains(plain, "\x1b") {
		t.Error("escape codes without colour")
	}
	if plain == colour {
		t.Error("no colour")
	}
	if diff := cmp.Diff(plain, ansi.Strip(colour)); diff != "" {
		t.Error(diff)
	}
}

// TestAnyKeysFit: whatever is pressed on whatever screen, it is drawn in its bounds.
func TestAnyKeysFit(t *testing.T) {
	keys := []string{"s", "/", "p", "enter", "esc", "up", "down", "pgup", "pgdown", "home", "end", "x", "backspace", "ä"}
	rapid.Check(t, func(t *rapid.T) {
		m := New(rapid.IntRange(0, 200).Draw(t, "width"), rapid.IntRange(0, 60).Draw(t, "height"), rapid.Bool().Draw(t, "color"))
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				l := sample()
				l.Flows.Flows = l.Flows.Flows[:rapid.IntRange(0, 4).Draw(t, "flows")]
				m = m.Looked(l, nil)
			case 1:
				m = m.Sized(rapid.IntRange(0, 200).Draw(t, "width"), rapid.IntRange(0, 60).Draw(t, "height"))
			case 2:
				m = m.Explained(json.RawMessage(`{"id":"1"}`), json.RawMessage(`{"why":"`+strings.Repeat("why ", 100)+`"}`), nil)
			default:
				m, _ = m.Key(rapid.SampledFrom(keys).Draw(t, "key"))
			}
			lines := strings.Split(m.View(), "\n")
			if len(lines) > max(m.height, 1) {
				t.Fatalf("%d lines on a screen of %d", len(lines), m.height)
			}
			for _, l := range lines {
				if w := ansi.StringWidth(l); w > max(m.width, leastWidth) {
					t.Fatalf("a line is %d wide on a screen of %d: %s", w, m.width, l)
				}
			}
		}
	})
}

func TestAmount(t *testing.T) {
	for n, want := range map[uint64]string{0: "-", 7: "7", 999: "999", 1000: "1.0k", 99_950: "100k", 999_400: "999k", 999_500: "1.0M", 2_500_000: "2.5M", 1 << 63: "9.2E"} {
		if got := amount(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
