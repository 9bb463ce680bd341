package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
)

// plain is a SOCKS server that knows CONNECT to IPv4 addresses and nothing else: no
// names, no passwords, no limits, no table. io.Copy between two TCP connections
// splices.
func plain(ctx context.Context, at func(netip.AddrPort)) error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	a, _ := l.Addr().(*net.TCPAddr)
	at(a.AddrPort())
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			go plainServe(tcp)
		}
	}
}

func plainServe(c *net.TCPConn) {
	defer c.Close()
	var b [10]byte
	if _, err := io.ReadFull(c, b[:3]); err != nil {
		return
	}
	if _, err := c.Write([]byte{5, 0}); err != nil {
		return
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return
	}
	to := &net.TCPAddr{IP: net.IP(b[4:8]), Port: int(binary.BigEndian.Uint16(b[8:]))}
	far, err := net.DialTCP("tcp4", nil, to)
	if err != nil {
		return
	}
	defer far.Close()
	if _, err := c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, c)
		_ = far.CloseWrite()
	}()
	_, _ = io.Copy(c, far)
	_ = c.CloseWrite()
	<-done
}
