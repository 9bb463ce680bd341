package lab

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// host is a name that the lab's resolver knows.
type host struct {
	name string
	addr [2]netip.Addr // IPv4, IPv6
}

// hosts is the lab's whole internet. Every host serves every port of tcpPorts and udpPorts.
func hosts() []host {
	h := func(name, v4, v6 string) host {
		return host{name, [2]netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}}
	}
	return []host{
		h("dns.example.net", Resolver4, Resolver6),
		h("anchor1.example.net", "203.0.113.1", "2001:db8:cafe::1"),
		h("anchor2.example.net", "198.51.100.1", "2001:db8:cafe::2"),
		h("us01.zoom.us", "203.0.113.10", "2001:db8:cafe::10"),
		h("api.zoom.us", "203.0.113.11", "2001:db8:cafe::11"),
		h("zoom.us", "203.0.113.12", "2001:db8:cafe::12"),
		h("evilzoom.us", "203.0.113.20", "2001:db8:cafe::20"),
		h("example.com", "203.0.113.30", "2001:db8:cafe::30"),
		h("www.example.com", "198.51.100.30", "2001:db8:cafe::31"),
		h("ads.example.com", "198.51.100.33", "2001:db8:cafe::33"),
		h("bulk.example.net", "198.51.100.40", "2001:db8:cafe::40"),
		h("echo.example.net", "198.51.100.41", "2001:db8:cafe::41"),
	}
}

const (
	// PortTLS echoes over TLS whatever name is asked for, and over UDP.
	PortTLS = 443
	// PortEcho echoes over TCP and UDP; the bulk transfers use it too.
	PortEcho = 7
	// PortWeb answers HTTP requests with nothing (204), as what proxies are probed with does.
	PortWeb = 8000
	portDNS = 53

	// maxConns bounds the connections that are served at once.
	maxConns = 1024
	// dnsTTL is how long an answer holds, in seconds: longer than any example goes on.
	dnsTTL = 300
)

// plainPorts echo over TCP without TLS: echo, and what policies block by port.
var plainPorts = []int{PortEcho, 22, 23, 80, 5001, 8080}

// servers are everything that listens in the inet namespace.
type servers struct {
	closers []io.Closer
	serving sync.WaitGroup
	rescue  func() // deferred by every goroutine
	slots   chan struct{}

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	done  bool
}

// startServers opens the sockets inside s and serves them.
func startServers(s *space, rescue func()) (*servers, error) {
	sv := &servers{rescue: rescue, slots: make(chan struct{}, maxConns), conns: map[net.Conn]struct{}{}}
	cert, err := selfSigned()
	if err != nil {
		return nil, err
	}
	// Multipath TCP would only blur what a connection's packets are.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	err = s.do(func() error {
		for _, port := range append([]int{PortTLS, portDNS, PortWeb}, plainPorts...) {
			ln, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				return fmt.Errorf("listen on port %d: %w", port, err)
			}
			sv.closers = append(sv.closers, ln)
			switch port {
			case PortTLS:
				ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}})
				sv.accept(ln, echo)
			case portDNS:
				sv.accept(ln, serveDNSStream)
			case PortWeb:
				sv.accept(ln, serveWeb)
			default:
				sv.accept(ln, echo)
			}
		}
		// UDP sockets are bound to one address each, so that answers come from the address asked.
		for _, h := range hosts() {
			for _, a := range h.addr {
				for _, port := range []uint16{portDNS, PortEcho, PortTLS} {
					pc, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(a, port).String())
					if err != nil {
						return fmt.Errorf("listen on UDP %v port %d: %w", a, port, err)
					}
					sv.closers = append(sv.closers, pc)
					sv.packets(pc, port == portDNS)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, sv.close())
	}
	return sv, nil
}

