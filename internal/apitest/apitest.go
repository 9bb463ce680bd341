// Package apitest holds answers of the API against its contract, an OpenAPI 3.1 file. Tests use it:
//
//	c := apitest.Load(t, contract)
//	client := &http.Client{Transport: c.Watch(t, transport)} // every answer is checked
//	...
//	c.Unseen() // the operations that were never called
//
// Schemas of objects are closed: a key that the contract does not name is an error,
// unless it says additionalProperties.
package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// Contract is an OpenAPI file, read.
type Contract struct {
	Operations []Operation

	compiler *jsonschema.Compiler
	doc      map[string]any
	mu       sync.Mutex
	seen     map[string]bool
}

// Operation is one of them. Role is its x-role, "admin" without one.
type Operation struct {
	Method, Path, Role string
	responses          map[string]any
}

func (o *Operation) String() string { return o.Method + " " + o.Path }

const place = "contract.json"

// Load reads a contract, whose schemas have to be right.
func Load(t testing.TB, text []byte) *Contract {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatalf("read the contract: %v", err)
	}
	// What the schema library wants are JSON's own types.
	b, err := json.Marshal(doc)
	if err == nil {
		var plain any
		if plain, err = jsonschema.UnmarshalJSON(bytes.NewReader(b)); err == nil {
			doc = plain.(map[string]any)
		}
	}
	if err != nil {
		t.Fatalf("read the contract: %v", err)
	}
	closeObjects(doc["components"].(map[string]any)["schemas"])
	c := &Contract{doc: doc, compiler: jsonschema.NewCompiler(), seen: map[string]bool{}}
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource(place, doc); err != nil {
		t.Fatalf("read the contract: %v", err)
	}
	for name := range doc["components"].(map[string]any)["schemas"].(map[string]any) {
		c.schema(t, "#/components/schemas/"+name)
	}
	paths := doc["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		for method, o := range paths[path].(map[string]any) {
			op := o.(map[string]any)
			role, _ := op["x-role"].(string)
			if role == "" {
				role = "admin"
			}
			c.Operations = append(c.Operations, Operation{strings.ToUpper(method), path, role, op["responses"].(map[string]any)})
		}
	}
	return c
}

// closeObjects has no object schema take keys that it does not name.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, one := range v {
			closeObjects(one)
		}
		_, named := v["properties"].(map[string]any)
		if _, said := v["additionalProperties"]; named && !said && v["type"] == "object" {
			v["additionalProperties"] = false
		}
	case []any:
		for _, one := range v {
			closeObjects(one)
		}
	}
}

func (c *Contract) schema(t testing.TB, ref string) *jsonschema.Schema {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.compiler.Compile(place + ref)
	if err != nil {
		t.Fatalf("schema %s: %v", ref, err)
	}
	return s
}

// Valid reports what is wrong with JSON by a schema of the contract, such as "Decision".
func (c *Contract) Valid(t testing.TB, schema string, text []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return c.schema(t, "#/components/schemas/"+schema).Validate(v)
}

// find returns the operation of a request.
func (c *Contract) find(method, path string) *Operation {
	parts := strings.Split(path, "/")
	for i := range c.Operations {
		o := &c.Operations[i]
		same := func(pattern, part string) bool {
			return pattern == part || strings.HasPrefix(pattern, "{") && part != ""
		}
		if o.Method == method && slices.EqualFunc(strings.Split(o.Path, "/"), parts, same) {
			return o
		}
	}
	return nil
}

// Check holds one answer against the contract. What is not below /api/, /metrics or
// /debug/ is no part of the API.
func (c *Contract) Check(t testing.TB, method, path string, status int, header http.Header, body []byte) {
	t.Helper()
	if !strings.HasPrefix(path, "/api/") && !strings.HasPrefix(path, "/debug/") && path != "/metrics" || strings.Contains(path, "..") {
		return
	}
	o := c.find(method, path)
	if o == nil {
		if status != http.StatusNotFound && status != http.StatusMethodNotAllowed && status != http.StatusUnauthorized {
			t.Errorf("%s %s: not in the contract, and the answer is %d", method, path, status)
		}
		return
	}
	c.mu.Lock()
	c.seen[o.String()] = true
	c.mu.Unlock()
	at := "#/paths/" + escape(o.Path) + "/" + strings.ToLower(o.Method) + "/responses/"
	response, ok := o.responses[strconv.Itoa(status)].(map[string]any)
	at += strconv.Itoa(status)
	if !ok {
		if response, ok = o.responses["default"].(map[string]any); !ok || status < 400 {
			t.Errorf("%s: the contract has no answer %d", o, status)
			return
		}
		at = strings.TrimSuffix(at, strconv.Itoa(status)) + "default"
	}
	if ref, ok := response["$ref"].(string); ok {
		name := ref[strings.LastIndexByte(ref, '/')+1:]
		response = c.doc["components"].(map[string]any)["responses"].(map[string]any)[name].(map[string]any)
		at = "#/components/responses/" + name
	}
	content, _ := response["content"].(map[string]any)
	if len(content) == 0 {
		if len(body) > 0 {
			t.Errorf("%s: the answer %d has no body in the contract, and %d bytes", o, status, len(body))
		}
		return
	}
	kind, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if _, ok := content[kind]; err != nil || !ok {
		t.Errorf("%s: the answer %d is %q, want one of %v", o, status, header.Get("Content-Type"), slices.Sorted(maps.Keys(content)))
		return
	}
	if kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err == nil {
		err = c.schema(t, at+"/content/"+escape(kind)+"/schema").Validate(v)
	}
	if err != nil {
		t.Errorf("%s: the answer %d is not by the contract: %v\n%s", o, status, err, body[:min(len(body), 2000)])
	}
}

// escape spells a key in a JSON pointer in a URL's fragment.
func escape(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace(key)
}

// Unseen lists the operations that no answer was checked of.
func (c *Contract) Unseen() (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.Operations {
		if o := c.Operations[i].String(); !c.seen[o] {
			list = append(list, o)
		}
	}
	return list
}

// Watch returns a transport that checks every answer that ends. Streams are only
// looked at by their headers.
func (c *Contract) Watch(t testing.TB, next http.RoundTripper) http.RoundTripper {
	return transport(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		if kind := resp.Header.Get("Content-Type"); strings.Contains(kind, "event-stream") || strings.Contains(kind, "ndjson") {
			c.Check(t, r.Method, r.URL.Path, resp.StatusCode, resp.Header, nil)
			return resp, nil
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		resp.Body.Close()
		c.Check(t, r.Method, r.URL.Path, resp.StatusCode, resp.Header, body)
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
