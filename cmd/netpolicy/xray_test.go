package main

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	qr "github.com/piglig/go-qr"

	"netpolicy.dev/netpolicy/internal/xraytest"
)

// TestXrayQR: what is encoded can be read out of the picture.
func TestXrayQR(t *testing.T) {
	const text = "trojan://p%40ss@proxy.example:443?security=tls#caf%C3%A9"
	file := filepath.Join(t.TempDir(), "code.png")
	root := newRoot()
	root.SetArgs([]string{"xray", "qr", "--png", file, text})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	got, err := qr.Decode(picture)
	if err != nil || got != text {
		t.Errorf("read %q, %v", got, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestXrayQRLimit: the longest link has a code, one byte more is told.
func TestXrayQRLimit(t *testing.T) {
	const head = "trojan://p@h.example:443#"
	if _, err := encodeQR(head + strings.Repeat("a", longestQR-len(head))); err != nil {
		t.Error(err)
	}
	if _, err := encodeQR(head + strings.Repeat("a", longestQR-len(head)+1)); err == nil || !strings.Contains(err.Error(), "subscription") {
		t.Error(err)
	}
}

// TestXrayCore: what the real Xray refuses is told in its words, without secrets.
func TestXrayCore(t *testing.T) {
	binary := xraytest.Binary(t)
	const config = `{"outbounds": [
		{"protocol": "vless", "settings": {"address": "192.0.2.1", "port": 443, "id": "secret-longer", "encryption": "none", "flow": ""}},
		{"protocol": "socks", "settings": {"address": "192.0.2.1", "port": 1080, "user": "u", "pass": "secret"}}
	]}`
	if err := testWithCore(t.Context(), binary, []byte(config)); err != nil {
		t.Error(err)
	}
	err := testWithCore(t.Context(), binary, []byte(strings.Replace(config, `"flow": ""`, `"flow": "secret-longer"`, 1)))
	if err == nil || !strings.Contains(err.Error(), "***") || strings.Contains(err.Error(), "longer") {
		t.Error(err)
	}
}

// TestXrayDoc runs the session in docs/xray.md: `cat` shows a file that the next
// commands read.
func TestXrayDoc(t *testing.T) {
	doc, err := os.ReadFile("../../docs/xray.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	_, session, _ := strings.Cut(string(doc), "```\n$ ")
	session, _, _ = strings.Cut(session, "```")
	ran := 0
	for step := range strings.SplitSeq(session, "\n$ ") {
		command, want, _ := strings.Cut(strings.TrimSuffix(step, "\n"), "\n")
		args := strings.Fields(command)
		if args[0] == "cat" {
			if err := os.WriteFile(args[1], []byte(want+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		var out bytes.Buffer
		root := newRoot()
		root.SetOut(&out)
		root.SetArgs(args[1:])
		if err := root.Execute(); err != nil || strings.TrimSuffix(out.String(), "\n") != want {
			t.Errorf("%s: %v\n%s\nthe page has\n%s", command, err, out.String(), want)
		}
		ran++
	}
	if ran != 1 {
		t.Errorf("%d commands", ran)
	}
}
