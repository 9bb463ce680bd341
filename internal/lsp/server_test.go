package lsp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules/load"
)

// frame puts a header before each body.
func frame(bodies ...string) string {
	var b strings.Builder
	for _, body := range bodies {
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	return b.String()
}

// play sends bodies at once and returns all messages, and how the session ended.
func play(t *testing.T, bodies ...string) ([]message, error) {
	t.Helper()
	return playRaw(t, frame(bodies...))
}

type answerMessage struct {
	message
	Error *rpcError `json:"error"`
}

func playRaw(t *testing.T, input string) ([]message, error) {
	t.Helper()
	var out bytes.Buffer
	err := Serve(context.Background(), strings.NewReader(input), &out, Options{})
	var list []message
	for r := bufio.NewReader(&out); ; {
		body, rerr := readMessage(r)
		if errors.Is(rerr, io.EOF) {
			return list, err
		}
		if rerr != nil {
			t.Fatal(rerr)
		}
		var m answerMessage
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		if m.Error != nil {
			m.Method = fmt.Sprintf("error %d", m.Error.Code)
		}
		list = append(list, m.message)
	}
}

const (
	hello   = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`
	goodbye = `{"jsonrpc":"2.0","id":9,"method":"shutdown"}`
	exit    = `{"jsonrpc":"2.0","method":"exit"}`
)

func TestLifecycle(t *testing.T) {
	for _, c := range []struct {
		name  string
		sent  []string
		want  string // of each answer its id and error
		clean bool
	}{
		{"all", []string{hello, goodbye, exit}, "1 9", true},
		{"no shutdown", []string{hello, exit}, "1", false},
		{"no exit", []string{hello, goodbye}, "1 9", true},
		{"nothing", nil, "", false},
		{"not initialized", []string{`{"id":7,"method":"textDocument/hover"}`, hello, goodbye, exit}, "7=error -32002 1 9", true},
		{"unknown before initialize", []string{`{"method":"other"}`, hello, goodbye, exit}, "1 9", true},
		{"after shutdown", []string{hello, goodbye, `{"id":7,"method":"textDocument/hover"}`, exit}, "1 9 7=error -32600", true},
		{"a response", []string{hello, `{"id":5,"result":null}`, goodbye, exit}, "1 9", true},
	} {
		list, err := play(t, c.sent...)
		var got []string
		for _, m := range list {
			s := string(m.ID)
			if m.Method != "" {
				s += "=" + m.Method
			}
			got = append(got, s)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: answers %q, want %q", c.name, s, c.want)
		}
		if (err == nil) != c.clean || err != nil && !errors.Is(err, ErrNoShutdown) {
			t.Errorf("%s: ended with %v", c.name, err)
		}
	}
}

func TestFraming(t *testing.T) {
	big := fmt.Sprintf("Content-Length: %d\r\n\r\n", maxMessage+1) + strings.Repeat("x", maxMessage+1)
	list, err := playRaw(t, frame(hello)+big+"content-length:"+fmt.Sprint(len(goodbye))+"\r\nContent-Type: x\r\n\r\n"+goodbye+frame(exit))
	if err != nil || len(list) != 3 || list[1].Method != "error -32600" || string(list[2].ID) != "9" {
		t.Errorf("behind a message that is too large: %v, %v", list, err)
	}
	for _, input := range []string{
		"Content-Length: x\r\n\r\n{}", "Content-Length: -1\r\n\r\n{}", "Other: 1\r\n\r\n", "Content-Length: 5\r\n\r\n{}", "Content-Length: 5",
		strings.Repeat("a", maxHeader+1), strings.Repeat("a: b\r\n", maxHeaders+1),
		fmt.Sprintf("Content-Length: %d\r\n\r\n", maxMessage+1),
	} {
		if _, err := playRaw(t, input); err == nil || errors.Is(err, ErrNoShutdown) {
			t.Errorf("%.40q: %v, want an error of the stream", input, err)
		}
	}
}

// TestPanic breaks a handler: a request gets an internal error, a notification a
// line in the log, and the session goes on.
func TestPanic(t *testing.T) {
	var out bytes.Buffer
	s := &server{out: &out, inbox: newInbox(), initialized: true, handlers: map[string]handler{
		"break": func(*server, json.RawMessage) (any, error) { panic("broken") },
	}}
	for _, body := range []string{`{"id":3,"method":"break"}`, `{"method":"break"}`} {
		if err := s.handle(decode([]byte(body))); err != nil {
			t.Fatal(err)
		}
	}
	got := out.String()
	if !strings.Contains(got, `"id":3,"error":{"code":-32603,"message":"break: broken`) || !strings.Contains(got, "window/logMessage") {
		t.Errorf("answers: %.600s", got)
	}
}

// TestCancel cancels a request that waits and one that is not there.
func TestCancel(t *testing.T) {
	b := newInbox()
	b.read(strings.NewReader(frame(`{"id":1,"method":"a"}`, `{"id":"x","method":"a"}`, `{"method":"$/cancelRequest","params":{"id":"x"}}`, `{"method":"$/cancelRequest","params":{"id":2}}`, `{"id":2,"method":"a"}`)))
	var got []bool
	for e := range b.queue {
		got = append(got, b.taken(e))
	}
	if !slices.Equal(got, []bool{false, true, false}) || len(b.waiting) != 0 {
		t.Errorf("cancelled: %v, left %v", got, b.waiting)
	}
}

// TestCoalesce sends many changes at once: what is published last is about the
// last text, and no version goes back.
func TestCoalesce(t *testing.T) {
	sent := []string{hello, `{"method":"textDocument/didOpen","params":{"textDocument":{"uri":"file:///a.yaml","languageId":"yaml","version":1,"text":""}}}`}
	for v := 2; v <= 200; v++ {
		sent = append(sent, fmt.Sprintf(`{"method":"textDocument/didChange","params":{"textDocument":{"uri":"file:///a.yaml","version":%d},"contentChanges":[{"text":"v%d: 1"}]}}`, v, v))
	}
	list, err := play(t, append(sent, goodbye)...)
	if err != nil {
		t.Fatal(err)
	}
	last, n := 0, 0
	for _, m := range list {
		if m.Method != "textDocument/publishDiagnostics" {
			continue
		}
		var p diagnosticsParams
		if err := json.Unmarshal(m.Params, &p); err != nil {
			t.Fatal(err)
		}
		if p.Version <= last {
			t.Errorf("version %d behind %d", p.Version, last)
		}
		last = p.Version
		if n++; last > 1 && !strings.Contains(p.Diagnostics[0].Message, fmt.Sprintf("v%d`", last)) {
			t.Errorf("version %d: %v", last, p.Diagnostics)
		}
	}
	if last != 200 || n > 150 {
		t.Errorf("%d publications, the last of version %d", n, last)
	}
}

// TestPositions compares with a search from the start, in both encodings.
func TestPositions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := rapid.StringOf(rapid.RuneFrom([]rune("ab\n\rö日💡\ufeff"))).Draw(t, "text")
		for _, bytesCount := range []bool{false, true} {
			x := newText([]byte(src), bytesCount)
			var want position
			for i := 0; i <= len(src); {
				if got := x.position(i); got != want {
					t.Fatalf("%q: position(%d) = %v, want %v", src, i, got, want)
				}
				atEnd := i > 0 && src[i-1] == '\r' && i < len(src) && src[i] == '\n' // between \r and \n
				if got := x.offset(want); got != i && !atEnd {
					t.Fatalf("%q: offset(%v) = %d, want %d", src, want, got, i)
				}
				if i == len(src) {
					break
				}
				r, size := utf8.DecodeRuneInString(src[i:])
				switch {
				case r == '\n', r == '\r' && (i+1 == len(src) || src[i+1] != '\n'):
					want = position{Line: want.Line + 1}
				case bytesCount:
					want.Character += size
				case r > 0xffff:
					want.Character += 2
				default:
					want.Character++
				}
				i += size
			}
		}
	})
}

