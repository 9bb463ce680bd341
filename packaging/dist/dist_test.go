package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil { // the root of the repository
		panic(err)
	}
	os.Exit(m.Run())
}

// at is the time of every file in these tests.
var at = time.Unix(1764394001, 0).UTC()

func unpack(t *testing.T, archive []byte) (names []string, content map[string]string) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	content = map[string]string{}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, content
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(at) {
			t.Errorf("%s: owner %d:%d, time %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		content[h.Name] = string(data)
	}
}

func TestTar(t *testing.T) {
	files := []file{{"b/c/x", 0o644, []byte("1")}, {"a", 0o755, nil}, {"b/", 0o750, nil}}
	one, err := tarGz(".", files, at)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(files)
	two, err := tarGz(".", files, at)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the order of the files changes the archive")
	}
	names, content := unpack(t, one)
	if want := []string{"./", "./a", "./b/", "./b/c/", "./b/c/x"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if content["./b/c/x"] != "1" {
		t.Errorf("content %q", content["./b/c/x"])
	}
}

func TestAr(t *testing.T) {
	got := string(ar([]file{{path: "debian-binary", data: []byte("2.0\n")}, {path: "x", data: []byte("odd")}}, at))
	want := "!<arch>\n" +
		"debian-binary   1764394001  0     0     100644  4         `\n2.0\n" +
		"x               1764394001  0     0     100644  3         `\nodd\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestLicence(t *testing.T) {
	for text, want := range map[string]string{
		"Permission is hereby granted, free\nof charge, to any":                                "MIT",
		"Apache License\n  Version 2.0, January 2004":                                          "Apache-2.0",
		"Redistribution and use in source and binary forms ... Neither the name of the":        "BSD-3-Clause",
		"Redistribution and use in source and\nbinary forms, with or without":                  "BSD-2-Clause",
		"Apache License, Version 2.0 ... Permission is hereby granted, free of charge, to ...": "Apache-2.0 AND MIT",
		"All rights reserved.": "",
	} {
		if got := licence(text); got != want {
			t.Errorf("licence(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, version := range []string{"", "v1 0", "1/2", "1-2"} {
		r := release{version: version, out: t.TempDir()}
		if err := r.run([]string{"amd64"}, "1"); err == nil {
			t.Errorf("version %q is accepted", version)
		}
	}
}

// TestRelease builds for one architecture and looks at all that comes of it.
func TestRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the programs")
	}
	r := release{version: "1.2.3", at: at, out: t.TempDir()}
	if err := r.run([]string{"amd64"}, "1764394001"); err != nil {
		t.Fatal(err)
	}
	t.Run("checksums", func(t *testing.T) {
		cmd := exec.Command("sha256sum", "-c", "SHA256SUMS")
		cmd.Dir = r.out
		if out, err := cmd.CombinedOutput(); err != nil || strings.Count(string(out), "OK") != 3 {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("sbom", func(t *testing.T) { checkSBOM(t, r.out) })
	t.Run("tarball", func(t *testing.T) { checkTarball(t, r.out) })
	t.Run("deb", func(t *testing.T) { checkDeb(t, r.out) })
	deb := filepath.Join(r.out, "netpolicy_1.2.3_amd64.deb")
	t.Run("install", func(t *testing.T) { try(t, "unshare", "-mn", "bash", "packaging/deb/try.sh", deb) })
	t.Run("service", func(t *testing.T) { try(t, "bash", "packaging/systemd/try.sh", deb) })
}

// try runs a script that says with 77 that it can't work here.
func try(t *testing.T, name string, args ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 77 {
		t.Skipf("%s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func checkSBOM(t *testing.T, dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "netpolicy_1.2.3_linux_amd64.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var b bom
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	refs := map[string]bool{b.Metadata.Component.Ref: true}
	licensed := map[string]string{}
	for _, c := range b.Components {
		if refs[c.Ref] {
			t.Errorf("%s is there twice", c.Ref)
		}
		refs[c.Ref] = true
		if c.Type == "library" {
			licensed[c.Name] = c.Licenses[0].Expression
		}
	}
	for _, d := range b.Dependencies {
		for _, on := range append(d.DependsOn, d.Ref) {
			if !refs[on] {
				t.Errorf("%s depends on %s, which is not there", d.Ref, on)
			}
		}
	}
	for name, want := range map[string]string{
		"std": "BSD-3-Clause", "golang.org/x/sys": "BSD-3-Clause", "github.com/vishvananda/netlink": "Apache-2.0", "github.com/mdlayher/netlink": "MIT",
	} {
		if licensed[name] != want {
			t.Errorf("%s: licence %q, want %q", name, licensed[name], want)
		}
	}
	if len(licensed) < 10 {
		t.Errorf("only %d modules", len(licensed))
	}
}

func checkTarball(t *testing.T, dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "netpolicy_1.2.3_linux_amd64.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	unpack(t, data)
	image := t.TempDir()
	script := `set -eu
tar -xzf "$1/netpolicy_1.2.3_linux_amd64.tar.gz" -C "$2"
cd "$2/netpolicy_1.2.3_linux_amd64"
echo 'policy 1 # ours' >"$2/mine"
DESTDIR=$2/tree ./install.sh
"$2/tree/usr/local/sbin/netpolicyd" version
"$2/tree/usr/local/bin/netpolicy" version
"$2/tree/usr/local/bin/netpolicy" lint "$2/tree/etc/netpolicy/policy.npl"
grep ExecStart= "$2/tree/etc/systemd/system/netpolicyd.service"
cp "$2/mine" "$2/tree/etc/netpolicy/policy.npl"
DESTDIR=$2/tree ./install.sh
cmp "$2/mine" "$2/tree/etc/netpolicy/policy.npl"
DESTDIR=$2/tree ./uninstall.sh
find "$2/tree" -type f
DESTDIR=$2/tree ./uninstall.sh --purge
echo "left: $(find "$2/tree" -type f | wc -l)"
`
	out, err := exec.Command("bash", "-c", script, "bash", dir, image).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"netpolicyd v1.2.3\nnetpolicy v1.2.3\n", "ExecStart=/usr/local/sbin/netpolicyd --config /etc/netpolicy/policy.npl\n",
		"kept " + image + "/tree/etc/netpolicy/policy.npl\n", "removed\n" + image + "/tree/etc/netpolicy/policy.npl\nremoved\nleft: 0\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func checkDeb(t *testing.T, dir string) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not installed")
	}
	deb := filepath.Join(dir, "netpolicy_1.2.3_amd64.deb")
	var all strings.Builder
	for _, args := range [][]string{{"--info", deb}, {"--contents", deb}, {"--info", deb, "conffiles"}, {"--info", deb, "postinst"}} {
		out, err := exec.Command("dpkg-deb", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("dpkg-deb %s: %v\n%s", args, err, out)
		}
		all.Write(out)
	}
	for _, want := range []string{
		"Package: netpolicy\n", "Version: 1.2.3\n", "Architecture: amd64\n",
		"-rwxr-xr-x root/root", "./usr/sbin/netpolicyd\n", "./usr/bin/netpolicy\n", "./usr/lib/systemd/system/netpolicyd.service\n",
		"./usr/share/netpolicy/prometheus/netpolicy.rules.yml\n", "./usr/share/netpolicy/grafana/netpolicy.json\n",
		"drwxr-x--- root/root         0 2025-11-29 05:26 ./etc/netpolicy/\n", "\n/etc/netpolicy/policy.npl\n", "adduser --quiet --system",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("no %q in\n%s", want, all.String())
		}
	}
	root := t.TempDir()
	check := `set -eu; dpkg-deb -x "$1" "$2"; dpkg-deb -e "$1" "$2/DEBIAN"; cd "$2"; md5sum --quiet -c DEBIAN/md5sums; usr/sbin/netpolicyd version`
	out, err := exec.Command("bash", "-c", check, "bash", deb, root).CombinedOutput()
	if err != nil || string(out) != "netpolicyd v1.2.3\n" {
		t.Errorf("%v\n%s", err, out)
	}
}
