// Package generator is what a form for proxies needs: it reads links and
// subscriptions, edits one key at a time, says what is wrong and how to mend it, and
// writes links, other programs' formats and configurations for Xray.
//
//	out := generator.Call("parse", []byte(`{"text":"trojan://…","secrets":true}`))
//	out  = generator.Call("edit", …)  // one of the states in it, and what to change
//
// Text and form are two sides of one State: what is read, edited and written again
// loses nothing, keys that nobody knows included. The package is pure; the daemon's
// API calls it, and a browser does as WebAssembly, so that links need not leave the
// machine.
package generator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

// ParseRequest is a text: a link, or a file of them in one of the formats of sub.
type ParseRequest struct {
	Text string `json:"text"`
	Core string `json:"core"` // the version whose rules hold; "" is 26.3
	// Secrets shows them. Without, they are ***, and there are neither states nor links.
	Secrets bool `json:"secrets"`
	// Written is there if the text was written here and edited since. It takes Secrets.
	Written *Written `json:"written"`
}

// ParseReply is what a text says.
type ParseReply struct {
	Format   string `json:"format"`
	Profiles []View `json:"profiles"`
	// Losses are what the text has and Format does not write of its profiles in the
	// same format: sections and comments, entries that can't be read (Left), and keys.
	Losses []Loss `json:"losses"`
	// Lines are, of a list of links, those that are no entries: empty ones and comments.
	// They are there with Secrets, as is View.Raw.
	Lines []Line `json:"lines,omitempty"`
	// Lost are, of a text that Written was edited to, what its format can't say of the
	// profiles; nil is a text that has nothing of what was written.
	Lost []Loss `json:"lost,omitzero"`
}

// Line is a line of a text.
type Line struct {
	Line int    `json:"line"` // from 1 on
	Text string `json:"text"`
}

// View is one profile as a form shows it.
type View struct {
	// Line is that of a file, from 1 on. A profile of Written has the line that it had
	// there, and a new one beside such none, unless both are lists of links.
	Line int `json:"line,omitempty"`
	// From is the place in Written of the profile that it was. Kept says that it still is
	// that one, and nothing more is said of it.
	From *int `json:"from,omitempty"`
	Kept bool `json:"kept,omitempty"`
	// OK is false if it can't be read. Then there are findings only, and of a link its line.
	OK        bool   `json:"ok"`
	Raw       string `json:"raw,omitempty"`
	Protocol  string `json:"protocol,omitempty"`  // what Fields takes
	Transport string `json:"transport,omitempty"` // as Protocol
	Security  string `json:"security,omitempty"`  // as Protocol
	// State is the profile itself, for the other functions.
	State    *State    `json:"state,omitempty"`
	Link     string    `json:"link,omitempty"` // in the form that it came in
	Fields   []Field   `json:"fields"`
	Findings []Finding `json:"findings"`
	// Losses are what other formats can't say of it. A format that is not named says all.
	Losses []Loss `json:"losses"`
}

// Origin is where a field's value comes from.
type Origin string

// The origins.
const (
	FromLink Origin = "link"     // it is stated
	Default  Origin = "default"  // it is not, and this is what Xray does
	Migrated Origin = "migrated" // it was stated in another spelling
)

// Field is one key of a profile. The keys that begin with # are what stands before
// the question mark: #scheme, #name, #host, #port, #user and #password.
type Field struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin Origin `json:"origin"`
	Was    string `json:"was,omitempty"` // the key that was migrated
	// Known is false where the key means nothing here; it is kept.
	Known  bool `json:"known"`
	Secret bool `json:"secret,omitempty"`
}

// Finding is something to know.
type Finding struct {
	Severity string `json:"severity"`      // error, warning or hint
	Key      string `json:"key,omitempty"` // as in Field
	Path     string `json:"path,omitempty"`
	Offset   int    `json:"offset,omitempty"` // of the text or its line, where the key's value begins
	Message  string `json:"message"`
	Help     string `json:"help,omitempty"`
	// Fix is a change after which the finding is gone and none worse has come. It was
	// tried.
	Fix *Change `json:"fix,omitempty"`
}

// Change sets a key, or removes it.
type Change struct {
	Key   string  `json:"key"`
	Value *string `json:"value"`          // null removes the key, so that its default holds
	Note  string  `json:"note,omitempty"` // of a fix: what has to be so
}

// Loss is what a format can't say of a profile.
type Loss struct {
	Format string   `json:"format"`
	Keys   []string `json:"keys"`
	Left   bool     `json:"left,omitempty"` // it can't be written at all
	Why    string   `json:"why,omitempty"`
}