func TestPositionsOutside(t *testing.T) {
	x := newText([]byte("💡\r\nb"), false)
	for _, c := range []struct {
		p    position
		want int
	}{
		{position{0, 1}, 0},
		{position{0, 2}, 4},
		{position{0, 99}, 4},
		{position{1, -1}, 6},
		{position{1, 9}, 7},
		{position{9, 0}, 7},
		{position{-1, 5}, 0},
	} {
		if got := x.offset(c.p); got != c.want {
			t.Errorf("offset(%v) = %d, want %d", c.p, got, c.want)
		}
	}
	if got := x.position(99); got != (position{1, 1}) {
		t.Errorf("position behind the end: %v", got)
	}
}

// FuzzDocument asks everything about any text, at any place: no request may fail
// with an internal error, and no edit may lie outside the text.
func FuzzDocument(f *testing.F) {
	for _, src := range seeds {
		f.Add(src, 7, true)
		f.Add(src, len(src)/2, false)
	}
	f.Fuzz(func(t *testing.T, src string, at int, npl bool) {
		if len(src) > 4<<10 {
			return
		}
		var out bytes.Buffer
		s := &server{out: &out, inbox: newInbox(), documents: map[string]*document{}, handlers: handlers, initialized: true}
		uri := "file:///t/a.yaml"
		if npl {
			uri = "file:///t/a.npl"
		}
		var open didOpenParams
		open.TextDocument.URI, open.TextDocument.Text = uri, src
		if _, err := s.didOpen(open); err != nil {
			t.Fatal(err)
		}
		place := s.documents[uri].text.position(at)
		params, err := json.Marshal(map[string]any{
			"textDocument": textDocument{uri}, "position": place, "newName": "fresh", "range": textRange{End: place},
			"context": map[string]any{"includeDeclaration": true},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.publish(); err != nil || strings.Contains(out.String(), "logMessage") {
			t.Fatalf("publish: %v %s", err, out.String())
		}
		for name := range s.handlers {
			if !strings.HasPrefix(name, "textDocument/") || strings.HasPrefix(name, "textDocument/did") {
				continue
			}
			_, err := s.call(event{message: message{Method: name, Params: params}})
			var rpc *rpcError
			if errors.As(err, &rpc) && rpc.Code == codeInternal {
				t.Fatal(err)
			}
		}
	})
}

var seeds = []string{
	"routes: {direct: {via: main}}\nrules:\n  - {name: a, priority: 1, match: {sni: [\"a.b\", c}, action: {route: dirct}}\n",
	"rules:\n- name: 'x\n  match:\n    not: {port: 1\n- - - [{,}]\n",
	"policy 1\nset a: domain = { keyword \"x\", .b.c\nrule r priority 1 {\n match sni in a and not (port 1,2 or\n do fallback(a, b), log \"\n}\n}\n",
	"policy 1\nroute direct via main\nrule a { match any; do route direct }\nassert \"a.b\" tcp/443 -> rule a\n# 💡\n",
	"default: \"route direct, fallback(a\"\nconditions: {c: \"uplink.a.rtt > 5ms for 3s and\"}\n",
}

// TestPlacesNPL asks for what can stand at the end of each text, and at the place
// of the word that is being written there.
func TestPlacesNPL(t *testing.T) {
	in := func(c ...category) []category { return c }
	names := func(k ...kind) []kind { return k }
	for _, c := range []struct {
		text  string
		in    []category
		names []kind
	}{
		{"", in(inTopNPL), nil},
		{"policy 1\nru", in(inTopNPL), nil},
		{"rule a ", in(inHead), nil},
		{"rule a priority ", nil, nil},
		{"rule a priority 5 ", in(inHead), nil},
		{"rule a {\n", in(inRuleNPL), nil},
		{"rule a { match ", in(inFieldNPL, inPredicate), names(conditionKind)},
		{"rule a { match sn", in(inFieldNPL, inPredicate), names(conditionKind)},
		{"rule a { match sni ", in(inCompare), nil},
		{"rule a { match sni not ", in(inNotIn), nil},
		{"rule a { match not ", in(inFieldNPL, inPredicate), names(conditionKind)},
		{"rule a { match sni in ", nil, names(setKind)},
		{"rule a { match sni in { \"a\", ", nil, nil},
		{"rule a { match sni in {a} ", in(inConnective), nil},
		{"rule a { match sni in b an", in(inConnective), nil},
		{"rule a { match sni in b and\n", in(inFieldNPL, inPredicate), names(conditionKind)},
		{"rule a { match (port 1 or ", in(inFieldNPL, inPredicate), names(conditionKind)},
		{"rule a { match proto ", in(inCompare, inProto), nil},
		{"rule a { match proto tcp,", in(inProto), nil},
		{"rule a { match any\n when ", in(inWorldNPL, inPredicate), names(conditionKind)},
		{"rule a { when state ", in(inCompare, inState), nil},
		{"rule a { when state NORMAL, DEG", in(inState), nil},
		{"rule a { when schedule ", nil, names(scheduleKind)},
		{"rule a { when quota ", nil, names(quotaKind)},
		{"condition c = uplink.a.rtt > 5ms ", in(inConnective, inFor), nil},
		{"condition c = uplink.a.state == ", in(inState), nil},
		{"rule a { do ", in(inAction), nil},
		{"rule a { do route ", nil, names(routeKind)},
		{"rule a { do route x, ", in(inAction), nil},
		{"rule a { do route x, throttle ", nil, names(throttleKind)},
		{"rule a { do fallback(", nil, names(routeKind)},
		{"rule a { do fallback(x, ", nil, names(routeKind)},
		{"rule a { do fallback(x, y), ", in(inAction), nil},
		{"rule a { do block ", in(inBlock), nil},
		{"rule a { do log \"text ", nil, nil},
		{"rule a { do log # comment ", nil, nil},
		{"rule a { disable state ", in(inState), nil},
		{"rule a { match any; do block }\n", in(inTopNPL), nil},
		{"rule a { match any; do block\nrule b { ", in(inRuleNPL), nil}, // a is not closed
		{"uplink w { dev e; ", in(inUplink, inHealth), nil},
		{"uplink w { probe ", in(inProbe), nil},
		{"uplink w { threshold ", in(inThreshold), nil},
		{"health { primary ", nil, names(uplinkKind)},
		{"route r ", in(inRouteYAML), nil},
		{"route r via ", in(inVia), nil},
		{"route r via uplink ", nil, names(uplinkKind)},
		{"route r via xray \"x\" ", in(inRouteTail), nil},
		{"route r via xray \"x\" on ", nil, names(uplinkKind)},
		{"group g = ", in(inStrategy), nil},
		{"group g = fallback(", nil, names(routeKind)},
		{"group g = fallback(a, b) ", in(inGroup), nil},
		{"group g = sla(a) sla ", nil, names(conditionKind)},
		{"set s: ", in(inSetType), nil},
		{"set s: domain = ", in(inSetSource), nil},
		{"set s: domain = file \"x\" ", in(inSetOption), nil},
		{"set s: domain = file \"x\" format ", in(inFormat), nil},
		{"set s: domain = {\n", in(inElement), nil},
		{"throttle t { per ", in(inPer), nil},
		{"quota q { match any; per ", in(inPeriod), nil},
		{"schedule s = weekday ", in(inWeekday), nil},
		{"default ", in(inAction), nil},
		{"assert \"x\" tcp/443 ", in(inTail), nil},
		{"assert \"x\" when ", in(inState), nil},
		{"assert \"x\" -> ", in(inAction, inOutcome), nil},
		{"assert \"x\" -> rule ", nil, names(ruleKind)},
		{"never port 1 -> ", in(inAction, inOutcome, inViaOutcome), nil},
		{"never port 1 -> via ", nil, names(routeKind)},
		{"unreachable ", in(inLevel), nil},
	} {
		p := placeNPL([]byte(c.text), len(c.text))
		if !slices.Equal(p.in, c.in) || !slices.Equal(p.names, c.names) {
			t.Errorf("%q: %v %v, want %v %v", c.text, p.in, p.names, c.in, c.names)
		}
	}
}

// TestTexts looks for words without a text, and for words that stand twice.
func TestTexts(t *testing.T) {
	for c, words := range texts {
		seen := map[string]bool{}
		for _, w := range words {
			if w.label == "" || w.doc == "" || seen[w.label] {
				t.Errorf("%s: %q has no text or stands twice", c, w.label)
			}
			seen[w.label] = true
		}
	}
}

func TestReplacements(t *testing.T) {
	for _, c := range []struct {
		d    diag.Diagnostic
		old  string
		want []string
	}{
		{diag.Diagnostic{Help: "did you mean `direct`?"}, "dirct", []string{"direct"}},
		{diag.Diagnostic{Help: "write `.zoom.us` to match both"}, `"*.zoom.us"`, []string{`".zoom.us"`, ".zoom.us"}},
		{diag.Diagnostic{Help: "write 10.0.0.0/8, or 10.0.0.1 for the one address"}, "10.0.0.1/8", []string{"10.0.0.0/8"}},
		{diag.Diagnostic{Help: `put it in quotes: "*.a"`}, "*.a", []string{`"*.a"`}},
		{diag.Diagnostic{Code: "NP403", Message: "`rtt` is spelled `rtt_ms` in YAML"}, "rtt", []string{"rtt_ms"}},
		{diag.Diagnostic{Code: "NP403", Message: "`min-hold` is spelled `min_hold`"}, "min-hold", []string{"min_hold"}},
		{diag.Diagnostic{Help: "the actions are many"}, "x", nil},
	} {
		if got := replacements(&c.d, c.old); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.d, got, c.want)
		}
	}
}

