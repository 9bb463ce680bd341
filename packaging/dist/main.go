// Command dist builds what is released: for each architecture a tarball with an
// install script and a Debian package, an SBOM, and the checksums of all. It runs in
// the root of the repository; scripts/dist.sh gives it version and time.
//
//	SOURCE_DATE_EPOCH=1764394001 go run ./packaging/dist -version 0.1.0 -arch amd64,arm64 -out dist
//
// The same sources, version, time and Go release give the same bytes, in whatever
// folder and on whatever machine: no path, no clock and no user goes in.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxDaemon is what netpolicyd may weigh, unpacked, with all that it can do: eBPF,
// DNS over HTTPS, the readers of links, the editor's answers, the web interface.
const maxDaemon = 20 << 20

// release is what is built.
type release struct {
	version string
	at      time.Time // every file's
	out     string
}

func main() {
	var r release
	flag.StringVar(&r.version, "version", "", "the `version`, as Debian spells it")
	arches := flag.String("arch", "amd64,arm64", "the `architectures`, separated by commas")
	flag.StringVar(&r.out, "out", "dist", "the `folder` that gets the files")
	flag.Parse()
	err := r.run(strings.Split(*arches, ","), os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func (r *release) run(arches []string, epoch string) error {
	if r.version == "" || strings.Trim(r.version, "0123456789abcdefghijklmnopqrstuvwxyz.+~") != "" {
		return fmt.Errorf("-version %q: want digits, lower-case letters and .+~", r.version)
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	r.at = time.Unix(seconds, 0).UTC()
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	var made []string
	for _, arch := range arches {
		names, err := r.build(arch)
		if err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
		made = append(made, names...)
	}
	return r.sums(made)
}

// build makes the files of one architecture and returns their names.
func (r *release) build(arch string) ([]string, error) {
	temp, err := os.MkdirTemp("", "netpolicy-dist")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	if err := r.compile(arch, temp); err != nil {
		return nil, err
	}
	var programs []file
	for _, name := range []string{"netpolicy", "netpolicyd"} {
		data, err := os.ReadFile(filepath.Join(temp, name))
		if err != nil {
			return nil, err
		}
		fmt.Printf("%s %s: %.2f MiB\n", arch, name, float64(len(data))/(1<<20))
		if name == "netpolicyd" && len(data) >= maxDaemon {
			return nil, fmt.Errorf("netpolicyd has %d bytes, want fewer than %d", len(data), maxDaemon)
		}
		programs = append(programs, file{path: name, mode: 0o755, data: data})
	}
	mods, err := modules(programs)
	if err != nil {
		return nil, err
	}
	bom, err := r.sbom(arch, programs, mods)
	if err != nil {
		return nil, err
	}
	p := parts{programs: programs, sbom: bom, notices: notices(mods)}

	name := fmt.Sprintf("netpolicy_%s_linux_%s", r.version, arch)
	tarball, err := r.tarball(name, &p)
	if err != nil {
		return nil, err
	}
	deb, err := r.deb(arch, &p)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range []file{
		{path: name + ".tar.gz", data: tarball},
		{path: name + ".cdx.json", data: bom},
		{path: fmt.Sprintf("netpolicy_%s_%s.deb", r.version, arch), data: deb},
	} {
		if err := os.WriteFile(filepath.Join(r.out, f.path), f.data, 0o644); err != nil {
			return nil, err
		}
		fmt.Printf("%s: %.2f MiB\n", f.path, float64(len(f.data))/(1<<20))
		names = append(names, f.path)
	}
	return names, nil
}

// compile builds both programs for arch into dir. Whatever of the environment would
// change the bytes is set here.
func (r *release) compile(arch, dir string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-pgo=cmd/netpolicyd/default.pgo",
		"-ldflags", "-s -w -buildid= -X netpolicy.dev/netpolicy/internal/cli.release=v"+r.version,
		"-o", dir+"/", "./cmd/netpolicy", "./cmd/netpolicyd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0",
		"GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off", "GOTOOLCHAIN=local")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	return nil
}

// sums writes SHA256SUMS, as sha256sum -c reads it.
func (r *release) sums(names []string) error {
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(data), name)
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(b.String()), 0o644)
}
