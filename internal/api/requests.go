package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// operation is what the contract says of the requests of a route.
type operation struct {
	Parameters  []parameter
	RequestBody *struct {
		Required bool
		Content  map[string]struct{ Schema *schema }
	} `yaml:"requestBody"`
}

type parameter struct {
	Name, In string
	Schema   *schema
}

// schema is the part of JSON Schema that the contract uses in requests. The zero schema takes anything.
type schema struct {
	Ref                  string `yaml:"$ref"`
	Type                 kinds
	Enum                 []string
	Minimum, Maximum     *int64
	MaxLength            *int `yaml:"maxLength"` // in characters
	Pattern              string
	Required             []string
	Properties           map[string]*schema // nil: of any name
	AdditionalProperties *schema            `yaml:"additionalProperties"`
	Items                *schema

	pattern *regexp.Regexp
}

// kinds are JSON's: of one or of a list.
type kinds []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (k *kinds) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*k = kinds{n.Value}
		return nil
	}
	return n.Decode((*[]string)(k))
}

// UnmarshalYAML implements yaml.Unmarshaler. The schema true takes anything.
func (s *schema) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return nil
	}
	type plain schema
	return n.Decode((*plain)(s))
}

// operations are those of the contract, "POST /api/v1/lint".
var operations = sync.OnceValue(readContract)

func readContract() map[string]*operation {
	var doc struct {
		Paths      map[string]map[string]*operation
		Components struct{ Schemas map[string]*schema }
	}
	if err := yaml.Unmarshal(contract, &doc); err != nil {
		panic(fmt.Errorf("read the contract: %w", err)) // every test would
	}
	all := map[string]*operation{}
	for path, methods := range doc.Paths {
		for method, o := range methods {
			all[strings.ToUpper(method)+" "+path] = o
			for i := range o.Parameters {
				o.Parameters[i].Schema = o.Parameters[i].Schema.resolved(doc.Components.Schemas)
			}
			if o.RequestBody == nil {
				continue
			}
			for kind, c := range o.RequestBody.Content {
				c.Schema = c.Schema.resolved(doc.Components.Schemas)
				o.RequestBody.Content[kind] = c
			}
		}
	}
	return all
}

// resolved is the schema without references. Those of requests have no circles.
func (s *schema) resolved(all map[string]*schema) *schema {
	if s == nil {
		return nil
	}
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		s = all[name]
	}
	if s.Pattern != "" {
		s.pattern = regexp.MustCompile(s.Pattern)
	}
	for name, one := range s.Properties {
		s.Properties[name] = one.resolved(all)
	}
	s.AdditionalProperties, s.Items = s.AdditionalProperties.resolved(all), s.Items.resolved(all)
	return s
}

// body is the schema of the body; nil where there is none. needed: it can't be left out.
func (o *operation) body() (s *schema, needed bool) {
	if o.RequestBody == nil {
		return nil, false
	}
	return o.RequestBody.Content["application/json"].Schema, o.RequestBody.Required
}

// refuses says what of a request is not as the contract has it, besides the body, which is looked at when it is
// read. A parameter of the query without a value is as none.
func (o *operation) refuses(r *http.Request) error {
	if s, _ := o.body(); s == nil && r.ContentLength != 0 {
		return fmt.Errorf("%s has no body here", r.Method)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return fmt.Errorf("read the query: %w", err)
	}
	for _, p := range o.Parameters {
		var given []string
		switch p.In {
		case "query":
			given = query[p.Name]
		case "header":
			given = r.Header.Values(p.Name)
		}
		if len(given) > 1 && p.In == "query" {
			return fmt.Errorf("%s is there twice", p.Name)
		}
		for _, text := range given {
			if err := p.Schema.text(text); text != "" && err != nil {
				return fmt.Errorf("%s=%.40q: %w", p.Name, text, err)
			}
		}
	}
	return nil
}

// text says why a parameter is not as the schema has it.
func (s *schema) text(text string) error {
	if slices.Contains(s.Type, "integer") {
		return s.number(text)
	}
	return s.string(text)
}

func (s *schema) number(text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (s.Minimum == nil || n >= *s.Minimum) && (s.Maximum == nil || n <= *s.Maximum) {
		return nil
	}
	want := "want a number"
	if s.Minimum != nil {
		want += fmt.Sprintf(" from %d", *s.Minimum)
	}
	if s.Maximum != nil {
		want += fmt.Sprintf(" to %d", *s.Maximum)
	}
	return errors.New(want)
}

