package main_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/xray/generator"
)

// run is what Node does: it starts the program and answers each line of standard
// input, [name, request], with a line.
const run = `
const fs = require('fs');
require(process.argv[2]);
const go = new Go();
WebAssembly.instantiate(fs.readFileSync(process.argv[3]), go.importObject).then(({instance}) => {
  go.run(instance);
  const out = [];
  for (const line of fs.readFileSync(0, 'utf8').split('\n')) {
    if (line === '') continue;
    out.push(JSON.stringify(netpolicyXray(...JSON.parse(line))));
  }
  fs.writeSync(1, out.join('\n') + '\n');
  process.exit(0);
}).catch(err => { console.error(err); process.exit(1); });
`

// corpus is what other projects' tests and documents say of links.
const corpus = "../../../shared/data/xray-links.jsonl"

// ours are links that are there without the corpus.
var ours = []string{
	"trojan://secret@proxy.example:443?type=ws&path=%2Fws&peer=s.example#Home",
	"vless://11111111-2222-4333-8444-555555555555@proxy.example.com:443?type=kcp&headerType=srtp&seed=s#Work",
	"hysteria2://p@bücher.example?insecure=1&obfs=salamander", "this is no link",
	"proxies:\n  - {name: a, type: ss, server: 192.0.2.1, port: 443, cipher: aes-256-gcm, password: x}\n",
}

// TestSameAnswers: in Node the program gives what the package gives, for every link.
func TestSameAnswers(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: ", err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "generator.wasm")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	report(t, program)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "run.js")
	if err := os.WriteFile(script, []byte(run), 0o600); err != nil {
		t.Fatal(err)
	}
	calls := calls(t)
	var in bytes.Buffer
	for _, c := range calls {
		line, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(line, '\n'))
	}
	in.WriteString("[1]\n")
	cmd := exec.Command(node, script, filepath.Join(strings.TrimSpace(string(root)), "lib", "wasm", "wasm_exec.js"), program)
	cmd.Stdin = &in
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(calls)+1 {
		t.Fatalf("%d answers to %d calls", len(lines), len(calls)+1)
	}
	for i, c := range calls {
		var got string
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		if want := string(generator.Call(c[0], []byte(c[1]))); got != want {
			t.Errorf("%s %s\nin Node %s\nhere    %s", c[0], c[1], got, want)
		}
	}
	if last := lines[len(calls)]; !strings.Contains(last, "takes the name of a function") {
		t.Error("a call without a request: ", last)
	}
	t.Logf("wasm: %d calls answered in Node as here", len(calls))
}

// calls are parse, edit, each format and build for every link.
func calls(t *testing.T) (all [][2]string) {
	links := ours
	if f, err := os.Open(corpus); err == nil {
		defer f.Close()
		rows := bufio.NewScanner(f)
		rows.Buffer(nil, 1<<20)
		for rows.Scan() {
			var row struct{ URL string }
			if err := json.Unmarshal(rows.Bytes(), &row); err != nil {
				t.Fatal(err)
			}
			links = append(links, row.URL)
		}
	} else {
		t.Log("without the links of other projects: ", err)
	}
	add := func(name string, request any) []byte {
		data, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, [2]string{name, string(data)})
		return generator.Call(name, data)
	}
	for i, text := range links {
		core := []string{"26.3", "26.7"}[i%2]
		add("parse", generator.ParseRequest{Text: text, Core: core})
		var reply generator.ParseReply
		if err := json.Unmarshal(add("parse", generator.ParseRequest{Text: text, Core: core, Secrets: true}), &reply); err != nil {
			t.Fatal(err)
		}
		if len(reply.Profiles) == 0 || !reply.Profiles[0].OK {
			continue
		}
		view := reply.Profiles[0]
		name := "Näme"
		add("edit", generator.EditRequest{State: *view.State, Core: core, Changes: []generator.Change{{Key: "#name", Value: &name}, {Key: "fp"}}})
		for _, to := range []string{"source", "link", "clash", "singbox", "sip008", "xray"} {
			add("format", generator.FormatRequest{States: []generator.State{*view.State}, To: to, Core: core})
		}
		add("build", generator.BuildRequest{States: []generator.State{*view.State}, Core: core, Listen: "127.0.0.1:1080"})
		add("fields", generator.FieldsRequest{Protocol: view.Protocol, Transport: view.Transport, Security: view.Security})
	}
	return all
}

// report prints how large the program is.
func report(t *testing.T, program string) {
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("wasm: %.1f MB, %.2f MB with gzip", float64(len(data))/1e6, float64(packed.Len())/1e6)
}
