package lsp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"netpolicy.dev/netpolicy/internal/leaktest"
	"netpolicy.dev/netpolicy/internal/lsp"
)

var update = flag.Bool("update", false, "rewrite the expected answers")

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// TestSessions plays testdata/*.txtar: files, a session, and the answers. A line
// of the session is one of
//
//	open FILE            opens a file of the archive and awaits its diagnostics
//	change FILE @A @B T  replaces a range by the text T (a Go string)
//	METHOD FILE @A ...   a request about textDocument/METHOD at the mark
//	raw JSON             a message as it stands; a request's answer is awaited
//
// In the files ‹1› is a mark, taken out before the file is used: @1 in the session
// is its place. Further words NAME=JSON are parameters.
func TestSessions(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 15 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { playFile(t, file, serve) })
	}
}

// TestBinary plays a session with the real program.
func TestBinary(t *testing.T) {
	program := filepath.Join(t.TempDir(), "netpolicy")
	if out, err := exec.Command("go", "build", "-o", program, "netpolicy.dev/netpolicy/cmd/netpolicy").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	run := func(t *testing.T, _ map[string][]byte) *client {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		cmd := exec.CommandContext(ctx, program, "lsp")
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return newClient(t, in, out, func() error { defer cancel(); return cmd.Wait() })
	}
	playFile(t, "testdata/hover_yaml.txtar", run)

	c := run(t, nil)
	c.send(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":{}}}`)
	c.answer()
	c.send(`{"jsonrpc":"2.0","method":"exit"}`)
	var exit *exec.ExitError
	if err := c.wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("exit without shutdown: %v, want exit code 1", err)
	}
}

// serve runs the server in this process; it reads imports from the archive.
func serve(t *testing.T, files map[string][]byte) *client {
	t.Helper()
	serverIn, in := io.Pipe()
	out, serverOut := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := lsp.Serve(context.Background(), serverIn, serverOut, lsp.Options{Version: "test", ReadFile: func(path string) ([]byte, error) {
			if b, ok := files[strings.TrimPrefix(path, "/t/")]; ok {
				return b, nil
			}
			return nil, fs.ErrNotExist
		}})
		serverIn.Close()
		serverOut.Close()
		done <- err
	}()
	return newClient(t, in, out, func() error { return <-done })
}

// client is the editor's side.
type client struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Reader
	wait func() error
	id   int
}

func newClient(t *testing.T, in io.WriteCloser, out io.Reader, wait func() error) *client {
	return &client{t: t, in: in, out: bufio.NewReader(out), wait: wait}
}

func (c *client) send(body string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, "Content-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads one message.
func (c *client) answer() map[string]any {
	c.t.Helper()
	length := 0
	for {
		line, err := c.out.ReadString('\n')
		if err != nil {
			c.t.Fatal(err)
		}
		if line == "\r\n" {
			break
		}
		if v, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.out, body); err != nil {
		c.t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		c.t.Fatalf("%v: %s", err, body)
	}
	if m["jsonrpc"] != "2.0" {
		c.t.Errorf("no JSON-RPC: %s", body)
	}
	delete(m, "jsonrpc")
	return m
}

func (c *client) request(method string, params any) map[string]any {
	c.id++
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": c.id, "method": method, "params": params})
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(string(body))
	m := c.answer()
	if m["id"] != float64(c.id) {
		c.t.Fatalf("the answer to %d is %v", c.id, m)
	}
	delete(m, "id")
	return m
}

func (c *client) notify(method string, params any) {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params})
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(string(body))
}

// quit ends the session as the protocol wants.
func (c *client) quit() {
	if m := c.request("shutdown", nil); m["error"] != nil {
		c.t.Error(m)
	}
	c.notify("exit", nil)
	if err := c.wait(); err != nil {
		c.t.Errorf("after shutdown and exit: %v", err)
	}
	c.in.Close()
}

// session is one archive being played.
type session struct {
	t       *testing.T
	c       *client
	files   map[string][]byte
	marks   map[string]map[string]any // by file and number
	version int
}