// version reads the core of a request.
func version(core string) (config.Version, error) {
	if core == "" {
		return config.V26_3, nil
	}
	v, ok := config.ParseVersion(core)
	if !ok {
		return 0, fmt.Errorf("core %s: the versions are 26.3 and 26.7", diag.Quote(core))
	}
	return v, nil
}

// Parse reads a text. It is an error if nothing of it can be read.
func Parse(r ParseRequest) (ParseReply, error) {
	v, err := version(r.Core)
	if err != nil {
		return ParseReply{}, err
	}
	text := strings.TrimSpace(r.Text)
	var s sub.Subscription
	if alone := strings.Contains(text, "://") && !strings.ContainsAny(text, "\n{"); alone {
		p, findings := link.Parse(text)
		s.Entries = []sub.Entry{{Profile: p, Findings: findings}}
	} else if s, err = sub.Parse([]byte(r.Text)); err != nil {
		return ParseReply{}, err
	}
	var m *merge
	if r.Written != nil && r.Secrets {
		if m, err = r.Written.merge(v, r.Text, &s); err != nil {
			return ParseReply{}, err
		}
	}
	lines := sourceLines(s.Format, r.Text)
	out := ParseReply{Format: s.Format.String(), Profiles: []View{}, Losses: []Loss{}}
	if len(s.Beside) > 0 {
		out.Losses = append(out.Losses, Loss{Format: out.Format, Keys: s.Beside, Why: "only profiles are written"})
	}
	for i, e := range s.Entries {
		if m != nil && m.of[i] >= 0 {
			out.Profiles = m.left(out.Profiles, m.of[i])
			view, lost, err := m.view(v, i, e.Profile.Unknown)
			if err != nil {
				return ParseReply{}, err
			}
			if s.Format == sub.Links {
				view.Line = e.Line
			}
			out.Profiles = append(out.Profiles, view)
			if len(lost) > 0 {
				out.Losses = append(out.Losses, Loss{Format: out.Format, Keys: lost})
			}
			continue
		}
		source := ""
		switch {
		case e.Line == 0:
			source = text
		case e.Line <= len(lines):
			source = lines[e.Line-1]
		}
		var raw *link.Fields
		if f, _, findings := link.Read(source); !link.Refused(findings) {
			raw = &f
		}
		view := show(v, e.Profile, e.Findings, raw, r.Secrets)
		if m == nil || s.Format == sub.Links {
			view.Line = e.Line
		}
		if !view.OK && r.Secrets && s.Format == sub.Links {
			view.Raw = source
		}
		out.Profiles = append(out.Profiles, view)
		if m != nil && view.OK {
			m.states = append(m.states, *view.State)
		}
		switch {
		case !view.OK:
			out.Losses = append(out.Losses, Loss{Format: out.Format, Keys: []string{}, Left: true, Why: fmt.Sprintf("line %d can't be read", max(e.Line, 1))})
		case s.Format == sub.XrayJSON:
			out.Losses = append(out.Losses, xrayLosses(e.Profile)...)
		}
	}
	if r.Secrets && s.Format == sub.Links {
		out.Lines = otherLines(text, lines, s.Entries)
	}
	if m == nil {
		return out, nil
	}
	out.Profiles = m.left(out.Profiles, len(m.said))
	again, err := Format(FormatRequest{States: m.states, To: r.Written.To, Core: r.Core})
	out.Lost = again.Losses
	return out, err
}

// otherLines are the lines of a list of links that are no entries, but for empty ones at
// its end. A single link has none.
func otherLines(text string, lines []string, entries []sub.Entry) (others []Line) {
	if !strings.Contains(text, "\n") {
		return nil
	}
	last := len(strings.TrimRight(strings.Join(lines, "\n"), "\n \t\r"))
	for i, line := range lines {
		entry := len(entries) > 0 && entries[0].Line == i+1
		if entry {
			entries = entries[1:]
		}
		if last > 0 && !entry {
			others = append(others, Line{Line: i + 1, Text: line})
		}
		last -= len(line) + 1
	}
	return others
}

// sourceLines are the lines of a text of links; nil of other formats.
func sourceLines(f sub.Format, text string) []string {
	switch f {
	case sub.Links:
	case sub.Base64:
		text, _ = link.DecodeBase64(text)
	default:
		return nil
	}
	return strings.Split(text, "\n")
}

// EditRequest changes keys of a profile.
type EditRequest struct {
	State   State    `json:"state"`
	Changes []Change `json:"changes"`
	Core    string   `json:"core"`
}

