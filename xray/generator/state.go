package generator

import (
	"fmt"
	"slices"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

// State is a profile as flat text: what a form holds between two calls. It has the
// secrets.
type State struct {
	Form     string  `json:"form"`   // how it was spelled: url, vmess-json, clash, …
	Scheme   string  `json:"scheme"` // vless, vmess, trojan, ss, …
	Name     string  `json:"name"`
	Host     string  `json:"host"`
	Port     string  `json:"port"`
	User     string  `json:"user"`
	Password string  `json:"password"`
	Params   []Param `json:"params"`
}

// Param is a key in the spelling of links.
type Param struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	JSON  bool   `json:"json,omitempty"` // the text of a JSON value that is no string
}

// stateOf is the other way of State.profile.
func stateOf(p link.Profile) State {
	f := p.Fields()
	s := State{
		Form: p.Source.Form.String(), Scheme: f.Scheme, Name: f.Name, Host: f.Host, Port: f.Port,
		User: f.User.Reveal(), Password: f.Pass.Reveal(), Params: []Param{},
	}
	for _, x := range f.Params {
		s.Params = append(s.Params, Param{Key: x.Key, Value: x.Value.Reveal(), JSON: x.JSON})
	}
	return s
}

// fields are what link.Build reads.
func (s State) fields() link.Fields {
	f := link.Fields{Scheme: s.Scheme, Name: s.Name, Host: s.Host, Port: s.Port, User: link.Secret(s.User), Pass: link.Secret(s.Password)}
	for _, x := range s.Params {
		f.Params = append(f.Params, link.Field{Param: link.Param{Key: x.Key, Value: link.Secret(x.Value), JSON: x.JSON}})
	}
	return f
}

// profile reads the state. It is an error if there is no such form.
func (s State) profile() (link.Profile, []link.Finding, error) {
	for form := link.URL; form <= link.WireGuardQuick; form++ {
		if form.String() == s.Form {
			p, findings := link.Build(s.fields(), form)
			return p, findings, nil
		}
	}
	return link.Profile{}, nil, fmt.Errorf("form %s: a state has the form that it was read with", diag.Quote(s.Form))
}

// The keys of what stands before the question mark.
const (
	keyScheme   = "#scheme"
	keyName     = "#name"
	keyHost     = "#host"
	keyPort     = "#port"
	keyUser     = "#user"
	keyPassword = "#password"
)

// head returns what a key that begins with # stands for; nil if it is none.
func (s *State) head(key string) *string {
	switch key {
	case keyScheme:
		return &s.Scheme
	case keyName:
		return &s.Name
	case keyHost:
		return &s.Host
	case keyPort:
		return &s.Port
	case keyUser:
		return &s.User
	case keyPassword:
		return &s.Password
	}
	return nil
}

// maxValue bounds a value, as link does a whole link.
const maxValue = 64 << 10

// with returns the state with changes. The key keeps its place, and stands once.
func (s State) with(changes []Change) (State, error) {
	s.Params = slices.Clone(s.Params)
	for _, c := range changes {
		value := ""
		if c.Value != nil {
			value = *c.Value
		}
		if c.Key == "" || len(c.Key) > maxValue || len(value) > maxValue {
			return s, fmt.Errorf("a change has no key, or a value above 64 KiB")
		}
		if head := s.head(c.Key); head != nil {
			*head = value
			continue
		}
		at := slices.IndexFunc(s.Params, func(p Param) bool { return p.Key == c.Key })
		s.Params = slices.DeleteFunc(s.Params, func(p Param) bool { return p.Key == c.Key })
		switch {
		case c.Value == nil:
		case at < 0:
			s.Params = append(s.Params, Param{Key: c.Key, Value: value})
		default:
			s.Params = slices.Insert(s.Params, at, Param{Key: c.Key, Value: value})
		}
	}
	return s, nil
}
