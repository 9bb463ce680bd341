package replay

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/pcapgo"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/packet"
	"netpolicy.dev/netpolicy/inspector/sniff"
)

// named are the names that a connection was ever said to be for.
type named map[ends]map[string]bool

func (n named) take(e inspector.Event) {
	src, _ := e.Flow.Src.Get()
	dst, _ := e.Flow.Dst.Get()
	srcPort, _ := e.Flow.SrcPort.Get()
	dstPort, _ := e.Flow.DstPort.Get()
	k := endsOf(netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort))
	for _, v := range []flow.Value[string]{e.Flow.SNI, e.Flow.HTTPHost} {
		if name, ok := v.Get(); ok {
			if n[k] == nil {
				n[k] = map[string]bool{}
			}
			n[k][name] = true
		}
	}
}

// within reports the first name that all does not have.
func (n named) within(all named) (ends, string, bool) {
	for k, names := range n {
		for name := range names {
			if !all[k][name] {
				return k, name, false
			}
		}
	}
	return ends{}, "", true
}

func replayed(t *testing.T, b []byte) named {
	t.Helper()
	n := named{}
	err := New(bytes.NewReader(b), Options{CaptureOnly: true}).Run(t.Context(), n.take)
	if err != nil && !errors.Is(err, ErrCut) && !errors.Is(err, ErrUnknown) {
		// Headers that are cut are not always told as such by the reader; the
		// point here is what was said before.
		t.Logf("%d bytes: %v", len(b), err)
	}
	return n
}

// TestCut cuts every capture at random bytes, and every packet of it at a random
// length: no panic, and no name that the whole does not have. FULL=1 cuts more.
func TestCut(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(captures, "*.pcap*"))
	if len(files) == 0 {
		t.Skip("no captures in", captures)
	}
	cuts := 6
	if os.Getenv("FULL") != "" {
		cuts = 400
	}
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			whole, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all := replayed(t, whole)
			for range cuts {
				n := random.IntN(len(whole))
				if k, name, ok := replayed(t, whole[:n]).within(all); !ok {
					t.Fatalf("seed %d: cut at %d: %s is said to be for %s", seed, n, k, name)
				}
				if k, name, ok := snapped(t, whole, random).within(all); !ok {
					t.Fatalf("seed %d: packets cut: %s is said to be for %s", seed, k, name)
				}
			}
		})
	}
}

// snapped replays a capture as if its packets were captured with all kinds of
// snap lengths; one in four is whole. The headers stay: without the SYN, what a
// client says inside SOCKS would be taken for its first words.
func snapped(t *testing.T, b []byte, random *rand.Rand) named {
	t.Helper()
	n := named{}
	s := sniff.New("test", sniff.Options{MaxFlows: maxFlows, MaxBuffered: maxBuffered, Idle: idle, Recorded: true}, n.take)
	var last time.Time
	each(t, b, func(link packet.LinkType, data []byte, info gopacket.CaptureInfo) {
		if random.IntN(4) > 0 {
			const headers = 100
			data = data[:min(len(data), headers+random.IntN(len(data)+1))]
		}
		last = info.Timestamp
		if p, ok := packet.Decode(link, data, packet.Options{Tunnels: true}); ok {
			s.Packet(p, last, "")
		}
	})
	s.Flush(last)
	return n
}

// each hands out the packets of a capture.
func each(t *testing.T, b []byte, do func(packet.LinkType, []byte, gopacket.CaptureInfo)) {
	t.Helper()
	if isPcap(b[:4]) {
		r, err := pcapgo.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		r.SetSnaplen(snapLength)
		for {
			data, info, err := r.ReadPacketData()
			if err != nil {
				return
			}
			do(packet.LinkType(r.LinkType()), data, info)
		}
	}
	r, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, info, err := r.ReadPacketData()
		if err != nil {
			return
		}
		i, err := r.Interface(info.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		do(packet.LinkType(i.LinkType), data, info)
	}
}
