package resolver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// fakeServer is a real DNS server of one answer function, over all transports.
type fakeServer struct {
	udp, tcp, tls, https netip.AddrPort
	roots                *x509.CertPool

	// answer makes the reply; nil: none.
	answer func(proto string, m dnsmessage.Message) *dnsmessage.Message

	asked                      atomic.Int64 // questions, of all transports
	overUDP, overTCP, overTLS  atomic.Int64
	overHTTPS, conns, notHTTP2 atomic.Int64
	mu                         sync.Mutex
	from                       []netip.AddrPort // sources over UDP
	ids                        []uint16
	names                      []string
	lastEDNS                   dnsmessage.ResourceHeader
	lastOptions                int
	serving                    sync.WaitGroup
}

const serverName = "dns.example"

// serve starts a server in this thread's namespace, at addr.
func serve(t testing.TB, addr string, answer func(string, dnsmessage.Message) *dnsmessage.Message) *fakeServer {
	t.Helper()
	s := &fakeServer{answer: answer}
	cert, roots := certificate(t)
	s.roots = roots
	both, err := bind(context.Background(), netip.AddrPortFrom(netip.MustParseAddr(addr), 0))
	if err != nil {
		t.Fatal(err)
	}
	pc, plain := both.udp, both.tcp
	s.udp = both.addr
	secure := s.listener(t, net.JoinHostPort(addr, "0"))
	web := s.listener(t, net.JoinHostPort(addr, "0"))
	s.tcp, s.tls, s.https = addrPort(plain.Addr()), addrPort(secure.Addr()), addrPort(web.Addr())
	s.serving.Go(func() { s.serveUDP(pc) })
	s.serving.Go(func() { s.accept(plain, "tcp") })
	s.serving.Go(func() { s.accept(tls.NewListener(secure, &tls.Config{Certificates: []tls.Certificate{cert}}), "tls") })
	h := &http.Server{Handler: http.HandlerFunc(s.serveHTTP), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ErrorLog: log.New(io.Discard, "", 0)}
	s.serving.Go(func() { _ = h.ServeTLS(web, "", "") })
	t.Cleanup(func() {
		_ = pc.Close()
		_ = plain.Close()
		_ = secure.Close()
		_ = h.Close()
		s.serving.Wait()
	})
	return s
}

func (s *fakeServer) listener(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// url returns the upstream's URL for a scheme.
func (s *fakeServer) upstream(scheme string) Upstream {
	u := Upstream{Name: scheme, Roots: s.roots}
	switch scheme {
	case "udp":
		u.URL = "udp://" + s.udp.String()
	case "tcp":
		u.URL = "tcp://" + s.tcp.String()
	case "tls":
		u.URL = "tls://" + s.tls.String() + "#" + serverName
	case "https":
		u.URL = "https://" + serverName + ":" + portOf(s.https) + "/dns-query"
		u.Bootstrap = []netip.Addr{s.https.Addr()}
	}
	return u
}

func portOf(a netip.AddrPort) string {
	_, port, _ := strings.Cut(a.String(), "]:")
	if port == "" {
		_, port, _ = strings.Cut(a.String(), ":")
	}
	return port
}

func (s *fakeServer) reply(proto string, b []byte, from netip.AddrPort) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		return nil
	}
	s.asked.Add(1)
	s.mu.Lock()
	s.ids = append(s.ids, m.ID)
	s.names = append(s.names, m.Questions[0].Name.String())
	if proto == "udp" {
		s.from = append(s.from, from)
	}
	if len(m.Additionals) > 0 {
		s.lastEDNS = m.Additionals[0].Header
		s.lastOptions = len(m.Additionals[0].Body.(*dnsmessage.OPTResource).Options)
	}
	s.mu.Unlock()
	r := s.answer(proto, m)
	if r == nil {
		return nil
	}
	out, err := r.Pack()
	if err != nil {
		panic(err)
	}
	return out
}

func (s *fakeServer) serveUDP(pc net.PacketConn) {
	buf := make([]byte, 65535)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		s.overUDP.Add(1)
		msg := append([]byte(nil), buf[:n]...)
		s.serving.Go(func() {
			if r := s.reply("udp", msg, addrPort(from)); r != nil {
				_, _ = pc.WriteTo(r, from)
			}
		})
	}
}

