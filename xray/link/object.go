package link

import (
	"encoding/json"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

const (
	// maxObject bounds the JSON of one key: real ones have some hundred bytes.
	maxObject = 16 << 10
	// maxObjectDepth bounds how deep that JSON nests; Xray's own settings need 8.
	maxObjectDepth = 16
)

// object takes a key whose value is a JSON object. What is none is kept as unknown;
// it is false if the object is over a bound.
func (b *builder) object(key string) (Object, bool) {
	v, at := b.take(key)
	if v == "" {
		return "", true
	}
	if len(v) > maxObject || JSONDepth([]byte(v)) > maxObjectDepth {
		b.report(diag.Error, key, at, "the object is larger than 16 KiB or nests more than 16 deep", "")
		return "", false
	}
	v = strings.TrimSpace(v)
	if !strings.HasPrefix(v, "{") || !json.Valid([]byte(v)) {
		b.keep(key, "not a JSON object, so it is not used", "")
		return "", true
	}
	return Object(v), true
}

// hasMember reports whether the object has the key at its top.
func hasMember(o Object, key string) bool {
	var m map[string]json.RawMessage
	return o != "" && json.Unmarshal([]byte(o), &m) == nil && m[key] != nil
}

// addMember returns the object with another member at its end.
func addMember(o Object, key string, p Param) Object {
	value := p.Value.Reveal()
	if !p.JSON && value != "true" && value != "false" {
		value = QuoteJSON(value)
	}
	member := QuoteJSON(key) + ":" + value
	inner := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(string(o), "{"), "}"))
	if inner != "" {
		member = inner + "," + member
	}
	return Object("{" + member + "}")
}

// member is one key of a JSON object, in the object's order.
type member struct {
	key   string
	value string // decoded if it was a string
	text  string // the JSON text
	at    int    // where the text begins
}

// isString reports whether the value was a JSON string.
func (m member) isString() bool { return strings.HasPrefix(m.text, `"`) }

// members returns what the object holds. It is false where text is not one object
// within the bounds.
func members(text string) ([]member, bool) {
	if JSONDepth([]byte(text)) > maxObjectDepth {
		return nil, false
	}
	d := json.NewDecoder(strings.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	var list []member
	for d.More() {
		t, err := d.Token()
		key, isKey := t.(string)
		if err != nil || !isKey || len(list) == maxParams {
			return nil, false
		}
		var raw json.RawMessage
		if d.Decode(&raw) != nil {
			return nil, false
		}
		m := member{key: key, text: string(raw), value: string(raw), at: int(d.InputOffset()) - len(raw)}
		if m.isString() {
			if json.Unmarshal(raw, &m.value) != nil {
				return nil, false
			}
		}
		list = append(list, m)
	}
	if t, err := d.Token(); err != nil || t != json.Delim('}') {
		return nil, false
	}
	return list, strings.TrimSpace(text[d.InputOffset():]) == ""
}

// jsonObject reports whether s is the text of an object.
func jsonObject(s string) bool { return strings.HasPrefix(s, "{") && json.Valid([]byte(s)) }
