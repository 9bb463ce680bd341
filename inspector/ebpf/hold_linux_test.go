//go:build amd64 || arm64

package ebpf

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/nstest"
)

// hold lets each packet of queue 77 go after a time.
func hold(t testing.TB, ns *nstest.NS, delay time.Duration) {
	t.Helper()
	var c *netlink.Conn
	var err error
	ns.Do(t, func() { c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil) })
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadBuffer(16 << 20)
	const queue, config, verdict = 77, 3<<8 | 2, 3<<8 | 1
	message := func(kind netlink.HeaderType, flags netlink.HeaderFlags, attr uint16, value []byte) netlink.Message {
		data := append([]byte{0, 0, 0, queue}, binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))...)
		data = append(binary.NativeEndian.AppendUint16(data, attr), value...)
		for len(data)%4 != 0 {
			data = append(data, 0)
		}
		return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | flags}, Data: data}
	}
	for _, m := range []netlink.Message{
		message(config, netlink.Acknowledge, 1, []byte{1, 0, 0, 0}),    // bind
		message(config, netlink.Acknowledge, 2, []byte{0, 0, 0, 0, 1}), // no payload
	} {
		if _, err := c.Execute(m); err != nil {
			t.Skip("no NFQUEUE here: ", err)
		}
	}
	var group sync.WaitGroup
	t.Cleanup(func() { _ = c.Close(); group.Wait() })
	group.Go(func() {
		for {
			list, err := c.Receive()
			if err != nil {
				return
			}
			for _, m := range list {
				ad, err := netlink.NewAttributeDecoder(m.Data[4:])
				if err != nil {
					continue
				}
				for ad.Next() {
					if b := ad.Bytes(); ad.Type() == 1 && len(b) >= 4 {
						answer := append([]byte{0, 0, 0, 1}, b[:4]...) // accept
						group.Add(1)
						time.AfterFunc(delay, func() {
							defer group.Done()
							_, _ = c.Send(message(verdict, 0, 2, answer))
						})
					}
				}
			}
		}
	})
}
