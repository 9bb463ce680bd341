// Package top is the live screen of `netpolicy top`: uplinks above, the busiest
// connections below. A Model is a value: keys and looks at the daemon make the
// next one, and View shows it as text. The package reads no terminal and asks no
// daemon; whoever runs it does, and needs no particular library for that.
//
//	m := top.New(80, 24, color).Looked(look, nil)
//	m, wish := m.Key("s")
//	fmt.Print(m.View())
package top

import (
	"encoding/json"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/internal/api"
)

const (
	// maxRows bounds the flows that are asked for: several screens.
	maxRows = 200
	// maxFilter bounds what can be typed as a filter, in bytes.
	maxFilter = 64
	// maxWhy bounds the lines of an explanation.
	maxWhy = 40
)

// Look is what one look at the daemon gave.
type Look struct {
	Status api.Status `json:"status"`
	Flows  api.Flows  `json:"flows"`
}

// Wish is what a key asks of whoever runs the model.
type Wish uint8

// The wishes. The zero Wish is nothing.
const (
	Nothing Wish = iota
	Quit
	Refresh // look again, with the model's Request
	Explain // ask about the model's Chosen flow, and call Explained
)

// row is a flow as the screen shows it.
type row struct {
	flow     json.RawMessage
	id       string
	name     string
	process  string
	route    string
	blocked  bool
	rtt      float64
	up, down uint64
	rule     string
	pinned   bool
}

// Model is the screen's state. Use New. Its methods change nothing and return
// the next state.
type Model struct {
	width, height int
	color         bool

	status  api.Status
	total   int
	matched int
	rows    []row // never modified
	known   bool  // a look has come
	err     string

	order  int // in api.Orders
	match  string
	typing bool
	typed  string
	paused bool

	chosen int // row
	first  int // row that stands first on the screen
	why    []string
}

// New returns a model that knows nothing yet, by rate.
func New(width, height int, color bool) Model {
	return Model{width: width, height: height, color: color, order: slices.Index(api.Orders, api.ByRate)}
}

// By returns the model in another order, one of api.Orders.
func (m Model) By(order string) Model {
	m.order = max(slices.Index(api.Orders, order), 0)
	return m
}

// Matching returns the model with a filter.
func (m Model) Matching(text string) Model {
	m.match = text
	return m
}

// Sized returns the model for a screen of this size.
func (m Model) Sized(width, height int) Model {
	m.width, m.height = width, height
	return m.scrolled()
}

// Paused reports whether the screen is to stay as it is.
func (m Model) Paused() bool { return m.paused }

// Request is what the model wants to see.
func (m Model) Request() api.FlowsRequest {
	return api.FlowsRequest{Sort: api.Orders[m.order], Limit: maxRows, Match: m.match}
}

// Looked takes a look, or why there was none. The chosen flow stays chosen while it is there.
func (m Model) Looked(l Look, err error) Model {
	if err != nil {
		m.err = err.Error()
		return m
	}
	before := m.chosenID()
	m.err, m.known = "", true
	m.status, m.total, m.matched = l.Status, l.Flows.Total, l.Flows.Matched
	m.rows = make([]row, 0, len(l.Flows.Flows))
	for i := range l.Flows.Flows {
		m.rows = append(m.rows, rowOf(&l.Flows.Flows[i]))
	}
	if i := slices.IndexFunc(m.rows, func(r row) bool { return r.id == before }); i >= 0 && before != "" {
		m.chosen = i
	}
	return m.scrolled()
}

func (m Model) chosenID() string {
	if m.chosen < len(m.rows) {
		return m.rows[m.chosen].id
	}
	return ""
}

// rowOf reads a flow. What can't be read is left out: the daemon wrote it.
func rowOf(f *api.Flow) row {
	var facts struct{ ID, Proto, Dst, Process string }
	var d struct {
		Rule, Action, Route string
		Default             bool
	}
	_ = json.Unmarshal(f.Flow, &facts)
	_ = json.Unmarshal(f.Decision, &d)
	r := row{
		flow: f.Flow, id: facts.ID, name: f.Name, process: facts.Process, route: d.Route, rule: d.Rule, rtt: f.RTTms,
		up: f.UpRate, down: f.DownRate, pinned: f.Pinned,
	}
	if r.name == "" {
		r.name = strings.TrimSpace(facts.Proto + " " + facts.Dst)
	}
	switch {
	case f.Killed: // whatever the policy says of it
		r.route, r.blocked = "ended", true
	case d.Action == "none":
		r.route = "none"
	case d.Route == "" && d.Action != "": // also a group without a usable member
		r.route, r.blocked = "block", true
	case f.Pinned:
		r.route = f.PinnedRoute
	}
	if r.rule == "" && d.Default {
		r.rule = "(default)"
	}
	return r
}

