package flow

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// HashSeed is the seed under which flows are hashed, here and in the kernel.
// Any fixed number serves; nftables makes a random one up when it is 0.
const HashSeed uint32 = 0x6e657470

// hashWords is the longest hash input in 32-bit words: two IPv6 addresses and two ports.
const hashWords = 10

// Hash is the kernel's jhash (include/linux/jhash.h) over source address,
// destination address, source port and destination port, seeded with HashSeed.
// Bucket(Hash(f), M) is what nftables computes for
//
//	jhash ip saddr . ip daddr . th sport . th dport mod M seed S
//
// (ip6 for IPv6): each part fills whole 32-bit words, ports are followed by two
// zero bytes, and words are read in little-endian order. So a big-endian kernel
// picks other buckets, but this function gives the same on every machine. Facts
// that are not known count as 0; when neither address is IPv6, both are IPv4.
func Hash(f *Flow) uint32 {
	var words [hashWords]uint32
	n := 0
	src, _ := f.Src.Get()
	dst, _ := f.Dst.Get()
	v6 := src.Is6() || dst.Is6()
	for _, a := range [2]netip.Addr{src, dst} {
		switch {
		case !v6:
			if a.Is4() {
				b := a.As4()
				words[n] = binary.LittleEndian.Uint32(b[:])
			}
			n++
		default:
			if a.Is6() {
				b := a.As16()
				for i := range 4 {
					words[n+i] = binary.LittleEndian.Uint32(b[4*i:])
				}
			}
			n += 4
		}
	}
	sport, _ := f.SrcPort.Get()
	dport, _ := f.DstPort.Get()
	words[n] = uint32(bits.ReverseBytes16(sport))
	words[n+1] = uint32(bits.ReverseBytes16(dport))
	return jhash(words[:n+2], HashSeed)
}

// Bucket maps a hash onto 0..mod-1 as the kernel's reciprocal_scale does.
func Bucket(hash, mod uint32) uint32 {
	return uint32(uint64(hash) * uint64(mod) >> 32)
}

// jhash is jhash() of include/linux/jhash.h (Bob Jenkins' lookup3) for inputs
// of whole words; there it equals jhash2 but for the length counted in bytes.
func jhash(k []uint32, seed uint32) uint32 {
	a := 0xdeadbeef + uint32(4*len(k)) + seed
	b, c := a, a
	for len(k) > 3 {
		a += k[0]
		b += k[1]
		c += k[2]
		a = (a - c) ^ bits.RotateLeft32(c, 4)
		c += b
		b = (b - a) ^ bits.RotateLeft32(a, 6)
		a += c
		c = (c - b) ^ bits.RotateLeft32(b, 8)
		b += a
		a = (a - c) ^ bits.RotateLeft32(c, 16)
		c += b
		b = (b - a) ^ bits.RotateLeft32(a, 19)
		a += c
		c = (c - b) ^ bits.RotateLeft32(b, 4)
		b += a
		k = k[3:]
	}
	switch len(k) {
	case 3:
		c += k[2]
		fallthrough
	case 2:
		b += k[1]
		fallthrough
	case 1:
		a += k[0]
	default:
		return c
	}
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	c = (c ^ b) - bits.RotateLeft32(b, 24)
	return c
}
