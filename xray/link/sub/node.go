package sub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"netpolicy.dev/netpolicy/xray/link"
)

const (
	// maxDepth bounds how deep a file nests; real ones need 10.
	maxDepth = 32
	// maxValues bounds the values of a file, aliases of YAML counted as often as they
	// are used. 20,000 profiles of 50 keys are a million.
	maxValues = 1_000_000
)

// node is a value of JSON or YAML with its line.
type node struct {
	kind byte // { [ " n for numbers, b for true and false, 0 for null
	text string
	keys []string
	vals []*node // of { beside keys
	line int
}

func text(s string) *node { return &node{kind: '"', text: s} }

func list(items ...*node) *node { return &node{kind: '[', vals: items} }

func flag(v bool) *node { return &node{kind: 'b', text: strconv.FormatBool(v)} }

// get returns the value of a key of an object, nil if there is none.
func (n *node) get(key string) *node {
	if n == nil || n.kind != '{' {
		return nil
	}
	for i, k := range n.keys {
		if k == key {
			return n.vals[i]
		}
	}
	return nil
}

// str returns a text, number or truth value under a key, "" if there is none.
func (n *node) str(key string) string {
	if v := n.get(key); v != nil && v.kind != '{' && v.kind != '[' {
		return v.text
	}
	return ""
}

// items returns the elements of a list.
func (n *node) items() []*node {
	if n == nil || n.kind != '[' {
		return nil
	}
	return n.vals
}

// set puts a value under a path of keys, such as tls.server_name.
func (n *node) set(path string, v *node) {
	key, rest, deeper := strings.Cut(path, ".")
	if deeper {
		child := n.get(key)
		if child == nil || child.kind != '{' {
			child = &node{kind: '{'}
			n.put(key, child)
		}
		child.set(rest, v)
		return
	}
	n.put(key, v)
}

func (n *node) put(key string, v *node) {
	for i, k := range n.keys {
		if k == key {
			n.vals[i] = v
			return
		}
	}
	n.keys, n.vals = append(n.keys, key), append(n.vals, v)
}

// json writes the value as JSON on one line.
func (n *node) json(b *strings.Builder) {
	switch n.kind {
	case '{':
		b.WriteByte('{')
		for i, k := range n.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(link.QuoteJSON(k) + ": ")
			n.vals[i].json(b)
		}
		b.WriteByte('}')
	case '[':
		b.WriteByte('[')
		for i, v := range n.vals {
			if i > 0 {
				b.WriteString(", ")
			}
			v.json(b)
		}
		b.WriteByte(']')
	case '"':
		b.WriteString(link.QuoteJSON(n.text))
	case 0:
		b.WriteString("null")
	default:
		b.WriteString(n.text)
	}
}

func (n *node) String() string {
	var b strings.Builder
	n.json(&b)
	return b.String()
}

// leaf is a value that is no object, with the path to it.
type leaf struct {
	path string
	*node
}

// leaves returns what lies below n in order. The objects at whole are leaves.
func (n *node) leaves(prefix string, whole []string) (all []leaf) {
	for i, k := range n.keys {
		path, v := prefix+k, n.vals[i]
		isWhole := false
		for _, w := range whole {
			isWhole = isWhole || w == path
		}
		if v.kind == '{' && !isWhole {
			all = append(all, v.leaves(path+".", whole)...)
			continue
		}
		all = append(all, leaf{path, v})
	}
	return all
}

var errTooLarge = errors.New("the file has more than a million values, or nests more than 32 deep")

// jsonReader makes nodes of JSON.
type jsonReader struct {
	d     *json.Decoder
	data  []byte
	at    int // how far lines are counted
	line  int
	count int
}

func readJSON(data []byte) (*node, error) {
	r := &jsonReader{d: json.NewDecoder(strings.NewReader(string(data))), data: data, line: 1}
	r.d.UseNumber()
	n, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := r.d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("line %d: text behind the end of the JSON", r.now())
	}
	return n, nil
}

