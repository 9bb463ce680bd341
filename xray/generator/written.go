package generator

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

// Written is what a text was written of before it was edited. No format but the
// profiles' own says all of them: what the text never had stays as it is, and what was
// changed in the text is changed in the profile that it was written from.
type Written struct {
	To string `json:"to"` // as in FormatRequest, but source: link is that
	// States are the profiles. Null is one that could not be read, and is kept.
	States []*State `json:"states"`
}

// said writes the profiles as before and reads them again: what the text says of each,
// nil where it says nothing. text is only the profiles and what belongs to the format.
func (w Written) said(v config.Version) (text string, said []*State, err error) {
	var profiles []link.Profile
	var at []int // of each profile
	for i, s := range w.States {
		if s == nil {
			continue
		}
		p, findings, err := s.profile()
		if err != nil {
			return "", nil, err
		}
		if !link.Refused(findings) {
			profiles, at = append(profiles, p), append(at, i)
		}
	}
	said = make([]*State, len(w.States))
	left := make([]bool, len(profiles))
	switch w.To {
	case "link":
		var b strings.Builder
		for _, p := range profiles {
			b.WriteString(p.Format() + "\n")
		}
		text = b.String()
	case "xray":
		data, tags, _ := config.BuildTagged(v, profiles, config.Options{})
		for i := range left {
			left[i] = data == nil || tags[i] == ""
		}
		text = string(data)
	default:
		format, ok := sub.ParseFormat(w.To)
		if !ok {
			return "", nil, fmt.Errorf("format %s: a text is written as link, base64, clash, singbox, sip008 or xray", diag.Quote(w.To))
		}
		data, losses := sub.Write(format, profiles)
		for _, l := range losses {
			left[l.Index] = l.Left
		}
		text = string(data)
	}
	var order []int
	for i := range profiles {
		if !left[i] {
			order = append(order, i)
		}
	}
	if w.To == sub.SingBox.String() { // endpoints stand behind outbounds
		slices.SortStableFunc(order, func(a, b int) int { return endpoint(profiles[a]) - endpoint(profiles[b]) })
	}
	if len(order) == 0 {
		return text, said, nil
	}
	s, err := sub.Parse([]byte(text))
	if err != nil {
		return "", nil, err
	}
	if len(s.Entries) != len(order) {
		return "", nil, fmt.Errorf("%d profiles were written as %d", len(order), len(s.Entries))
	}
	for i, e := range s.Entries {
		if !link.Refused(e.Findings) {
			state := stateOf(e.Profile)
			said[at[order[i]]] = &state
		}
	}
	return text, said, nil
}

func endpoint(p link.Profile) int {
	if _, ok := p.Proxy.(link.WireGuard); ok {
		return 1
	}
	return 0
}

// merge joins the entries of an edited text with the profiles that it was written of.
type merge struct {
	w      Written
	said   []*State
	says   []*State // of each entry; nil is one that can't be read
	of     []int    // of each entry, the profile that it was written from; -1 is a new one
	states []State  // what came out, in order
	next   int      // the first profile that has not been passed yet
}

// merge returns nil if the text has nothing of what was written, and is another one.
// Of s it takes away what only belongs to the format.
func (w Written) merge(v config.Version, text string, s *sub.Subscription) (*merge, error) {
	if w.To != s.Format.String() {
		return nil, nil
	}
	before, said, err := w.said(v)
	if err != nil {
		return nil, err
	}
	m := &merge{w: w, said: said, says: make([]*State, len(s.Entries)), of: slices.Repeat([]int{-1}, len(s.Entries))}
	for i, e := range s.Entries {
		if !link.Refused(e.Findings) {
			state := stateOf(e.Profile)
			m.says[i] = &state
		}
	}
	m.match()
	is := func(s *State) bool { return s != nil }
	if slices.ContainsFunc(said, is) && slices.ContainsFunc(m.says, is) && slices.Max(m.of) < 0 {
		return nil, nil
	}
	s.Beside = beside(s.Beside, text, before)
	return m, nil
}

// marks are by what an entry is known to be that of a profile, the surest first. ""
// is none.
var marks = []func(State) string{
	State.text,
	func(s State) string { return s.Name },
	func(s State) string { return strings.Join([]string{s.Scheme, s.Host, s.Port, s.User}, "\n") },
	func(s State) string { return strings.Join([]string{s.Scheme, s.User, s.Password}, "\n") },
	func(s State) string { return s.Host },
}