// Chosen returns the facts of the chosen flow.
func (m Model) Chosen() (facts json.RawMessage, ok bool) {
	if m.chosen >= len(m.rows) {
		return nil, false
	}
	return m.rows[m.chosen].flow, true
}

// Explained takes the answer about the flow that was chosen: the engine's
// explanation, or why there is none.
func (m Model) Explained(facts, explanation json.RawMessage, err error) Model {
	var f struct{ Proto, Src, Dst string }
	_ = json.Unmarshal(facts, &f)
	m.why = []string{strings.TrimSpace(f.Proto + " " + f.Src + " > " + f.Dst)}
	if err != nil {
		m.why = append(m.why, "error: "+err.Error())
		return m.scrolled()
	}
	var e struct {
		Rule     string
		Action   string
		Route    string
		Why      string
		Final    bool
		Pending  []string
		RunnerUp string `json:"runner_up"`
		Near     []struct{ Rule, Failed string }
	}
	if err := json.Unmarshal(explanation, &e); err != nil {
		m.why = append(m.why, "error: the explanation can't be read: "+err.Error())
		return m.scrolled()
	}
	by := "by default"
	if e.Rule != "" {
		by = "by " + e.Rule
	}
	m.why = append(m.why, strings.Join(strings.Fields(e.Action+" "+e.Route+" "+by), " "), "why: "+e.Why)
	if !e.Final && len(e.Pending) > 0 {
		m.why = append(m.why, "waits for "+strings.Join(e.Pending, ", "))
	}
	if e.RunnerUp != "" {
		m.why = append(m.why, "next would be "+e.RunnerUp)
	}
	for _, n := range e.Near {
		m.why = append(m.why, "not "+n.Rule+": "+n.Failed)
	}
	m.why = m.why[:min(len(m.why), maxWhy)]
	return m.scrolled()
}

// Key takes a key by its name: "q", "enter", "up", "ctrl+c".
func (m Model) Key(key string) (Model, Wish) {
	if key == "ctrl+c" {
		return m, Quit
	}
	if m.typing {
		return m.typedKey(key)
	}
	switch key {
	case "q":
		return m, Quit
	case "esc":
		if m.why == nil && m.match != "" {
			m.match = ""
			return m, Refresh
		}
		m.why = nil
	case "s":
		m.order = (m.order + 1) % len(api.Orders)
		m.chosen, m.first = 0, 0
		return m, Refresh
	case "/":
		m.typing, m.typed = true, m.match
	case "p":
		if m.paused = !m.paused; !m.paused {
			return m, Refresh
		}
	case "enter":
		if _, ok := m.Chosen(); ok {
			return m, Explain
		}
	case "up", "k":
		m.chosen--
	case "down", "j":
		m.chosen++
	case "pgup":
		m.chosen -= m.space()
	case "pgdown":
		m.chosen += m.space()
	case "home":
		m.chosen = 0
	case "end":
		m.chosen = len(m.rows)
	}
	return m.scrolled(), Nothing
}

// typedKey takes a key while a filter is being typed.
func (m Model) typedKey(key string) (Model, Wish) {
	switch {
	case key == "enter":
		m.typing, m.match = false, strings.TrimSpace(m.typed)
		m.chosen, m.first = 0, 0
		return m, Refresh
	case key == "esc":
		m.typing = false
	case key == "backspace":
		if r := []rune(m.typed); len(r) > 0 {
			m.typed = string(r[:len(r)-1])
		}
	case key == "space":
		m.typed += " "
	case len([]rune(key)) == 1 && len(m.typed)+len(key) <= maxFilter:
		m.typed += key
	}
	return m, Nothing
}

// scrolled returns the model with its chosen row within the list and on the screen.
func (m Model) scrolled() Model {
	m.chosen = max(min(m.chosen, len(m.rows)-1), 0)
	m.first = max(min(m.first, m.chosen), m.chosen-m.space()+1, 0)
	return m
}
