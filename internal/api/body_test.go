package api

import (
	"encoding/json"
	"strings"
	"testing"
)

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
	for _, good := range []string{
		`{}`, ` {"text" : "a\"}{\\" , "at":-1 } `, `{"files":{"x":"QQ==","X":null}}`, `{"flow":{"TEXT":1,"a":[{"b":2},{"b":[]}]},"at":1}`,
		`{"more":[{"to":"1"},{"to":"2"}],"by":{"a":{"role":"read"},"b":{"role":"read"}}}`, `{"te\u0078t":"x"}`, `{"flow":"tcp","at":3}`,
	} {
		if err := decode([]byte(good), new(part)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		`{"text":"y"}}}`: "after top-level value", `{"text":"y"}]`: "after top-level value", `{} {}`: "after top-level value",
		`null`: "want an object", `[]`: "cannot unmarshal array", `"x"`: "cannot unmarshal string", ``: "unexpected end",
		`{"TEXT":"y"}`: `unknown field "TEXT"`, `{"text":"y","Text":"z"}`: `unknown field "Text"`, `{"other":1}`: `unknown field "other"`,
		`{"text":"y","text":"z"}`: `"text" is there twice`, `{"text":"y","te\u0078t":"z"}`: `"text" is there twice`,
		`{"flow":{"a":1,"b":[{"c":1,"c":2}]}}`: `"c" is there twice`, `{"more":[{"To":"1"}]}`: `unknown field "To"`,
		`{"by":{"a":{"Role":"read"}}}`: `unknown field "Role"`, `{"files":{"x":"QQ==","x":"QQ=="}}`: `"x" is there twice`, `{"at":"x"}`: "cannot unmarshal",
	} {
		if err := decode([]byte(bad), new(part)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", bad, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{`{"text":"a","at":1}`, `{"flow":{"a":[1,{"b":"\\\""}]}}`, `{"policy":{"name":"x","files":{"a":"QQ=="}}}`, "{ } ", `{"a":{}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, into := range []any{new(ExplainRequest), new(CommitRequest), new(StageRequest)} {
			if err := decode([]byte(text), into); err == nil && !json.Valid([]byte(text)) {
				t.Errorf("%q is no JSON", text)
			}
		}
	})
}