// text is the same of two states that are the same. It has the secrets.
func (s State) text() string {
	data, _ := json.Marshal(s) // texts and lists of them can always be written
	return string(data)
}

// match finds what each entry was written from.
func (m *merge) match() {
	taken := make([]bool, len(m.said))
	for _, mark := range marks {
		waiting := map[string][]int{}
		for i, s := range m.said {
			if s != nil && !taken[i] {
				waiting[mark(*s)] = append(waiting[mark(*s)], i)
			}
		}
		delete(waiting, "")
		for i, s := range m.says {
			if s == nil || m.of[i] >= 0 {
				continue
			}
			if list := waiting[mark(*s)]; len(list) > 0 {
				m.of[i], taken[list[0]], waiting[mark(*s)] = list[0], true, list[1:]
			}
		}
	}
}

// left appends the profiles before the one at end that the text never had.
func (m *merge) left(out []View, end int) []View {
	for ; m.next < end; m.next++ {
		if m.said[m.next] != nil {
			continue
		}
		out = append(out, View{From: &[]int{m.next}[0], Kept: true, Fields: []Field{}, Findings: []Finding{}, Losses: []Loss{}})
		if s := m.w.States[m.next]; s != nil {
			m.states = append(m.states, *s)
		}
	}
	return out
}

// view shows the profile that an entry was written from, as the text has it now. lost
// are the keys that the text has and would not have if it were written anew.
func (m *merge) view(v config.Version, entry int, unknown []link.Param) (view View, lost []string, err error) {
	from, says := m.of[entry], *m.says[entry]
	profile, said := *m.w.States[from], *m.said[from]
	if said.text() == says.text() {
		m.states = append(m.states, profile)
		return View{From: &from, Kept: true, Fields: []Field{}, Findings: []Finding{}, Losses: []Loss{}}, nil, nil
	}
	state := overlay(profile, said, says)
	p, findings, err := state.profile()
	if err != nil {
		return View{}, nil, err
	}
	raw := state.fields()
	view = show(v, p, findings, &raw, true)
	view.From = &from
	if view.OK {
		m.states = append(m.states, *view.State)
	}
	if state.Form != says.Form {
		for _, u := range unknown {
			lost = append(lost, u.Key)
		}
	}
	return view, lost, nil
}

// overlay makes on a profile the changes that were made to what a text said of it.
func overlay(profile, said, says State) State {
	if profile.text() == said.text() {
		return says // the text says all
	}
	if said.Scheme != says.Scheme { // keys of another protocol mean something else
		if says.Name == said.Name {
			says.Name = profile.Name
		}
		return says
	}
	out := profile
	out.Params = slices.Clone(profile.Params)
	for _, key := range []string{keyName, keyHost, keyPort, keyUser, keyPassword} {
		if now := *says.head(key); now != *said.head(key) {
			*out.head(key) = now
		}
	}
	for _, p := range said.Params {
		if says.param(p.Key) < 0 {
			out.Params = slices.DeleteFunc(out.Params, func(o Param) bool { return o.Key == p.Key })
		}
	}
	for _, p := range says.Params {
		if i := said.param(p.Key); i >= 0 && said.Params[i] == p {
			continue
		}
		if i := out.param(p.Key); i >= 0 {
			out.Params[i] = p
		} else {
			out.Params = append(out.Params, p)
		}
	}
	return out
}

// param returns the place of a key, -1 if there is none.
func (s State) param(key string) int {
	return slices.IndexFunc(s.Params, func(p Param) bool { return p.Key == key })
}

// beside takes out of the names what a text had when it was written, and has as it was.
func beside(names []string, text, before string) []string {
	var now, was map[string]any
	_ = json.Unmarshal([]byte(before), &was) // not all formats are JSON: then nothing is equal
	_ = json.Unmarshal([]byte(text), &now)
	return slices.DeleteFunc(names, func(name string) bool {
		if name == "outbound blackhole" {
			return was != nil
		}
		section, ok := was[name]
		return ok && reflect.DeepEqual(section, now[name])
	})
}