func (s *schema) string(text string) error {
	switch {
	case s.Enum != nil && !slices.Contains(s.Enum, text):
		return fmt.Errorf("want %s", strings.Join(s.Enum, ", "))
	case s.MaxLength != nil && utf8.RuneCountInString(text) > *s.MaxLength:
		return fmt.Errorf("want at most %d characters", *s.MaxLength)
	case s.pattern != nil && !s.pattern.MatchString(text):
		return fmt.Errorf("want what matches %s", s.Pattern)
	}
	return nil
}

// takes says why a value of a kind is not as the schema has it.
func (s *schema) takes(kind string) error {
	want := s.Type
	if s.Enum != nil {
		want = kinds{"string"}
	}
	if want == nil || slices.Contains(want, kind) || kind == "integer" && slices.Contains(want, "number") {
		return nil
	}
	words := make([]string, len(want))
	for i, k := range want {
		if words[i] = "a " + k; strings.Contains("aio", k[:1]) {
			words[i] = "an " + k
		}
	}
	return fmt.Errorf("want %s", strings.Join(words, " or "))
}

// looksAtStrings reports whether it matters what a string is.
func (s *schema) looksAtStrings() bool {
	return s.Enum != nil || s.MaxLength != nil || s.pattern != nil
}

// keys looks through JSON that was decoded for what the decoder lets pass: what the schema has otherwise, and keys
// that are spelled in another case, or there twice.
type keys struct {
	text []byte
	at   int
}

func (k *keys) space() {
	for k.at < len(k.text) && strings.IndexByte(" \t\r\n", k.text[k.at]) >= 0 {
		k.at++
	}
}

// next steps over c where it stands next.
func (k *keys) next(c byte) bool {
	if k.space(); k.text[k.at] != c {
		return false
	}
	k.at++
	return true
}

// kind is that of the value that stands next.
func (k *keys) kind() string {
	k.space()
	switch k.text[k.at] {
	case '{':
		return "object"
	case '[':
		return "array"
	case '"':
		return "string"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	default:
		return "number"
	}
}

// value looks through a value by its schema; nil takes anything.
func (k *keys) value(s *schema) error {
	if s == nil {
		s = new(schema)
	}
	kind, from := k.kind(), k.at
	var number string
	switch kind {
	case "object", "array":
	case "string":
		k.string()
	default:
		for k.at < len(k.text) && strings.IndexByte(",]} \t\r\n", k.text[k.at]) < 0 {
			k.at++
		}
		if number = string(k.text[from:k.at]); kind == "number" && strings.Trim(number, "-0123456789") == "" {
			kind = "integer"
		}
	}
	if err := s.takes(kind); err != nil {
		return err
	}
	switch kind {
	case "object":
		return k.object(s)
	case "array":
		k.next('[')
		for !k.next(']') {
			if err := k.value(s.Items); err != nil {
				return err
			}
			k.next(',')
		}
	case "integer":
		if s.Minimum != nil || s.Maximum != nil {
			return s.number(number)
		}
	case "string":
		if s.looksAtStrings() {
			var text string
			if err := json.Unmarshal(k.text[from:k.at], &text); err != nil {
				return err
			}
			return s.string(text)
		}
	}
	return nil
}

func (k *keys) object(s *schema) error {
	k.next('{')
	seen := map[string]bool{}
	for !k.next('}') {
		k.space()
		var name string
		if err := json.Unmarshal(k.string(), &name); err != nil {
			return err
		}
		of := s.AdditionalProperties
		if s.Properties != nil {
			var ok bool
			if of, ok = s.Properties[name]; !ok {
				return fmt.Errorf("unknown field %q", name)
			}
		}
		if seen[name] {
			return fmt.Errorf("the field %q is there twice", name)
		}
		seen[name] = true
		k.next(':')
		if err := k.value(of); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		k.next(',')
	}
	for _, name := range s.Required {
		if !seen[name] {
			return fmt.Errorf("the field %q is missing", name)
		}
	}
	return nil
}

// string steps over a string and returns it with its quotes.
func (k *keys) string() []byte {
	from := k.at
	for k.at++; k.text[k.at] != '"'; k.at++ {
		if k.text[k.at] == '\\' {
			k.at++
		}
	}
	k.at++
	return k.text[from:k.at]
}