// Edit changes a profile. Where what comes out can't be read, View.OK is false, and
// the findings say why: the caller still has the profile that it gave.
func Edit(r EditRequest) (View, error) {
	v, err := version(r.Core)
	if err != nil {
		return View{}, err
	}
	state, err := r.State.with(r.Changes)
	if err != nil {
		return View{}, err
	}
	p, findings, err := state.profile()
	if err != nil {
		return View{}, err
	}
	raw := state.fields()
	return show(v, p, findings, &raw, true), nil
}

// FormatRequest writes profiles.
type FormatRequest struct {
	States []State `json:"states"`
	// To is link, base64, clash, singbox, sip008 or xray; source is a link in the form
	// that it came in.
	To   string `json:"to"`
	Core string `json:"core"` // of xray
}

// FormatReply is a text, and what it could not say of each profile.
type FormatReply struct {
	Text     string    `json:"text"`
	Losses   []Loss    `json:"losses"`
	Findings []Finding `json:"findings"`
}

// Format writes profiles in a format. It is an error if one can't be read.
func Format(r FormatRequest) (FormatReply, error) {
	out := FormatReply{Losses: []Loss{}, Findings: []Finding{}}
	profiles, err := profiles(r.States)
	if err != nil {
		return out, err
	}
	switch r.To {
	case "source":
		for _, p := range profiles {
			out.Text += p.Format() + "\n"
		}
		return out, nil
	case "xray":
		built, err := Build(BuildRequest{States: r.States, Core: r.Core})
		out.Text, out.Findings = built.Config, built.Findings
		for _, p := range profiles {
			out.Losses = append(out.Losses, xrayLosses(p)...)
		}
		return out, err
	}
	format, ok := sub.ParseFormat(r.To)
	if !ok {
		return out, fmt.Errorf("format %s: the formats are source, link, base64, clash, singbox, sip008 and xray", diag.Quote(r.To))
	}
	text, losses := sub.Write(format, profiles)
	out.Text = string(text)
	for _, l := range losses {
		out.Losses = append(out.Losses, loss(format, l))
	}
	return out, nil
}

// xrayLosses says which keys of a profile no configuration for Xray has.
func xrayLosses(p link.Profile) []Loss {
	if len(p.Unknown) == 0 {
		return nil
	}
	l := Loss{Format: sub.XrayJSON.String(), Keys: []string{}}
	for _, x := range p.Unknown {
		l.Keys = append(l.Keys, x.Key)
	}
	return []Loss{l}
}

func loss(f sub.Format, l sub.Loss) Loss {
	return Loss{Format: f.String(), Keys: append([]string{}, l.Keys...), Left: l.Left, Why: l.Why}
}

// BuildRequest asks for a configuration.
type BuildRequest struct {
	States []State `json:"states"`
	Core   string  `json:"core"`
	// Listen is a loopback address with a port for SOCKS and HTTP; "" builds the
	// outbounds alone.
	Listen string `json:"listen"`
}

// BuildReply is a configuration for Xray as JSON, "" if there is none.
type BuildReply struct {
	Config   string    `json:"config"`
	Findings []Finding `json:"findings"`
}

// Build writes a configuration that runs the profiles. It is an error if one of them
// can't be read.
func Build(r BuildRequest) (BuildReply, error) {
	out := BuildReply{Findings: []Finding{}}
	v, err := version(r.Core)
	if err != nil {
		return out, err
	}
	profiles, err := profiles(r.States)
	if err != nil {
		return out, err
	}
	var o config.Options
	if r.Listen != "" {
		at, err := netip.ParseAddrPort(r.Listen)
		if err != nil {
			return out, fmt.Errorf("listen %s: not an address with a port", diag.Quote(r.Listen))
		}
		o.Inbounds = []config.Inbound{{Name: "local", Listen: at, Group: "all"}}
	}
	data, findings := config.Build(v, profiles, o)
	out.Config = string(data)
	for _, f := range findings {
		out.Findings = append(out.Findings, ofConfig(f))
	}
	return out, nil
}

// profiles reads states.
func profiles(states []State) ([]link.Profile, error) {
	out := make([]link.Profile, len(states))
	for i, s := range states {
		p, findings, err := s.profile()
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(findings, func(f link.Finding) bool { return f.Severity == diag.Error }); i >= 0 {
			return nil, fmt.Errorf("a profile can't be read: %s", findings[i].Message)
		}
		out[i] = p
	}
	return out, nil
}
