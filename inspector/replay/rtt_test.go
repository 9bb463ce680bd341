package replay

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/packet"
	"netpolicy.dev/netpolicy/inspector/sniff"
)

// TestRoundTrips plays real captures to a live sniffer as if a gateway had forwarded
// them, and expects the time between a SYN and the first SYN/ACK that acknowledges it,
// where neither was sent again before; the oracle looks at nothing else.
func TestRoundTrips(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(captures, "*.pcap*"))
	if len(files) == 0 {
		t.Skip("no captures in", captures)
	}
	type shake struct {
		at    time.Time
		next  uint32 // what acknowledges it
		again bool
	}
	total := 0
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, want, open := map[ends][]int64{}, map[ends][]int64{}, map[ends]*shake{}
			s := sniff.New("test", sniff.Options{}, func(e inspector.Event) {
				if rtt, ok := e.Flow.RTT.Get(); ok && e.Kind == inspector.Update && e.Flow.Proto == flow.Some(flow.TCP) {
					src, _ := e.Flow.Src.Get()
					dst, _ := e.Flow.Dst.Get()
					srcPort, _ := e.Flow.SrcPort.Get()
					dstPort, _ := e.Flow.DstPort.Get()
					k := endsOf(netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort))
					got[k] = append(got[k], rtt)
				}
			})
			each(t, b, func(link packet.LinkType, data []byte, info gopacket.CaptureInfo) {
				p, ok := packet.Decode(link, data, packet.Options{Tunnels: true})
				if !ok || p.Proto != flow.TCP || p.Flags&packet.SYN == 0 {
					return
				}
				k, in, at := endsOf(p.Src, p.Dst), "lan", info.Timestamp
				if p.Flags&packet.ACK != 0 {
					in = "wan"
				}
				s.Packet(p, at, in)
				s.Packet(p, at, "")
				s.Tick(at)
				switch o := open[k]; {
				case in == "lan" && (o == nil || o.next != p.Seq+1):
					open[k] = &shake{at: at, next: p.Seq + 1}
				case in == "lan":
					o.again = o.again || at.Sub(o.at) > 10*time.Millisecond // else a copy: some were captured at two places
				case o != nil && !o.again && o.next == p.Ack:
					o.again = true
					if rtt := at.Sub(o.at); rtt > 0 && rtt < time.Second {
						want[k] = append(want[k], rtt.Microseconds())
						total++
					}
				}
			})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	t.Logf("%d round trips", total)
	if total == 0 {
		t.Error("no capture has a handshake")
	}
}
