package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/internal/telemetry"
)

// requestTypes are what the bodies of operations are read into, besides those that nothing is read from.
var requestTypes = map[string]any{
	"POST /api/v1/complete":        new(TextAt),
	"POST /api/v1/config/commit":   new(CommitRequest),
	"POST /api/v1/config/confirm":  new(ConfirmRequest),
	"POST /api/v1/config/rollback": new(RollbackRequest),
	"POST /api/v1/config/stage":    new(StageRequest),
	"POST /api/v1/convert":         new(ConvertRequest),
	"POST /api/v1/explain":         new(ExplainRequest),
	"POST /api/v1/format":          new(Text),
	"POST /api/v1/hover":           new(TextAt),
	"POST /api/v1/lint":            new(Text),
	"POST /api/v1/login":           new(LoginRequest),
	"POST /api/v1/logout":          new(struct{}),
	"POST /api/v1/plan":            new(PlanRequest),
	"POST /api/v1/reload":          new(struct{}),
	"POST /api/v1/replay":          new(ReplayRequest),
	"POST /api/v1/subscriptions":   new(SubscriptionRequest),
	"POST /api/v1/test":            new(Text),
	"POST /api/v1/token":           new(TokenRequest),
	"POST /api/v1/xray":            new(XrayRequest),
	"POST /api/v1/xray-test":       new(XrayTrialRequest),
	"POST /api/v1/xray/{function}": nil, // anything: xray/generator reads it
	"PUT /api/v1/state":            new(ForceRequest),
}

// TestRequestTypes: what the contract has in a body is read, and nothing else is.
func TestRequestTypes(t *testing.T) {
	for name, o := range operations() {
		s, _ := o.body()
		into, known := requestTypes[name]
		switch {
		case s == nil != !known:
			t.Errorf("%s: a body in the contract: %v, in this test: %v", name, s != nil, known)
		case into != nil:
			sameFields(t, name, s, reflect.TypeOf(into))
		}
	}
}

func sameFields(t *testing.T, at string, s *schema, is reflect.Type) {
	t.Helper()
	for is.Kind() == reflect.Pointer {
		is = is.Elem()
	}
	switch {
	case s.AdditionalProperties != nil:
		sameFields(t, at+".*", s.AdditionalProperties, is.Elem())
	case s.Properties != nil:
		read := map[string]reflect.Type{}
		fieldsOf(is, read)
		if diff := cmp.Diff(slices.Sorted(maps.Keys(s.Properties)), slices.Sorted(maps.Keys(read))); diff != "" {
			t.Errorf("%s: the contract (-) and what is read (+) differ:\n%s", at, diff)
			return
		}
		for name, one := range s.Properties {
			sameFields(t, at+"."+name, one, read[name])
		}
	case s.Items != nil:
		sameFields(t, at+"[]", s.Items, is.Elem())
	}
}

// fieldsOf gathers the names under which a struct's fields stand in JSON.
func fieldsOf(is reflect.Type, into map[string]reflect.Type) {
	for f := range is.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous && name == "":
			fieldsOf(f.Type, into)
		default:
			into[name] = f.Type
		}
	}
}

