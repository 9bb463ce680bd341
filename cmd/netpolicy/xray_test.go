package main

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	qr "github.com/piglig/go-qr"
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
