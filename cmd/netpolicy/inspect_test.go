package main

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/inspector/tlshello"
	"netpolicy.dev/netpolicy/internal/cli"
)

// ip puts a transport segment into an IPv4 packet.
func ip(proto byte, src, dst string, body []byte) []byte {
	h := make([]byte, 20)
	h[0], h[9] = 0x45, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
	copy(h[12:], netip.MustParseAddr(src).AsSlice())
	copy(h[16:], netip.MustParseAddr(dst).AsSlice())
	return append(h, body...)
}

// capture writes a pcap: a DNS answer, TLS to that address, TLS without a name
// to it, and a ping.
func capture(t *testing.T) string {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{Response: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("zoom.us."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("zoom.us."), Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 9}},
		}},
	}
	answer, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	udp := binary.BigEndian.AppendUint16([]byte{0, 53, 0x9c, 0x3f}, uint16(8+len(answer)))
	udp = append(append(udp, 0, 0), answer...)
	packets := [][]byte{ip(17, "192.0.2.53", "10.0.0.5", udp)}
	for i, name := range []string{"us01.zoom.us", ""} {
		tcp := []byte{0x9c, 0x40 + byte(i), 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0, 0, 0, 0, 0, 0}
		packets = append(packets, ip(6, "10.0.0.5", "192.0.2.9", tcp))
		data := bytes.Clone(tcp)
		data[7], data[13] = 2, 0x18
		packets = append(packets, ip(6, "10.0.0.5", "192.0.2.9", append(data, firstFlight(t, name)...)))
	}
	packets = append(packets, ip(1, "10.0.0.5", "192.0.2.9", []byte{8, 0, 0, 0, 0, 1, 0, 1}))
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(65535, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	for i, p := range packets {
		info := gopacket.CaptureInfo{Timestamp: time.Unix(1767355200, int64(i)*1e6), CaptureLength: len(p), Length: len(p)}
		if err := w.WritePacket(info, p); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "x.pcap")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// firstFlight is the ClientHello for a name.
func firstFlight(t *testing.T, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake() // #nosec: nothing is trusted
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	<-done
	return append(head, body...)
}

func inspect(args ...string) (out, errs string, err error) {
	var stdout, stderr bytes.Buffer
	root := newRoot()
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(append([]string{"inspect"}, args...))
	err = root.Execute()
	return stdout.String(), stderr.String(), err
}

func TestInspectCapture(t *testing.T) {
	file := capture(t)
	// What crypto/tls sends depends on its version.
	ja4 := func(name string) string {
		h, err := new(tlshello.Parser).Parse(firstFlight(t, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(h.AppendJA4(nil, tlshello.OverTCP))
	}
	for _, c := range []struct{ output, want string }{
		{"ndjson", `{"proto":"udp","src":"10.0.0.5:39999","dst":"192.0.2.53:53","dscp":0,"name_source":null}
{"proto":"tcp","src":"10.0.0.5:40000","dst":"192.0.2.9:443","sni":"us01.zoom.us","http_host":null,"dns":["zoom.us"],"dscp":0,"app":"tls","alpn":null,"name_source":"tls","tls":"1.3","ja4":"` + ja4("us01.zoom.us") + `"}
{"proto":"tcp","src":"10.0.0.5:40001","dst":"192.0.2.9:443","sni":null,"http_host":null,"dns":["zoom.us"],"dscp":0,"app":"tls","alpn":null,"name_source":"dns","tls":"1.3","ja4":"` + ja4("") + `"}
{"proto":"icmp","src":"10.0.0.5","dst":"192.0.2.9","dns":["zoom.us"],"dscp":0,"name_source":"dns"}
`},
		{"table", `PROTO  SOURCE          DESTINATION    NAME          FROM
udp    10.0.0.5:39999  192.0.2.53:53  -             -
tcp    10.0.0.5:40000  192.0.2.9:443  us01.zoom.us  tls
tcp    10.0.0.5:40001  192.0.2.9:443  zoom.us       dns
icmp   10.0.0.5        192.0.2.9      zoom.us       dns
`},
	} {
		out, errs, err := inspect("--pcap", file, "-o", c.output)
		if diff := cmp.Diff(c.want, out); diff != "" || errs != "" || err != nil {
			t.Errorf("%s: %v %q (-want +got):\n%s", c.output, err, errs, diff)
		}
	}
}

func TestInspectRefuses(t *testing.T) {
	file := capture(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut.pcap")
	if err := os.WriteFile(cut, whole[:len(whole)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, err := inspect("--pcap", cut)
	if err != nil || strings.Count(out, "\n") != 4 || !strings.Contains(errs, "warning: "+cut+": read packet 6: the recording ends in the middle") {
		t.Errorf("cut capture: %v %q %q", err, out, errs)
	}
	for _, c := range []struct {
		args []string
		code error
		want string
	}{
		{[]string{"--pcap", "none.pcap"}, cli.Errors, "no such file"},
		{[]string{"--pcap", "inspect_test.go"}, cli.Errors, "neither pcap, pcapng nor NDJSON"},
		{nil, nil, "give one of --pcap FILE, --live and --iface NAME"},
		{[]string{"--pcap", file, "--live"}, nil, "give one of --pcap FILE, --live and --iface NAME"},
		{[]string{"--live", "--iface", "lo"}, nil, "give one of"},
		{[]string{"--pcap", file, "--count", "1"}, nil, "--for and --count belong to"},
		{[]string{"--iface", "lo", "--for", "-1s"}, nil, "can't be negative"},
		{[]string{"--pcap", file, "-o", "xml"}, nil, `unknown output "xml"`},
	} {
		_, errs, err := inspect(c.args...)
		if err == nil || c.code != nil && err != c.code || !strings.Contains(errs+err.Error(), c.want) {
			t.Errorf("%q: %v, %q", c.args, err, errs)
		}
	}
}

// TestInspectCaptures compares with what another engine, nDPI, tells of public
// captures: the tables that its own tests compare with.
func TestInspectCaptures(t *testing.T) {
	const captures = "../../../shared/data/pcap"
	if _, err := os.Stat(captures); errors.Is(err, os.ErrNotExist) {
		t.Skip("no captures in", captures)
	}
	for _, c := range []struct{ file, want string }{
		{"tls_esni_sni_both.pcap", "these-are-not-the-droids-youre-looking-for.com tls+ech tls 1.3 - - t13d031100_55b375c5d22e_77359c92d649"},
		{"google_chat.pcapng", "chat.google.com tls+ech tls 1.3 - h2,http/1.1 t13d1715h2_5b57614c22b0_5c2c66f702b0"},
		{"quic-28.pcap", "www.wireshark.org tls quic 1.3 draft-28 h3-28,h3-27 q13d0309h8_55b375c5d22e_f68d9329452a"},
		{"quic-mvfst-27.pcapng", "graph.facebook.com tls quic 1.3 mvfst-27 h3-fb-05 q00d0108h5_0f2cb44170f4_f4b4187450f5"},
		{"quic_frags_different_dcid.pcapng", "cdnjs.cloudflare.com tls+ech quic 1.3 1 h3 q13d0311h3_55b375c5d22e_5a1f323ef56d"},
		{"quic_q46_b.pcap", "upload.youtube.com tls quic - Q046 - -"}, // a CHLO is no ClientHello
	} {
		out, errs, err := inspect("--pcap", filepath.Join(captures, c.file), "-o", "wide")
		if rows := strings.Join(strings.Fields(out), " "); err != nil || errs != "" || !strings.Contains(rows, c.want) {
			t.Errorf("%s: %v %q, want %s in:\n%s", c.file, err, errs, c.want, out)
		}
	}
}