func playFile(t *testing.T, file string, start func(*testing.T, map[string][]byte) *client) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, files: map[string][]byte{}, marks: map[string]map[string]any{}}
	var script string
	want := -1
	for i, f := range archive.Files {
		switch f.Name {
		case "session":
			script = string(f.Data)
		case "answers":
			want = i
		default:
			s.addFile(f.Name, string(f.Data))
		}
	}
	s.c = start(t, s.files)
	encodings := []string{"utf-16"}
	if strings.Contains(file, "utf8") {
		encodings = []string{"utf-8"}
	}
	s.c.request("initialize", map[string]any{"capabilities": map[string]any{"general": map[string]any{"positionEncodings": encodings}}})
	s.c.notify("initialized", struct{}{})
	var got bytes.Buffer
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		fmt.Fprintf(&got, "> %s\n", line)
		if m := s.line(line); m != nil {
			encoder := json.NewEncoder(&got)
			encoder.SetEscapeHTML(false)
			encoder.SetIndent("", " ")
			if err := encoder.Encode(compact(m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.c.quit()
	if want < 0 {
		archive.Files = append(archive.Files, txtar.File{Name: "answers"})
		want = len(archive.Files) - 1
	}
	if *update {
		archive.Files[want].Data = got.Bytes()
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(archive.Files[want].Data), got.String()); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

// addFile takes the marks out of a file. Their columns are UTF-16 units; in a file
// called utf8 they are bytes.
func (s *session) addFile(name, text string) {
	utf8 := strings.Contains(name, "utf8")
	line, column := 0, 0
	var out strings.Builder
	for len(text) > 0 {
		if rest, ok := strings.CutPrefix(text, "‹"); ok {
			n, after, _ := strings.Cut(rest, "›")
			s.marks[name+"@"+n] = map[string]any{"line": line, "character": column}
			text = after
			continue
		}
		r := []rune(text[:min(len(text), 8)])[0]
		size := len(string(r))
		switch {
		case r == '\n':
			line, column = line+1, 0
		case utf8:
			column += size
		case r > 0xffff:
			column += 2
		default:
			column++
		}
		out.WriteString(text[:size])
		text = text[size:]
	}
	s.files[name] = []byte(out.String())
}

func uri(name string) string { return "file:///t/" + name }

// line plays one line and returns the message that answers it.
func (s *session) line(line string) map[string]any {
	if body, ok := strings.CutPrefix(line, "raw "); ok {
		s.c.send(body)
		if strings.Contains(body, `"id"`) || !strings.HasPrefix(body, "{") {
			return s.c.answer()
		}
		return nil
	}
	words := strings.Fields(line)
	switch words[0] {
	case "open":
		language := "yaml"
		if strings.HasSuffix(words[1], ".npl") {
			language = "npl"
		}
		s.c.notify("textDocument/didOpen", map[string]any{"textDocument": map[string]any{
			"uri": uri(words[1]), "languageId": language, "version": 1, "text": string(s.files[words[1]]),
		}})
		return s.c.answer()
	case "change":
		s.version++
		text, err := strconv.Unquote(strings.Join(words[4:], " "))
		if err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		s.c.notify("textDocument/didChange", map[string]any{
			"textDocument":   map[string]any{"uri": uri(words[1]), "version": 1 + s.version},
			"contentChanges": []any{map[string]any{"range": map[string]any{"start": s.mark(words[1], words[2]), "end": s.mark(words[1], words[3])}, "text": text}},
		})
		return s.c.answer()
	}
	params := map[string]any{"textDocument": map[string]any{"uri": uri(words[1])}}
	for _, w := range words[2:] {
		if name, value, ok := strings.Cut(w, "="); ok {
			var v any
			if err := json.Unmarshal([]byte(value), &v); err != nil {
				s.t.Fatalf("%s: %v", line, err)
			}
			params[name] = v
			continue
		}
		params["position"] = s.mark(words[1], w)
	}
	if words[0] == "codeAction" {
		p := params["position"]
		params["range"], params["context"] = map[string]any{"start": p, "end": p}, map[string]any{"diagnostics": []any{}}
	}
	return s.c.request("textDocument/"+words[0], params)
}

func (s *session) mark(file, mark string) map[string]any {
	m := s.marks[file+mark]
	if m == nil {
		s.t.Fatalf("%s has no mark %s", file, mark)
	}
	return m
}

// compact writes ranges as "line:column-line:column", and leaves out what no
// session is about.
func compact(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = compact(v[i])
		}
	case map[string]any:
		if start, ok := v["start"].(map[string]any); ok && len(v) == 2 {
			end := v["end"].(map[string]any)
			return fmt.Sprintf("%v:%v-%v:%v", start["line"], start["character"], end["line"], end["character"])
		}
		for k := range v {
			v[k] = compact(v[k])
		}
	}
	return v
}
