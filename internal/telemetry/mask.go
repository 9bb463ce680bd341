package telemetry

import (
	"encoding/json"
	"strings"

	"netpolicy.dev/netpolicy/internal/recorder"
)

// maskKeys are the keys of a flow that a masked field stands for.
var maskKeys = map[string][]string{
	"name":    {"sni", "http_host", "domain", "dns"},
	"src":     {"src", "src_mac"},
	"dst":     {"dst"},
	"process": {"process", "process_path", "cgroup"},
	"user":    {"user", "group"},
}

// mask replaces facts in records by hashes, with a key of this run of the daemon: what belongs
// together can still be seen in one run. The nil mask replaces nothing.
type mask struct {
	names bool
	keys  map[string]bool
	hash  recorder.Masker
}

// newMask returns a mask of the given fields (rules.MaskFields), nil for none.
func newMask(fields []string) *mask {
	if len(fields) == 0 {
		return nil
	}
	m := &mask{keys: map[string]bool{}, hash: recorder.NewMasker()}
	for _, f := range fields {
		m.names = m.names || f == "name"
		for _, key := range maskKeys[f] {
			m.keys[key] = true
		}
	}
	return m
}

// apply changes a record. The near misses spell out facts: they are left out.
func (m *mask) apply(r *Record) {
	if m == nil {
		return
	}
	r.Context.Near = nil
	if m.names && r.Context.Name != "" {
		var names []string
		for name := range strings.SplitSeq(r.Context.Name, ",") {
			names = append(names, m.hash.Name(name))
		}
		r.Context.Name = strings.Join(names, ",")
	}
	var facts map[string]json.RawMessage
	if json.Unmarshal(r.Context.Flow, &facts) != nil {
		r.Context.Flow = nil // what can't be read can't be masked
		return
	}
	for key := range facts {
		if m.keys[key] {
			facts[key] = m.value(key, facts[key])
		}
	}
	if out, err := json.Marshal(facts); err == nil { // of raw messages that were read: it can't fail
		r.Context.Flow = out
	}
}

// value masks a text or a list of texts; ports of addresses stay, and an address has one hash with
// a port and without.
func (m *mask) value(key string, raw json.RawMessage) json.RawMessage {
	one := func(text string) string {
		switch key {
		case "sni", "http_host", "domain", "dns":
			return m.hash.Name(text)
		case "src", "dst":
			if i := strings.LastIndexByte(text, ':'); i > 0 && strings.Count(text, ":") == 1 || strings.Contains(text, "]:") {
				return m.hash.Text(strings.Trim(text[:i], "[]")) + text[i:]
			}
		}
		return m.hash.Text(text)
	}
	var text string
	var list []string
	var out any
	switch {
	case json.Unmarshal(raw, &text) == nil && string(raw) != "null":
		out = one(text)
	case json.Unmarshal(raw, &list) == nil && list != nil:
		for i := range list {
			list[i] = one(list[i])
		}
		out = list
	default:
		return json.RawMessage("null")
	}
	b, err := json.Marshal(out)
	if err != nil {
		return json.RawMessage("null")
	}
	return b
}