// now returns the line that the decoder has reached.
func (r *jsonReader) now() int {
	for end := min(int(r.d.InputOffset()), len(r.data)); r.at < end; r.at++ {
		if r.data[r.at] == '\n' {
			r.line++
		}
	}
	return r.line
}

func (r *jsonReader) value(depth int) (*node, error) {
	t, err := r.d.Token()
	line := r.now()
	if err != nil {
		return nil, fmt.Errorf("line %d: not JSON", line) // the library's text would repeat the file's
	}
	if r.count++; r.count > maxValues || depth > maxDepth {
		return nil, errTooLarge
	}
	n := &node{line: line}
	switch v := t.(type) {
	case string:
		n.kind, n.text = '"', v
	case json.Number:
		n.kind, n.text = 'n', v.String()
	case bool:
		n.kind, n.text = 'b', strconv.FormatBool(v)
	case json.Delim:
		n.kind = byte(v)
		for r.d.More() {
			if n.kind == '{' {
				key, err := r.d.Token()
				name, ok := key.(string)
				if err != nil || !ok {
					return nil, fmt.Errorf("line %d: not JSON", r.now())
				}
				n.keys = append(n.keys, name)
			}
			child, err := r.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.vals = append(n.vals, child)
		}
		if _, err := r.d.Token(); err != nil {
			return nil, fmt.Errorf("line %d: not JSON", r.now())
		}
	}
	return n, nil
}

// readYAML makes nodes of one document of YAML.
func readYAML(data []byte) (*node, error) {
	limit := loaderlimits.DepthFunc(func(depth int, _ *loaderlimits.DepthContext) error {
		if depth > maxDepth {
			return errTooLarge
		}
		return nil
	})
	loader, err := yaml.NewLoader(strings.NewReader(string(data)), yaml.WithV4Defaults(), yaml.WithPlugin(loaderlimits.New(limit)))
	if err != nil {
		return nil, errors.New("not YAML")
	}
	var doc yaml.Node
	if err := loader.Load(&doc); err != nil {
		var at *yaml.LoadError
		if errors.As(err, &at) {
			return nil, fmt.Errorf("line %d: not YAML", at.Mark.Line) // the library's text can repeat the file's
		}
		return nil, errors.New("not YAML")
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, errors.New("not one document of YAML")
	}
	count := 0
	return fromYAML(doc.Content[0], 0, &count)
}

func fromYAML(y *yaml.Node, depth int, count *int) (*node, error) {
	if *count++; *count > maxValues || depth > maxDepth {
		return nil, errTooLarge
	}
	n := &node{line: y.Line, text: y.Value}
	switch y.Kind {
	case yaml.AliasNode:
		return fromYAML(y.Alias, depth+1, count)
	case yaml.MappingNode:
		n.kind = '{'
		for i := 0; i+1 < len(y.Content); i += 2 {
			v, err := fromYAML(y.Content[i+1], depth+1, count)
			if err != nil {
				return nil, err
			}
			if y.Content[i].Value == "<<" && v.kind == '{' {
				for j, k := range v.keys {
					if n.get(k) == nil {
						n.put(k, v.vals[j])
					}
				}
				continue
			}
			n.put(y.Content[i].Value, v)
		}
	case yaml.SequenceNode:
		n.kind = '['
		for _, c := range y.Content {
			v, err := fromYAML(c, depth+1, count)
			if err != nil {
				return nil, err
			}
			n.vals = append(n.vals, v)
		}
	default:
		n.kind = '"'
		switch y.ShortTag() {
		case "!!bool":
			n.kind, n.text = 'b', strings.ToLower(y.Value)
		case "!!null":
			n.kind, n.text = 0, ""
		case "!!int", "!!float":
			if json.Valid([]byte(y.Value)) { // 0x10, 0o7 and 1_000 stay text
				n.kind = 'n'
			}
		}
	}
	return n, nil
}