func (s *fakeServer) accept(l net.Listener, proto string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.conns.Add(1)
		s.serving.Go(func() {
			defer c.Close()
			var writing sync.Mutex
			for {
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
				msg, err := readFrame(c, maxTCP)
				if err != nil {
					return
				}
				if proto == "tcp" {
					s.overTCP.Add(1)
				} else {
					s.overTLS.Add(1)
				}
				s.serving.Go(func() {
					if r := s.reply(proto, msg, netip.AddrPort{}); r != nil {
						writing.Lock()
						defer writing.Unlock()
						_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...))
					}
				})
			}
		})
	}
}

func (s *fakeServer) serveHTTP(w http.ResponseWriter, req *http.Request) {
	s.overHTTPS.Add(1)
	if req.ProtoMajor != 2 {
		s.notHTTP2.Add(1)
	}
	b, _ := io.ReadAll(req.Body)
	r := s.reply("https", b, netip.AddrPort{})
	if r == nil {
		<-req.Context().Done()
		return
	}
	w.Header().Set("Content-Type", dnsMessage)
	_, _ = w.Write(r)
}

// certificate makes a certificate that vouches for itself.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, pool
}

// addressed answers every question with one address.
func addressed(ttl uint32, a string) func(string, dnsmessage.Message) *dnsmessage.Message {
	addr := netip.MustParseAddr(a)
	return func(_ string, m dnsmessage.Message) *dnsmessage.Message {
		r := replyTo(m)
		h := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: m.Questions[0].Type, Class: dnsmessage.ClassINET, TTL: ttl}
		switch {
		case h.Type == dnsmessage.TypeA && addr.Is4():
			r.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}}}
		case h.Type == dnsmessage.TypeAAAA && addr.Is6():
			r.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}}}
		default:
			r.Authorities = []dnsmessage.Resource{soa(60, 30)}
		}
		return r
	}
}

// replyTo is an answer without records, with EDNS if the question had it.
func replyTo(m dnsmessage.Message) *dnsmessage.Message {
	r := &dnsmessage.Message{Header: m.Header, Questions: m.Questions}
	r.Response, r.RecursionAvailable = true, true
	if len(m.Additionals) > 0 {
		h := dnsmessage.ResourceHeader{}
		_ = h.SetEDNS0(4096, dnsmessage.RCodeSuccess, false)
		r.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	return r
}

func soa(ttl, minimum uint32) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("example."), Type: dnsmessage.TypeSOA, Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("ns.example."), MBox: dnsmessage.MustNewName("x.example."), MinTTL: minimum},
	}
}

// start runs a resolver until the test ends, and returns the address it serves.
func start(t testing.TB, cfg Config) (*Resolver, netip.AddrPort) {
	t.Helper()
	if cfg.Listen == nil {
		cfg.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	}
	ready := make(chan []netip.AddrPort, 1)
	cfg.Ready = func(a []netip.AddrPort) { ready <- a }
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("run:", err)
		}
	})
	select {
	case a := <-ready:
		return r, a[0]
	case err := <-done:
		done <- nil
		t.Fatal("run:", err)
		return nil, netip.AddrPort{}
	}
}

// question packs a question; size 0: without EDNS.
func question(t testing.TB, name string, qtype dnsmessage.Type, size int) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: qtype, Class: dnsmessage.ClassINET}},
	}
	if size > 0 {
		h := dnsmessage.ResourceHeader{}
		_ = h.SetEDNS0(size, dnsmessage.RCodeSuccess, false)
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// askUDP asks at addr and returns the answer.
func askUDP(t testing.TB, addr netip.AddrPort, msg []byte) dnsmessage.Message {
	t.Helper()
	c, err := net.Dial("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal("no answer:", err)
	}
	return unpack(t, buf[:n])
}

func askTCP(t testing.TB, addr netip.AddrPort, msg []byte) dnsmessage.Message {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b, err := readFrame(c, maxTCP)
	if err != nil {
		t.Fatal("no answer:", err)
	}
	return unpack(t, b)
}

func unpack(t testing.TB, b []byte) dnsmessage.Message {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("the answer is broken: %v: %x", err, b)
	}
	return m
}

// addresses returns the A and AAAA records of an answer.
func addresses(m dnsmessage.Message) string {
	var list []string
	for _, a := range m.Answers {
		switch b := a.Body.(type) {
		case *dnsmessage.AResource:
			list = append(list, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			list = append(list, netip.AddrFrom16(b.AAAA).String())
		}
	}
	return strings.Join(list, " ")
}
