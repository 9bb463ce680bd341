package flow_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"netpolicy.dev/netpolicy/flow"
)

// The values hold the hash still where TestHashEqualsKernel can't run.
func TestHash(t *testing.T) {
	for _, c := range []struct {
		text string
		want uint32
	}{
		{"? ? > ?", 0x5a45073e},
		{"udp 10.0.0.5:5000 > 203.0.113.9:443", 0x930c2b03},
		{"udp [2001:db8::5]:5000 > [2001:db8::9]:443", 0x2cf06173},
	} {
		f, err := flow.ParseText(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := flow.Hash(&f); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.text, got, c.want)
		}
	}
}

// randomUDP returns a UDP flow between documentation addresses.
func randomUDP(rng *rand.Rand, v6 bool) flow.Flow {
	end := func() (flow.Value[netip.Addr], flow.Value[uint16]) {
		a := netip.AddrFrom4([4]byte{10, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32N(254) + 1)})
		if v6 {
			b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
			for i := 4; i < 16; i++ {
				b[i] = byte(rng.Uint32())
			}
			a = netip.AddrFrom16(b)
		}
		return flow.Some(a), flow.Some(uint16(rng.Uint32N(65535) + 1))
	}
	f := flow.Flow{Proto: flow.Some(flow.UDP)}
	f.Src, f.SrcPort = end()
	f.Dst, f.DstPort = end()
	return f
}

func TestBucketsAreEven(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var buckets [100]int
	for range 100_000 {
		f := randomUDP(rng, false)
		buckets[flow.Bucket(flow.Hash(&f), 100)]++
	}
	for i, n := range buckets { // 1000 each, standard deviation 31
		if n < 850 || n > 1150 {
			t.Errorf("bucket %d has %d of 100000 flows", i, n)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	f := randomUDP(rand.New(rand.NewPCG(1, 1)), true)
	for b.Loop() {
		flow.Hash(&f)
	}
}