// TestBounds: the bounds of the contract are ours.
func TestBounds(t *testing.T) {
	of := map[string]*schema{}
	for name, o := range operations() {
		for _, p := range o.Parameters {
			of[name+" "+p.Name] = p.Schema
		}
	}
	replay, _ := operations()["POST /api/v1/replay"].body()
	of["last"], of["most"] = replay.Properties["last"], replay.Properties["most"]
	for name, want := range map[string]int64{
		"GET /api/v1/connections limit": MaxFlows, "GET /api/v1/events last": MaxEvents, "GET /api/v1/state last": MaxEvents,
		"GET /api/v1/metrics/range minutes": int64(MaxRange / time.Minute),
		"GET /api/v1/logs last":             telemetry.LogLines, "last": telemetry.RingSize, "most": MaxFlows,
	} {
		if most := of[name].Maximum; most == nil || *most != want {
			t.Errorf("%s: want at most %d", name, want)
		}
	}
	for name, want := range map[string][]string{"GET /api/v1/connections sort": Orders, "GET /api/v1/logs level": levels} {
		if diff := cmp.Diff(want, of[name].Enum); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestRequests: what is not as the contract has it is refused, with a word on where.
func TestRequests(t *testing.T) {
	k := newSite(t, TCP{}, func(s *Server) { s.Desk = desk{} })
	for _, q := range []struct{ method, path, body, want string }{ // "" is an answer 200
		{"POST", "reload", ``, ""},
		{"POST", "reload", `{}`, ""},
		{"POST", "reload", `[]`, "want an object"},
		{"POST", "reload", `no`, "invalid character"},
		{"POST", "reload", strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "exceeded max depth"},
		{"POST", "reload", strings.Repeat("[", 9000) + strings.Repeat("]", 9000), "want an object"},
		{"POST", "reload", `{"now":true}`, `unknown field "now"`},
		{"POST", "logout", `[]`, "want an object"},
		{"POST", "logout", `{"x":1}`, `unknown field "x"`},
		{"DELETE", "state", ``, ""},
		{"DELETE", "state", `{}`, "DELETE has no body here"},
		{"GET", "status", `{}`, "GET has no body here"},
		{"POST", "lint", `{"text":""}`, ""},
		{"POST", "lint", ``, "unexpected end"},
		{"POST", "lint", `{}`, `the field "text" is missing`},
		{"POST", "lint", `{"text":null}`, "text: want a string"},
		{"POST", "lint", `{"text":7}`, "text: want a string"},
		{"POST", "lint", `{"text":"","syntax":"toml"}`, "syntax: want npl, yaml"},
		{"POST", "lint", `{"text":"","syntax":null}`, "syntax: want a string"},
		{"POST", "test", `{}`, `the field "text" is missing`},
		{"POST", "format", `{"text":null}`, "text: want a string"},
		{"POST", "convert", `{"text":""}`, `the field "to" is missing`},
		{"POST", "complete", `{"text":"policy 1"}`, `the field "at" is missing`},
		{"POST", "complete", `{"text":"policy 1","at":9}`, "at 9: the text has 8 UTF-16 units"},
		{"POST", "complete", `{"text":"policy 1","at":8}`, ""},
		{"POST", "hover", `{"text":"policy 1","at":-1}`, "at: want a number from 0"},
		{"POST", "hover", `{"text":"policy 1","at":99999999999}`, "at 99999999999: the text has 8"},
		{"POST", "hover", `{"text":"policy 1","at":99999999999999999999}`, "at: want a number from 0"},
		{"POST", "hover", `{"text":"# 💡","at":5}`, "at 5: the text has 4 UTF-16 units"},
		{"POST", "hover", `{"text":"# 💡","at":4}`, ""},
		{"POST", "hover", `{"text":"policy 1","at":1.5}`, "at: want an integer"},
		{"POST", "explain", `{"flow":null}`, "flow: want a string or an object"},
		{"POST", "explain", `{"flow":"tcp","state":"WORSE"}`, "state: want NORMAL, DEGRADED, FAILOVER, RECOVERY, "},
		{"POST", "replay", `{"last":0}`, "last: want a number from 1 to 4096"},
		{"POST", "xray/parse", `[]`, "want an object"},
		{"POST", "xray/fields", `{"protocol":"socks","transport":"tcp","security":"none"}`, ""},
		{"POST", "config/confirm", `{}`, `the field "n" is missing`},
		{"POST", "config/confirm", `{"n":0}`, "n: want a number from 1"},
		{"POST", "config/commit", `{"policy":{"name":"p.npl","main":7}}`, "policy: main: want a string"},
		{"POST", "config/commit", `{"policy":{"name":"p.npl","main":"","files":{"a":null}}}`, "policy: files: a: want a string"},
		{"POST", "config/commit", `{"policy":{"name":"p.npl","main":"","files":{"a":"QQ=="}}}`, ""},
		{"GET", "connections?limit=7&sort=rate", ``, ""},
		{"GET", "connections?limit=&sort=", ``, ""},
		{"GET", "connections?sort=name", ``, `sort="name": want bytes, rate, rtt, age`},
		{"GET", "connections?limit=1001", ``, `limit="1001": want a number from 0 to 1000`},
		{"GET", "connections?limit=1&limit=2", ``, "limit is there twice"},
		{"GET", "connections?limit=%zz", ``, "invalid URL escape"},
		{"GET", "connections?match=" + strings.Repeat("a", 257), ``, "want at most 256 characters"},
		{"GET", "metrics/range?minutes=0", ``, `minutes="0": want a number from 1 to 1440`},
		{"GET", "decisions?follow=abc", ``, `follow="abc": want 0, 1`},
		{"GET", "decisions?last=-1", ``, `last="-1": want a number from 0`},
		{"GET", "events?last=x", ``, `last="x": want a number from 0 to 1000`},
		{"GET", "config/versions?diff=yes", ``, `diff="yes": want 0, 1`},
		{"GET", "status?unknown=1", ``, ""},
	} {
		resp, body := k.ask(q.method, "/api/v1/"+q.path, q.body, k.bearer(RoleAdmin))
		want := http.StatusOK
		if q.want != "" {
			want = http.StatusBadRequest
		}
		var p Problem
		_ = json.Unmarshal([]byte(body), &p)
		if resp.StatusCode != want || !strings.Contains(p.Detail, q.want) {
			t.Errorf("%s %s %.60s: %d %s, want %d and %q", q.method, q.path, q.body, resp.StatusCode, body, want, q.want)
		}
	}
}

// partSchema has what schemas of requests have.
const partSchema = `
type: object
properties:
  text: {type: string}
  at: {type: integer}
  files: {additionalProperties: {type: string}, type: object}
  flow: {type: [string, object]}
  more: {type: array, items: {type: object, properties: {to: {type: string, pattern: "^[0-9]$"}}}}
  by: {type: object, additionalProperties: {type: object, required: [role], properties: {role: {enum: [admin, read]}}}}
`

// TestDecode: what is not exactly what was asked for is no request.
func TestDecode(t *testing.T) {
	type part struct {
		Text
		At    int                     `json:"at"`
		Files map[string][]byte       `json:"files"`
		Flow  json.RawMessage         `json:"flow"`
		More  []RollbackRequest       `json:"more"`
		By    map[string]TokenRequest `json:"by"`
	}
	s := new(schema)
	if err := yaml.Unmarshal([]byte(partSchema), s); err != nil {
		t.Fatal(err)
	}
	s = s.resolved(nil)
	for _, good := range []string{
		`{}`, ` {"text" : "a\"}{\\" , "at":-1 } `, `{"files":{"x":"QQ==","X":""}}`, `{"flow":{"TEXT":1,"a":[{"b":2},{"b":[]}]},"at":1}`,
		`{"more":[{"to":"1"},{"to":"2"}],"by":{"a":{"role":"read"},"b":{"role":"read"}}}`, `{"te\u0078t":"x"}`, `{"flow":"tcp","at":3}`, `{"by":{"a":{"role":"re\u0061d"}}}`,
	} {
		if err := decode([]byte(good), s, new(part)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		`{"text":"y"}}}`: "after top-level value", `{"text":"y"}]`: "after top-level value", `{} {}`: "after top-level value",
		`null`: "want an object", `[]`: "want an object", `"x"`: "want an object", ``: "unexpected end",
		`{"TEXT":"y"}`: `unknown field "TEXT"`, `{"text":"y","Text":"z"}`: `unknown field "Text"`, `{"other":1}`: `unknown field "other"`,
		`{"text":"y","text":"z"}`: `"text" is there twice`, `{"text":"y","te\u0078t":"z"}`: `"text" is there twice`,
		`{"flow":{"a":1,"b":[{"c":1,"c":2}]}}`: `flow: b: the field "c" is there twice`, `{"more":[{"To":"1"}]}`: `more: unknown field "To"`,
		`{"by":{"a":{"Role":"read"}}}`: `by: a: unknown field "Role"`, `{"files":{"x":"QQ==","x":"QQ=="}}`: `"x" is there twice`, `{"at":"x"}`: "at: want an integer",
		`{"files":{"x":null}}`: "files: x: want a string", `{"files":{"x":"?"}}`: "illegal base64", `{"by":{"a":{}}}`: `by: a: the field "role" is missing`,
		`{"by":{"a":{"role":true}}}`: "by: a: role: want a string", `{"more":[{"to":"12"}]}`: "more: to: want what matches ^[0-9]$", `{"text":null}`: "text: want a string",
		`{"at":1e3}`: "at: want an integer", `{"at":9223372036854775808}`: "cannot unmarshal", `{"flow":[]}`: "flow: want a string or an object", `{"more":{}}`: "more: want an array",
	} {
		if err := decode([]byte(bad), s, new(part)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", bad, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{`{"text":"a","at":1}`, `{"flow":{"a":[1,{"b":"\\\""}]}}`, `{"policy":{"name":"x","files":{"a":"QQ=="}}}`, "{ } ", `{"a":{}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"POST /api/v1/explain", "POST /api/v1/config/commit", "POST /api/v1/config/stage", "POST /api/v1/hover"} {
			s, _ := operations()[name].body()
			into := reflect.New(reflect.TypeOf(requestTypes[name]).Elem()).Interface()
			if err := decode([]byte(text), s, into); err == nil && !json.Valid([]byte(text)) {
				t.Errorf("%q is no JSON", text)
			}
		}
	})
}