// TestChange applies the edit that makes one text another.
func TestChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.StringOf(rapid.RuneFrom([]rune("ab\n💡")))
		old, next := texts.Draw(t, "old"), texts.Draw(t, "next")
		x := newText([]byte(old), false)
		e := x.change([]byte(next))
		got := old[:x.offset(e.Range.Start)] + e.NewText + old[x.offset(e.Range.End):]
		if got != next {
			t.Fatalf("%+v makes %q of %q, want %q", e, got, old, next)
		}
	})
}

// TestEditorExamples reads the texts that the grammar is tested with: what they
// colour must be the language.
func TestEditorExamples(t *testing.T) {
	files, err := filepath.Glob("../../editors/examples/*.npl")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range load.Policy(file, src, load.Options{Read: os.ReadFile}).Diags {
			if d.Severity == diag.Error {
				t.Errorf("%s: %s %s", file, d.Code, d.Message)
			}
		}
	}
}

// TestImportChanges edits a file that another open one imports: the diagnostics
// of that one follow, and closing the file brings back what is on disk.
func TestImportChanges(t *testing.T) {
	open := func(name, text string) string {
		return fmt.Sprintf(`{"method":"textDocument/didOpen","params":{"textDocument":{"uri":"file:///t/%s","languageId":"npl","version":1,"text":%q}}}`, name, text)
	}
	policy := "policy 1\nimport \"base.npl\"\ndefault route a\n"
	var out bytes.Buffer
	s := &server{out: &out, inbox: newInbox(), documents: map[string]*document{}, handlers: handlers, initialized: true, options: Options{
		ReadFile: func(string) ([]byte, error) { return []byte("policy 1\nroute a via main\n"), nil },
	}}
	for _, c := range []struct {
		body string
		want string // found in what is published about the policy
	}{
		{open("policy.npl", policy), `"diagnostics":[]`},
		{open("base.npl", "policy 1\nroute b via main\n"), "NP110"},
		{`{"method":"textDocument/didChange","params":{"textDocument":{"uri":"file:///t/base.npl","version":2},"contentChanges":[{"range":{"start":{"line":1,"character":6},"end":{"line":1,"character":7}},"text":"a"}]}}`, `"diagnostics":[]`},
		{`{"method":"textDocument/didChange","params":{"textDocument":{"uri":"file:///t/base.npl","version":3},"contentChanges":[{"text":"policy 1\nroute"}]}}`, "in base.npl: "},
		{`{"method":"textDocument/didClose","params":{"textDocument":{"uri":"file:///t/base.npl"}}}`, `"diagnostics":[]`},
	} {
		out.Reset()
		if err := s.handle(decode([]byte(c.body))); err != nil {
			t.Fatal(err)
		}
		if err := s.publish(); err != nil {
			t.Fatal(err)
		}
		_, about, ok := strings.Cut(out.String(), `"uri":"file:///t/policy.npl"`)
		if !ok || !strings.Contains(about, c.want) {
			t.Errorf("%.60s: published %s, want %s about the policy", c.body, out.String(), c.want)
		}
	}
}
