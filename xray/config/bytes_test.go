package config

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/xraytest"
	"netpolicy.dev/netpolicy/xray/link"
)

// patience bounds what a test waits for: far more than a loaded machine takes.
const patience = 60 * time.Second

// fetchAddress is where every connection goes. No host has it (RFC 5737): the
// server leads all that comes out of a proxy to the test, as WireGuard, which has a
// network of its own, takes no packet to 127/8.
const fetchAddress = "198.51.100.7:80"

// running is a real Xray that the test has started.
type running struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}

// log returns what Xray has printed from an offset on.
func (r *running) log(from int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.String()[from:]
}

// startXray runs Xray until the test ends, and waits until it says that it started.
func startXray(t testing.TB, binary string, config []byte) *running {
	t.Helper()
	r := &running{}
	cmd := exec.Command(binary, "run", "-config", "stdin:")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(config), r, r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if strings.Contains(r.log(0), " started") {
			return r
		}
		select {
		case <-ended:
			t.Fatalf("Xray ended: %s", r.log(0))
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("Xray is not ready: %s", r.log(0))
		}
	}
}

// fetch gets the bytes through a proxy of the client and returns their hash.
func fetch(ctx context.Context, proxy netip.AddrPort) (sum [sha256.Size]byte, n int64, err error) {
	transport := &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: proxy.String()}), DisableKeepAlives: true,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+fetchAddress+"/", nil)
	if err != nil {
		return sum, 0, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return sum, 0, err
	}
	defer resp.Body.Close()
	h := sha256.New()
	n, err = io.Copy(h, resp.Body)
	return [sha256.Size]byte(h.Sum(nil)), n, err
}

// lab is a server with an inbound for each combination, and a client.
type lab struct {
	wires
	sum    [sha256.Size]byte // of what is fetched
	client *running
	ports  []netip.AddrPort // of the client, one for each profile
}

// throughLinks is the client's configuration: profiles written as links, read again,
// and built.
func throughLinks(t testing.TB, v Version, profiles []link.Profile, ports []netip.AddrPort) []byte {
	t.Helper()
	var o Options
	o.LogLevel = "info" // says why a connection failed
	read := make([]link.Profile, len(profiles))
	for i, p := range profiles {
		text := p.Link()
		var findings []link.Finding
		if read[i], findings = link.Parse(text); link.Refused(findings) {
			t.Fatalf("%s: %v", text, findings)
		}
		name := fmt.Sprintf("p%d", i)
		o.Inbounds = append(o.Inbounds, Inbound{Name: name, Listen: ports[i], Group: name})
		o.Groups = append(o.Groups, Group{Name: name, Members: []int{i}})
	}
	data, findings := Build(v, read, o)
	if Refused(findings) || data == nil {
		t.Fatal(findings)
	}
	return data
}

// newLab starts a server with the inbounds of all, and a client with the profiles of
// used, and waits until they are ready.
func newLab(t testing.TB, client, server core, all []wire, w wires, used []wire) *lab {
	t.Helper()
	l := &lab{wires: w}
	blob := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(blob)
	l.sum = sha256.Sum256(blob)
	listener, err := net.Listen("tcp", netip.AddrPortFrom(w.addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(blob) })}
	go func() { _ = web.Serve(listener) }()
	t.Cleanup(func() { _ = web.Close() })

	inbounds := []any{}
	for _, c := range all {
		inbounds = append(inbounds, c.inbound)
	}
	profiles := make([]link.Profile, len(used))
	for i, c := range used {
		profiles[i] = c.profile
	}
	startXray(t, server.binary, encode(object{
		"log": object{"loglevel": "warning", "access": "none"}, "inbounds": inbounds,
		// 26.7 would block what leads to this host.
		"outbounds": []any{object{"protocol": "freedom", "settings": object{
			"redirect": listener.Addr().String(), "finalRules": []any{object{"action": "allow"}},
		}}},
	}))
	l.ports = freePorts(t, w.addr, len(used))
	l.client = startXray(t, client.binary, throughLinks(t, client.v, profiles, l.ports))
	return l
}

// core is a real Xray and the rules that its configurations are written by.
type core struct {
	v      Version
	binary string
}

// cores returns the real 26.3, and 26.7 where the environment names one.
func cores(t testing.TB) []core {
	t.Helper()
	all := []core{{V26_3, xraytest.Binary(t)}}
	if newer := xraytest.Newer(); newer != "" {
		all = append(all, core{V26_7, newer})
	} else {
		t.Log("26.7 was not run: ", xraytest.NewerVariable, " names no program")
	}
	return all
}

// TestBytes: 1 MiB through a real client and a real server for each combination,
// the client's configuration built of links that we wrote. With two versions of
// Xray each is the client of each.
func TestBytes(t *testing.T) {
	all := cores(t)
	for _, client := range all {
		for _, server := range all {
			name := "bytes"
			if len(all) > 1 {
				name = fmt.Sprintf("bytes, client %s, server %s", client.v, server.v)
			}
			through(t, name, client, server)
		}
	}
}

// through fetches through each combination and prints what came.
func through(t *testing.T, what string, client, server core) {
	w := newWires(t, client.v, server.v)
	all := w.combinations()
	l := newLab(t, client, server, all, w, all)
	good, refused, began := 0, 0, time.Now()
	for i, c := range all {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		from := len(l.client.log(0))
		sum, n, err := fetch(ctx, l.ports[i])
		cancel()
		switch {
		case c.refused && err != nil && n == 0:
			refused++
			t.Logf("%s: refused by the server, as is known", c.name)
		case c.refused || err != nil || sum != l.sum:
			t.Errorf("%s: %d bytes, %v\n%s", c.name, n, err, l.client.log(from))
		default:
			good++
			t.Logf("%s: %d bytes in %v", c.name, n, time.Since(start).Round(time.Millisecond))
		}
	}
	t.Logf("%s: %d of %d combinations, 1 MiB each, hashes equal, in %.1f s", what, good, len(all)-refused, time.Since(began).Seconds())
}
