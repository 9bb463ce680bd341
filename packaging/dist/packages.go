package main

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// parts are what the packages are made of, beside files of the repository.
type parts struct {
	programs []file
	sbom     []byte
	notices  []byte
}

// repo reads a file of the repository.
func repo(name, target string, mode int64) (file, error) {
	data, err := os.ReadFile(filepath.FromSlash(name))
	return file{path: target, mode: mode, data: data}, err
}

// place is where a file of the repository goes.
type place struct {
	from, to string
	mode     int64
}

func gather(places []place) ([]file, error) {
	var files []file
	for _, p := range places {
		f, err := repo(p.from, p.to, p.mode)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// docs are the pages that go along, in folder dir.
func docs(dir string, p *parts) ([]file, error) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) == 0 {
		return nil, fmt.Errorf("no pages in docs: %w", err)
	}
	places := []place{{"README.md", dir + "/README.md", 0o644}, {"CHANGELOG.md", dir + "/CHANGELOG.md", 0o644}}
	for _, page := range pages {
		page = filepath.ToSlash(page)
		places = append(places, place{page, dir + "/" + path.Base(page), 0o644})
	}
	files, err := gather(places)
	return append(files,
		file{path: dir + "/sbom.cdx.json", mode: 0o644, data: p.sbom},
		file{path: dir + "/THIRD-PARTY-LICENSES", mode: 0o644, data: p.notices},
	), err
}

// tarball packs a folder from which install.sh installs.
func (r *release) tarball(name string, p *parts) ([]byte, error) {
	files, err := docs("doc", p)
	if err != nil {
		return nil, err
	}
	more, err := gather([]place{
		{"packaging/tarball/install.sh", "install.sh", 0o755},
		{"packaging/tarball/uninstall.sh", "uninstall.sh", 0o755},
		{"packaging/policy.npl", "policy.npl", 0o644},
		{"packaging/systemd/netpolicyd.service", "systemd/netpolicyd.service", 0o644},
		{"packaging/systemd/netpolicy.tmpfiles", "systemd/netpolicy.tmpfiles", 0o644},
		{"packaging/openrc/netpolicyd", "openrc/netpolicyd", 0o755},
		{"packaging/man/netpolicy.1", "man/netpolicy.1", 0o644},
		{"packaging/man/netpolicyd.8", "man/netpolicyd.8", 0o644},
		{"packaging/prometheus/netpolicy.rules.yml", "prometheus/netpolicy.rules.yml", 0o644},
		{"packaging/grafana/netpolicy.json", "grafana/netpolicy.json", 0o644},
		{"LICENSE", "doc/LICENSE", 0o644},
	})
	if err != nil {
		return nil, err
	}
	files = append(files, more...)
	for _, program := range p.programs {
		program.path = folder(program.path) + "/" + program.path
		files = append(files, program)
	}
	return tarGz(name, files, r.at)
}

// folder is bin for everyone's programs, sbin for root's.
func folder(program string) string {
	if program == "netpolicyd" {
		return "sbin"
	}
	return "bin"
}

// conffile is the file that belongs to the administrator.
const conffile = "etc/netpolicy/policy.npl"

// control is the Debian package's control file, see deb-control(5).
const control = `Package: netpolicy
Version: %s
Architecture: %s
Maintainer: The netpolicy authors <packages@netpolicy.invalid>
Installed-Size: %d
Depends: adduser, nftables (>= 1.0)
Recommends: iproute2
Suggests: iptables, ipset
Section: net
Priority: optional
Description: programmable network policy engine
 netpolicy decides which connections, by name, address, port, protocol, program or
 measured latency, take which uplink, are blocked, throttled or logged, and how
 that changes when a line gets bad. netpolicyd enforces the policy with nftables,
 ip rules and routes; netpolicy checks, explains and tests it.
`

// deb packs a Debian package: deb(5).
func (r *release) deb(arch string, p *parts) ([]byte, error) {
	const share = "usr/share/doc/netpolicy"
	files, err := docs(share, p)
	if err != nil {
		return nil, err
	}
	more, err := gather([]place{
		{"packaging/policy.npl", conffile, 0o640},
		{"packaging/systemd/netpolicyd.service", "usr/lib/systemd/system/netpolicyd.service", 0o644},
		{"packaging/systemd/netpolicy.tmpfiles", "usr/lib/tmpfiles.d/netpolicy.conf", 0o644},
		{"packaging/man/netpolicy.1", "usr/share/man/man1/netpolicy.1", 0o644},
		{"packaging/man/netpolicyd.8", "usr/share/man/man8/netpolicyd.8", 0o644},
		{"packaging/prometheus/netpolicy.rules.yml", "usr/share/netpolicy/prometheus/netpolicy.rules.yml", 0o644},
		{"packaging/grafana/netpolicy.json", "usr/share/netpolicy/grafana/netpolicy.json", 0o644},
		{"LICENSE", share + "/copyright", 0o644},
	})
	if err != nil {
		return nil, err
	}
	files = append(append(files, more...), file{path: "etc/netpolicy/", mode: 0o750})
	for _, program := range p.programs {
		program.path = "usr/" + folder(program.path) + "/" + program.path
		files = append(files, program)
	}
	data, err := tarGz(".", files, r.at)
	if err != nil {
		return nil, err
	}
	var sums bytes.Buffer
	size := 0
	for _, f := range files {
		size += len(f.data)
		if f.data != nil && f.path != conffile {
			fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(f.data), f.path)
		}
	}
	info, err := gather([]place{
		{"packaging/deb/postinst", "postinst", 0o755},
		{"packaging/deb/prerm", "prerm", 0o755},
		{"packaging/deb/postrm", "postrm", 0o755},
	})
	if err != nil {
		return nil, err
	}
	// Debian's architectures have the names of Go's: amd64 and arm64.
	text := fmt.Sprintf(control, r.version, arch, (size+1023)/1024)
	info = append(info,
		file{path: "control", mode: 0o644, data: []byte(text)},
		file{path: "conffiles", mode: 0o644, data: []byte("/" + conffile + "\n")},
		file{path: "md5sums", mode: 0o644, data: sums.Bytes()},
	)
	about, err := tarGz(".", info, r.at)
	if err != nil {
		return nil, err
	}
	return ar([]file{
		{path: "debian-binary", data: []byte("2.0\n")},
		{path: "control.tar.gz", data: about},
		{path: "data.tar.gz", data: data},
	}, r.at), nil
}

// notices are the licences of the modules in the programs, which want to go along.
func notices(mods []module) []byte {
	var b strings.Builder
	b.WriteString("netpolicy contains these works, under their own licences.\n")
	for _, m := range mods {
		fmt.Fprintf(&b, "\n%s\n%s %s (%s)\n%[1]s\n\n%s\n", strings.Repeat("=", 78), m.path, m.version, m.licence, strings.TrimSpace(m.text))
	}
	return []byte(b.String())
}