// close ends all servers and waits for them.
func (sv *servers) close() error {
	var errs []error
	for _, c := range sv.closers {
		errs = append(errs, c.Close())
	}
	sv.mu.Lock()
	sv.done = true
	for c := range sv.conns {
		c.Close()
	}
	sv.mu.Unlock()
	sv.serving.Wait()
	return errors.Join(errs...)
}

// accept serves each connection of ln, at most maxConns at once; more wait in the kernel's backlog.
func (sv *servers) accept(ln net.Listener, serve func(net.Conn) error) {
	sv.serving.Go(func() {
		defer sv.rescue()
		for {
			conn, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			if !sv.add(conn) {
				return
			}
			sv.serving.Go(func() {
				defer sv.rescue()
				defer sv.remove(conn)
				_ = serve(conn) // the far end went away, which is its right
			})
		}
	})
}

func (sv *servers) add(conn net.Conn) bool {
	sv.slots <- struct{}{}
	sv.mu.Lock()
	defer sv.mu.Unlock()
	if sv.done {
		conn.Close()
		return false
	}
	sv.conns[conn] = struct{}{}
	return true
}

func (sv *servers) remove(conn net.Conn) {
	conn.Close()
	sv.mu.Lock()
	delete(sv.conns, conn)
	sv.mu.Unlock()
	<-sv.slots
}

func serveWeb(conn net.Conn) error {
	for in := bufio.NewReader(conn); ; {
		if _, err := http.ReadRequest(in); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
			return err
		}
	}
}

func echo(conn net.Conn) error {
	_, err := io.Copy(conn, conn)
	return err
}

// packets answers each datagram: with itself, or as a resolver.
func (sv *servers) packets(pc net.PacketConn, resolver bool) {
	sv.serving.Go(func() {
		defer sv.rescue()
		buf := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			answer := buf[:n]
			if resolver {
				if answer, err = answerDNS(answer); err != nil {
					continue // not a question
				}
			}
			_, _ = pc.WriteTo(answer, from)
		}
	})
}

// serveDNSStream answers questions over TCP (RFC 1035, 4.2.2).
func serveDNSStream(conn net.Conn) error {
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return err
		}
		question := make([]byte, int(size[0])<<8|int(size[1]))
		if _, err := io.ReadFull(conn, question); err != nil {
			return err
		}
		answer, err := answerDNS(question)
		if err != nil {
			return err
		}
		if _, err := conn.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)); err != nil {
			return err
		}
	}
}

// answerDNS answers a question for A or AAAA from hosts; a name that is not there is NXDOMAIN.
func answerDNS(question []byte) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(question)
	if err != nil {
		return nil, fmt.Errorf("read question: %w", err)
	}
	q, err := p.Question()
	if err != nil {
		return nil, fmt.Errorf("read question: %w", err)
	}
	name := q.Name.String()
	known := hosts()
	i := slices.IndexFunc(known, func(h host) bool { return equalFold(h.name+".", name) })
	reply := dnsmessage.Header{ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true}
	if i < 0 {
		reply.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, reply)
	b.EnableCompression()
	res := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: dnsTTL}
	err = steps(b.StartQuestions, func() error { return b.Question(q) }, b.StartAnswers, func() error {
		switch {
		case i >= 0 && q.Type == dnsmessage.TypeA:
			return b.AResource(res, dnsmessage.AResource{A: known[i].addr[0].As4()})
		case i >= 0 && q.Type == dnsmessage.TypeAAAA:
			return b.AAAAResource(res, dnsmessage.AAAAResource{AAAA: known[i].addr[1].As16()})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("write answer: %w", err)
	}
	return b.Finish()
}

// equalFold compares ASCII names without regard to case (RFC 4343).
func equalFold(a, b string) bool {
	lower := func(c byte) byte {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// selfSigned makes a certificate that lives as long as a lab may.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the servers' key: %w", err)
	}
	var names []string
	for _, h := range hosts() {
		names = append(names, h.name)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: names,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the servers' certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
